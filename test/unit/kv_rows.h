// Tiles and rows of halves for the tests of src/core/kv: random ones, and the real keys and values of test/data/kv_sample.
#pragma once
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/kv/tile.h"
#include "core/simd/half.h"
#include "core/simd/kernels.h"

namespace vkv::kv {

using Halves = std::vector<uint16_t>;

inline std::vector<Codec> all_codecs()
{
    std::vector<Codec> codecs;
    for (int i = 0; i < kCodecs; ++i) codecs.push_back(static_cast<Codec>(i));
    return codecs;
}

inline std::vector<simd::Level> levels_here()
{
    std::vector<simd::Level> found;
    for (simd::Level level : {simd::Level::scalar, simd::Level::neon, simd::Level::avx2, simd::Level::avx512})
        if (simd::supported(level)) found.push_back(level);
    return found;
}

inline Halves to_halves(const std::vector<float> &values)
{
    Halves halves;
    for (float value : values) halves.push_back(float_to_half(value));
    return halves;
}

inline Halves normal_halves(size_t n, uint32_t seed, float deviation = 1)
{
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, deviation);
    Halves halves(n);
    for (uint16_t &half : halves) half = float_to_half(normal(random));
    return halves;
}

// An encoded tile with guard bytes behind it.
class Tile {
public:
    Tile(const TileShape &shape, int tokens, const Halves &k, const Halves &v, int head = 0, int32_t first = 0)
        : bytes_(0), words_(most_tile_bytes(shape, tokens) / 8 + 4, kGuard)
    {
        const Rows rows_k{k.data(), static_cast<size_t>(shape.dim_k)}, rows_v{v.data(), static_cast<size_t>(shape.dim_v)};
        bytes_ = encode_tile(shape, head, first, tokens, rows_k, (shape.flags & kValuesInKeys) ? Rows{} : rows_v, words_.data());
    }
    explicit Tile(size_t bytes) : bytes_(bytes), words_(bytes / 8 + 4, kGuard) {}

    uint8_t *data() { return reinterpret_cast<uint8_t *>(words_.data()); }
    const uint8_t *data() const { return reinterpret_cast<const uint8_t *>(words_.data()); }
    size_t bytes() const { return bytes_; }
    TileHeader &header() { return *reinterpret_cast<TileHeader *>(words_.data()); }
    TileView view() const { return view_tile(words_.data(), bytes_); }
    std::vector<uint8_t> planes() const { return {data() + kTileHeaderBytes, data() + bytes_}; }
    bool guarded() const
    {
        uint64_t guards[3];
        std::memcpy(guards, data() + bytes_, sizeof guards);
        return guards[0] == kGuard && guards[1] == kGuard && guards[2] == kGuard;
    }

private:
    static constexpr uint64_t kGuard = 0xEEEEEEEEEEEEEEEE;
    size_t bytes_;
    std::vector<uint64_t> words_;
};

struct Decoded {
    std::vector<float> k, v;
    explicit Decoded(const TileView &tile)
        : k(static_cast<size_t>(tile.tokens) * static_cast<size_t>(tile.dim_k)),
          v(static_cast<size_t>(tile.tokens) * static_cast<size_t>(tile.dim_v))
    {
        decode_tile(tile, k.data(), v.data());
    }
};

// |decoded - rows| / |rows|
inline double relative_error(const std::vector<float> &decoded, const Halves &rows)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < decoded.size(); ++i) {
        const double x = half_to_float(rows[i]), difference = decoded[i] - x;
        error += difference * difference;
        norm += x * x;
    }
    return std::sqrt(error / norm);
}

// The sample, [2 layers][3 heads][1024 tokens][64]: k_post, k_pre or v.
inline constexpr size_t kSampleHeads = 6, kSampleTokens = 1024, kSampleDim = 64;
inline Halves sample_of(const std::string &name)
{
    Halves halves(kSampleHeads * kSampleTokens * kSampleDim);
    std::ifstream in(std::string(VKV_TEST_DATA) + "/kv_sample/" + name + ".f16", std::ios::binary);
    in.read(reinterpret_cast<char *>(halves.data()), static_cast<std::streamsize>(halves.size() * sizeof(uint16_t)));
    if (!in) throw std::runtime_error("test/data/kv_sample/" + name + ".f16 is missing or short");
    return halves;
}

template <class Call>
Error error_of(Call call)
{
    try {
        call();
    } catch (const Error &error) {
        return error;
    }
    ADD_FAILURE() << "nothing was thrown";
    return Error(Errc::internal, "");
}

}  // namespace vkv::kv
