// Codecs that link by direction: the inner product that they search by, the distance that they link by, when they are wanted, and
// what recall they give where a graph linked by the inner product fails.
#include "core/codec/whiten.h"

#include <gtest/gtest.h>
#include <stdexcept>

#include <cfloat>
#include <cmath>
#include <numeric>

#include "core/codec/families.h"
#include "core/error.h"
#include "graph_rows.h"

namespace vkv {
namespace {

constexpr CodecId kAll[] = {CodecId::none, CodecId::lvq8, CodecId::lvq4, CodecId::lvq4x8};
constexpr double kBoundHolds = 0.999;                         // share of distances within error()
constexpr double kDecodeBudget[] = {1e-3, 2e-2, 2e-1, 2e-2};  // |x - decoded| / |x|, by codec
constexpr double kRecall = 0.98, kRecallScaled = 0.90, kRecallPlain = 0.60, kRecallUnsampled = 0.45;

// The rows of a common table of ratings: all in one half-space, of unlike length; queries point anywhere.
double pseudo(double i, double j) { return std::sin(i * 12.9898 + j * 78.233 + i * j * 0.137); }

Rows ratings(Scalar scalar, size_t rows, uint32_t dim)
{
    std::vector<float> values;
    for (size_t i = 1; i <= rows; i++)
        for (uint32_t j = 1; j <= dim; j++)
            values.push_back(
                static_cast<float>((5 + pseudo(static_cast<double>(i), j)) * std::exp(pseudo(static_cast<double>(i), 99))));
    return make_rows(scalar, dim, std::move(values));
}

Rows questions(Scalar scalar, size_t rows, uint32_t dim)
{
    std::vector<float> values;
    for (size_t i = 1; i <= rows; i++)
        for (uint32_t j = 1; j <= dim; j++) values.push_back(static_cast<float>(pseudo(-static_cast<double>(i), j)));
    return make_rows(scalar, dim, std::move(values));
}

DirectionTrainer trained(const Rows &rows, size_t sample)
{
    DirectionTrainer trainer(rows.scalar, rows.dim, [] {});
    for (size_t i = 0; i < std::min(sample, rows.size()); i++) trainer.add(rows.view(i));
    return trainer;
}

Encoded encode_direction(CodecId id, const Rows &rows, size_t sample)
{
    Encoded out;
    DirectionTrainer trainer = trained(rows, sample);
    out.model = trainer.finish(id);
    out.codec = make_direction_codec(id, rows.scalar, rows.dim, out.model);
    encode_all(rows, &out);
    return out;
}

// Samples of every shape: none, too few rows for a covariance, enough.
constexpr size_t kSamples[] = {0, 20, SIZE_MAX};

TEST(Direction, ScoresAreInnerProductsWithinTheirError)
{
    for (Scalar scalar : {Scalar::f32, Scalar::f16})
        for (CodecId id : kAll)
            for (size_t sample : kSamples) {
                SCOPED_TRACE(label(id, Metric::ip, scalar) + " sample " + std::to_string(sample));
                const Rows rows = ratings(scalar, 300, 48), queries = questions(scalar, 20, 48);
                const Encoded e = encode_direction(id, rows, sample);
                size_t within = 0, within_second = 0;
                double widest = 0;
                for (size_t q = 0; q < queries.size(); q++) {
                    const auto scorer = e.codec->query(queries.view(q));
                    std::vector<float> distance(rows.size());
                    scorer->score(e.pointers(rows.size()).data(), rows.size(), distance.data());
                    for (size_t i = 0; i < rows.size(); i++) {
                        const double exact = exact_distance(Metric::ip, queries.view(q), rows.view(i));
                        const double reach = norm_of(queries.view(q)) * norm_of(rows.view(i));
                        const float half = scorer->error(e.code(i), distance[i], false);
                        within += std::fabs(exact - distance[i]) <= half;
                        widest = std::max(widest, half / reach);
                        const float second = scorer->rescore(e.code(i), e.second(i));
                        within_second += std::fabs(exact - second) <= scorer->error(e.code(i), second, true);
                    }
                }
                const double all = static_cast<double>(rows.size() * queries.size());
                EXPECT_GE(static_cast<double>(within), kBoundHolds * all);
                EXPECT_GE(static_cast<double>(within_second), kBoundHolds * all);
                EXPECT_LE(widest, id == CodecId::none && scalar == Scalar::f32   ? 1e-4
                                  : id == CodecId::lvq4 || id == CodecId::lvq4x8 ? 0.6
                                                                                 : 0.05);
            }
}

TEST(Direction, DecodesToTheVector)
{
    for (Scalar scalar : {Scalar::f32, Scalar::f16})
        for (CodecId id : kAll)
            for (size_t sample : kSamples) {
                SCOPED_TRACE(label(id, Metric::ip, scalar) + " sample " + std::to_string(sample));
                const Rows rows = ratings(scalar, 200, 48);
                const Encoded e = encode_direction(id, rows, sample);
                std::vector<float> out(rows.dim);
                for (size_t i = 0; i < rows.size(); i++) {
                    e.codec->decode(e.code(i), e.second(i), out.data());
                    double square = 0;
                    for (uint32_t j = 0; j < rows.dim; j++) square += std::pow(double{out[j]} - rows.row(i)[j], 2);
                    EXPECT_LE(std::sqrt(square), kDecodeBudget[static_cast<int>(id)] * norm_of(rows.view(i)));
                }
            }
}

// One distance links, however it is asked for; and it is not the one that searches.
TEST(Direction, OneDistanceLinks)
{
    for (CodecId id : kAll)
        for (size_t sample : kSamples) {
            SCOPED_TRACE(label(id, Metric::ip, Scalar::f32) + " sample " + std::to_string(sample));
            const Rows rows = ratings(Scalar::f32, 200, 48);
            const Encoded e = encode_direction(id, rows, sample);
            const auto codes = e.pointers(rows.size());
            std::vector<float> between(rows.size()), of_code(rows.size()), of_vector(rows.size());
            double largest = 0, apart = 0;
            for (size_t i = 0; i < 20; i++) {
                e.codec->distances(e.code(i), codes.data(), rows.size(), between.data());
                const auto by_code = e.codec->query_code(e.code(i)), by_vector = e.codec->linker(rows.view(i));
                by_code->score(codes.data(), rows.size(), of_code.data());
                by_vector->score(codes.data(), rows.size(), of_vector.data());
                for (size_t j = 0; j < rows.size(); j++) {
                    EXPECT_FLOAT_EQ(between[j], of_code[j]);
                    largest = std::max(largest, std::fabs(double{between[j]}));
                    apart = std::max(apart, std::fabs(double{between[j]} - of_vector[j]));
                    EXPECT_LE(of_code[i], of_code[j] + 0.2 * std::fabs(of_code[i]) + (j == i ? 0 : FLT_MAX))
                        << "the nearest to itself";
                }
            }
            EXPECT_LE(apart, (id == CodecId::lvq4 || id == CodecId::lvq4x8 ? 0.1 : 0.01) * largest);
        }
}

TEST(Direction, WantedForUnlikeLengths)
{
    const Rows rows = ratings(Scalar::f32, 500, 16);
    EXPECT_TRUE(trained(rows, 500).wanted());
    EXPECT_TRUE(trained(rows, 0).wanted()) << "nothing is known";
    for (const char *name : {"minilm_sample.f16", "minilm_queries.f16"}) {
        EXPECT_FALSE(trained(real_rows(name, Scalar::f32, 400), 400).wanted()) << "of length 1";
        EXPECT_FALSE(trained(real_rows(name, Scalar::f16, 400), 400).wanted()) << "of length 1, rounded";
    }
}

TEST(Direction, WantedForLengthsUnlikeBesideTheSpread)
{
    // Half-spaces: lengths that differ by a percent or a tenth of it decide between vectors that differ by little more.
    for (const Scalar scalar : {Scalar::f32, Scalar::f16})
        for (const float mean : {2.0f, 5.0f, 20.0f}) {
            Rows rows = real_rows("minilm_sample.f16", Scalar::f32, 400);
            for (float &value : rows.values) value += mean / 20;
            if (scalar == Scalar::f16) rows = make_rows(scalar, rows.dim, rows.values);
            EXPECT_TRUE(trained(rows, 400).wanted()) << mean;
            // The same ones of one length, but for rounding.
            for (size_t row = 0; row < rows.size(); row++) {
                float *x = &rows.values[row * rows.dim];
                const double norm = std::sqrt(std::inner_product(x, x + rows.dim, x, 0.0));
                for (uint32_t i = 0; i < rows.dim; i++) x[i] = static_cast<float>(x[i] / norm);
            }
            EXPECT_FALSE(trained(make_rows(scalar, rows.dim, rows.values), 400).wanted()) << mean;
        }
}

TEST(Direction, WantedWhereProductsLeaveTheRangeOfFloat)
{
    for (const auto &[size, wanted] : {std::pair{1.0f, false}, {0x1p80f, true}, {0x1p126f, true}, {0x1p-80f, true}}) {
        Rows rows = real_rows("minilm_sample.f16", Scalar::f32, 400);
        for (float &value : rows.values) value *= size;
        EXPECT_EQ(trained(rows, 400).wanted(), wanted) << size;
    }
    const Rows zeros = make_rows(Scalar::f32, 2, {0, 0, 0, 0});
    EXPECT_FALSE(trained(zeros, 2).wanted());
}

TEST(Direction, SampleIsThinnedOut)
{
    // More rows than are kept: the model is that of every other row.
    const Rows rows = ratings(Scalar::f32, 16384, 4);
    DirectionTrainer all = trained(rows, SIZE_MAX), half(Scalar::f32, 4, [] {});
    for (size_t i = 0; i < rows.size(); i += 2) half.add(rows.view(i));
    EXPECT_EQ(all.finish(CodecId::none), half.finish(CodecId::none));
}

// ---- recall -----------------------------------------------------------------------------------------------------------------

// A graph of the rows, linked by distance only.
graph::Built linked(const Rows &rows, CodecId id, bool direction, size_t sample)
{
    graph::Built b;
    if (direction) {
        b.model = trained(rows, sample).finish(id);
        b.codec = make_direction_codec(id, rows.scalar, rows.dim, b.model);
    } else {
        auto trainer = make_trainer(id, rows.scalar, Metric::ip, rows.dim);
        for (size_t i = 0; i < rows.size(); i++) trainer->add(rows.view(i));
        b.model = trainer->finish();
        b.codec = make_codec(id, rows.scalar, Metric::ip, rows.dim, b.model);
    }
    graph::BuildParams params;
    params.seed = 7;
    b.arena = std::make_unique<graph::Arena>(SIZE_MAX, graph::Arena::Spill{});
    b.graph = std::make_unique<graph::MemoryGraph>(*b.codec, params, *b.arena);
    for (size_t i = 0; i < rows.size(); i++) b.graph->add(rows.view(i), i, i);
    EXPECT_TRUE(b.graph->link_all(1, graph::never));
    return b;
}

double recall_of(const Rows &rows, const Rows &queries, CodecId id, bool direction, size_t sample)
{
    graph::Built b = linked(rows, id, direction, sample);
    EXPECT_TRUE(b.graph->link_answers(1, graph::never));
    b.graph->reach_all();
    return graph::recall(b, rows, queries, Metric::ip, 45, graph::exact_neighbours(rows, queries, Metric::ip));
}

TEST(Direction, RecallOfVectorsInOneHalfSpace)
{
    const Rows rows = ratings(Scalar::f32, graph::kRows, 16), queries = questions(Scalar::f32, 100, 16);
    EXPECT_LT(recall_of(rows, queries, CodecId::lvq8, false, SIZE_MAX), kRecallPlain) << "this data no longer shows the fault";
    const double floats = recall_of(rows, queries, CodecId::none, true, SIZE_MAX);
    EXPECT_GE(floats, kRecall);
    EXPECT_GE(recall_of(rows, queries, CodecId::lvq8, true, SIZE_MAX), floats - 0.01);
    EXPECT_GE(recall_of(rows, queries, CodecId::lvq8, true, 20), kRecallScaled) << "too few rows for a covariance";
    if (graph::kRows > 1000) {  // a graph of the few hundred rows that sanitizers get says little of this
        EXPECT_GE(recall_of(rows, queries, CodecId::lvq8, true, 0), kRecallUnsampled);
    }
    const Rows halves = ratings(Scalar::f16, graph::kRows, 16);
    EXPECT_GE(recall_of(halves, questions(Scalar::f16, 100, 16), CodecId::none, true, SIZE_MAX), kRecall);
}

TEST(Direction, ThreadsLinkAnswers)
{
    const Rows rows = ratings(Scalar::f32, graph::kRows, 16);
    graph::Built b = linked(rows, CodecId::lvq8, true, SIZE_MAX);
    uint64_t last = 0;
    EXPECT_TRUE(b.graph->link_answers(4, [&](uint64_t done) { return last = done, false; }));
    EXPECT_EQ(last, b.graph->size());
    b.graph->reach_all();
    EXPECT_EQ(graph::bad_lists(*b.graph), 0u);
    EXPECT_EQ(graph::reachable(*b.graph).size(), b.graph->size());
}

// In the search for what most ask for, and in a thread's work.
TEST(Direction, LinkingAnswersEndsEarly)
{
    const Rows rows = ratings(Scalar::f32, graph::kRows, 16);
    graph::Built b = linked(rows, CodecId::lvq8, true, SIZE_MAX), other = linked(rows, CodecId::lvq8, false, 0);
    const auto cancel = [](uint64_t) -> bool { throw std::runtime_error("cancelled"); };
    const auto cancel_later = [](uint64_t done) -> bool { return done > 0 ? throw std::runtime_error("cancelled") : false; };
    EXPECT_TRUE(b.graph->asks_otherwise());
    EXPECT_FALSE(b.graph->link_answers(2, [](uint64_t) { return true; }));
    EXPECT_THROW(b.graph->link_answers(2, cancel), std::runtime_error);
    EXPECT_THROW(b.graph->link_answers(2, cancel_later), std::runtime_error);
    EXPECT_FALSE(other.graph->asks_otherwise());
    EXPECT_TRUE(other.graph->link_answers(2, cancel)) << "there is nothing to do";
}

// Where the inner product links well, nothing much is lost: embeddings with lengths of their own.
TEST(Direction, RecallWhereLengthsDecide)
{
    Rows rows = real_rows("minilm_sample.f16", Scalar::f32, graph::kRows);
    for (size_t i = 0; i < rows.size(); i++)
        for (uint32_t j = 0; j < rows.dim; j++)
            rows.values[i * rows.dim + j] *= static_cast<float>(std::exp(0.6 * pseudo(static_cast<double>(i), 1)));
    const Rows queries = real_rows("minilm_queries.f16", Scalar::f32, 100);
    const double plain = recall_of(rows, queries, CodecId::lvq8, false, SIZE_MAX);
    EXPECT_GE(recall_of(rows, queries, CodecId::lvq8, true, SIZE_MAX), plain - 0.04);
    EXPECT_GE(recall_of(rows, queries, CodecId::lvq8, true, 0), plain - 0.04);
}

// Rows very much longer than others are not all that the model sees.
TEST(Direction, RecallOfLengthsFarApart)
{
    for (const float by : {1e4f, 1e19f})
        for (const CodecId id : {CodecId::none, CodecId::lvq8}) {
            SCOPED_TRACE(label(id, Metric::ip, Scalar::f32) + " by " + std::to_string(by));
            Rows rows = ratings(Scalar::f32, graph::kRows, 16);
            for (size_t i = 0; i < rows.size(); i += 11)
                for (uint32_t j = 0; j < 16; j++) rows.values[i * 16 + j] *= by;
            EXPECT_GE(recall_of(rows, questions(Scalar::f32, 100, 16), id, true, SIZE_MAX), kRecall);
        }
}

// Of two vectors the longer weighs as one of 16 times the shorter's length at most, from either side: ten thousand times as long,
// or ten million, is the same.
TEST(Direction, LongRowsCountAsSixteenTimes)
{
    constexpr size_t kShort = 40;
    for (const CodecId id : kAll) {
        SCOPED_TRACE(label(id, Metric::ip, Scalar::f32));
        Rows rows = ratings(Scalar::f32, kShort + 20, 16);
        for (uint32_t j = 0; j < 16; j++)
            for (size_t i = 0; i < 10; i++) {
                const float value = rows.values[i * 16 + j];
                rows.values[(kShort + i) * 16 + j] = 1e4f * value;
                rows.values[(kShort + 10 + i) * 16 + j] = 1e7f * value;
            }
        const Encoded e = encode_direction(id, rows, kShort);
        std::vector<float> score(rows.size()), of_long(rows.size());
        double difference = 0, all = 0;
        for (size_t i = 0; i < kShort; i++) {
            e.codec->query_code(e.code(i))->score(e.pointers(rows.size()).data(), rows.size(), score.data());
            for (size_t j = kShort; j < kShort + 10; j++) {
                difference += std::fabs(score[j] - score[j + 10]);
                all += std::fabs(score[j]);
                e.codec->distances(e.code(j), e.pointers(rows.size()).data(), rows.size(), of_long.data());
                EXPECT_NEAR(of_long[i], score[j], 1e-3 * std::fabs(score[j]));
            }
        }
        EXPECT_LE(difference, 0.02 * all);
    }
}

// ---- edges --------------------------------------------------------------------------------------------------------------------

TEST(Direction, ExtremeValuesStayInOrder)
{
    for (CodecId id : kAll)
        for (bool sampled : {false, true})
            for (float size : {1e-38f, 1e-30f, 1.0f, 1e30f, 3e38f}) {
                SCOPED_TRACE(label(id, Metric::ip, Scalar::f32) + " size " + std::to_string(std::log10(size)));
                Rows rows = ratings(Scalar::f32, 120, 8);
                for (float &value : rows.values) value *= size / 17;
                for (uint32_t j = 0; j < 8; j++) rows.values[j] = 0;                           // a zero vector
                for (uint32_t j = 0; j < 8; j++) rows.values[8 + j] = j % 2 ? 3e38f : -3e38f;  // far from everything
                const Encoded e = encode_direction(id, rows, sampled ? SIZE_MAX : 0);
                std::vector<float> distance(rows.size());
                for (size_t q = 0; q < 4; q++) {
                    for (const auto &scorer :
                         {e.codec->query(rows.view(q)), e.codec->linker(rows.view(q)), e.codec->query_code(e.code(q))}) {
                        scorer->score(e.pointers(rows.size()).data(), rows.size(), distance.data());
                        for (size_t i = 0; i < rows.size(); i++) {
                            EXPECT_TRUE(std::isfinite(distance[i]));
                            const float half = scorer->error(e.code(i), distance[i], false);
                            EXPECT_TRUE(std::isfinite(half) && half >= 0);
                            EXPECT_TRUE(std::isfinite(scorer->rescore(e.code(i), e.second(i))));
                        }
                    }
                    e.codec->distances(e.code(q), e.pointers(rows.size()).data(), rows.size(), distance.data());
                    for (float d : distance) EXPECT_TRUE(std::isfinite(d));
                }
            }
}

TEST(Direction, EqualRowsAndManyDimensions)
{
    // No spread: as without a sample. More dimensions than a triangle is made for: a diagonal.
    Rows equal = make_rows(Scalar::f32, 3, {1, 2, 3, 1, 2, 3, 1, 2, 3});
    EXPECT_STREQ(direction_name(trained(equal, 3).finish(CodecId::lvq8)), "direction");
    EXPECT_STREQ(direction_name(trained(ratings(Scalar::f32, 100, 8), 100).finish(CodecId::lvq8)), "whitened direction");
    EXPECT_STREQ(direction_name(trained(ratings(Scalar::f32, 15, 8), 15).finish(CodecId::lvq8)), "scaled direction");
    const Rows wide = ratings(Scalar::f32, 20, kMaxWhitenDim + 1);
    EXPECT_STREQ(direction_name(trained(wide, 20).finish(CodecId::none)), "scaled direction");
}

TEST(Direction, DamagedModelsAreRefused)
{
    const Rows rows = ratings(Scalar::f32, 100, 8);
    for (CodecId id : kAll)
        for (size_t sample : {size_t{0}, size_t{10}, size_t{100}}) {
            const std::vector<uint8_t> model = trained(rows, sample).finish(id);
            const auto refused = [&](std::vector<uint8_t> bytes, uint32_t dim) {
                try {
                    make_direction_codec(id, Scalar::f32, dim, bytes);
                    return false;
                } catch (const Error &e) {
                    return e.code() == Errc::index_corrupted;
                }
            };
            EXPECT_FALSE(refused(model, 8));
            EXPECT_TRUE(refused(model, 9));
            EXPECT_TRUE(refused({}, 8));
            EXPECT_TRUE(refused({model.begin(), model.end() - 1}, 8));
            for (size_t at : {size_t{0}, size_t{4}, size_t{7}, size_t{8}, size_t{23}}) {
                std::vector<uint8_t> bytes = model;
                bytes[at] ^= 0xC0;
                EXPECT_TRUE(refused(bytes, 8)) << at;
            }
        }
}

}  // namespace
}  // namespace vkv
