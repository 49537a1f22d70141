// Codecs at the edges: the exact codec of every type and metric, all dimensions that break blocks, values from 1e-45 to 3.4e38,
// constant and zero vectors, an outlier in the sample. No distance may be infinite or NaN, and what is indexed must be found.
#include <gtest/gtest.h>

#include <cfloat>
#include <cmath>
#include <random>

#include "codec_rows.h"
#include "core/codec/families.h"
#include "core/error.h"
#include "core/simd/kernels.h"

namespace vkv {
namespace {

constexpr double kExactBudget = 2e-6;       // float sums, of the terms
constexpr double kHalfCosineBudget = 2e-4;  // a normalised halfvec is rounded to halves
constexpr double kDecodeSlack = 1e-6;       // of the largest value
constexpr double kReachOverStep = 0.75;

constexpr CodecId kAll[] = {CodecId::none, CodecId::lvq8, CodecId::lvq4, CodecId::lvq4x8};
constexpr Metric kDenseMetrics[] = {Metric::l2, Metric::ip, Metric::cosine};
constexpr uint32_t kDims[] = {1, 2, 3, 4, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 129, 300, 1536, 16000};

Rows normal_rows(Scalar scalar, uint32_t dim, size_t n, double scale = 1, double shift = 0)
{
    std::mt19937 random(dim + 1);
    std::normal_distribution<double> normal;
    std::vector<float> values(n * dim);
    for (float &value : values) value = static_cast<float>(shift + scale * normal(random));
    return make_rows(scalar, dim, std::move(values));
}

double terms_of(Metric metric, const Rows &rows, size_t a, size_t b)
{
    double terms = metric == Metric::cosine ? 1 : 0;
    for (uint32_t j = 0; metric != Metric::cosine && j < rows.dim; j++) {
        const double x = rows.row(a)[j], y = rows.row(b)[j];
        terms += metric == Metric::l1 ? std::fabs(x) + std::fabs(y) : x * x + y * y;
    }
    return terms;
}

TEST(ExactCodec, DenseDistancesAreExact)
{
    for (Scalar scalar : {Scalar::f32, Scalar::f16}) {
        for (Metric metric : {Metric::l2, Metric::ip, Metric::cosine, Metric::l1}) {
            for (uint32_t dim : kDims) {
                const Rows rows = normal_rows(scalar, dim, 8);
                const Encoded encoded = encode(CodecId::none, metric, rows);
                ASSERT_TRUE(encoded.codec->exact());
                ASSERT_EQ(encoded.codec->code_size(), dim * (scalar == Scalar::f16 ? 2u : 4u));
                const double budget = metric == Metric::cosine && scalar == Scalar::f16 ? kHalfCosineBudget * 4 : kExactBudget;
                std::vector<float> by_query(8), by_code(8), between(8);
                const auto scorer = encoded.codec->query(rows.view(0));
                scorer->score(encoded.pointers(8).data(), 8, by_query.data());
                encoded.codec->query_code(encoded.code(0))->score(encoded.pointers(8).data(), 8, by_code.data());
                encoded.codec->distances(encoded.code(0), encoded.pointers(8).data(), 8, between.data());
                EXPECT_EQ(by_code, between);
                for (size_t i = 0; i < 8; i++) {
                    const double exact = exact_distance(metric, rows.view(0), rows.view(i));
                    ASSERT_NEAR(by_query[i], exact, budget * terms_of(metric, rows, 0, i))
                        << label(CodecId::none, metric, scalar) << dim;
                    ASSERT_NEAR(between[i], exact, budget * terms_of(metric, rows, 0, i))
                        << label(CodecId::none, metric, scalar) << dim;
                    ASSERT_EQ(scorer->rescore(encoded.code(i), nullptr), by_query[i]);
                    const float error = scorer->error(nullptr, by_query[i], false);
                    ASSERT_EQ(error > 0, metric == Metric::cosine);  // elsewhere the operator rounds alike
                    if (error > 0) {
                        ASSERT_NEAR(by_query[i], exact, error);
                    }
                }
            }
        }
    }
}

TEST(ExactCodec, Bits)
{
    const uint8_t a[] = {0b11001010, 0b10000000}, b[] = {0b11110000, 0b00000000}, zero[2] = {};
    const auto view = [](const uint8_t *bytes) { return VectorView{Scalar::bit, 9, bytes, nullptr, 0}; };
    const auto distance = [&](Metric metric, const uint8_t *x, const uint8_t *y) {
        const auto codec = make_codec(CodecId::none, Scalar::bit, metric, 9, {});
        uint8_t code[2];
        codec->encode(view(y), code, nullptr);
        const uint8_t *codes[] = {code};
        float scored, between;
        codec->query(view(x))->score(codes, 1, &scored);
        codec->distances(x, codes, 1, &between);
        EXPECT_EQ(codec->code_size(), 2u);
        EXPECT_EQ(scored, between);
        EXPECT_FLOAT_EQ(scored, static_cast<float>(exact_distance(metric, view(x), view(y))));
        return scored;
    };
    EXPECT_EQ(distance(Metric::hamming, a, b), 5);
    EXPECT_FLOAT_EQ(distance(Metric::jaccard, a, b), 1 - 2.0f / 7);
    EXPECT_EQ(distance(Metric::jaccard, a, a), 0);
    EXPECT_EQ(distance(Metric::jaccard, a, zero), 1);
    EXPECT_EQ(distance(Metric::jaccard, zero, zero), 1);
    EXPECT_EQ(distance(Metric::hamming, zero, zero), 0);
}

TEST(ExactCodec, SparseDistancesAreThoseOfTheDenseVector)
{
    constexpr uint32_t kSparseDim = 50;
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    std::vector<std::vector<int32_t>> indices(20);
    std::vector<std::vector<float>> values(20);
    std::vector<float> dense(20 * kSparseDim);
    for (size_t i = 0; i < 20; i++) {
        for (uint32_t j = 0; j < kSparseDim && i > 0; j++) {  // row 0 is empty
            if (random() % 4) continue;
            indices[i].push_back(static_cast<int32_t>(j));
            values[i].push_back(normal(random));
            dense[i * kSparseDim + j] = values[i].back();
        }
    }
    const auto view = [&](size_t i) {
        return VectorView{Scalar::sparse, kSparseDim, values[i].data(), indices[i].data(), static_cast<uint32_t>(values[i].size())};
    };
    for (Metric metric : {Metric::l2, Metric::ip, Metric::cosine, Metric::l1}) {
        const auto codec = make_codec(CodecId::none, Scalar::sparse, metric, kSparseDim, {});
        EXPECT_EQ(codec->code_size(), 0u);
        std::vector<std::vector<uint8_t>> codes(20);
        std::vector<const uint8_t *> pointers;
        for (size_t i = 0; i < 20; i++) {
            EXPECT_EQ(codec->code_size(view(i)), 4 + 8 * values[i].size());
            codes[i].resize(codec->code_size(view(i)) + 1);  // one byte off, nothing is aligned
            codec->encode(view(i), codes[i].data() + 1, nullptr);
            pointers.push_back(codes[i].data() + 1);
        }
        for (size_t q = 0; q < 20; q++) {
            std::vector<float> scored(20), by_code(20), by_vector(20), between(20);
            codec->query(view(q))->score(pointers.data(), 20, scored.data());
            codec->query_code(pointers[q])->score(pointers.data(), 20, by_code.data());
            codec->linker(view(q))->score(pointers.data(), 20, by_vector.data());
            codec->distances(pointers[q], pointers.data(), 20, between.data());
            EXPECT_EQ(between, by_code);
            EXPECT_EQ(between, by_vector);
            for (size_t i = 0; i < 20; i++) {  // links are chosen with less weight on length
                const double norms = norm_of(view(q)) * norm_of(view(i));
                EXPECT_FLOAT_EQ(between[i],
                                metric != Metric::ip || norms == 0 ? scored[i] : static_cast<float>(scored[i] / std::sqrt(norms)));
            }
            for (size_t i = 0; i < 20; i++) {
                const VectorView x{Scalar::f32, kSparseDim, &dense[q * kSparseDim], nullptr, 0};
                const VectorView y{Scalar::f32, kSparseDim, &dense[i * kSparseDim], nullptr, 0};
                const double exact = exact_distance(metric, x, y);
                EXPECT_NEAR(scored[i], exact, 1e-5) << static_cast<int>(metric) << " " << q << " " << i;
                EXPECT_NEAR(exact_distance(metric, view(q), view(i)), exact, 1e-9);
            }
        }
    }
}

TEST(ExactDistance, DifferentDimensionsAreRefused)
{
    const float x[4] = {1, 2, 3, 4};
    try {
        exact_distance(Metric::l2, {Scalar::f32, 3, x, nullptr, 0}, {Scalar::f32, 4, x, nullptr, 0});
        FAIL();
    } catch (const Error &error) {
        EXPECT_EQ(error.code(), Errc::data_exception);
        EXPECT_EQ(error.message(), "different vector dimensions 3 and 4");
    }
}

TEST(LvqCodec, EveryDimension)
{
    for (CodecId id : {CodecId::lvq8, CodecId::lvq4, CodecId::lvq4x8}) {
        for (Metric metric : kDenseMetrics) {
            for (uint32_t dim : kDims) {
                const Rows rows = normal_rows(Scalar::f32, dim, 24, 1, 0.3);
                const Encoded encoded = encode(id, metric, rows);
                const size_t packed = id == CodecId::lvq8 ? dim : (dim + 31) / 32 * 16;
                ASSERT_EQ(encoded.codec->code_size(), 16 + packed);
                ASSERT_EQ(encoded.codec->second_size(), id == CodecId::lvq4x8 ? dim + 8 : 0);
                const auto scorer = encoded.codec->query(rows.view(0));
                std::vector<float> score(24), decoded(dim);
                scorer->score(encoded.pointers(24).data(), 24, score.data());
                for (size_t i = 1; i < 24; i++) {
                    const std::vector<double> x = normalised(rows.row(i), dim, metric);
                    float step;
                    std::memcpy(&step, encoded.code(i) + 4, 4);
                    encoded.codec->decode(encoded.code(i), nullptr, decoded.data());
                    for (uint32_t j = 0; j < dim; j++)
                        ASSERT_NEAR(decoded[j], x[j], kReachOverStep * step + 5 * kDecodeSlack)
                            << label(id, metric, Scalar::f32) << dim;
                    const double exact = exact_distance(metric, rows.view(0), rows.view(i));
                    // six deviations instead of error()'s 3.5: none of these thousands may be outside
                    const double bound = scorer->error(encoded.code(i), score[i], false) * 6 / 3.5;
                    ASSERT_NEAR(score[i], exact, bound) << label(id, metric, Scalar::f32) << " " << dim;
                    const float second = scorer->rescore(encoded.code(i), encoded.second(i));
                    const double second_bound = scorer->error(encoded.code(i), second, true) * 6 / 3.5;
                    ASSERT_NEAR(second, exact, second_bound) << label(id, metric, Scalar::f32) << " " << dim;
                }
            }
        }
    }
}

// Beyond float, distances keep their order, and are not believed.
TEST(AnyCodec, DistancesBeyondFloat)
{
    float last = 0;
    for (int power = 100; power < 280; power++) {
        const float now = ordered(std::ldexp(1.5, power));
        EXPECT_GT(now, last) << power;
        EXPECT_LE(now, FLT_MAX);
        last = now;
    }
    EXPECT_EQ(ordered(HUGE_VAL), FLT_MAX);
    EXPECT_EQ(ordered(-HUGE_VAL), -FLT_MAX);
    EXPECT_EQ(ordered(NAN), FLT_MAX);
    const Rows rows = make_rows(Scalar::f32, 2, {0, 0, 1e18f, 0, 1.8e19f, 0, 1.9e19f, 0, 1e25f, 0, -3e38f, 0});
    for (CodecId id : kAll) {
        const Encoded encoded = encode(id, Metric::l2, rows);
        const auto scorer = encoded.codec->query(rows.view(0));
        std::vector<float> score(6);
        scorer->score(encoded.pointers(6).data(), 6, score.data());
        for (size_t i = 3; i < 6; i++) {
            EXPECT_GT(score[i], score[i - 1]) << codec_name(id) << " " << i;
            const float error = scorer->error(encoded.code(i), score[i], false);
            if (id == CodecId::none && i > 3)
                EXPECT_EQ(error, 0) << "certainly infinite: no reason to look for others";
            else
                EXPECT_GT(score[i] + error, FLT_MAX) << "as the operator says";
        }
    }
}

// Every scale a float has, in one index and against itself: all distances are numbers, and where squares do not leave the range of
// float, each vector is its own nearest neighbour.
TEST(AnyCodec, ExtremeMagnitudes)
{
    const double scales[] = {1e-45, 1e-38, 1e-30, 1e-18, 1e-9, 1, 1e9, 1e18, 1e30, 3e37};
    for (Scalar scalar : {Scalar::f32, Scalar::f16}) {
        for (double scale : scales) {
            if (scalar == Scalar::f16 && scale > 1e4) continue;
            for (Metric metric : kDenseMetrics) {
                for (CodecId id : kAll) {
                    const Rows rows = normal_rows(scalar, 40, 50, scale);
                    const Encoded encoded = encode(id, metric, rows);
                    const bool representable = scalar == Scalar::f32 ? scale >= 1e-18 && scale <= 1e17 : scale >= 1e-4;
                    const bool in_range =
                        metric == Metric::cosine ? scale >= (scalar == Scalar::f16 ? 1e-4 : 1e-36) : representable;
                    for (size_t i = 0; i < 50; i++) {
                        std::vector<float> score(50), between(50);
                        const auto scorer = encoded.codec->query(rows.view(i));
                        scorer->score(encoded.pointers(50).data(), 50, score.data());
                        encoded.codec->distances(encoded.code(i), encoded.pointers(50).data(), 50, between.data());
                        for (size_t j = 0; j < 50; j++) {
                            ASSERT_TRUE(std::isfinite(score[j])) << label(id, metric, scalar) << " " << scale;
                            ASSERT_TRUE(std::isfinite(between[j])) << label(id, metric, scalar) << " " << scale;
                            const float second = scorer->rescore(encoded.code(j), encoded.second(j));
                            ASSERT_TRUE(std::isfinite(second)) << label(id, metric, scalar) << " " << scale;
                            const float error = scorer->error(encoded.code(j), second, true);
                            ASSERT_TRUE(std::isfinite(error) && error >= 0) << label(id, metric, scalar) << " " << scale;
                        }
                        if (!in_range || metric == Metric::ip) continue;  // under ip a longer vector may be nearer
                        const size_t best = static_cast<size_t>(std::min_element(score.begin(), score.end()) - score.begin());
                        ASSERT_EQ(best, i) << label(id, metric, scalar) << " " << scale;
                        const size_t near = static_cast<size_t>(std::min_element(between.begin(), between.end()) - between.begin());
                        ASSERT_EQ(near, i) << label(id, metric, scalar) << " " << scale;
                    }
                }
            }
        }
    }
}

TEST(AnyCodec, TheLargestFloatsOfBothSigns)
{
    std::vector<float> values;
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 33; j++) values.push_back((i * j + j / 3) % 2 ? FLT_MAX : -FLT_MAX);
    for (int j = 0; j < 33; j++) values.push_back(static_cast<float>(j));
    const Rows rows = make_rows(Scalar::f32, 33, values);
    for (Metric metric : {Metric::l2, Metric::ip, Metric::cosine, Metric::l1}) {
        for (CodecId id : kAll) {
            if (!codec_supports(id, Scalar::f32, metric)) continue;
            const Encoded encoded = encode(id, metric, rows);
            std::vector<float> score(rows.size()), between(rows.size()), decoded(33);
            for (size_t i = 0; i < rows.size(); i++) {
                encoded.codec->query(rows.view(i))->score(encoded.pointers(rows.size()).data(), rows.size(), score.data());
                encoded.codec->distances(encoded.code(i), encoded.pointers(rows.size()).data(), rows.size(), between.data());
                encoded.codec->decode(encoded.code(i), encoded.second(i), decoded.data());
                const auto is_finite = [](float value) { return std::isfinite(value); };
                ASSERT_TRUE(std::all_of(score.begin(), score.end(), is_finite)) << label(id, metric, Scalar::f32);
                ASSERT_TRUE(std::all_of(between.begin(), between.end(), is_finite)) << label(id, metric, Scalar::f32);
                ASSERT_TRUE(std::all_of(decoded.begin(), decoded.end(), is_finite)) << label(id, metric, Scalar::f32);
            }
        }
    }
}

TEST(AnyCodec, ZeroAndConstantVectors)
{
    for (CodecId id : kAll) {
        for (Metric metric : kDenseMetrics) {
            for (bool train : {false, true}) {
                std::vector<float> values(5 * 37, 0.0f);  // rows: 0, 0, 2.5, -7, 0..36
                std::fill(values.begin() + 2 * 37, values.begin() + 3 * 37, 2.5f);
                std::fill(values.begin() + 3 * 37, values.begin() + 4 * 37, -7.0f);
                std::iota(values.begin() + 4 * 37, values.end(), 0.0f);
                const Rows rows = make_rows(Scalar::f32, 37, values);
                const Encoded encoded = encode(id, metric, rows, train);
                for (size_t i = 0; i < 5; i++) {
                    std::vector<float> score(5);
                    const auto scorer = encoded.codec->query(rows.view(i));
                    scorer->score(encoded.pointers(5).data(), 5, score.data());
                    for (size_t j = 0; j < 5; j++) {
                        const double exact = exact_distance(metric, rows.view(i), rows.view(j));
                        const double bound =
                            scorer->error(encoded.code(j), score[j], false) * 2 + kExactBudget * (1 + std::fabs(exact));
                        EXPECT_NEAR(score[j], exact, bound) << label(id, metric, Scalar::f32) << " " << i << " " << j;
                    }
                }
            }
        }
    }
}

// An index built on one machine is read on another: codes and LVQ distances do not depend on the instruction set.
TEST(LvqCodec, EveryInstructionSetMakesTheSameCodesAndDistances)
{
    const simd::Level before = simd::active_level();
    for (Scalar scalar : {Scalar::f32, Scalar::f16}) {
        for (uint32_t dim : {3u, 100u, 384u}) {
            const Rows rows = normal_rows(scalar, dim, 40);
            for (CodecId id : {CodecId::lvq8, CodecId::lvq4x8}) {
                simd::set_level(simd::Level::scalar);
                const Encoded truth = encode(id, Metric::l2, rows);
                std::vector<float> expected(40), got(40);
                truth.codec->query(rows.view(5))->score(truth.pointers(40).data(), 40, expected.data());
                for (simd::Level level : {simd::Level::neon, simd::Level::avx2, simd::Level::avx512}) {
                    if (!simd::supported(level)) continue;
                    simd::set_level(level);
                    const Encoded encoded = encode(id, Metric::l2, rows);
                    encoded.codec->query(rows.view(5))->score(encoded.pointers(40).data(), 40, got.data());
                    EXPECT_EQ(encoded.model, truth.model) << simd::level_name(level);
                    EXPECT_EQ(encoded.codes, truth.codes) << simd::level_name(level);
                    EXPECT_EQ(encoded.seconds, truth.seconds) << simd::level_name(level);
                    EXPECT_EQ(got, expected) << simd::level_name(level);
                }
            }
        }
    }
    simd::set_level(before);
}

TEST(LvqCodec, AnUntrainedCodecWorks)
{
    const Rows rows = normal_rows(Scalar::f32, 64, 100);
    for (Metric metric : kDenseMetrics) {
        const Encoded encoded = encode(CodecId::lvq8, metric, rows, false);
        for (size_t i = 0; i < 100; i++) {
            std::vector<float> score(100);
            encoded.codec->query(rows.view(i))->score(encoded.pointers(100).data(), 100, score.data());
            const size_t best = static_cast<size_t>(std::min_element(score.begin(), score.end()) - score.begin());
            if (metric != Metric::ip) {
                EXPECT_EQ(best, i);
            }
        }
    }
}

// One absurd vector in the sample must not cost the others their precision.
TEST(LvqCodec, AnOutlierInTheSampleDoesNotSpoilTheMean)
{
    Rows rows = normal_rows(Scalar::f32, 64, 200);
    std::fill(rows.values.begin(), rows.values.begin() + 64, 1e30f);
    for (Metric metric : {Metric::l2, Metric::cosine}) {
        const Encoded encoded = encode(CodecId::lvq8, metric, rows);
        for (size_t i = 1; i < 200; i++) {
            std::vector<float> score(200);
            encoded.codec->query(rows.view(i))->score(encoded.pointers(200).data(), 200, score.data());
            EXPECT_EQ(static_cast<size_t>(std::min_element(score.begin(), score.end()) - score.begin()), i);
        }
    }
}

TEST(LvqCodec, ADataSetFarFromTheOriginKeepsItsPrecision)
{
    const Rows rows = normal_rows(Scalar::f32, 64, 200, 1, 1000);
    const Encoded encoded = encode(CodecId::lvq8, Metric::l2, rows);
    for (size_t i = 0; i < 200; i += 20) {
        const auto scorer = encoded.codec->query(rows.view(i));
        for (size_t j = 0; j < 200; j++) {
            const double exact = exact_distance(Metric::l2, rows.view(i), rows.view(j));
            const float distance = scorer->rescore(encoded.code(j), nullptr);
            EXPECT_NEAR(distance, exact, 0.02 * exact + 1);  // without the mean the error would be in the hundreds
        }
    }
}

TEST(LvqCodec, InnerProductOfSmallQueriesAndLargeVectors)
{
    const Rows rows = normal_rows(Scalar::f32, 64, 100, 1e6, 1e6), small = normal_rows(Scalar::f32, 64, 10, 1e-3);
    const Encoded encoded = encode(CodecId::lvq8, Metric::ip, rows);
    for (size_t i = 0; i < 10; i++) {
        const auto scorer = encoded.codec->query(small.view(i));
        for (size_t j = 0; j < 100; j++) {
            const uint8_t *code = encoded.code(j);
            float score;
            scorer->score(&code, 1, &score);
            const double exact = exact_distance(Metric::ip, small.view(i), rows.view(j));
            EXPECT_NEAR(score, exact, scorer->error(code, score, false) * 2);
            EXPECT_LT(scorer->error(code, score, false), 1e-2 * 1e3 * 64);
        }
    }
}

TEST(LvqCodec, TrainingIsDeterministicAndFindsTheMean)
{
    const Rows rows = normal_rows(Scalar::f32, 33, 100, 1, 5);
    const Encoded once = encode(CodecId::lvq4, Metric::l2, rows), again = encode(CodecId::lvq4, Metric::l2, rows);
    EXPECT_EQ(once.model, again.model);
    EXPECT_EQ(once.codes, again.codes);
    for (uint32_t j = 0; j < 33; j++) {
        double mean = 0;
        for (size_t i = 0; i < 100; i++) mean += rows.row(i)[j] / 100.0;
        float stored;
        std::memcpy(&stored, once.model.data() + 16 + 4 * j, 4);
        EXPECT_FLOAT_EQ(stored, static_cast<float>(mean));
    }
}

}  // namespace
}  // namespace vkv
