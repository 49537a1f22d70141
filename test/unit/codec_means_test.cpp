// Groups of rows that codes around one mean cannot tell apart: the model has a mean for each, and codes keep the order inside.
#include <gtest/gtest.h>

#include "codec_rows.h"
#include "core/codec/lvq_means.h"
#include "core/simd/kernels.h"

namespace vkv {
namespace {

double pseudo(uint64_t x)  // -1 .. 1
{
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return static_cast<double>((x ^ (x >> 31)) >> 11) * 0x1.0p-52 - 1;
}

// Row i is of group i % groups.
Rows grouped_rows(uint32_t dim, size_t groups, size_t members, double spread, Scalar scalar = Scalar::f32)
{
    std::vector<float> values;
    for (size_t i = 0; i < groups * members; i++)
        for (uint32_t j = 0; j < dim; j++)
            values.push_back(static_cast<float>(pseudo((i % groups) * dim + j) + spread * pseudo((i + 1) * 1000003 + j)));
    return make_rows(scalar, dim, std::move(values));
}

uint32_t means_of(const Encoded &encoded)
{
    uint16_t further;
    std::memcpy(&further, encoded.model.data() + 6, sizeof further);
    return 1u + further;
}

// Of the ten nearest of each group's first row, by distances that tell() gives for rows 0 .. n.
template <class Tell>
double recall_of(const Rows &rows, size_t queries, Metric metric, Tell tell)
{
    size_t hits = 0;
    std::vector<double> exact(rows.size());
    for (size_t q = 0; q < queries; q++) {
        for (size_t i = 0; i < rows.size(); i++) exact[i] = exact_distance(metric, rows.view(q), rows.view(i));
        const std::vector<float> told = tell(q);
        hits += common(nearest(exact, 10), nearest(std::vector<double>(told.begin(), told.end()), 10));
    }
    return static_cast<double>(hits) / static_cast<double>(10 * queries);
}

TEST(LvqMeans, CodesOfAGroupAreToldApart)
{
    for (Metric metric : {Metric::l2, Metric::ip, Metric::cosine}) {
        for (double spread : {1e-3, 1e-4}) {
            const Rows rows = grouped_rows(64, 10, 100, spread);
            const Encoded encoded = encode(CodecId::lvq8, metric, rows);
            EXPECT_EQ(means_of(encoded), 11u) << label(CodecId::lvq8, metric, Scalar::f32) << " " << spread;
            if (metric == Metric::ip) continue;  // the nearest are those of another group or length
            const double scored = recall_of(rows, 20, metric, [&](size_t q) {
                std::vector<float> d(rows.size());
                encoded.codec->query(rows.view(q))->score(encoded.pointers(rows.size()).data(), rows.size(), d.data());
                return d;
            });
            const double between = recall_of(rows, 20, metric, [&](size_t q) {
                std::vector<float> d(rows.size());
                encoded.codec->distances(encoded.code(q), encoded.pointers(rows.size()).data(), rows.size(), d.data());
                return d;
            });
            EXPECT_GT(scored, 0.9) << label(CodecId::lvq8, metric, Scalar::f32) << " " << spread;
            EXPECT_GT(between, 0.9) << label(CodecId::lvq8, metric, Scalar::f32) << " " << spread;
        }
    }
}

TEST(LvqMeans, DistancesBetweenMeansAreThoseOfTheInputs)
{
    for (Metric metric : {Metric::l2, Metric::ip, Metric::cosine}) {
        for (CodecId id : {CodecId::lvq8, CodecId::lvq4, CodecId::lvq4x8}) {
            const Rows rows = grouped_rows(33, 6, 60, 1e-3);
            const Encoded encoded = encode(id, metric, rows);
            ASSERT_EQ(means_of(encoded), 7u);
            std::vector<float> score(rows.size()), between(rows.size());
            for (size_t q = 0; q < 6; q++) {
                const auto scorer = encoded.codec->query(rows.view(q));
                scorer->score(encoded.pointers(rows.size()).data(), rows.size(), score.data());
                encoded.codec->distances(encoded.code(q), encoded.pointers(rows.size()).data(), rows.size(), between.data());
                for (size_t i = 0; i < rows.size(); i++) {
                    const double exact = exact_distance(metric, rows.view(q), rows.view(i));
                    // six deviations instead of error()'s 3.5: none of these thousands may be outside
                    const double bound = scorer->error(encoded.code(i), score[i], false) * 6 / 3.5;
                    ASSERT_NEAR(score[i], exact, bound) << label(id, metric, Scalar::f32);
                    ASSERT_NEAR(between[i], exact, 4 * bound + 1e-5) << label(id, metric, Scalar::f32);
                    const float second = scorer->rescore(encoded.code(i), encoded.second(i));
                    ASSERT_NEAR(second, exact, scorer->error(encoded.code(i), second, true) * 6 / 3.5)
                        << label(id, metric, Scalar::f32);
                }
            }
        }
    }
}

TEST(LvqMeans, AGroupWithinAGroupHasItsOwn)
{
    Rows rows = grouped_rows(64, 1, 400, 1e-3);
    const std::vector<float> seed(rows.row(0), rows.row(1));
    for (size_t i = 200; i < 400; i++)
        for (uint32_t j = 0; j < 64; j++) rows.values[i * 64 + j] = seed[j] + static_cast<float>(1e-6 * pseudo(i * 64 + j));
    for (uint32_t j = 0; j < 64; j++)  // and others far away
        for (size_t i = 0; i < 100; i++) rows.values[i * 64 + j] = static_cast<float>(pseudo(~(i * 64 + j)));
    EXPECT_EQ(means_of(encode(CodecId::lvq8, Metric::l2, rows)), 3u);
}

TEST(LvqMeans, OrdinaryRowsHaveOneMean)
{
    EXPECT_EQ(means_of(encode(CodecId::lvq8, Metric::cosine, real_rows("minilm_sample.f16", Scalar::f16, 4000))), 1u);
    EXPECT_EQ(means_of(encode(CodecId::lvq8, Metric::l2, grouped_rows(16, 500, 1, 0))), 1u);
    EXPECT_EQ(means_of(encode(CodecId::lvq8, Metric::l2, grouped_rows(16, 10, 100, 0.2))), 1u);  // wide groups
    EXPECT_EQ(means_of(encode(CodecId::lvq8, Metric::l2, grouped_rows(16, 10, 100, 0))), 1u);    // equal rows are one node
}

// Around the mean of a group, a row that is none of it would gain nothing, and its distances to the other rows would take longer.
TEST(LvqMeans, RowsOfNoGroupKeepTheFirstMean)
{
    Rows rows = grouped_rows(64, 10, 100, 1e-3);
    const Rows others = grouped_rows(64, 500, 1, 0);
    for (size_t i = 10 * 64; i < others.values.size(); i++) rows.values.push_back(others.values[i]);
    const Encoded encoded = encode(CodecId::lvq8, Metric::l2, rows);
    ASSERT_EQ(means_of(encoded), 11u);
    for (size_t i = 0; i < rows.size(); i++) {
        uint32_t sum_and_mean;
        std::memcpy(&sum_and_mean, encoded.code(i) + 12, sizeof sum_and_mean);
        ASSERT_EQ(sum_and_mean >> 22 != 0, i < 1000) << i;
    }
}

TEST(LvqMeans, MoreGroupsThanMeans)
{
    const Rows rows = grouped_rows(8, 1100, 33, 1e-5);
    const Encoded encoded = encode(CodecId::lvq8, Metric::l2, rows);
    EXPECT_EQ(means_of(encoded), lvq::kMaxMeans);
    std::vector<float> decoded(8);
    for (size_t i = 0; i < rows.size(); i += 97) {
        encoded.codec->decode(encoded.code(i), nullptr, decoded.data());
        for (uint32_t j = 0; j < 8; j++) ASSERT_NEAR(decoded[j], rows.row(i)[j], 0.01);
    }
}

TEST(LvqMeans, TheSameOnEveryInstructionSet)
{
    const simd::Level before = simd::active_level();
    const Rows rows = grouped_rows(100, 5, 50, 1e-3);
    for (Metric metric : {Metric::l2, Metric::ip, Metric::cosine}) {
        simd::set_level(simd::Level::scalar);
        const Encoded truth = encode(CodecId::lvq8, metric, rows);
        ASSERT_EQ(means_of(truth), 6u);
        std::vector<float> expected(rows.size()), between(rows.size()), got(rows.size());
        truth.codec->query(rows.view(3))->score(truth.pointers(rows.size()).data(), rows.size(), expected.data());
        truth.codec->distances(truth.code(3), truth.pointers(rows.size()).data(), rows.size(), between.data());
        for (simd::Level level : {simd::Level::neon, simd::Level::avx2, simd::Level::avx512}) {
            if (!simd::supported(level)) continue;
            simd::set_level(level);
            const Encoded encoded = encode(CodecId::lvq8, metric, rows);
            EXPECT_EQ(encoded.model, truth.model) << simd::level_name(level);
            EXPECT_EQ(encoded.codes, truth.codes) << simd::level_name(level);
            encoded.codec->query(rows.view(3))->score(encoded.pointers(rows.size()).data(), rows.size(), got.data());
            EXPECT_EQ(got, expected) << simd::level_name(level);
            encoded.codec->distances(encoded.code(3), encoded.pointers(rows.size()).data(), rows.size(), got.data());
            EXPECT_EQ(got, between) << simd::level_name(level);
        }
    }
    simd::set_level(before);
}

TEST(LvqMeans, ADamagedCodeNamesNoMeanBeyondTheModel)
{
    const Rows rows = grouped_rows(64, 10, 100, 1e-3);
    Encoded encoded = encode(CodecId::lvq8, Metric::l2, rows);
    std::fill(encoded.codes.begin() + 12, encoded.codes.begin() + 16, uint8_t{0xFF});  // of row 0
    const uint8_t *code = encoded.code(0);
    float distance;
    const auto scorer = encoded.codec->query(rows.view(1));
    scorer->score(&code, 1, &distance);
    scorer->error(code, distance, false);
    encoded.codec->distances(encoded.code(1), &code, 1, &distance);
    EXPECT_TRUE(std::isfinite(distance));
}

}  // namespace
}  // namespace vkv
