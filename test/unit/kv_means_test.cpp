// Means of channels that tiles take off: that large constant channels cost nothing, on every instruction set and for every way
// through a tile, that ordinary tiles have none, and that broken ones are refused.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "core/error.h"
#include "core/kv/attend.h"
#include "core/kv/rope.h"
#include "core/kv/tile_layout.h"
#include "core/kv/wire.h"
#include "core/simd/kernels.h"
#include "kv_attend_cases.h"

namespace vkv::kv {
namespace {

constexpr Codec kCoded[] = {Codec::int8,     Codec::uniform4, Codec::uniform3, Codec::uniform2,
                            Codec::rotated4, Codec::rotated3, Codec::rotated2};

std::vector<simd::Level> levels_here()
{
    std::vector<simd::Level> found;
    for (simd::Level level : {simd::Level::scalar, simd::Level::neon, simd::Level::avx2, simd::Level::avx512})
        if (simd::supported(level)) found.push_back(level);
    return found;
}

// Sets a level for a while.
class AtLevel {
public:
    explicit AtLevel(simd::Level level) : before_(simd::active_level()) { simd::set_level(level); }
    ~AtLevel() { simd::set_level(before_); }
    AtLevel(const AtLevel &) = delete;
    AtLevel &operator=(const AtLevel &) = delete;

private:
    simd::Level before_;
};

struct Errors {
    double k = 0, v = 0;
};

// Root mean square of what tiles lose.
Errors loss(const TileShape &shape, int tokens, float bias)
{
    const KvData data(tokens, shape.dim_k, shape.dim_v, 7, 1, bias);
    Errors sums;
    size_t t = 0;
    for (const Tile &tile : make_tiles(shape, tokens, data)) {
        const TileView view = tile.view();
        const auto n = static_cast<size_t>(view.tokens), dk = static_cast<size_t>(shape.dim_k),
                   dv = static_cast<size_t>(shape.dim_v);
        std::vector<float> k(n * dk), v(n * dv);
        decode_tile(view, k.data(), v.data());
        for (size_t i = 0; i < k.size(); i++) {
            const double off = static_cast<double>(k[i]) - static_cast<double>(half_to_float(data.k[t * dk + i]));
            sums.k += off * off;
        }
        for (size_t i = 0; i < v.size() && !view.values_in_keys(); i++) {
            const double off = static_cast<double>(v[i]) - static_cast<double>(half_to_float(data.v[t * dv + i]));
            sums.v += off * off;
        }
        t += n;
    }
    return {std::sqrt(sums.k), std::sqrt(sums.v)};
}

TEST(TileMeans, ABiasCostsNothing)
{
    for (const Codec codec : kCoded)
        for (const auto &[dim_k, dim_v, flags] :
             {std::tuple{128, 128, 0}, {64, 64, 0}, {96, 80, 0}, {256, 256, 0}, {576, 512, 1}}) {
            const TileShape shape{codec, static_cast<uint8_t>(flags), dim_k, dim_v, 1};
            if (most_means(shape, tile_capacity(shape)) < 6) {  // where a token less would be too much
                EXPECT_TRUE(bits_of(codec) == 3 && dim_k == 576) << codec_name(codec) << " of " << dim_k;
                continue;
            }
            const Errors without = loss(shape, 300, 0);
            for (const float bias : {2.0f, 5.0f, 10.0f, 50.0f, 150.0f, 1000.0f}) {
                const Errors with = loss(shape, 300, bias);
                EXPECT_LE(with.k, 1.2 * without.k) << codec_name(codec) << " of " << dim_k << ", bias " << bias;
                EXPECT_LE(with.v, 1.2 * without.v) << codec_name(codec) << " of " << dim_v << ", bias " << bias;
            }
        }
}

TEST(TileMeans, SixteenChannelsAndThoseOfOneToken)
{
    for (const Codec codec : kCoded)
        for (const int tokens : {1, 2, 5, 25}) {
            KvData data(tokens, 128, 128, 3);
            const TileShape shape{codec, 0, 128, 128, 1};
            const auto off = [&] {
                const Tile tile = make_tile(shape, 0, tokens, data.k.data(), data.v.data());
                std::vector<float> k(data.k.size());
                decode_tile(tile.view(), k.data(), nullptr);
                double sum = 0;
                for (size_t i = 0; i < k.size(); i++)
                    sum += std::pow(static_cast<double>(k[i]) - static_cast<double>(half_to_float(data.k[i])), 2);
                return std::sqrt(sum);
            };
            const double before = off();
            for (size_t i = 0; i < data.k.size(); i++)
                if (i % 8 == 3) data.k[i] = float_to_half(half_to_float(data.k[i]) + (i % 16 == 3 ? 200.0f : -90.0f));
            EXPECT_LE(off(), 1.2 * before) << codec_name(codec) << ", " << tokens << " tokens";
        }
}

TEST(TileMeans, RandomNumbersHaveNone)
{
    for (const Codec codec : kCoded)
        for (const int dim : {64, 128, 256})
            for (uint32_t seed = 1; seed <= 10; seed++)
                for (const int tokens : {3, 15, tile_capacity({codec, 0, dim, dim, 1})}) {
                    const KvData data(tokens, dim, dim, seed);
                    const TileShape shape{codec, 0, dim, dim, 1};
                    const Tile tile = make_tile(shape, 0, tokens, data.k.data(), data.v.data());
                    EXPECT_EQ(shape_of(tile.view()).means, 0) << codec_name(codec) << " of " << dim << ", " << tokens;
                    EXPECT_EQ(tile.size, tile_bytes(shape, tokens));
                }
}

TEST(TileMeans, TakeLittleRoom)
{
    for (const Codec codec : kCoded)
        for (int dim = 8; dim <= 1024; dim += 8) {
            const TileShape shape{codec, 0, dim, dim, 1};
            if (dim > 900 && bits_of(codec) == 3) continue;  // no token has room
            EXPECT_GE(50 * tile_capacity(shape), 49 * most_tokens(shape)) << codec_name(codec) << " of " << dim;
            EXPECT_LE(most_tile_bytes(shape, tile_capacity(shape)), kTileHeaderBytes + kMaxTileData);
        }
    // Those of models have room for what models have.
    for (const Codec codec : kCoded)
        for (const int dim : {64, 96, 128}) {
            const TileShape shape{codec, 0, dim, dim, 1};
            EXPECT_GE(most_means(shape, tile_capacity(shape)), codec == Codec::int8 ? 6 : 8) << codec_name(codec) << " of " << dim;
        }
}

TEST(TileMeans, LargeNumbersStayFinite)
{
    for (const Codec codec : kCoded)
        for (const float bias : {30000.0f, 60000.0f, -65504.0f}) {
            std::vector<uint16_t> rows(40 * 64, float_to_half(bias));
            for (size_t i = 0; i < rows.size(); i += 3) rows[i] = float_to_half(-bias);
            const Tile tile = make_tile({codec, 0, 64, 64, 1}, 0, 40, rows.data(), rows.data());
            std::vector<float> k(rows.size()), v(rows.size());
            decode_tile(tile.view(), k.data(), v.data());
            for (const std::vector<float> &values : {k, v})
                for (const float x : values) ASSERT_LT(std::fabs(x), 4 * 65504.0f) << codec_name(codec);
            check_tile_contents(tile.bytes.data(), tile.size, Errc::internal);
        }
}

TEST(TileMeans, EveryLevelWritesTheSameBytes)
{
    for (const Codec codec : kCoded)
        for (const auto &[dim_k, dim_v, flags] : {std::tuple{128, 128, 0}, {70, 33, 0}, {96, 64, 1}}) {
            const TileShape shape{codec, static_cast<uint8_t>(flags), dim_k, dim_v, 1};
            const KvData data(25, dim_k, dim_v, 5, 1, 30);
            std::vector<uint8_t> first;
            for (const simd::Level level : levels_here()) {
                const AtLevel at(level);
                const Tile tile = make_tile(shape, 0, 25, data.k.data(), data.v.data());
                EXPECT_GT(tile.view().k_means.count, 0);
                const auto *bytes = reinterpret_cast<const uint8_t *>(tile.bytes.data());
                const std::vector<uint8_t> planes(bytes + kTileHeaderBytes, bytes + tile.size);
                if (first.empty()) first = planes;
                EXPECT_EQ(planes, first) << codec_name(codec) << " at " << simd::level_name(level);
            }
        }
}

// Logits of large channels are large, and a float of a logit is off by half of its last place.
double budget(float bias) { return 1e-5 * std::max(1.0, static_cast<double>(bias) / 10); }

double attention_error(const TileShape &shape, int rows, float softcap, float bias, const Selection &selection)
{
    constexpr int kTokens = 130;
    const KvData data(kTokens, shape.dim_k, shape.dim_v, 11, 1, bias);
    const std::vector<float> q = random_queries(rows, shape.dim_k, 12);
    const float scale = 1 / std::sqrt(static_cast<float>(shape.dim_k));
    Queries queries;
    queries.set(q.data(), rows, shape.dim_k, scale, softcap);
    Accumulator sum;
    sum.reset(rows, shape.dim_v);
    Reference reference(rows, shape.dim_v);
    double worst = 0;
    for (const Tile &tile : make_tiles(shape, kTokens, data)) {
        const TileView view = tile.view();
        EXPECT_GT(view.k_means.count, 0);
        EXPECT_GT(view.v_means.count, 0);
        sum.add(queries, view, selection);
        reference.add(q.data(), static_cast<double>(scale), static_cast<double>(softcap), view, selection);
        std::vector<float> got(static_cast<size_t>(rows) * static_cast<size_t>(view.tokens));
        logits(queries, view, selection, got.data());
        for (size_t i = 0; i < got.size(); i++)
            if (!std::isinf(reference.logits[i]))
                worst = std::max(worst, std::fabs(static_cast<double>(got[i]) - reference.logits[i]) /
                                            std::max(8.0, std::fabs(reference.logits[i])));
    }
    const State state(sum, rows, shape.dim_v);
    return std::max(worst, reference.error(state.m.data(), state.l.data(), state.o.data()));
}

TEST(TileMeans, AttentionOnEveryLevel)
{
    const Rope rope(Rope::usual_frequencies(10000, 64), 64, Pairing::half);
    for (const simd::Level level : levels_here()) {
        const AtLevel at(level);
        for (const Codec codec : kCoded)
            for (const uint8_t flags : {uint8_t{0}, uint8_t{1}, uint8_t{2}, uint8_t{3}})
                for (const auto &[dim_k, dim_v] : {std::pair{128, 128}, {96, 70}})
                    for (const auto &[rows, softcap] : {std::pair{4, 0.0f}, {1, 30.0f}, {9, 0.0f}, {70, 0.0f}})
                        for (const float bias : {8.0f, 1000.0f}) {
                            Selection selection;
                            selection.from = 3;
                            selection.to = 122;
                            if (flags & kKeysBeforeRope) selection.rope = &rope;
                            EXPECT_LE(attention_error({codec, flags, dim_k, dim_v, 1}, rows, softcap, bias, selection),
                                      budget(bias))
                                << simd::level_name(level) << ", " << codec_name(codec) << " of " << dim_k << ", flags "
                                << int{flags} << ", " << rows << " rows, soft cap " << softcap << ", bias " << bias;
                        }
    }
}

TEST(TileMeans, AClippedTileKeepsThem)
{
    for (const Codec codec : kCoded)
        for (const uint8_t flags : {uint8_t{0}, uint8_t{1}}) {
            const KvData data(50, 64, 48, 5, 1, 40);
            const Tile tile = make_tile({codec, flags, 64, 48, 2}, 9, 50, data.k.data(), data.v.data());
            const TileView whole = tile.view();
            std::vector<float> k(50 * 64), v(50 * 48), k_kept(50 * 64), v_kept(50 * 48);
            decode_tile(whole, k.data(), v.data());
            for (const int kept : {1, 17, 50}) {
                const size_t bytes = tile_bytes(shape_of(whole), kept);
                std::vector<uint64_t> out(bytes / 8 + 1);
                clip_tile(whole, kept, out.data());
                const TileView view = view_tile(out.data(), bytes);
                check_tile_contents(out.data(), bytes, Errc::internal);
                decode_tile(view, k_kept.data(), v_kept.data());
                EXPECT_TRUE(std::equal(k_kept.begin(), k_kept.begin() + kept * 64, k.begin()));
                EXPECT_TRUE(std::equal(v_kept.begin(), v_kept.begin() + kept * 48, v.begin()));
            }
        }
}

// ---- from outside ------------------------------------------------------------------------------------------------------------

// The message with which a tile is refused that was changed after it was made; empty: it is accepted.
std::string refused(const Tile &good, const std::function<void(uint8_t *)> &change)
{
    Tile tile = good;
    auto *bytes = reinterpret_cast<uint8_t *>(tile.bytes.data());
    change(bytes);
    const uint32_t crc = tile_checksum(bytes, tile.size);
    std::memcpy(bytes + offsetof(TileHeader, crc), &crc, sizeof crc);
    std::vector<uint64_t> out(tile.bytes.size() + 1);
    try {
        read_tile(tile_wire(bytes, tile.size), out.data());
    } catch (const Error &error) {
        EXPECT_EQ(error.code(), Errc::invalid_binary);
        return error.message();
    }
    return "";
}

TEST(TileMeans, BrokenOnesAreRefused)
{
    const KvData data(20, 64, 64, 5, 1, 40);
    const TileShape shape{Codec::rotated4, 0, 64, 64, 1};
    const Tile good = make_tile(shape, 0, 20, data.k.data(), data.v.data());
    ASSERT_EQ(good.view().k_means.count, 3);
    ASSERT_EQ(good.view().v_means.count, 3);
    const size_t at = kTileHeaderBytes + tile_layout(shape_of(good.view()), 20).means;
    const auto set = [&](int mean, uint8_t channel, uint16_t value) {
        return [=](uint8_t *tile) {
            std::memcpy(tile + at + 2 * static_cast<size_t>(mean), &value, sizeof value);
            tile[at + 12 + static_cast<size_t>(mean)] = channel;
        };
    };
    const std::string broken = "tile is corrupt: mean";
    EXPECT_EQ(refused(good, [](uint8_t *) {}), "");
    EXPECT_EQ(refused(good, set(2, 63, 0x7BFF)), "");
    EXPECT_EQ(refused(good, set(2, 64, 0x3C00)), broken + " of channel 64");
    EXPECT_EQ(refused(good, set(5, 255, 0x3C00)), broken + " of channel 255");
    EXPECT_EQ(refused(good, set(1, 5, 0x3C00)), broken + " of channel 5");
    EXPECT_EQ(refused(good, set(4, 0, 0x3C00)), broken + " of channel 0");
    EXPECT_EQ(refused(good, set(0, 5, 0x7C00)), broken + " 31744");
    EXPECT_EQ(refused(good, set(0, 5, 0xFE00)), broken + " 65024");
    EXPECT_EQ(refused(good, [&](uint8_t *tile) { tile[at + 18] = 1; }), "tile is corrupt: bytes between its planes are not zero");
    EXPECT_EQ(refused(good, [](uint8_t *tile) { tile[offsetof(TileHeader, means_k)] = 200; }),
              "tile is corrupt: means of channels 203");
}

TEST(TileScales, NegativeAndInfiniteOnesAreRefused)
{
    for (const Codec codec : kCoded) {
        const KvData data(20, 64, 64, 5);
        const TileShape shape{codec, 0, 64, 64, 1};
        const Tile good = make_tile(shape, 0, 20, data.k.data(), data.v.data());
        const TileLayout layout = tile_layout(shape, 20);
        for (const size_t at : {layout.k_scale, layout.v_scale}) {
            const auto set = [&](uint16_t half) {
                return refused(good, [&](uint8_t *tile) { std::memcpy(tile + kTileHeaderBytes + at + 14, &half, sizeof half); });
            };
            EXPECT_EQ(set(0x3C00), "");
            EXPECT_EQ(set(0), "");
            EXPECT_EQ(set(0x8001), "tile is corrupt: a scale in it is negative") << codec_name(codec);
            EXPECT_EQ(set(0xBC00), "tile is corrupt: a scale in it is negative") << codec_name(codec);
            EXPECT_EQ(set(0x7C00), "tile is corrupt: a number in it is not finite") << codec_name(codec);
            EXPECT_EQ(set(0xFC00), "tile is corrupt: a number in it is not finite") << codec_name(codec);
            EXPECT_EQ(set(0x7E00), "tile is corrupt: a number in it is not finite") << codec_name(codec);
        }
    }
}

}  // namespace
}  // namespace vkv::kv
