// The three sums of a cosine, in double: a product of two floats is exact there, so 1 - cosine of vectors that are nearly parallel
// has an error of some 1e-16, and rows close together an order.
//
// The same bits on every level: value i is added to lane i % 16, and lanes are added as reduce_lanes does. A fused product rounds
// as an exact one that is added, so it does not matter who has one. Files of this kind are compiled without reassociation.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/simd/kernels.h"

namespace vkv::simd {

CosineParts cosine_scalar(const float *a, const float *b, size_t n);
CosineParts cosine_scalar(const uint16_t *a, const uint16_t *b, size_t n);
#if defined(__x86_64__)
CosineParts cosine_avx2(const float *a, const float *b, size_t n);
CosineParts cosine_avx2(const uint16_t *a, const uint16_t *b, size_t n);
CosineParts cosine_avx512(const float *a, const float *b, size_t n);
CosineParts cosine_avx512(const uint16_t *a, const uint16_t *b, size_t n);
#elif defined(__aarch64__)
CosineParts cosine_neon(const float *a, const float *b, size_t n);
CosineParts cosine_neon(const uint16_t *a, const uint16_t *b, size_t n);
#endif

}  // namespace vkv::simd
