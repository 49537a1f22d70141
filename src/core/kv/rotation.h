// The rotation of the rotated codecs: random signs and an orthonormal Hadamard transform, which spread any vector over all its
// dimensions so evenly that one table of levels fits all.
//
// With p the largest power of two <= dim: signs 0, Hadamard over the first p dims and, when dim is no power of two, signs 1 and
// Hadamard over the last p dims. The sign of dim d in set i is bit d % 64 of output 16 * i + d / 64 of SplitMix64 with the seed
// kSignSeed (1: negative). Stored tiles depend on every bit of this: it never changes.
#pragma once
#include <array>
#include <cstdint>

#include "core/kv/tile.h"

namespace vkv::kv {

inline constexpr uint64_t kSignSeed = 0x766B765F74696C65;  // "vkv_tile"

void rotate(float *x, int dim);       // in place; dim 1..kMaxHeadDim
void rotate_back(float *x, int dim);  // its inverse

// 0x80000000 where the sign is negative, else 0: [kMaxHeadDim]. set 0 or 1.
const uint32_t *rotation_signs(int set);

constexpr int hadamard_size(int dim)
{
    int p = 1;
    while (2 * p <= dim) p *= 2;
    return p;
}

}  // namespace vkv::kv
