// The algebra of attention states, errors, rotary embeddings, and the parts of the kernels whose precision is promised.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "core/error.h"
#include "core/kv/attend.h"
#include "core/kv/kernels.h"
#include "core/kv/queries.h"
#include "core/kv/rotation.h"
#include "core/simd/kernels.h"
#include "kv_attend_cases.h"

namespace vkv::kv {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int kRows = 5, kDim = 64, kTokens = 300;

std::vector<simd::Level> levels_here()
{
    std::vector<simd::Level> levels;
    for (const simd::Level level : {simd::Level::scalar, simd::Level::neon, simd::Level::avx2, simd::Level::avx512})
        if (simd::supported(level)) levels.push_back(level);
    return levels;
}

// Forces a level while it lives.
struct AtLevel {
    explicit AtLevel(simd::Level level) : before(simd::active_level()) { simd::set_level(level); }
    ~AtLevel() { simd::set_level(before); }
    simd::Level before;
};

std::string message_of(const std::function<void()> &call, Errc code)
{
    try {
        call();
    } catch (const Error &error) {
        EXPECT_EQ(error.code(), code) << error.message();
        return error.message();
    }
    ADD_FAILURE() << "no error";
    return {};
}

struct Sample {
    explicit Sample(Codec codec, uint8_t flags = 0)
        : shape{codec, flags, kDim, kDim, 1},
          data(kTokens, kDim, kDim, 3),
          tiles(make_tiles(shape, kTokens, data, 23)),
          q(random_queries(kRows, kDim, 4)),
          reference(kRows, kDim)
    {
        queries.set(q.data(), kRows, kDim, 0.125f, 0);
        for (const Tile &tile : tiles) reference.add(q.data(), 0.125, 0, tile.view(), {});
    }
    double error(const Accumulator &sum) const
    {
        const State state(sum, kRows, kDim);
        return reference.error(state.m.data(), state.l.data(), state.o.data());
    }
    TileShape shape;
    KvData data;
    std::vector<Tile> tiles;
    std::vector<float> q;
    Queries queries;
    Reference reference;
};

TEST(AttendStates, OrderAndGroupingDoNotMatter)
{
    for (const Codec codec : {Codec::f16, Codec::int8, Codec::uniform4, Codec::rotated3}) {
        Sample sample(codec);
        Accumulator whole, backwards, merged;
        for (Accumulator *sum : {&whole, &backwards, &merged}) sum->reset(kRows, kDim);
        for (const Tile &tile : sample.tiles) whole.add(sample.queries, tile.view(), {});
        for (size_t i = sample.tiles.size(); i-- > 0;) backwards.add(sample.queries, sample.tiles[i].view(), {});
        for (size_t i = 0; i < sample.tiles.size(); i += 3) {
            Accumulator part;
            part.reset(kRows, kDim);
            for (size_t j = i; j < std::min(i + 3, sample.tiles.size()); j++) part.add(sample.queries, sample.tiles[j].view(), {});
            const State state(part, kRows, kDim);
            merged.merge(state.m.data(), state.l.data(), state.o.data());
        }
        EXPECT_LE(sample.error(whole), 1e-5);
        EXPECT_LE(sample.error(backwards), 1e-5);
        EXPECT_LE(sample.error(merged), 1e-5);
    }
}

// Half a million tokens: sums of floats alone are fifty times as far off.
TEST(AttendStates, LongSumsStayExact)
{
    constexpr int kRounds = 1600;
    for (const Codec codec : {Codec::f16, Codec::int8, Codec::rotated3}) {
        Sample sample(codec);
        Accumulator sum;
        for (int use = 0; use < 2; use++) {  // again, in memory that was used
            sum.reset(kRows, kDim);
            for (int round = 0; round < (use ? 1 : kRounds); round++)
                for (const Tile &tile : sample.tiles) sum.add(sample.queries, tile.view(), {});
            Reference &reference = sample.reference;
            for (std::vector<double> *sums : {&reference.l, &reference.o, &reference.size})
                for (double &x : *sums) x *= use ? 1.0 / kRounds : kRounds;
            EXPECT_LE(sample.error(sum), 5e-7) << codec_name(codec);
        }
    }
}

TEST(AttendStates, MergeStatesIsMerge)
{
    Sample sample(Codec::f16);
    State sum(kRows, kDim);
    for (size_t r = 0; r < kRows; r++) sum.m[r] = -kInfinity;
    for (size_t i = 0; i < sample.tiles.size(); i++) {
        Accumulator part;
        part.reset(kRows, kDim);
        part.add(sample.queries, sample.tiles[(i * 5) % sample.tiles.size()].view(), {});
        const State state(part, kRows, kDim);
        merge_states(kRows, kDim, sum.m.data(), sum.l.data(), sum.o.data(), state.m.data(), state.l.data(), state.o.data());
    }
    ASSERT_NE(sample.tiles.size() % 5, 0u);  // so that the walk above took each tile once
    EXPECT_LE(sample.reference.error(sum.m.data(), sum.l.data(), sum.o.data()), 1e-5);
}

TEST(AttendStates, TilesAfterMergeAndMixedCodecs)
{
    Sample half(Codec::f16), rotated(Codec::rotated4);
    Reference reference(kRows, kDim);
    Accumulator first, sum;
    first.reset(kRows, kDim);
    sum.reset(kRows, kDim);
    for (size_t i = 0; i < half.tiles.size(); i++) {
        const TileView view = (i % 2 ? half : rotated).tiles[i].view();
        reference.add(half.q.data(), 0.125, 0, view, {});
        (i < 3 ? first : sum).add(half.queries, view, {});
    }
    const State state(first, kRows, kDim);
    sum.merge(state.m.data(), state.l.data(), state.o.data());
    const State got(sum, kRows, kDim);
    EXPECT_LE(reference.error(got.m.data(), got.l.data(), got.o.data()), 1e-5);
}

TEST(AttendStates, NothingSeen)
{
    Sample sample(Codec::int8);
    Accumulator sum;
    sum.reset(kRows, kDim);
    const Selection none{500, 600, nullptr, 0, nullptr, nullptr};
    sum.add(sample.queries, sample.tiles[0].view(), none);
    State state(sum, kRows, kDim);
    sum.merge(state.m.data(), state.l.data(), state.o.data());  // nothing and nothing is nothing
    std::vector<float> output(kRows * kDim, 1), lse(kRows, 1);
    sum.finish(output.data(), lse.data());
    merge_states(kRows, kDim, state.m.data(), state.l.data(), state.o.data(), state.m.data(), state.l.data(), state.o.data());
    for (size_t r = 0; r < kRows; r++) {
        EXPECT_EQ(lse[r], -kInfinity);
        EXPECT_EQ(state.m[r], -kInfinity);
        EXPECT_EQ(state.l[r], 0);
    }
    for (const float x : output) EXPECT_EQ(x, 0);
    for (const float x : state.o) EXPECT_EQ(x, 0);
    for (const Tile &tile : sample.tiles) sum.add(sample.queries, tile.view(), {});
    EXPECT_LE(sample.error(sum), 1e-5);
}

TEST(AttendStates, FinishIsOutputAndLogSumExp)
{
    Sample sample(Codec::rotated4);
    Accumulator sum;
    sum.reset(kRows, kDim);
    for (const Tile &tile : sample.tiles) sum.add(sample.queries, tile.view(), {});
    std::vector<float> output(kRows * kDim), lse(kRows);
    sum.finish(output.data(), nullptr);
    sum.finish(nullptr, lse.data());
    const Reference &expected = sample.reference;
    for (size_t r = 0; r < kRows; r++) {
        EXPECT_NEAR(lse[r], expected.m[r] + std::log(expected.l[r]), 1e-5);
        for (size_t d = 0; d < kDim; d++) EXPECT_NEAR(output[r * kDim + d], expected.o[r * kDim + d] / expected.l[r], 1e-5);
    }
}

// One token whose logit is far above, tokens that are all equal, and a hundred that barely weigh beside the largest.
TEST(AttendStates, ExtremeWeights)
{
    for (const simd::Level level : levels_here()) {
        const AtLevel at(level);
        for (int codec = 0; codec < kCodecs; codec++)
            for (const float gap : {0.0f, 12.0f, 16.0f, 40.0f, 100.0f}) {
                KvData data(kTokens, kDim, kDim, 5);
                for (size_t t = 0; t < kTokens; t++)
                    for (size_t d = 0; d < kDim; d++) data.k[t * kDim + d] = float_to_half(t == 33 ? gap / kDim : 0);
                for (size_t i = 0; i < data.v.size(); i++) data.v[i] = float_to_half(half_to_float(data.v[i]) + 2);
                const std::vector<float> q(kRows * kDim, 1.0f);
                Queries queries;
                queries.set(q.data(), kRows, kDim, 1, 0);
                Accumulator sum;
                sum.reset(kRows, kDim);
                Reference reference(kRows, kDim);
                for (const Tile &tile : make_tiles({static_cast<Codec>(codec), 0, kDim, kDim, 1}, kTokens, data)) {
                    sum.add(queries, tile.view(), {});
                    reference.add(q.data(), 1, 0, tile.view(), {});
                }
                const State state(sum, kRows, kDim);
                EXPECT_LE(reference.error(state.m.data(), state.l.data(), state.o.data()), 1e-5)
                    << simd::level_name(level) << " codec " << codec << " gap " << gap;
            }
    }
}

TEST(AttendStates, LevelsMayChangeBetweenTiles)
{
    for (const Codec codec : {Codec::f16, Codec::int8, Codec::rotated4}) {
        Sample sample(codec);
        Accumulator sum;
        sum.reset(kRows, kDim);
        const std::vector<simd::Level> levels = levels_here();
        for (size_t i = 0; i < sample.tiles.size(); i++) {
            const AtLevel at(levels[i % levels.size()]);
            sum.add(sample.queries, sample.tiles[i].view(), {});
        }
        EXPECT_LE(sample.error(sum), 1e-5);
    }
}

TEST(AttendStates, QueriesMayBeSetAgain)
{
    Sample sample(Codec::rotated4);
    Queries queries;
    const std::vector<float> other = random_queries(33, kDim, 9);
    queries.set(other.data(), 33, kDim, 1, 3);
    Accumulator sum;
    sum.reset(33, kDim);
    sum.add(queries, sample.tiles[0].view(), {});
    queries.set(sample.q.data(), kRows, kDim, 0.125f, 0);
    sum.reset(kRows, kDim);
    Accumulator moved = std::move(sum);
    const Queries also = std::move(queries);
    for (size_t i = 0; i < sample.tiles.size(); i++) {
        Selection selection;
        selection.next = i + 1 < sample.tiles.size() ? sample.tiles[i + 1].bytes.data() : nullptr;
        moved.add(also, sample.tiles[i].view(), selection);
    }
    EXPECT_LE(sample.error(moved), 1e-5);
}

TEST(AttendErrors, Queries)
{
    Queries queries;
    std::vector<float> q(kRows * kDim, 1.0f);
    q[kDim + 3] = std::nanf("");
    EXPECT_NE(message_of([&] { queries.set(q.data(), kRows, kDim, 1, 0); }, Errc::data_exception).find("row 1"), std::string::npos);
    q[kDim + 3] = kInfinity;
    message_of([&] { queries.set(q.data(), kRows, kDim, 1, 0); }, Errc::data_exception);
    q[kDim + 3] = 1e38f;
    EXPECT_NE(message_of([&] { queries.set(q.data(), kRows, kDim, 1, 0); }, Errc::data_exception).find("too large"),
              std::string::npos);
    q[kDim + 3] = 0;
    message_of([&] { queries.set(q.data(), 0, kDim, 1, 0); }, Errc::data_exception);
    message_of([&] { queries.set(q.data(), 1, kMaxHeadDim + 1, 1, 0); }, Errc::data_exception);
    message_of([&] { queries.set(q.data(), kRows, kDim, kInfinity, 0); }, Errc::data_exception);
    message_of([&] { queries.set(q.data(), kRows, kDim, 1, -1); }, Errc::data_exception);
    queries.set(q.data(), kRows, kDim, 1, 0);
    EXPECT_EQ(queries.rows(), kRows);
    EXPECT_EQ(queries.dim_k(), kDim);
}

TEST(AttendErrors, Geometry)
{
    Sample sample(Codec::f16);
    const KvData data(3, 32, 16, 1);
    const TileShape shape{Codec::f16, 0, 32, 16, 1}, awaiting{Codec::f16, kKeysBeforeRope, kDim, kDim, 1};
    const std::vector<Tile> other = make_tiles(shape, 3, data), early = make_tiles(awaiting, 10, sample.data);
    Accumulator sum;
    sum.reset(kRows, kDim);
    const std::string keys = message_of([&] { sum.add(sample.queries, other[0].view(), {}); }, Errc::data_exception);
    EXPECT_NE(keys.find("32"), std::string::npos);
    EXPECT_NE(keys.find("64"), std::string::npos);
    sum.reset(kRows, kDim + 1);
    message_of([&] { sum.add(sample.queries, sample.tiles[0].view(), {}); }, Errc::data_exception);
    sum.reset(kRows + 1, kDim);
    message_of([&] { sum.add(sample.queries, sample.tiles[0].view(), {}); }, Errc::data_exception);
    sum.reset(kRows, kDim);
    message_of([&] { sum.add(sample.queries, early[0].view(), {}); }, Errc::data_exception);
    const Rope wide(Rope::usual_frequencies(10000, 128), 128, Pairing::half);
    Selection selection;
    selection.rope = &wide;
    message_of([&] { sum.add(sample.queries, early[0].view(), selection); }, Errc::data_exception);
    message_of([&] { sum.reset(0, kDim); }, Errc::data_exception);
    message_of([&] { sum.reset(1, 0); }, Errc::data_exception);
}

TEST(Rope, TurnsAndTurnsBack)
{
    for (const Pairing pairing : {Pairing::half, Pairing::interleaved}) {
        const Rope rope(Rope::usual_frequencies(10000, 32), 40, pairing);
        EXPECT_EQ(rope.dims(), 32);
        for (const int32_t position : {0, 1, 1000, 123456789, INT32_MAX}) {
            const std::vector<float> x = random_queries(1, 40, 2);
            std::vector<float> y = x;
            rope.rotate(y.data(), position);
            for (size_t i = 0; i < 16; i++) {
                const size_t a = pairing == Pairing::half ? i : 2 * i, b = pairing == Pairing::half ? i + 16 : 2 * i + 1;
                const double angle = position * std::pow(10000.0, -static_cast<double>(i) / 16);
                EXPECT_NEAR(y[a], x[a] * std::cos(angle) - x[b] * std::sin(angle), 2e-6);
                EXPECT_NEAR(y[b], x[a] * std::sin(angle) + x[b] * std::cos(angle), 2e-6);
            }
            for (size_t d = 32; d < 40; d++) EXPECT_EQ(y[d], x[d]);
            rope.rotate_back(y.data(), position);
            for (size_t d = 0; d < 40; d++) EXPECT_NEAR(y[d], x[d], 1e-6);
        }
    }
    message_of([] { Rope(Rope::usual_frequencies(10000, 64), 63, Pairing::half); }, Errc::invalid_parameter);
    message_of([] { Rope({1, std::nan("")}, 64, Pairing::half); }, Errc::invalid_parameter);
    message_of([] { Rope::usual_frequencies(10000, 7); }, Errc::invalid_parameter);
    message_of([] { Rope::usual_frequencies(0, 8); }, Errc::invalid_parameter);
}

// Keys stored before their embedding, turned when read, give what keys stored after it give, but for the rounding to halves: keys
// are chosen so that the early ones need none. Positions far out, in jumps, forwards and backwards.
TEST(Rope, LogitsOfEarlyKeysAtFarPositions)
{
    const Rope rope(Rope::usual_frequencies(500000, kDim), kDim, Pairing::half);
    for (const simd::Level level : levels_here()) {
        const AtLevel at(level);
        const KvData data(40, kDim, kDim, 6);
        const std::vector<float> q = random_queries(kRows, kDim, 7);
        Queries queries;
        queries.set(q.data(), kRows, kDim, 0.125f, 0);
        Selection selection;
        selection.rope = &rope;
        const TileShape shape{Codec::f16, kKeysBeforeRope, kDim, kDim, 1};
        int32_t first = 0;
        for (int i = 0; i < 700; i++) {
            const int tokens = i % 3 == 2 ? 5 : 21;
            const Tile tile = make_tile(shape, first, tokens, data.k.data(), data.v.data());
            std::vector<float> got(static_cast<size_t>(kRows * tokens));
            logits(queries, tile.view(), selection, got.data());
            if (i < 10 || i > 640) {
                Reference reference(kRows, kDim);
                reference.add(q.data(), 0.125, 0, tile.view(), selection);
                for (size_t j = 0; j < got.size(); j++) ASSERT_NEAR(got[j], reference.logits[j], 1e-5) << "position " << first;
            }
            first += tokens;
            if (i == 650) first = INT32_MAX - 2000;
            if (i == 690) first = 77;
        }
    }
}

// ---- kernels ------------------------------------------------------------------------------------------------------------------

TEST(AttendKernels, WeightsAreExponentials)
{
    for (const simd::Level level : levels_here()) {
        constexpr int kCount = 256;
        alignas(64) float scores[kCount + kScorePad], l[kBlock] = {};
        for (float start : {0.0f, -7.3f, -30.0f, -80.0f}) {
            float m = 0, factor = 0;
            for (int i = 0; i < kCount; i++) scores[i] = start - 0.0271828f * static_cast<float>(i);
            scores[7] = -kInfinity;
            scores[9] = -1e30f;
            std::vector<float> x(scores, scores + kCount);
            const SoftmaxJob job{scores, kCount + kScorePad, 1, kCount - 3, &m, l, &factor};
            EXPECT_FALSE(attend_kernels(level).softmax(job));
            EXPECT_EQ(m, 0);
            for (int i = 0; i < kCount - 3; i++) {
                const double expected = std::exp(static_cast<double>(x[static_cast<size_t>(i)]));
                if (x[static_cast<size_t>(i)] < -87)
                    EXPECT_EQ(scores[i], 0);
                else
                    // ln 2 is a float: its error grows with the exponent.
                    EXPECT_NEAR(scores[i], expected, (2e-7 - 3e-9 * static_cast<double>(x[static_cast<size_t>(i)])) * expected)
                        << simd::level_name(level) << " " << x[static_cast<size_t>(i)];
            }
            for (int i = kCount - 3; i < kCount; i++) EXPECT_EQ(scores[i], 0);  // up to a multiple of kBlock
        }
    }
}

TEST(AttendKernels, SoftcapIsTanh)
{
    for (const simd::Level level : levels_here()) {
        for (const float cap : {1.0f, 30.0f}) {
            std::vector<float> x;
            for (int i = -160; i < 160; i++)
                x.push_back(static_cast<float>(i) * std::pow(1.05f, static_cast<float>(std::abs(i))) * 1e-3f);
            std::vector<float> y = x;
            attend_kernels(level).softcap(y.data(), y.size(), cap);
            for (size_t i = 0; i < x.size(); i++) {
                const double expected = static_cast<double>(cap) * std::tanh(static_cast<double>(x[i]) / static_cast<double>(cap));
                EXPECT_NEAR(y[i], expected, 1e-30 + 4e-7 * std::fabs(expected)) << simd::level_name(level) << " " << x[i];
            }
        }
    }
}

// Digits stand for the queries to 24 bits, and their sums are right.
TEST(AttendKernels, Digits)
{
    for (const simd::Level level : levels_here()) {
        if (!attend_kernels(level).digits) continue;
        for (const float size : {1.0f, 1e-20f, 1e20f, 0.0f}) {
            std::vector<float> q = random_queries(1, 2 * kRowPad, 3, size);
            q[5] = -q[7];
            std::vector<uint32_t> digits(q.size());
            std::vector<int32_t> sums(8);
            float step = -1, most = 0;
            attend_kernels(level).digits({q.data(), q.size(), digits.data(), sums.data(), &step});
            for (const float x : q) most = std::max(most, std::fabs(x));
            int32_t expected[8] = {};
            for (size_t d = 0; d < q.size(); d++) {
                double value = 0;
                for (size_t i = 0; i < 3; i++) {
                    const auto digit = static_cast<int8_t>(digits[d / 4 * 4 + i] >> (8 * (d % 4)));
                    value += digit * std::pow(256.0, static_cast<double>(i));
                    expected[d / kRowPad * 4 + i] += digit;
                }
                EXPECT_NEAR(value * static_cast<double>(step), q[d], static_cast<double>(most) * 1.3e-7);
            }
            for (size_t i = 0; i < 8; i++) EXPECT_EQ(i % 4 == 3 ? 0 : sums[i], expected[i]);
        }
    }
}

TEST(AttendKernels, RotationIsThatOfTheCodecs)
{
    for (const simd::Level level : levels_here())
        for (const int dim : {1, 20, 64, 80, 129, 1024}) {
            const std::vector<float> x = random_queries(1, dim, 3);
            std::vector<float> expected = x, got = x;
            rotate(expected.data(), dim);
            rotate_by(attend_kernels(level), got.data(), dim);
            for (size_t d = 0; d < x.size(); d++) EXPECT_NEAR(got[d], expected[d], 2e-6);
            rotate_back_by(attend_kernels(level), got.data(), dim);
            for (size_t d = 0; d < x.size(); d++) EXPECT_NEAR(got[d], x[d], 2e-6);
        }
}

// Numbers whose products and sums have no more than 24 bits: every level must give them exactly. The first query is the largest, so
// that the unit of the digits is 1, and meets keys of zero.
TEST(AttendKernels, IntegersAreExact)
{
    constexpr int kCount = 60;
    KvData data(kCount, kDim, kDim, 1);
    for (size_t i = 0; i < data.k.size(); i++) {
        const size_t d = i % kDim;
        const float largest = i / kDim % 2 ? -127 : 127;  // no channel has a mean to take off
        data.k[i] = float_to_half(d == 0 ? 0 : d == 1 ? largest : static_cast<float>(i * 37 % 255) - 127);
    }
    std::vector<float> q(kDim, 8355696.0f);
    for (size_t d = 1; d < kDim; d++) q[d] = 65536 * (static_cast<float>(d * 29 % 61) - 30);
    const Tile tile = make_tile({Codec::int8, 0, kDim, kDim, 1}, 0, kCount, data.k.data(), data.v.data());
    ASSERT_EQ(tile.view().k_means.count, 0);
    for (const simd::Level level : levels_here()) {
        const AtLevel at(level);
        Queries queries;
        queries.set(q.data(), 1, kDim, 1, 0);
        std::vector<float> got(kCount);
        logits(queries, tile.view(), {}, got.data());
        for (size_t t = 0; t < kCount; t++) {
            double expected = 0;
            for (size_t d = 0; d < kDim; d++)
                expected += static_cast<double>(q[d]) * static_cast<double>(half_to_float(data.k[t * kDim + d]));
            EXPECT_EQ(static_cast<double>(got[t]), expected) << simd::level_name(level);
        }
    }
}

}  // namespace
}  // namespace vkv::kv
