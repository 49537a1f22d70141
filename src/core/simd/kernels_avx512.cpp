// Kernels for AVX-512 (F, BW, VL, DQ, VNNI). Tails are masked loads. dpwssd and dpbusd are VNNI's fused multiply-add of 2 int16 or
// 4 int8 products into an int32 lane; neither is used in its saturating form.
// Included headers are limited to types and intrinsics, as in kernels_avx2.cpp.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "core/simd/cosine.h"
#include "core/simd/tables.h"

namespace vkv::simd {
namespace {

using Sum = float;
inline float load_half(uint16_t half) { return _cvtsh_ss(half); }
inline uint16_t store_half(float value) { return static_cast<uint16_t>(_cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT)); }

#include "core/simd/kernels_body.inl"

inline uint64_t first_bits(size_t n) { return (uint64_t{1} << n) - 1; }  // n < 64

// ---- float --------------------------------------------------------------------------------------------------------------

inline __m512 load16(const float *p) { return _mm512_loadu_ps(p); }
inline __m512 load16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); }
inline __m512 load_tail(const float *p, size_t n) { return _mm512_maskz_loadu_ps(static_cast<__mmask16>(first_bits(n)), p); }
inline __m512 load_tail(const uint16_t *p, size_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(first_bits(n)), p));
}

struct L2 {
    static __m512 step(__m512 sum, __m512 a, __m512 b)
    {
        const __m512 difference = _mm512_sub_ps(a, b);
        return _mm512_fmadd_ps(difference, difference, sum);
    }
};
struct Ip {
    static __m512 step(__m512 sum, __m512 a, __m512 b) { return _mm512_fmadd_ps(a, b, sum); }
};
struct L1 {
    static __m512 step(__m512 sum, __m512 a, __m512 b) { return _mm512_add_ps(sum, _mm512_abs_ps(_mm512_sub_ps(a, b))); }
};

template <class Op, class T>
float reduce(const T *a, const T *b, size_t n)
{
    __m512 s0 = _mm512_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        s0 = Op::step(s0, load16(a + i), load16(b + i));
        s1 = Op::step(s1, load16(a + i + 16), load16(b + i + 16));
        s2 = Op::step(s2, load16(a + i + 32), load16(b + i + 32));
        s3 = Op::step(s3, load16(a + i + 48), load16(b + i + 48));
    }
    for (; i + 16 <= n; i += 16) s0 = Op::step(s0, load16(a + i), load16(b + i));
    if (i < n) s1 = Op::step(s1, load_tail(a + i, n - i), load_tail(b + i, n - i));
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(s0, s1), _mm512_add_ps(s2, s3)));
}

void f16_to_f32(const uint16_t *in, float *out, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) _mm512_storeu_ps(out + i, load16(in + i));
    if (i < n) _mm512_mask_storeu_ps(out + i, static_cast<__mmask16>(first_bits(n - i)), load_tail(in + i, n - i));
}

void f32_to_f16(const float *in, uint16_t *out, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(out + i), _mm512_cvtps_ph(load16(in + i), _MM_FROUND_TO_NEAREST_INT));
    if (i < n)
        _mm256_mask_storeu_epi16(out + i, static_cast<__mmask16>(first_bits(n - i)),
                                 _mm512_cvtps_ph(load_tail(in + i, n - i), _MM_FROUND_TO_NEAREST_INT));
}

// ---- codes --------------------------------------------------------------------------------------------------------------

inline int64_t sum_s32(__m512i v)
{
    return _mm512_reduce_add_epi64(
        _mm512_add_epi64(_mm512_cvtepi32_epi64(_mm512_castsi512_si256(v)), _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64(v, 1))));
}

inline __m256i load16_s16(const int16_t *p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }
inline __m512i widen32(const uint8_t *p) { return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); }

int64_t dot_u8_s16(const uint8_t *codes, const int16_t *q, size_t n)
{
    __m512i s0 = _mm512_setzero_si512(), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
    for (; i + 128 <= n; i += 128) {
        s0 = _mm512_dpwssd_epi32(s0, widen32(codes + i), _mm512_loadu_si512(q + i));
        s1 = _mm512_dpwssd_epi32(s1, widen32(codes + i + 32), _mm512_loadu_si512(q + i + 32));
        s2 = _mm512_dpwssd_epi32(s2, widen32(codes + i + 64), _mm512_loadu_si512(q + i + 64));
        s3 = _mm512_dpwssd_epi32(s3, widen32(codes + i + 96), _mm512_loadu_si512(q + i + 96));
    }
    for (; i + 32 <= n; i += 32) s0 = _mm512_dpwssd_epi32(s0, widen32(codes + i), _mm512_loadu_si512(q + i));
    if (i < n) {
        const __mmask32 mask = static_cast<__mmask32>(first_bits(n - i));
        s1 = _mm512_dpwssd_epi32(s1, _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, codes + i)),
                                 _mm512_maskz_loadu_epi16(mask, q + i));
    }
    return sum_s32(_mm512_add_epi32(_mm512_add_epi32(s0, s1), _mm512_add_epi32(s2, s3)));
}

inline __m512i two_halves(const int16_t *low, const int16_t *high)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(load16_s16(low)), load16_s16(high), 1);
}

// Two blocks at a time: their low nibbles are values 0..15 and 32..47, their high ones 16..31 and 48..63.
int64_t dot_u4_s16(const uint8_t *codes, const int16_t *q, size_t n)
{
    const __m512i low = _mm512_set1_epi16(15);
    const size_t blocks = (n + 31) / 32;
    __m512i s0 = _mm512_setzero_si512(), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
    for (; i + 4 <= blocks; i += 4) {
        const __m512i x = widen32(codes + i * 16), y = widen32(codes + i * 16 + 32);
        const int16_t *z = q + i * 32;
        s0 = _mm512_dpwssd_epi32(s0, _mm512_and_si512(x, low), two_halves(z, z + 32));
        s1 = _mm512_dpwssd_epi32(s1, _mm512_srli_epi16(x, 4), two_halves(z + 16, z + 48));
        s2 = _mm512_dpwssd_epi32(s2, _mm512_and_si512(y, low), two_halves(z + 64, z + 96));
        s3 = _mm512_dpwssd_epi32(s3, _mm512_srli_epi16(y, 4), two_halves(z + 80, z + 112));
    }
    __m256i t0 = _mm256_setzero_si256(), t1 = t0;
    for (; i < blocks; i++) {
        const __m256i x = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(codes + i * 16)));
        const int16_t *z = q + i * 32;
        t0 = _mm256_dpwssd_epi32(t0, _mm256_and_si256(x, _mm512_castsi512_si256(low)), load16_s16(z));
        t1 = _mm256_dpwssd_epi32(t1, _mm256_srli_epi16(x, 4), load16_s16(z + 16));
    }
    const __m512i rest = _mm512_zextsi256_si512(_mm256_add_epi32(t0, t1));
    return sum_s32(_mm512_add_epi32(_mm512_add_epi32(_mm512_add_epi32(s0, s1), _mm512_add_epi32(s2, s3)), rest));
}

// dpbusd wants one signed operand: sum a*b = sum a*(b - 128) + 128 * sum a, both with dpbusd.
int64_t dot_u8_u8(const uint8_t *a, const uint8_t *b, size_t n)
{
    const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80)), one = _mm512_set1_epi8(1);
    __m512i s0 = _mm512_setzero_si512(), s1 = s0, t0 = s0, t1 = s0;
    size_t i = 0;
    for (; i + 128 <= n; i += 128) {
        const __m512i x0 = _mm512_loadu_si512(a + i), x1 = _mm512_loadu_si512(a + i + 64);
        s0 = _mm512_dpbusd_epi32(s0, x0, _mm512_xor_si512(_mm512_loadu_si512(b + i), flip));
        s1 = _mm512_dpbusd_epi32(s1, x1, _mm512_xor_si512(_mm512_loadu_si512(b + i + 64), flip));
        t0 = _mm512_dpbusd_epi32(t0, x0, one);
        t1 = _mm512_dpbusd_epi32(t1, x1, one);
    }
    for (; i < n; i += 64) {
        const __mmask64 mask = n - i >= 64 ? ~__mmask64{0} : static_cast<__mmask64>(first_bits(n - i));
        const __m512i x = _mm512_maskz_loadu_epi8(mask, a + i);
        s0 = _mm512_dpbusd_epi32(s0, x, _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, b + i), flip));
        t0 = _mm512_dpbusd_epi32(t0, x, one);
    }
    const __m512i signed_part = _mm512_add_epi32(s0, s1), sum_a = _mm512_add_epi32(t0, t1);
    return sum_s32(_mm512_add_epi32(signed_part, _mm512_slli_epi32(sum_a, 7)));
}

int64_t dot_u4_u4(const uint8_t *a, const uint8_t *b, size_t n)
{
    const __m512i low = _mm512_set1_epi8(15);
    const size_t bytes = (n + 31) / 32 * 16;
    __m512i s0 = _mm512_setzero_si512(), s1 = s0;
    const auto step = [&](__m512i x, __m512i y) {
        s0 = _mm512_dpbusd_epi32(s0, _mm512_and_si512(x, low), _mm512_and_si512(y, low));
        s1 =
            _mm512_dpbusd_epi32(s1, _mm512_and_si512(_mm512_srli_epi16(x, 4), low), _mm512_and_si512(_mm512_srli_epi16(y, 4), low));
    };
    size_t i = 0;
    for (; i + 64 <= bytes; i += 64) step(_mm512_loadu_si512(a + i), _mm512_loadu_si512(b + i));
    if (i < bytes) {
        const __mmask64 mask = static_cast<__mmask64>(first_bits(bytes - i));
        step(_mm512_maskz_loadu_epi8(mask, a + i), _mm512_maskz_loadu_epi8(mask, b + i));
    }
    return _mm512_reduce_add_epi32(_mm512_add_epi32(s0, s1));  // at most 16,000 * 225
}

// ---- encoding -----------------------------------------------------------------------------------------------------------

void min_max(const float *x, size_t n, float *min, float *max)
{
    if (n < 16) return plain_min_max(x, n, min, max);
    __m512 low = load16(x), high = low;
    for (size_t i = 16; i < n; i += 16) {
        const __m512 value = load16(x + (i + 16 <= n ? i : n - 16));  // the last one may overlap
        low = _mm512_min_ps(low, value);
        high = _mm512_max_ps(high, value);
    }
    *min = _mm512_reduce_min_ps(low);
    *max = _mm512_reduce_max_ps(high);
}

void quantize_u8(const float *x, size_t n, float bias, float inverse_step, int levels, uint8_t *codes)
{
    const __m512 offset = _mm512_set1_ps(bias), scale = _mm512_set1_ps(inverse_step);
    const __m512 zero = _mm512_setzero_ps(), top = _mm512_set1_ps(static_cast<float>(levels));
    const auto quantize = [&](__m512 value) {
        value = _mm512_mul_ps(_mm512_sub_ps(value, offset), scale);
        return _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(value, zero), top)));
    };
    size_t i = 0;
    for (; i + 16 <= n; i += 16) _mm_storeu_si128(reinterpret_cast<__m128i *>(codes + i), quantize(load16(x + i)));
    if (i < n) _mm_mask_storeu_epi8(codes + i, static_cast<__mmask16>(first_bits(n - i)), quantize(load_tail(x + i, n - i)));
}

}  // namespace

extern constinit const Kernels kAvx512Kernels = {
    .l2_f32 = reduce<L2, float>,
    .ip_f32 = reduce<Ip, float>,
    .l1_f32 = reduce<L1, float>,
    .cosine_f32 = cosine_avx512,
    .l2_f16 = reduce<L2, uint16_t>,
    .ip_f16 = reduce<Ip, uint16_t>,
    .l1_f16 = reduce<L1, uint16_t>,
    .cosine_f16 = cosine_avx512,
    .f16_to_f32 = f16_to_f32,
    .f32_to_f16 = f32_to_f16,
    .hamming = plain_hamming,
    .and_or_count = plain_and_or_count,
    .dot_u8_s16 = dot_u8_s16,
    .dot_u4_s16 = dot_u4_s16,
    .dot_u8_u8 = dot_u8_u8,
    .dot_u4_u4 = dot_u4_u4,
    .min_max = min_max,
    .quantize_u8 = quantize_u8,
};

}  // namespace vkv::simd
