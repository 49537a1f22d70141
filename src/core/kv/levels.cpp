// Tables of levels.h. The centroids of N(0, 1) for 2, 3 and 4 bits are
//   0.4528 1.5104 | 0.2451 0.7560 1.3439 2.1519 | 0.1284 0.3880 0.6568 0.9423 1.2562 1.6180 2.0690 2.7326
#include "core/kv/levels.h"

namespace vkv::kv {
namespace {

constexpr int8_t kLevels2[4] = {-127, -38, 38, 127};
constexpr int8_t kLevels3[8] = {-127, -79, -45, -14, 14, 45, 79, 127};
constexpr int8_t kLevels4[16] = {-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127};
constexpr float kLargest[3] = {1.5104f, 2.1519f, 2.7326f};

// Half-way between neighbouring levels of the upper half.
constexpr float kThresholds2[1] = {82.5f};
constexpr float kThresholds3[3] = {29.5f, 62.0f, 103.0f};
constexpr float kThresholds4[7] = {12.0f, 24.5f, 37.5f, 51.0f, 66.5f, 85.5f, 111.5f};

}  // namespace

const int8_t *levels(int bits) { return bits == 2 ? kLevels2 : bits == 3 ? kLevels3 : kLevels4; }

float level_unit(int bits) { return kLargest[bits - 2] / 127; }

const float *level_thresholds(int bits) { return bits == 2 ? kThresholds2 : bits == 3 ? kThresholds3 : kThresholds4; }

}  // namespace vkv::kv
