// The levels of the rotated codecs: Lloyd-Max centroids of the normal distribution N(0, 1), scaled so that the largest is 127 and
// rounded to integers. Stored tiles depend on them: they never change.
#pragma once
#include <cstdint>

namespace vkv::kv {

// [2^bits], ascending and antisymmetric: levels(bits)[code]. bits 2, 3, 4.
const int8_t *levels(int bits);

// What a level is in deviations of the distribution: centroid = level * level_unit(bits).
float level_unit(int bits);

// [2^(bits - 1) - 1]: a magnitude above thresholds[i] belongs to a level of the upper half beyond its i-th.
const float *level_thresholds(int bits);

}  // namespace vkv::kv
