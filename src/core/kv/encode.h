// Between encode.cpp, which knows tiles, and the files of instruction sets, which encode one plane each: K or V of a tile.
//
// encode_body.inl is the code of all of them, and its results are the same bits on every level: sums run in a fixed order (over
// the dims of a token, many tokens side by side), no product is fused with a sum, and roundings are those of IEEE 754.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/simd/kernels.h"

namespace vkv::kv {

inline constexpr int kLanes = 16;  // tokens that are encoded side by side
inline constexpr int kMaxEncodeDim = 1024;

// What an encoder of one bit width needs to know about its levels.
struct LevelTable {
    float thresholds[7] = {};
    float levels[8] = {};  // the upper half
    float unit = 0;
};

enum class Coding : uint8_t { halves, int8, uniform, rotated };

struct PlaneJob {
    Coding coding = Coding::halves;
    int bits = 16;
    bool along_tokens = false;  // words run along the tokens: V
    int tokens = 0, dim = 0;
    const uint16_t *data = nullptr;  // halves [tokens][dim], token by token stride apart
    size_t stride = 0;
    uint8_t *codes = nullptr, *high = nullptr;  // planes, all zero; high for 3-bit codes only
    uint16_t *scales = nullptr;                 // [scale rows][tokens]
    const uint32_t *signs[2] = {};              // of the rotation
    LevelTable levels;
    float *x = nullptr;        // [kMaxEncodeDim][kLanes], 64-aligned: values of a block of tokens
    uint8_t *bytes = nullptr;  // [kMaxEncodeDim][kLanes], 64-aligned: their codes
};

using EncodePlane = void (*)(const PlaneJob &job);

void encode_plane_scalar(const PlaneJob &job);
#if defined(__x86_64__)
void encode_plane_avx2(const PlaneJob &job);
void encode_plane_avx512(const PlaneJob &job);
#endif
EncodePlane plane_encoder(simd::Level level);

}  // namespace vkv::kv
