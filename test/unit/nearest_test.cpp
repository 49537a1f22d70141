// Exact search against sorting all rows: the same rows, order and bits as the operators give, on every level, for both types, for
// data that rounding is hard on; and against distances in double.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/nearest/nearest.h"
#include "nearest_data.h"

namespace vkv::nearest {
namespace {

struct Case {
    Metric metric;
    Scalar scalar;
    size_t dim, n, queries, k;
    Data data;
    uint32_t seed;
    Data query_data = data;
};

void check(const Case &c)
{
    const Rows rows(c.scalar, c.dim, for_type(c.scalar, draw(c.data, c.n * c.dim, c.dim, c.seed)));
    const Rows queries(c.scalar, c.dim, for_type(c.scalar, draw(c.query_data, c.queries * c.dim, c.dim, c.seed + 1)));
    Search search({c.metric, c.scalar, static_cast<uint32_t>(c.dim), c.k, queries.data(), c.queries});
    std::vector<RowId> ids;
    for (size_t i = 0; i < c.n; ++i) ids.push_back(id_of(i, c.n));
    const size_t cut = c.n / 3;  // in two calls
    search.add(rows.data(), ids.data(), cut);
    if (c.n > cut) search.add(rows.at(cut), ids.data() + cut, c.n - cut);
    ASSERT_EQ(search.compared(), c.n * c.queries);
    for (size_t q = 0; q < c.queries; ++q) {
        SCOPED_TRACE("query " + std::to_string(q));
        expect_sorted(search.take(q), sorted(search.distance(), rows, queries.at(q), c.k));
        if (testing::Test::HasFatalFailure()) return;
    }
}

TEST_F(AtLevels, EqualsSortingByTheOperator)
{
    each([](Metric metric, Scalar scalar) {
        for (size_t dim : {1, 3, 17, 384, 513, 1500})
            for (size_t queries : {1, 4, 13}) {
                check({metric, scalar, dim, 500, queries, 10, Data::normal, 1});
                if (HasFatalFailure()) return;
            }
    });
}

TEST_F(AtLevels, AnyNumberOfRowsAndNeighbors)
{
    each([](Metric metric, Scalar scalar) {
        for (size_t n : {0, 1, 31, 32, 33, 257})
            for (size_t k : {size_t{1}, size_t{33}, size_t{300}, size_t{65536}}) {
                check({metric, scalar, 20, n, 12, k, Data::normal, 2});
                if (HasFatalFailure()) return;
            }
    });
}

// Many rows at the same distance: the order of ids decides which are kept.
TEST_F(AtLevels, TiesGoByIdentity)
{
    each([](Metric metric, Scalar scalar) {
        for (size_t dim : {2, 5}) {
            check({metric, scalar, dim, 1000, 14, 25, Data::small_integers, 3});
            if (HasFatalFailure()) return;
        }
    });
}

// Cancellation, overflow, underflow, zero vectors (small integers of few dimensions above), and all of them in one table.
TEST_F(AtLevels, ValuesThatRoundingIsHardOn)
{
    each([](Metric metric, Scalar scalar) {
        for (Data data : {Data::far_away, Data::huge, Data::tiny, Data::tiny_squares, Data::mixed, Data::mixed_rows})
            for (Data queries : {data, Data::normal})
                for (size_t dim : {2, 64, 700}) {
                    SCOPED_TRACE("data " + std::to_string(static_cast<int>(data)) + " dim " + std::to_string(dim));
                    check({metric, scalar, dim, 300, 13, 7, data, 4, queries});
                    if (HasFatalFailure()) return;
                }
    });
}

// Vectors so near to each other that their differences, or the squares of them, are a few units of the least float: a sum of fused
// products rounds squares one way, sums in lanes another, and the errors are no share of anything. Halves are not so near.
TEST_F(AtLevels, SumsBelowTheLeastNormalFloat)
{
    const size_t n = 4000, dim = 80, count = 5, k = 50;
    each([&](Metric metric, Scalar scalar) {
        if (scalar != Scalar::f32 || (metric != Metric::l2 && metric != Metric::l1)) return;
        const float least = std::ldexp(1.f, metric == Metric::l2 ? -75 : -149);
        std::mt19937 random(10);
        std::vector<float> values(n * dim), asked(count * dim, 0);
        for (float &x : values) x = random() % 2 ? 0 : random() % 4 == 0 ? 1.5f * least : least;
        for (size_t i = 0; i < n; ++i) values[i * dim] = 2e-15f;  // norms for which margins are promised
        for (size_t q = 0; q < count; ++q) asked[q * dim] = 2e-15f;
        const Rows rows(scalar, dim, values), queries(scalar, dim, asked);
        std::vector<RowId> ids;
        for (size_t i = 0; i < n; ++i) ids.push_back(id_of(i, n));
        Search search({metric, scalar, dim, k, queries.data(), count});
        search.add(rows.data(), ids.data(), n);
        for (size_t q = 0; q < count; ++q) expect_sorted(search.take(q), sorted(search.distance(), rows, queries.at(q), k));
    });
}

// Sums that are infinite in one order and the largest floats in another.
TEST_F(AtLevels, SumsAboutTheLargestFloat)
{
    const size_t dim = 80, count = 5, half = kPanelRows;
    const float most = std::numeric_limits<float>::max();
    const std::vector<float> zeros(count * dim, 0);
    const Rows queries(Scalar::f32, dim, zeros);
    std::vector<RowId> ids;
    for (size_t i = 0; i < 2 * half; ++i) ids.push_back(id_of(i, 2 * half));
    each([&](Metric metric, Scalar scalar) {
        if (scalar != Scalar::f32 || metric != Metric::l1) return;
        std::mt19937 random(11);
        for (int round = 0; round < 20; ++round) {
            std::vector<float> values(2 * half * dim, 0);
            for (size_t i = 0; i < half; ++i) values[i * dim] = most;
            for (size_t i = half; i < 2 * half; ++i) {
                double sum = 0;
                std::vector<double> parts(dim);
                for (double &x : parts) sum += x = 1 + static_cast<double>(random() % 1000);
                const double wanted = static_cast<double>(most) * (1 - std::ldexp(static_cast<double>(random() % 8), -24));
                for (size_t d = 0; d < dim; ++d) values[i * dim + d] = static_cast<float>(parts[d] / sum * wanted);
            }
            const Rows rows(scalar, dim, values);
            Search search({metric, scalar, dim, half, queries.data(), count});
            search.add(rows.data(), ids.data(), rows.n);
            expect_sorted(search.take(0), sorted(search.distance(), rows, queries.at(0), half));
            if (HasFatalFailure()) return;
        }
    });
}

TEST_F(AtLevels, SixteenThousandDimensions)
{
    each([](Metric metric, Scalar scalar) { check({metric, scalar, 16000, 70, 5, 3, Data::normal, 5}); });
}

// The distances themselves, against sums in double.
TEST_F(AtLevels, DistancesAreTrue)
{
    const Rows rows(Scalar::f32, 100, draw(Data::normal, 100 * 100, 100, 6)),
        queries(Scalar::f32, 100, draw(Data::normal, 500, 100, 7));
    std::vector<RowId> ids;
    for (size_t i = 0; i < rows.n; ++i) ids.push_back({i, 0});
    each([&](Metric metric, Scalar scalar) {
        if (scalar != Scalar::f32) return;
        Search search({metric, scalar, 100, rows.n, queries.data(), queries.n});
        search.add(rows.data(), ids.data(), rows.n);
        for (size_t q = 0; q < queries.n; ++q)
            for (const Neighbor &n : search.take(q)) {
                double l1 = 0, l2 = 0, dot = 0, aa = 0, bb = 0;
                for (size_t d = 0; d < 100; ++d) {
                    const double a = rows.value(n.id, d), b = queries.value(q, d);
                    l1 += std::abs(a - b);
                    l2 += (a - b) * (a - b);
                    dot += a * b;
                    aa += a * a;
                    bb += b * b;
                }
                const double want = metric == Metric::l2   ? std::sqrt(l2)
                                    : metric == Metric::ip ? -dot
                                    : metric == Metric::l1 ? l1
                                                           : 1 - dot / std::sqrt(aa * bb);
                ASSERT_NEAR(n.distance, want, 1e-5 * (1 + std::abs(want)));
            }
    });
}

// A search that compared everything by the operators would be right, too, and slow. Not so for data that is far from the origin:
// there products are given up for differences.
TEST_F(AtLevels, FewRowsAreRecomputed)
{
    for (Data data : {Data::normal, Data::far_away}) {
        const size_t n = 4000, dim = 48, count = 20;
        const Rows rows(Scalar::f32, dim, draw(data, n * dim, dim, 8)), queries(Scalar::f32, dim, draw(data, count * dim, dim, 9));
        std::vector<RowId> ids(n, RowId{0, 0});
        each([&](Metric metric, Scalar scalar) {
            if (scalar != Scalar::f32 || (data == Data::far_away && metric != Metric::l2)) return;
            Search search({metric, scalar, dim, 5, queries.data(), count});
            search.add(rows.data(), ids.data(), n);
            EXPECT_LT(search.recomputed(), search.compared() / (data == Data::normal ? 40 : 2));
        });
    }
}

// Rows found elsewhere count as those found here, and the limit says what may still come.
TEST(Nearest, OfferedRows)
{
    const std::vector<float> values = {0, 3, 1, 2}, query = {0};
    Search search({Metric::l2, Scalar::f32, 1, 2, query.data(), 1});
    EXPECT_EQ(search.limit(0), std::numeric_limits<double>::infinity());
    for (size_t i = 0; i < 4; ++i) search.offer(0, &values[i], {i, 0});
    EXPECT_EQ(search.limit(0), 1.0);
    const auto got = search.take(0);
    ASSERT_EQ(got.size(), 2u);
    EXPECT_EQ(got[0].id, 0u);
    EXPECT_EQ(got[1].id, 2u);
}

TEST(Nearest, RefusesWhatItCannotDo)
{
    const float query[1] = {0};
    EXPECT_THROW(Search({Metric::l2, Scalar::f32, 1, 0, query, 1}), Error);
    EXPECT_THROW(Search({Metric::l2, Scalar::sparse, 1, 1, query, 1}), Error);
}

}  // namespace
}  // namespace vkv::nearest
