// Kernels for Armv8-A with NEON (every aarch64 processor has it). Four vector accumulators; tails go through the plain loops.
// Included headers are limited to types and intrinsics, as in kernels_avx2.cpp.
#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

#include "core/simd/cosine.h"
#include "core/simd/tables.h"

namespace vkv::simd {
namespace {

using Sum = float;
inline float load_half(uint16_t half) { return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0); }
inline uint16_t store_half(float value) { return vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(value))), 0); }

#include "core/simd/kernels_body.inl"

// ---- float --------------------------------------------------------------------------------------------------------------

inline float32x4_t load4(const float *p) { return vreinterpretq_f32_u8(vld1q_u8(reinterpret_cast<const uint8_t *>(p))); }
inline float32x4_t load4(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(reinterpret_cast<const uint8_t *>(p))));
}

struct L2 {
    static float32x4_t step(float32x4_t sum, float32x4_t a, float32x4_t b)
    {
        const float32x4_t difference = vsubq_f32(a, b);
        return vfmaq_f32(sum, difference, difference);
    }
    template <class T>
    static float tail(const T *a, const T *b, size_t n)
    {
        return plain_l2(a, b, n);
    }
};
struct Ip {
    static float32x4_t step(float32x4_t sum, float32x4_t a, float32x4_t b) { return vfmaq_f32(sum, a, b); }
    template <class T>
    static float tail(const T *a, const T *b, size_t n)
    {
        return plain_ip(a, b, n);
    }
};
struct L1 {
    static float32x4_t step(float32x4_t sum, float32x4_t a, float32x4_t b) { return vaddq_f32(sum, vabdq_f32(a, b)); }
    template <class T>
    static float tail(const T *a, const T *b, size_t n)
    {
        return plain_l1(a, b, n);
    }
};

template <class Op, class T>
float reduce(const T *a, const T *b, size_t n)
{
    float32x4_t s0 = vdupq_n_f32(0), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        s0 = Op::step(s0, load4(a + i), load4(b + i));
        s1 = Op::step(s1, load4(a + i + 4), load4(b + i + 4));
        s2 = Op::step(s2, load4(a + i + 8), load4(b + i + 8));
        s3 = Op::step(s3, load4(a + i + 12), load4(b + i + 12));
    }
    for (; i + 4 <= n; i += 4) s0 = Op::step(s0, load4(a + i), load4(b + i));
    return vaddvq_f32(vaddq_f32(vaddq_f32(s0, s1), vaddq_f32(s2, s3))) + Op::tail(a + i, b + i, n - i);
}

void f16_to_f32(const uint16_t *in, float *out, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_u8(reinterpret_cast<uint8_t *>(out + i), vreinterpretq_u8_f32(load4(in + i)));
    plain_f16_to_f32(in + i, out + i, n - i);
}

void f32_to_f16(const float *in, uint16_t *out, size_t n)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) vst1_u8(reinterpret_cast<uint8_t *>(out + i), vreinterpret_u8_f16(vcvt_f16_f32(load4(in + i))));
    plain_f32_to_f16(in + i, out + i, n - i);
}

// ---- codes --------------------------------------------------------------------------------------------------------------
// 16,000 products of 255 * 4095 over 16 int32 lanes make 1.05e9 a lane; the lanes are added as int64.

struct Sums {
    int32x4_t s[4] = {};

    void add(int16x8_t a, int16x8_t b, int first)
    {
        s[first] = vmlal_s16(s[first], vget_low_s16(a), vget_low_s16(b));
        s[first + 1] = vmlal_high_s16(s[first + 1], a, b);
    }
    int64_t total() const { return vaddlvq_s32(s[0]) + vaddlvq_s32(s[1]) + vaddlvq_s32(s[2]) + vaddlvq_s32(s[3]); }
};

inline int16x8_t low_words(uint8x16_t v) { return vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(v))); }
inline int16x8_t high_words(uint8x16_t v) { return vreinterpretq_s16_u16(vmovl_high_u8(v)); }
inline int16x8_t load8_s16(const int16_t *p) { return vreinterpretq_s16_u8(vld1q_u8(reinterpret_cast<const uint8_t *>(p))); }

int64_t dot_u8_s16(const uint8_t *codes, const int16_t *q, size_t n)
{
    Sums sums;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const uint8x16_t c = vld1q_u8(codes + i);
        sums.add(low_words(c), load8_s16(q + i), 0);
        sums.add(high_words(c), load8_s16(q + i + 8), 2);
    }
    return sums.total() + plain_dot_u8_s16(codes + i, q + i, n - i);
}

int64_t dot_u4_s16(const uint8_t *codes, const int16_t *q, size_t n)
{
    Sums sums;
    for (size_t i = 0; i < n; i += 32) {
        const uint8x16_t c = vld1q_u8(codes + i / 2), low = vandq_u8(c, vdupq_n_u8(15)), high = vshrq_n_u8(c, 4);
        sums.add(low_words(low), load8_s16(q + i), 0);
        sums.add(high_words(low), load8_s16(q + i + 8), 2);
        sums.add(low_words(high), load8_s16(q + i + 16), 0);
        sums.add(high_words(high), load8_s16(q + i + 24), 2);
    }
    return sums.total();
}

int64_t dot_u8_u8(const uint8_t *a, const uint8_t *b, size_t n)
{
    uint32x4_t s0 = vdupq_n_u32(0), s1 = s0;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const uint8x16_t x = vld1q_u8(a + i), y = vld1q_u8(b + i);
        s0 = vpadalq_u16(s0, vmull_u8(vget_low_u8(x), vget_low_u8(y)));
        s1 = vpadalq_u16(s1, vmull_high_u8(x, y));
    }
    return static_cast<int64_t>(vaddlvq_u32(s0) + vaddlvq_u32(s1)) + plain_dot_u8_u8(a + i, b + i, n - i);
}

int64_t dot_u4_u4(const uint8_t *a, const uint8_t *b, size_t n)
{
    uint32x4_t s0 = vdupq_n_u32(0), s1 = s0;
    const uint8x16_t low = vdupq_n_u8(15);
    for (size_t i = 0; i < n; i += 32) {
        const uint8x16_t x = vld1q_u8(a + i / 2), y = vld1q_u8(b + i / 2);
        s0 = vpadalq_u16(s0, vpaddlq_u8(vmulq_u8(vandq_u8(x, low), vandq_u8(y, low))));  // 15 * 15 fits a byte
        s1 = vpadalq_u16(s1, vpaddlq_u8(vmulq_u8(vshrq_n_u8(x, 4), vshrq_n_u8(y, 4))));
    }
    return static_cast<int64_t>(vaddlvq_u32(s0) + vaddlvq_u32(s1));
}

uint64_t hamming(const uint8_t *a, const uint8_t *b, size_t bytes)
{
    uint64x2_t sum = vdupq_n_u64(0);
    size_t i = 0;
    for (; i + 16 <= bytes; i += 16)
        sum = vpadalq_u32(sum, vpaddlq_u16(vpaddlq_u8(vcntq_u8(veorq_u8(vld1q_u8(a + i), vld1q_u8(b + i))))));
    return vaddvq_u64(sum) + plain_hamming(a + i, b + i, bytes - i);
}

// ---- encoding -----------------------------------------------------------------------------------------------------------

void min_max(const float *x, size_t n, float *min, float *max)
{
    if (n < 4) return plain_min_max(x, n, min, max);
    float32x4_t low = load4(x), high = low;
    for (size_t i = 4; i < n; i += 4) {
        const float32x4_t value = load4(x + (i + 4 <= n ? i : n - 4));  // the last one may overlap
        low = vminq_f32(low, value);
        high = vmaxq_f32(high, value);
    }
    *min = vminvq_f32(low);
    *max = vmaxvq_f32(high);
}

void quantize_u8(const float *x, size_t n, float bias, float inverse_step, int levels, uint8_t *codes)
{
    const float32x4_t offset = vdupq_n_f32(bias), scale = vdupq_n_f32(inverse_step);
    const float32x4_t top = vdupq_n_f32(static_cast<float>(levels));
    const auto quantize = [&](const float *p) {
        const float32x4_t value = vmulq_f32(vsubq_f32(load4(p), offset), scale);
        return vmovn_u32(vcvtnq_u32_f32(vminnmq_f32(vmaxnmq_f32(value, vdupq_n_f32(0)), top)));
    };
    size_t i = 0;
    for (; i + 8 <= n; i += 8) vst1_u8(codes + i, vmovn_u16(vcombine_u16(quantize(x + i), quantize(x + i + 4))));
    plain_quantize_u8(x + i, n - i, bias, inverse_step, levels, codes + i);
}

}  // namespace

extern constinit const Kernels kNeonKernels = {
    .l2_f32 = reduce<L2, float>,
    .ip_f32 = reduce<Ip, float>,
    .l1_f32 = reduce<L1, float>,
    .cosine_f32 = cosine_neon,
    .l2_f16 = reduce<L2, uint16_t>,
    .ip_f16 = reduce<Ip, uint16_t>,
    .l1_f16 = reduce<L1, uint16_t>,
    .cosine_f16 = cosine_neon,
    .f16_to_f32 = f16_to_f32,
    .f32_to_f16 = f32_to_f16,
    .hamming = hamming,
    .and_or_count = plain_and_or_count,
    .dot_u8_s16 = dot_u8_s16,
    .dot_u4_s16 = dot_u4_s16,
    .dot_u8_u8 = dot_u8_u8,
    .dot_u4_u4 = dot_u4_u4,
    .min_max = min_max,
    .quantize_u8 = quantize_u8,
};

}  // namespace vkv::simd
