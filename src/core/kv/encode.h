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

// Of a channel, as it is taken off.
struct Mean {
    uint16_t channel, value;  // value: a half
};

struct PlaneJob {
    Coding coding = Coding::halves;
    int bits = 16;
    bool along_tokens = false;  // words run along the tokens: V
    int tokens = 0, dim = 0;
    const uint16_t *data = nullptr;  // halves [tokens][dim], token by token stride apart
    size_t stride = 0;
    uint8_t *codes = nullptr, *high = nullptr;  // planes, all zero; high for 3-bit codes only
    uint16_t *scales = nullptr;                 // [scale rows][tokens]
    const Mean *means = nullptr;                // [mean_count], taken off before coding
    int mean_count = 0;
    const uint32_t *signs[2] = {};  // of the rotation
    LevelTable levels;
    float *x = nullptr;        // [kMaxEncodeDim][kLanes], 64-aligned: values of a block of tokens
    uint8_t *bytes = nullptr;  // [kMaxEncodeDim][kLanes], 64-aligned: their codes
};

// Of each channel over the tokens of a plane: what means.cpp chooses by. Dims are padded to a multiple of kLanes.
struct PlaneSums {
    alignas(64) float sum[kMaxEncodeDim];
    alignas(64) float square[kMaxEncodeDim];
    alignas(64) float most[kMaxEncodeDim];  // the largest magnitude
};

struct PlaneEncoder {
    void (*encode)(const PlaneJob &job);
    void (*measure)(const PlaneJob &job, PlaneSums *out);
};

extern const PlaneEncoder kScalarEncoder;
#if defined(__x86_64__)
extern const PlaneEncoder kAvx2Encoder;
extern const PlaneEncoder kAvx512Encoder;
#endif
const PlaneEncoder &plane_encoder(simd::Level level);

// The channels of K and of V (null: none) whose means a tile takes off, at most `room` together: written to `out`, those of K
// first, each ascending. Returns how many are K's, and how many there are.
struct MeanCounts {
    int k = 0, all = 0;
};
struct MeasuredPlane {
    const PlaneSums *sums = nullptr;
    int dim = 0, tokens = 0;
    int group = 0;  // dims that have a minimum of their own; 0: codes have none
};
MeanCounts choose_means(const MeasuredPlane &k, const MeasuredPlane &v, int room, Mean *out);

}  // namespace vkv::kv
