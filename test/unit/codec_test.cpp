// The registry of codecs, and the LVQ family on real embeddings (test/data): accuracy against named budgets, recall floors, error
// bounds that hold. Edges of the input: codec_edge_test.cpp.
#include "core/codec/codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "codec_rows.h"
#include "core/error.h"

namespace vkv {
namespace {

// ---- budgets ------------------------------------------------------------------------------------------------------------------
constexpr double kReachOverStep = 0.75;      // |x - decoded| in steps: half a step, and what the fit may move an end point
constexpr double kFusedBudget = 1e-5;        // fused against decoded arithmetic, of the terms; for exact and rescored queries
constexpr double kFusedQueryBudget = 1e-4;   // the same with a query rounded to 4095 steps
constexpr double kCodeCodeBudget = 1e-6;     // distances between codes, of the terms
constexpr double kOwnDistanceBudget = 1e-4;  // of a stored unit vector to itself
constexpr double kBoundHolds = 0.999;        // share of distances within error()
constexpr double kLvq8Recall = 0.990, kLvq4Recall = 0.925, kLvq4x8Window20 = 0.999, kLvq4Window20 = 0.993;
constexpr double kRelativeError8 = 8e-5, kRelativeError4 = 2e-2, kRelativeError4x8 = 1e-6;  // sum |x - x^|^2 / sum |x - mean|^2
constexpr double kLvqOverGlobal = 0.40;  // of the error of one grid for all vectors, at equal bits

constexpr CodecId kLvq[] = {CodecId::lvq8, CodecId::lvq4, CodecId::lvq4x8};
constexpr Metric kDenseMetrics[] = {Metric::l2, Metric::ip, Metric::cosine};

// ---- registry -------------------------------------------------------------------------------------------------------------------

TEST(CodecRegistry, NamesAndNumbers)
{
    for (CodecId id : {CodecId::none, CodecId::lvq8, CodecId::lvq4, CodecId::lvq4x8}) {
        CodecId parsed;
        ASSERT_TRUE(parse_codec(codec_name(id), &parsed));
        EXPECT_EQ(parsed, id);
    }
    CodecId parsed = CodecId::lvq4;
    EXPECT_FALSE(parse_codec("lvq5", &parsed));
    EXPECT_FALSE(parse_codec("", &parsed));
    EXPECT_EQ(parsed, CodecId::lvq4);
    EXPECT_EQ(static_cast<int>(CodecId::lvq4x8), 3);  // on disk
}

TEST(CodecRegistry, WhatIsDefinedForWhat)
{
    EXPECT_TRUE(codec_supports(CodecId::none, Scalar::bit, Metric::jaccard));
    EXPECT_FALSE(codec_supports(CodecId::none, Scalar::bit, Metric::l2));
    EXPECT_FALSE(codec_supports(CodecId::none, Scalar::f32, Metric::hamming));
    EXPECT_TRUE(codec_supports(CodecId::none, Scalar::sparse, Metric::l1));
    EXPECT_TRUE(codec_supports(CodecId::lvq8, Scalar::f16, Metric::cosine));
    EXPECT_FALSE(codec_supports(CodecId::lvq8, Scalar::f16, Metric::l1));
    EXPECT_FALSE(codec_supports(CodecId::lvq4, Scalar::sparse, Metric::l2));
    try {
        make_codec(CodecId::lvq8, Scalar::f32, Metric::l1, 3, {});
        FAIL();
    } catch (const Error &error) {
        EXPECT_EQ(error.code(), Errc::not_supported);
        EXPECT_EQ(error.message(), "codec \"lvq8\" is not defined for type vector and l1 distance");
    }
}

TEST(CodecRegistry, DamagedModelsAreRefused)
{
    const std::vector<uint8_t> good = make_trainer(CodecId::lvq8, Scalar::f32, Metric::l2, 7)->finish();
    EXPECT_NO_THROW(make_codec(CodecId::lvq8, Scalar::f32, Metric::l2, 7, good));
    const auto refused = [&](CodecId id, std::span<const uint8_t> model, uint32_t dim) {
        try {
            make_codec(id, Scalar::f32, Metric::l2, dim, model);
            return false;
        } catch (const Error &error) {
            return error.code() == Errc::index_corrupted;
        }
    };
    EXPECT_TRUE(refused(CodecId::lvq8, good, 8));
    EXPECT_TRUE(refused(CodecId::lvq8, std::span(good).first(good.size() - 1), 7));
    EXPECT_TRUE(refused(CodecId::lvq8, {}, 7));
    EXPECT_TRUE(refused(CodecId::none, good, 7));
    for (size_t at : {0, 4, 8}) {  // magic, version, dim
        std::vector<uint8_t> bad = good;
        bad[at] ^= 1;
        EXPECT_TRUE(refused(CodecId::lvq8, bad, 7)) << at;
    }
    std::vector<uint8_t> bad = good;
    const float nan = NAN;
    std::memcpy(&bad[16 + 4 * 3], &nan, 4);
    EXPECT_TRUE(refused(CodecId::lvq8, bad, 7));
}

TEST(CodecRegistry, WrongDimensionsAreRefused)
{
    const float x[3] = {1, 2, 3};
    const auto codec = make_codec(CodecId::none, Scalar::f32, Metric::l2, 4, {});
    try {
        codec->query({Scalar::f32, 3, x, nullptr, 0});
        FAIL();
    } catch (const Error &error) {
        EXPECT_EQ(error.code(), Errc::data_exception);
        EXPECT_EQ(error.message(), "expected 4 dimensions, not 3");
    }
}

// ---- LVQ on real data
// -------------------------------------------------------------------------------------------------------------

class RealData : public testing::TestWithParam<Scalar> {
protected:
    static constexpr size_t kRows = 4000, kQueries = 100;
    void SetUp() override
    {
        base_ = real_rows("minilm_sample.f16", GetParam(), kRows);
        queries_ = real_rows("minilm_queries.f16", GetParam(), kQueries);
        ASSERT_EQ(base_.size(), kRows);
        ASSERT_EQ(queries_.size(), kQueries);
    }
    Rows base_, queries_;
};

double relative_error(const Encoded &encoded, const Rows &rows, bool second)
{
    std::vector<double> mean(rows.dim);
    for (size_t i = 0; i < rows.size(); i++)
        for (uint32_t j = 0; j < rows.dim; j++) mean[j] += rows.row(i)[j] / static_cast<double>(rows.size());
    double error = 0, spread = 0;
    std::vector<float> decoded(rows.dim);
    for (size_t i = 0; i < rows.size(); i++) {
        encoded.codec->decode(encoded.code(i), second ? encoded.second(i) : nullptr, decoded.data());
        for (uint32_t j = 0; j < rows.dim; j++) {
            error += std::pow(double{rows.row(i)[j]} - decoded[j], 2);
            spread += std::pow(rows.row(i)[j] - mean[j], 2);
        }
    }
    return error / spread;
}

// The control of methods A1: one grid over all values.
double relative_error_of_one_grid(const Rows &rows, int levels)
{
    const auto [low, high] = std::minmax_element(rows.values.begin(), rows.values.end());
    const double step = (double{*high} - *low) / levels;
    std::vector<double> mean(rows.dim);
    double error = 0, spread = 0;
    for (size_t i = 0; i < rows.values.size(); i++) mean[i % rows.dim] += rows.values[i] / static_cast<double>(rows.size());
    for (size_t i = 0; i < rows.values.size(); i++) {
        error += std::pow(rows.values[i] - (*low + step * std::nearbyint((rows.values[i] - *low) / step)), 2);
        spread += std::pow(rows.values[i] - mean[i % rows.dim], 2);
    }
    return error / spread;
}

TEST_P(RealData, ReconstructionError)
{
    const Encoded lvq8 = encode(CodecId::lvq8, Metric::l2, base_), lvq4 = encode(CodecId::lvq4x8, Metric::l2, base_);
    const double error8 = relative_error(lvq8, base_, false), error4 = relative_error(lvq4, base_, false);
    EXPECT_LT(error8, kRelativeError8);
    EXPECT_LT(error4, kRelativeError4);
    EXPECT_LT(relative_error(lvq4, base_, true), kRelativeError4x8);
    EXPECT_LT(error8, kLvqOverGlobal * relative_error_of_one_grid(base_, 255));
    EXPECT_LT(error4, kLvqOverGlobal * relative_error_of_one_grid(base_, 15));
}

TEST_P(RealData, EveryDecodedValueIsWithinAStep)
{
    for (CodecId id : kLvq) {
        const Encoded encoded = encode(id, Metric::l2, base_);
        std::vector<float> decoded(kDim);
        for (size_t i = 0; i < base_.size(); i++) {
            float step;
            std::memcpy(&step, encoded.code(i) + 4, 4);
            encoded.codec->decode(encoded.code(i), nullptr, decoded.data());
            for (uint32_t j = 0; j < kDim; j++)
                ASSERT_LE(std::fabs(double{decoded[j]} - base_.row(i)[j]), kReachOverStep * step + 1e-6)
                    << codec_name(id) << " " << i;
        }
    }
}

// The formulas of the scorer, made again from decoded values and exact norms.
double from_decoded(Metric metric, const std::vector<double> &q, const std::vector<double> &x, const float *decoded,
                    const float *mean, bool centred)
{
    double dots = 0, mean_x = 0, norm_q = 0, norm_x = 0, mean_q = 0;
    for (size_t j = 0; j < q.size(); j++) {
        const double s = q[j] - (centred ? mean[j] : 0);
        dots += s * (double{decoded[j]} - mean[j]);
        mean_x += mean[j] * (x[j] - mean[j]);
        mean_q += mean[j] * q[j];
        norm_q += s * s;
        norm_x += (x[j] - mean[j]) * (x[j] - mean[j]);
    }
    if (metric == Metric::l2) return norm_q - 2 * dots + norm_x;
    const double ip = mean_q + (centred ? mean_x : 0) + dots;
    return metric == Metric::ip ? -ip : 1 - ip;
}

TEST_P(RealData, FusedScoresAreThoseOfDecodedValues)
{
    for (CodecId id : kLvq) {
        for (Metric metric : kDenseMetrics) {
            const Encoded encoded = encode(id, metric, base_);
            std::vector<float> mean(kDim), decoded(kDim);
            std::memcpy(mean.data(), encoded.model.data() + encoded.model.size() - 4 * kDim, 4 * kDim);
            for (size_t k = 0; k < 10; k++) {
                const auto scorer = encoded.codec->query(queries_.view(k));
                const std::vector<double> q = normalised(queries_.row(k), kDim, metric);
                double mean_dot = 0, mean_square = 0, query_square = 0;
                for (uint32_t j = 0; j < kDim; j++) {
                    mean_dot += q[j] * mean[j];
                    mean_square += double{mean[j]} * mean[j];
                    query_square += q[j] * q[j];
                }
                const bool centred = metric != Metric::ip || mean_square - 2 * mean_dot <= query_square;
                for (size_t i = 0; i < base_.size(); i += 7) {
                    const std::vector<double> x = normalised(base_.row(i), kDim, metric);
                    const uint8_t *code = encoded.code(i);
                    float score;
                    scorer->score(&code, 1, &score);
                    encoded.codec->decode(code, nullptr, decoded.data());
                    const double twice = metric == Metric::l2 ? 2 : 1;  // l2 takes the dot twice
                    ASSERT_NEAR(score, from_decoded(metric, q, x, decoded.data(), mean.data(), centred), kFusedQueryBudget * twice)
                        << label(id, metric, GetParam());
                    const float rescored = scorer->rescore(code, encoded.second(i));
                    if (!encoded.codec->second_size()) {
                        ASSERT_EQ(rescored, score);
                        continue;
                    }
                    encoded.codec->decode(code, encoded.second(i), decoded.data());
                    ASSERT_NEAR(rescored, from_decoded(metric, q, x, decoded.data(), mean.data(), centred), kFusedBudget)
                        << label(id, metric, GetParam());
                }
            }
        }
    }
}

TEST_P(RealData, CodeToCodeDistances)
{
    for (CodecId id : kLvq) {
        for (Metric metric : kDenseMetrics) {
            const Encoded encoded = encode(id, metric, base_);
            std::vector<float> mean(kDim), a(kDim), b(kDim);
            std::memcpy(mean.data(), encoded.model.data() + encoded.model.size() - 4 * kDim, 4 * kDim);
            const size_t n = 500;
            std::vector<float> distance(n), by_scorer(n);
            encoded.codec->distances(encoded.code(3), encoded.pointers(n).data(), n, distance.data());
            encoded.codec->query_code(encoded.code(3))->score(encoded.pointers(n).data(), n, by_scorer.data());
            EXPECT_EQ(distance, by_scorer);
            encoded.codec->decode(encoded.code(3), nullptr, a.data());
            const std::vector<double> x = normalised(base_.row(3), kDim, metric);
            for (size_t i = 0; i < n; i++) {
                encoded.codec->decode(encoded.code(i), nullptr, b.data());
                const std::vector<double> y = normalised(base_.row(i), kDim, metric);
                double dots = 0, xx = 0, yy = 0, mx = 0, my = 0, mm = 0;
                for (uint32_t j = 0; j < kDim; j++) {
                    const double m = mean[j];
                    dots += (a[j] - m) * (b[j] - m);
                    xx += (x[j] - m) * (x[j] - m);
                    yy += (y[j] - m) * (y[j] - m);
                    mx += m * (x[j] - m);
                    my += m * (y[j] - m);
                    mm += m * m;
                }
                double expected = -(mm + mx + my + dots);
                if (metric == Metric::cosine) expected += 1;
                if (metric == Metric::l2) expected = xx + yy - 2 * dots;
                ASSERT_NEAR(distance[i], expected, kCodeCodeBudget * 3) << label(id, metric, GetParam()) << " " << i;
            }
        }
    }
}

TEST_P(RealData, RecallAndErrorBounds)
{
    const size_t n = base_.size();
    for (Metric metric : kDenseMetrics) {
        std::vector<std::vector<double>> exact(kQueries, std::vector<double>(n));
        for (size_t k = 0; k < kQueries; k++)
            for (size_t i = 0; i < n; i++) exact[k][i] = exact_distance(metric, queries_.view(k), base_.view(i));
        for (CodecId id : kLvq) {
            const Encoded encoded = encode(id, metric, base_);
            size_t found = 0, found_window = 0, exact_window = 0, held = 0, held_second = 0, pairs = 0;
            for (size_t k = 0; k < kQueries; k++) {
                std::vector<double> rescored(n, DBL_MAX), reranked(n, DBL_MAX);
                std::vector<float> score(n);
                const auto scorer = encoded.codec->query(queries_.view(k));
                scorer->score(encoded.pointers(n).data(), n, score.data());
                for (size_t i = k % 3; i < n; i += 3, pairs++) {
                    held += std::fabs(score[i] - exact[k][i]) <= scorer->error(encoded.code(i), score[i], false);
                    const float second = scorer->rescore(encoded.code(i), encoded.second(i));
                    held_second += std::fabs(second - exact[k][i]) <= scorer->error(encoded.code(i), second, true);
                }
                const std::vector<double> scored(score.begin(), score.end());
                const std::vector<size_t> truth = nearest(exact[k], 10);
                found += common(truth, nearest(scored, 10));
                for (size_t i : nearest(scored, 20)) {
                    rescored[i] = scorer->rescore(encoded.code(i), encoded.second(i));
                    reranked[i] = exact[k][i];
                }
                found_window += common(truth, nearest(rescored, 10));
                exact_window += common(truth, nearest(reranked, 10));
            }
            const double all = 10.0 * kQueries;
            SCOPED_TRACE(label(id, metric, GetParam()));
            EXPECT_GE(static_cast<double>(found) / all, id == CodecId::lvq8 ? kLvq8Recall : kLvq4Recall);
            EXPECT_GE(static_cast<double>(exact_window) / all, kLvq4Window20);
            if (id == CodecId::lvq4x8) {
                EXPECT_GE(static_cast<double>(found_window) / all, kLvq4x8Window20);
            }
            EXPECT_GE(static_cast<double>(held) / static_cast<double>(pairs), kBoundHolds);
            EXPECT_GE(static_cast<double>(held_second) / static_cast<double>(pairs), kBoundHolds);
        }
    }
}

// A stored vector as a query: the stretch of the code makes its distance to itself what it should be, not twice the coding error.
TEST_P(RealData, AStoredVectorIsAtItsOwnDistance)
{
    for (CodecId id : kLvq) {
        for (Metric metric : kDenseMetrics) {
            const Encoded encoded = encode(id, metric, base_);
            for (size_t i = 0; i < base_.size(); i += 10) {
                const auto scorer = encoded.codec->query(base_.view(i));
                const uint8_t *code = encoded.code(i);
                float score;
                scorer->score(&code, 1, &score);
                const double exact = exact_distance(metric, base_.view(i), base_.view(i));
                ASSERT_NEAR(score, exact, kOwnDistanceBudget) << label(id, metric, GetParam());
                ASSERT_NEAR(score, exact, scorer->error(code, score, false)) << label(id, metric, GetParam());
            }
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Types, RealData, testing::Values(Scalar::f32, Scalar::f16),
                         [](const auto &info) { return info.param == Scalar::f32 ? "vector" : "halfvec"; });

}  // namespace
}  // namespace vkv
