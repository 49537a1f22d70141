// Exact search with a device that rounds as badly as it may: whatever it says within its bounds, the answer is what sorting gives;
// and where it says nonsense, too.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/nearest/offers.h"
#include "nearest_data.h"

namespace vkv::nearest {
namespace {

constexpr double kRounding = 1.0 / (1 << 24);

// The device: true distances, each moved by up to what a float sum of so many terms may err.
class Device {
public:
    explicit Device(uint32_t seed) : random_(seed) {}

    std::vector<Found> answer(const Offers &offers, const Search &search)
    {
        const size_t dim = search.distance().dim;
        std::vector<float> queries(search.queries() * dim), vectors(offers.rows() * dim);
        offers.write(queries.data(), vectors.data());
        std::vector<Found> result;
        for (size_t q = 0; q < search.queries(); ++q) {
            std::vector<Found> all;
            for (size_t i = 0; i < offers.rows(); ++i)
                all.push_back({distance(offers.metric(), &queries[q * dim], &vectors[i * dim], dim), static_cast<uint32_t>(i)});
            std::sort(all.begin(), all.end(), [](const Found &a, const Found &b) {
                return a.distance != b.distance ? a.distance < b.distance : a.row < b.row;
            });
            result.insert(result.end(), all.begin(), all.begin() + static_cast<std::ptrdiff_t>(offers.wanted()));
        }
        return result;
    }

private:
    float distance(DeviceMetric metric, const float *a, const float *b, size_t dim)
    {
        double sum = 0, terms = 0;
        for (size_t d = 0; d < dim; ++d) {
            const double x = static_cast<double>(a[d]), y = static_cast<double>(b[d]);
            const double term = metric == DeviceMetric::l2_squared ? (x - y) * (x - y)
                                : metric == DeviceMetric::l1       ? std::abs(x - y)
                                                                   : -x * y;
            sum += term;
            terms += std::abs(term);
        }
        // Terms may underflow, and one order of summing overflows where another does not.
        const double most = static_cast<double>(dim) * (kRounding * terms + static_cast<double>(std::numeric_limits<float>::min()));
        if (terms > static_cast<double>(std::numeric_limits<float>::max())) return std::numeric_limits<float>::infinity();
        const float moved = static_cast<float>(sum + most * (coin_(random_) ? 1 : -1));
        return std::isnan(moved) ? std::numeric_limits<float>::infinity() : moved;
    }

    std::mt19937 random_;
    std::bernoulli_distribution coin_;
};

struct Case {
    Metric metric;
    Scalar scalar;
    size_t dim, k;
    Data data, query_data;
};

constexpr size_t kRows = 400, kQueries = 7;

// Blocks of 100 rows: to the device, or (every third) compared here.
void check(const Case &c, uint64_t *incomplete = nullptr)
{
    const Rows rows(c.scalar, c.dim, for_type(c.scalar, draw(c.data, kRows * c.dim, c.dim, 1)));
    const Rows queries(c.scalar, c.dim, for_type(c.scalar, draw(c.query_data, kQueries * c.dim, c.dim, 2)));
    Search search({c.metric, c.scalar, static_cast<uint32_t>(c.dim), c.k, queries.data(), kQueries});
    Offers offers(&search);
    Device device(3);
    std::vector<RowId> ids;
    for (size_t i = 0; i < kRows; ++i) ids.push_back(id_of(i, kRows));
    for (size_t at = 0; at < kRows; at += 100) {
        if (at == 200) {
            search.add(rows.at(at), &ids[at], 100);
            continue;
        }
        offers.begin(rows.at(at), &ids[at], 100);
        offers.take(device.answer(offers, search).data());
    }
    if (incomplete != nullptr) *incomplete = offers.incomplete();
    for (size_t q = 0; q < kQueries; ++q) {
        expect_sorted(search.take(q), sorted(search.distance(), rows, queries.at(q), c.k));
        if (testing::Test::HasFatalFailure()) return;
    }
}

TEST_F(AtLevels, ADeviceThatRoundsBadlyChangesNothing)
{
    each([](Metric metric, Scalar scalar) {
        for (Data data : {Data::normal, Data::small_integers, Data::far_away, Data::huge, Data::tiny, Data::tiny_squares,
                          Data::mixed, Data::mixed_rows})
            for (Data queries : {data, Data::normal})
                for (size_t dim : {2, 40, 300})
                    for (size_t k : {1, 10, 300}) {
                        SCOPED_TRACE("data " + std::to_string(static_cast<int>(data)) + " dim " + std::to_string(dim) + " k " +
                                     std::to_string(k));
                        check({metric, scalar, dim, k, data, queries});
                        if (HasFatalFailure()) return;
                    }
    });
}

// Distances that the operator has a float for, and the device, which errs by less than it may, has not. The nearest comes last.
TEST_F(AtLevels, TheLargestFloats)
{
    const size_t dim = 4, n = 40;
    const double most = static_cast<double>(std::numeric_limits<float>::max());
    each([&](Metric metric, Scalar scalar) {
        if (scalar == Scalar::f16 || metric == Metric::cosine) return;  // neither has such numbers
        std::vector<float> values, queries(dim, metric == Metric::ip ? static_cast<float>(-std::sqrt(most / 4)) : 0);
        for (size_t i = 0; i < n; ++i) {
            const double distance = most * (1 - static_cast<double>(8 + i) * kRounding / 4);
            values.insert(values.end(), dim,
                          static_cast<float>(metric == Metric::l1   ? distance / 4
                                             : metric == Metric::l2 ? std::sqrt(distance / 4)
                                                                    : distance / 4 / std::sqrt(most / 4)));
        }
        const Rows rows(scalar, dim, values), query(scalar, dim, queries);
        std::vector<RowId> ids;
        for (size_t i = 0; i < n; ++i) ids.push_back(id_of(i, n));
        Search search({metric, scalar, static_cast<uint32_t>(dim), 1, query.data(), 1});
        const std::vector<Neighbor> want = sorted(search.distance(), rows, query.at(0), 1);
        ASSERT_TRUE(std::isfinite(want[0].distance));
        Offers offers(&search);
        for (size_t at = 0; at < n; at += 20) {
            offers.begin(rows.at(at), &ids[at], 20);
            const std::vector<Found> beyond(offers.wanted(), {std::numeric_limits<float>::infinity(), 0});
            offers.take(beyond.data());
        }
        expect_sorted(search.take(0), want);
    });
}

// Otherwise the device would be asked in vain.
TEST_F(AtLevels, MostOfWhatTheDeviceSaysIsEnough)
{
    each([](Metric metric, Scalar scalar) {
        uint64_t incomplete = 0;
        check({metric, scalar, 40, 10, Data::normal, Data::normal}, &incomplete);
        EXPECT_EQ(incomplete, 0u);
    });
}

// Of a block of fewer rows than are wanted the device names all: nothing is left to be compared.
TEST(Offers, SmallBlocksAreComplete)
{
    const Rows rows(Scalar::f32, 4, draw(Data::normal, 20, 4, 1)), queries(Scalar::f32, 4, draw(Data::normal, 8, 4, 2));
    std::vector<RowId> ids;
    for (size_t i = 0; i < rows.n; ++i) ids.push_back(id_of(i, rows.n));
    Search search({Metric::l2, Scalar::f32, 4, 10, queries.data(), 2});
    Offers offers(&search);
    offers.begin(rows.data(), ids.data(), rows.n);
    EXPECT_EQ(offers.wanted(), 5u);
    Device device(3);
    offers.take(device.answer(offers, search).data());
    EXPECT_EQ(offers.incomplete(), 0u);
    EXPECT_EQ(search.recomputed(), 10u);
    for (size_t q = 0; q < 2; ++q) expect_sorted(search.take(q), sorted(search.distance(), rows, queries.at(q), 10));
}

TEST(Offers, NonsenseIsFoundOut)
{
    const Rows rows(Scalar::f32, 4, draw(Data::normal, 400, 4, 1)), queries(Scalar::f32, 4, draw(Data::normal, 4, 4, 2));
    std::vector<RowId> ids;
    for (size_t i = 0; i < rows.n; ++i) ids.push_back(id_of(i, rows.n));
    for (uint32_t row : {0u, UINT32_MAX}) {  // the same row again and again, and rows that there are not
        Search search({Metric::l2, Scalar::f32, 4, 3, queries.data(), 1});
        Offers offers(&search);
        offers.begin(rows.data(), ids.data(), rows.n);
        const std::vector<Found> found(offers.wanted(), {0, row});
        offers.take(found.data());
        EXPECT_EQ(offers.incomplete(), 1u);
        expect_sorted(search.take(0), sorted(search.distance(), rows, queries.at(0), 3));
    }
}

// Zero vectors have no cosine, and nothing of a float's range is left for the device's sums.
TEST(Offers, RowsThatAreKeptBack)
{
    const std::vector<float> zeros(8, 0), query = {1, 2};
    const std::vector<RowId> ids = {{1, 0}, {2, 0}, {3, 0}, {4, 0}};
    Search search({Metric::cosine, Scalar::f32, 2, 2, query.data(), 1});
    Offers offers(&search);
    offers.begin(zeros.data(), ids.data(), 4);
    EXPECT_EQ(offers.rows(), 0u);
    offers.take(nullptr);
    const std::vector<Neighbor> found = search.take(0);
    ASSERT_EQ(found.size(), 2u);
    EXPECT_TRUE(std::isnan(found[0].distance));
    EXPECT_EQ(found[0].id, 1u);
}

}  // namespace
}  // namespace vkv::nearest
