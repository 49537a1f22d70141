// Every codec at every shape that matters: the same bits on every level of the processor, decoded within its error bound, finite
// whatever the values, and exact where it can be. Bounds of real data are measured ones with a tenth to spare.
#include "core/kv/crc32c.h"
#include "core/kv/levels.h"
#include "core/kv/rotation.h"
#include "kv_rows.h"

namespace vkv::kv {
namespace {

using Floats = std::vector<float>;

constexpr int kDims[] = {1, 3, 20, 64, 80, 96, 128, 256, 576, 1024};

class Level {
public:
    explicit Level(simd::Level level) : before_(simd::active_level()) { simd::set_level(level); }
    ~Level() { simd::set_level(before_); }

private:
    simd::Level before_;
};

// The largest error of a decoded element, as a part of the deviation of normal rows.
double normal_bound(Codec codec)
{
    switch (codec) {
        case Codec::f16:
            return 0;
        case Codec::int8:
            return 0.008;
        case Codec::uniform4:
        case Codec::rotated4:
            return 0.1;
        case Codec::uniform3:
        case Codec::rotated3:
            return 0.21;
        case Codec::uniform2:
        case Codec::rotated2:
            return 0.38;
    }
    return 0;
}

std::vector<int> tokens_of(const TileShape &shape)
{
    const int capacity = tile_capacity(shape);
    std::vector<int> all;
    for (int tokens : {1, 2, 15, 31})
        if (tokens < capacity) all.push_back(tokens);
    all.push_back(capacity);
    return all;
}

// Three-bit codes have no room for a token of the widest values; those shapes keep their values in the keys.
TileShape shape_of(Codec codec, int dim)
{
    TileShape shape{codec, 0, dim, dim, 1};
    if (bits_of(codec) == 3 && dim > 900) shape.flags = kValuesInKeys;
    return shape;
}

class EveryCodec : public testing::TestWithParam<Codec> {};

TEST_P(EveryCodec, GivesTheSameBitsOnEveryLevel)
{
    const std::vector<simd::Level> levels = levels_here();
    for (int dim : kDims) {
        const TileShape shape = shape_of(GetParam(), dim);
        for (int tokens : tokens_of(shape)) {
            const size_t n = static_cast<size_t>(tokens) * static_cast<size_t>(dim);
            const Halves k = normal_halves(n, 11, 3), v = normal_halves(n, 12, 0.01f);
            std::vector<std::vector<uint8_t>> planes;
            for (simd::Level level : levels) {
                const Level chosen(level);
                const Tile tile(shape, tokens, k, v);
                ASSERT_TRUE(tile.guarded());
                planes.push_back(tile.planes());
            }
            for (const auto &other : planes) ASSERT_EQ(other, planes[0]) << "dim " << dim << ", tokens " << tokens;
        }
    }
}

// Halves of every kind: subnormal, huge, equal, signed zeros.
TEST_P(EveryCodec, GivesTheSameBitsOnEveryLevelForOddHalves)
{
    std::mt19937 random(5);
    Halves rows(40 * 80);
    for (uint16_t &half : rows) {
        half = static_cast<uint16_t>(random());
        if ((half & 0x7C00) == 0x7C00) half &= 0x83FF;
    }
    for (size_t i = 0; i < 80; ++i) rows[i] = i % 2 ? 0x8000 : 0;
    for (size_t i = 80; i < 160; ++i) rows[i] = 0x3555;
    for (size_t i = 160; i < 240; ++i) rows[i] = static_cast<uint16_t>(random() % 8);
    const TileShape shape{GetParam(), 0, 80, 80, 1};
    const int tokens = std::min(40, tile_capacity(shape));
    std::vector<std::vector<uint8_t>> planes;
    for (simd::Level level : levels_here()) {
        const Level chosen(level);
        planes.push_back(Tile(shape, tokens, rows, rows).planes());
    }
    for (const auto &other : planes) EXPECT_EQ(other, planes[0]);
}

TEST_P(EveryCodec, DecodesWithinItsBound)
{
    for (int dim : kDims) {
        const TileShape shape = shape_of(GetParam(), dim);
        for (int tokens : tokens_of(shape)) {
            const size_t n = static_cast<size_t>(tokens) * static_cast<size_t>(dim);
            const Halves k = normal_halves(n, 21), v = normal_halves(n, 22);
            const Tile tile(shape, tokens, k, v);
            const Decoded decoded(tile.view());
            // A few values, or a few scales, are no sample of a distribution: their error may be far from the usual.
            const double bound = normal_bound(GetParam()) * (n < 200 ? 2 : tokens < 10 ? 1.3 : 1);
            EXPECT_LE(relative_error(decoded.k, k), bound) << "dim " << dim << ", tokens " << tokens;
            EXPECT_LE(relative_error(decoded.v, tile.view().values_in_keys() ? k : v), bound)
                << "dim " << dim << ", tokens " << tokens;
        }
    }
}

TEST_P(EveryCodec, KeepsTokensAndPlanesApart)
{
    // Each token of K and of V of a size of its own, all different: a code or scale in a wrong place would show.
    const TileShape shape{GetParam(), 0, 64, 32, 1};
    const int tokens = std::min(tile_capacity(shape), 70);
    Halves k = normal_halves(static_cast<size_t>(tokens) * 64, 31), v = normal_halves(static_cast<size_t>(tokens) * 32, 32);
    for (size_t i = 0; i < k.size(); ++i) k[i] = float_to_half(half_to_float(k[i]) * std::exp2(static_cast<float>(i / 64 % 9)));
    for (size_t i = 0; i < v.size(); ++i) v[i] = float_to_half(half_to_float(v[i]) * std::exp2(-static_cast<float>(i / 32 % 7)));
    const Decoded decoded(Tile(shape, tokens, k, v).view());
    for (size_t t = 0; t < static_cast<size_t>(tokens); ++t) {
        const std::vector<float> key(decoded.k.begin() + static_cast<ptrdiff_t>(64 * t),
                                     decoded.k.begin() + static_cast<ptrdiff_t>(64 * t + 64));
        const std::vector<float> value(decoded.v.begin() + static_cast<ptrdiff_t>(32 * t),
                                       decoded.v.begin() + static_cast<ptrdiff_t>(32 * t + 32));
        EXPECT_LE(relative_error(key, Halves(k.begin() + static_cast<ptrdiff_t>(64 * t), k.end())), 1.5 * normal_bound(GetParam()))
            << t;
        EXPECT_LE(relative_error(value, Halves(v.begin() + static_cast<ptrdiff_t>(32 * t), v.end())),
                  1.7 * normal_bound(GetParam()))
            << t;
    }
}

TEST_P(EveryCodec, TakesValuesFromTheKeys)
{
    const TileShape shape{GetParam(), kValuesInKeys, 576, 512, 1};
    const int tokens = tile_capacity(shape);
    const Halves k = normal_halves(static_cast<size_t>(tokens) * 576, 41);
    const Tile tile(shape, tokens, k, {});
    EXPECT_EQ(tile.view().v, nullptr);
    const Decoded decoded(tile.view());
    for (size_t t = 0; t < static_cast<size_t>(tokens); ++t)
        for (size_t d = 0; d < 512; ++d) ASSERT_EQ(decoded.v[t * 512 + d], decoded.k[t * 576 + d]);
    // Either part alone is the same.
    std::vector<float> v(decoded.v.size());
    decode_tile(tile.view(), nullptr, v.data());
    EXPECT_EQ(v, decoded.v);
}

TEST_P(EveryCodec, ReadsRowsWithAStride)
{
    const TileShape shape{GetParam(), 0, 20, 20, 1};
    const Halves wide = normal_halves(30 * 50, 51);
    Halves k, v;
    for (size_t t = 0; t < 30; ++t) {
        k.insert(k.end(), wide.begin() + static_cast<ptrdiff_t>(t * 50), wide.begin() + static_cast<ptrdiff_t>(t * 50 + 20));
        v.insert(v.end(), wide.begin() + static_cast<ptrdiff_t>(t * 50 + 25), wide.begin() + static_cast<ptrdiff_t>(t * 50 + 45));
    }
    Tile strided(tile_bytes(shape, 30));
    encode_tile(shape, 0, 0, 30, {wide.data(), 50}, {wide.data() + 25, 50}, strided.data());
    EXPECT_EQ(strided.planes(), Tile(shape, 30, k, v).planes());
}

TEST_P(EveryCodec, ExtremesDecodeFinite)
{
    constexpr uint16_t kMost = 0x7BFF, kLeast = 0x0001, kNegative = 0x8000;
    std::vector<Halves> kinds(9, Halves(64));
    for (size_t i = 0; i < 64; ++i) {
        kinds[1][i] = kMost;
        kinds[2][i] = i % 2 ? kMost : kMost | kNegative;
        kinds[3][i] = kLeast;
        kinds[4][i] = static_cast<uint16_t>(i);  // subnormal
        kinds[5][i] = 0x3C00;                    // constant
        kinds[6][i] = kNegative;                 // -0
        kinds[7][i] = static_cast<uint16_t>(kMost - i);
    }
    kinds[8][17] = kMost;  // one value alone
    Halves rows;
    for (const Halves &kind : kinds) rows.insert(rows.end(), kind.begin(), kind.end());
    const TileShape shape{GetParam(), 0, 64, 64, 1};
    const Decoded decoded(Tile(shape, static_cast<int>(kinds.size()), rows, rows).view());
    for (const auto &plane : {decoded.k, decoded.v}) {
        for (float value : plane) ASSERT_TRUE(std::isfinite(value));
        for (size_t i = 0; i < 64; ++i) {
            EXPECT_EQ(plane[i], 0) << "zeros stay zeros";
            EXPECT_EQ(plane[6 * 64 + i], 0);
        }
        for (size_t kind : {1, 2, 5, 7, 8})
            EXPECT_LE(relative_error(Floats(plane.begin() + static_cast<ptrdiff_t>(kind * 64),
                                            plane.begin() + static_cast<ptrdiff_t>(kind * 64 + 64)),
                                     kinds[kind]),
                      1.5 * normal_bound(GetParam()))
                << "kind " << kind;
    }
    if (is_rotated(GetParam())) return;
    // Without a rotation what decodes is a half again.
    for (const auto &plane : {decoded.k, decoded.v})
        for (float value : plane) ASSERT_LT(std::fabs(value), 65520);
}

INSTANTIATE_TEST_SUITE_P(All, EveryCodec, testing::ValuesIn(all_codecs()),
                         [](const auto &info) { return std::string(codec_name(info.param)); });

// ---- exactness -------------------------------------------------------------------------------------------------------------

TEST(Codec, HalvesAreKeptBitForBit)
{
    Halves rows;
    for (uint32_t half = 0; half < 0x10000; half += 7)
        if ((half & 0x7C00) != 0x7C00) rows.push_back(static_cast<uint16_t>(half));
    rows.resize(30 * 64);
    const Decoded decoded(Tile({Codec::f16, 0, 64, 64, 1}, 30, rows, rows).view());
    for (size_t i = 0; i < rows.size(); ++i) {
        EXPECT_EQ(float_to_half(decoded.k[i]), rows[i]);
        EXPECT_EQ(float_to_half(decoded.v[i]), rows[i]);
    }
}

TEST(Codec, Int8IsWithinHalfAStep)
{
    const Halves rows = normal_halves(60 * 64, 61);
    const Decoded decoded(Tile({Codec::int8, 0, 64, 64, 1}, 60, rows, rows).view());
    for (size_t t = 0; t < 60; ++t) {
        float largest = 0;
        for (size_t d = 0; d < 64; ++d) largest = std::max(largest, std::fabs(half_to_float(rows[t * 64 + d])));
        for (size_t d = 0; d < 64; ++d) {
            EXPECT_NEAR(decoded.k[t * 64 + d], half_to_float(rows[t * 64 + d]), largest / 127 * 0.5625);
            EXPECT_NEAR(decoded.v[t * 64 + d], half_to_float(rows[t * 64 + d]), largest / 127 * 0.5625);
        }
    }
}

TEST(Codec, SmallSubnormalsAreExactInInt8)
{
    Halves rows(64);
    for (size_t i = 0; i < 64; ++i) rows[i] = static_cast<uint16_t>(i % 2 ? i : i | 0x8000);
    const Decoded decoded(Tile({Codec::int8, 0, 64, 64, 1}, 1, rows, rows).view());
    for (size_t i = 0; i < 64; ++i) EXPECT_EQ(decoded.k[i], half_to_float(rows[i]));
}

TEST(Codec, UniformKeepsItsLevels)
{
    for (Codec codec : {Codec::uniform4, Codec::uniform3, Codec::uniform2}) {
        const int top = (1 << bits_of(codec)) - 1;
        std::vector<float> values;
        for (int i = 0; i < 64; ++i) values.push_back(-2.5f + 0.25f * static_cast<float>(i % (top + 1)));
        const Halves rows = to_halves(values);
        const Decoded decoded(Tile({codec, 0, 64, 64, 1}, 1, rows, rows).view());
        EXPECT_EQ(decoded.k, values);
        EXPECT_EQ(decoded.v, values);
    }
}

// ---- levels ----------------------------------------------------------------------------------------------------------------

TEST(Levels, AreCentroidsOfTheNormalDistribution)
{
    const auto mass = [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); };
    const auto density = [](double x) { return std::exp(-x * x / 2) / std::sqrt(2 * 3.14159265358979323846); };
    for (int bits : {2, 3, 4}) {
        const int count = 1 << bits;
        const int8_t *table = levels(bits);
        EXPECT_EQ(table[count - 1], 127);
        for (int i = 0; i < count; ++i) {
            EXPECT_EQ(table[i], -table[count - 1 - i]);
            const double unit = level_unit(bits);
            const double low = i == 0 ? -40 : unit * (table[i - 1] + table[i]) / 2;
            const double high = i == count - 1 ? 40 : unit * (table[i] + table[i + 1]) / 2;
            const double centroid = (density(low) - density(high)) / (mass(high) - mass(low));
            EXPECT_NEAR(unit * table[i], centroid, 1.1 * unit)
                << bits << " bits, level " << i;  // rounded to integers, thresholds too
        }
        for (int i = 0; i < count / 2 - 1; ++i)
            EXPECT_EQ(level_thresholds(bits)[i], (table[count / 2 + i] + table[count / 2 + i + 1]) / 2.0f);
    }
}

// ---- real data -------------------------------------------------------------------------------------------------------------

struct Errors {
    double k, v;
};

// Of rows that are encoded as keys and as values.
Errors sample_errors(Codec codec, const Halves &rows)
{
    const TileShape shape{codec, 0, 64, 64, 1};
    const auto capacity = static_cast<size_t>(tile_capacity(shape));
    std::vector<float> k, v;
    for (size_t head = 0; head < kSampleHeads; ++head)
        for (size_t t = 0; t < kSampleTokens; t += capacity) {
            const size_t tokens = std::min(capacity, kSampleTokens - t), at = (head * kSampleTokens + t) * kSampleDim;
            const auto begin = rows.begin() + static_cast<ptrdiff_t>(at);
            const Halves part(begin, begin + static_cast<ptrdiff_t>(tokens * kSampleDim));
            const Decoded decoded(Tile(shape, static_cast<int>(tokens), part, part).view());
            k.insert(k.end(), decoded.k.begin(), decoded.k.end());
            v.insert(v.end(), decoded.v.begin(), decoded.v.end());
        }
    return {relative_error(k, rows), relative_error(v, rows)};
}

struct RealBound {
    Codec codec;
    double k_post, k_pre, v;
};

// Checksums of encoded planes, the same for every compiler and processor. They change only when an encoder chooses other codes,
// which it may: what is stored stays readable.
TEST(Codec, EncodesTheSampleToTheSameBitsEverywhere)
{
    const Halves k = sample_of("k_post"), v = sample_of("v");
    const uint32_t golden[kCodecs] = {0x7BD2CCE5, 0x5273B01C, 0x70C39345, 0x58198435,
                                      0xF6E5C072, 0x25A3DCA6, 0x968DBAF9, 0x6CCBA00E};
    for (Codec codec : all_codecs()) {
        const TileShape shape{codec, 0, 64, 64, 1};
        const std::vector<uint8_t> planes = Tile(shape, tile_capacity(shape), k, v).planes();
        EXPECT_EQ(crc32c(0, planes.data(), planes.size()), golden[static_cast<int>(codec)]) << codec_name(codec);
    }
}

TEST(Codec, RealKeysAndValuesAreWithinTheirBounds)
{
    const Halves k_post = sample_of("k_post"), k_pre = sample_of("k_pre"), v = sample_of("v");
    const RealBound bounds[] = {
        {Codec::f16, 0, 0, 0},
        {Codec::int8, 0.0043, 0.0041, 0.0063},
        {Codec::uniform4, 0.0625, 0.0595, 0.0875},
        {Codec::uniform3, 0.137, 0.132, 0.174},
        {Codec::uniform2, 0.231, 0.216, 0.336},
        {Codec::rotated4, 0.0559, 0.0527, 0.0815},
        {Codec::rotated3, 0.116, 0.11, 0.1645},
        {Codec::rotated2, 0.229, 0.218, 0.319},
    };
    for (const RealBound &bound : bounds) {
        const char *name = codec_name(bound.codec);
        EXPECT_LE(sample_errors(bound.codec, k_post).k, bound.k_post) << name;
        EXPECT_LE(sample_errors(bound.codec, k_pre).k, bound.k_pre) << name;
        EXPECT_LE(sample_errors(bound.codec, v).v, bound.v) << name;
    }
}

}  // namespace
}  // namespace vkv::kv
