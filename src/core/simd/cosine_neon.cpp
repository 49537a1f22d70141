// The sums of a cosine (cosine.h) for NEON: sixteen lanes are eight vectors. Included headers are limited as in kernels_avx2.cpp.
#include <arm_neon.h>

#include "core/simd/cosine.h"
#include "core/simd/cosine_steps.h"

namespace vkv::simd {
namespace {

inline float32x4_t load4(const float *p) { return vreinterpretq_f32_u8(vld1q_u8(reinterpret_cast<const uint8_t *>(p))); }
inline float32x4_t load4(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(reinterpret_cast<const uint8_t *>(p))));
}

inline double reduce_lanes(const float64x2_t *s)
{
    const auto add_far = [&](int k) { return vaddq_f64(s[k], s[k + 4]); };
    const float64x2_t two = vaddq_f64(vaddq_f64(add_far(0), add_far(2)), vaddq_f64(add_far(1), add_far(3)));
    return vgetq_lane_f64(two, 0) + vgetq_lane_f64(two, 1);
}

template <class T>
CosineParts sums(const T *a, const T *b, size_t n)
{
    float64x2_t dot[8] = {}, norm_a[8] = {}, norm_b[8] = {};
    const auto add = [&](int k, float64x2_t x, float64x2_t y) {
        dot[k] = vfmaq_f64(dot[k], x, y);
        norm_a[k] = vfmaq_f64(norm_a[k], x, x);
        norm_b[k] = vfmaq_f64(norm_b[k], y, y);
    };
    const auto step = [&](const T *p, const T *q) __attribute__((always_inline))
    {
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            const float32x4_t x = load4(p + 4 * k), y = load4(q + 4 * k);
            add(2 * k, vcvt_f64_f32(vget_low_f32(x)), vcvt_f64_f32(vget_low_f32(y)));
            add(2 * k + 1, vcvt_high_f64_f32(x), vcvt_high_f64_f32(y));
        }
    };
    each_sixteen(a, b, n, step);
    return {reduce_lanes(dot), reduce_lanes(norm_a), reduce_lanes(norm_b)};
}

}  // namespace

CosineParts cosine_neon(const float *a, const float *b, size_t n) { return sums(a, b, n); }
CosineParts cosine_neon(const uint16_t *a, const uint16_t *b, size_t n) { return sums(a, b, n); }

}  // namespace vkv::simd
