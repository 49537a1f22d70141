// Kernels for AVX2, FMA, F16C and POPCNT. Float sums run over four vector accumulators; tails go through zero-padded copies.
// Included headers are limited to types and intrinsics: an inline function of the standard library compiled with these flags could
// be the copy that the linker keeps for everyone.
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

// ---- float --------------------------------------------------------------------------------------------------------------

inline __m256 load8(const float *p) { return _mm256_loadu_ps(p); }
inline __m256 load8(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))); }

template <class T>
inline __m256 load_tail(const T *p, size_t n)
{
    T padded[8] = {};
    __builtin_memcpy(padded, p, n * sizeof(T));
    return load8(padded);
}

inline float sum8(__m256 v)
{
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

struct L2 {
    static __m256 step(__m256 sum, __m256 a, __m256 b)
    {
        const __m256 difference = _mm256_sub_ps(a, b);
        return _mm256_fmadd_ps(difference, difference, sum);
    }
};
struct Ip {
    static __m256 step(__m256 sum, __m256 a, __m256 b) { return _mm256_fmadd_ps(a, b, sum); }
};
struct L1 {
    static __m256 step(__m256 sum, __m256 a, __m256 b)
    {
        return _mm256_add_ps(sum, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_sub_ps(a, b)));
    }
};

template <class Op, class T>
float reduce(const T *a, const T *b, size_t n)
{
    __m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        s0 = Op::step(s0, load8(a + i), load8(b + i));
        s1 = Op::step(s1, load8(a + i + 8), load8(b + i + 8));
        s2 = Op::step(s2, load8(a + i + 16), load8(b + i + 16));
        s3 = Op::step(s3, load8(a + i + 24), load8(b + i + 24));
    }
    for (; i + 8 <= n; i += 8) s0 = Op::step(s0, load8(a + i), load8(b + i));
    if (i < n) s1 = Op::step(s1, load_tail(a + i, n - i), load_tail(b + i, n - i));
    return sum8(_mm256_add_ps(_mm256_add_ps(s0, s1), _mm256_add_ps(s2, s3)));
}

void f16_to_f32(const uint16_t *in, float *out, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, load8(in + i));
    plain_f16_to_f32(in + i, out + i, n - i);
}

void f32_to_f16(const float *in, uint16_t *out, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128(reinterpret_cast<__m128i *>(out + i), _mm256_cvtps_ph(load8(in + i), _MM_FROUND_TO_NEAREST_INT));
    plain_f32_to_f16(in + i, out + i, n - i);
}

// ---- codes --------------------------------------------------------------------------------------------------------------
// madd_epi16 adds two products into an int32 lane. 16,000 values of 255 * 4095 over 8 lanes make 2.09e9 a lane: it fits.

inline __m256i load32_bytes(const uint8_t *p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }
inline __m256i load16_s16(const int16_t *p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)); }
inline __m256i widen16(const uint8_t *p) { return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))); }

inline int64_t sum_s32(__m256i v)
{
    const __m256i wide =
        _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(v)), _mm256_cvtepi32_epi64(_mm256_extracti128_si256(v, 1)));
    const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    return _mm_cvtsi128_si64(half) + _mm_extract_epi64(half, 1);
}

int64_t dot_u8_s16(const uint8_t *codes, const int16_t *q, size_t n)
{
    __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        s0 = _mm256_add_epi32(s0, _mm256_madd_epi16(widen16(codes + i), load16_s16(q + i)));
        s1 = _mm256_add_epi32(s1, _mm256_madd_epi16(widen16(codes + i + 16), load16_s16(q + i + 16)));
        s2 = _mm256_add_epi32(s2, _mm256_madd_epi16(widen16(codes + i + 32), load16_s16(q + i + 32)));
        s3 = _mm256_add_epi32(s3, _mm256_madd_epi16(widen16(codes + i + 48), load16_s16(q + i + 48)));
    }
    for (; i + 16 <= n; i += 16) s0 = _mm256_add_epi32(s0, _mm256_madd_epi16(widen16(codes + i), load16_s16(q + i)));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(s0, s1), _mm256_add_epi32(s2, s3));
    return sum_s32(sum) + plain_dot_u8_s16(codes + i, q + i, n - i);
}

int64_t dot_u4_s16(const uint8_t *codes, const int16_t *q, size_t n)
{
    const __m256i low = _mm256_set1_epi16(15);
    __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;
    size_t block = 0;
    for (; (block + 1) * 32 < n; block += 2) {
        const __m256i x = widen16(codes + block * 16), y = widen16(codes + block * 16 + 16);
        const int16_t *z = q + block * 32;
        s0 = _mm256_add_epi32(s0, _mm256_madd_epi16(_mm256_and_si256(x, low), load16_s16(z)));
        s1 = _mm256_add_epi32(s1, _mm256_madd_epi16(_mm256_srli_epi16(x, 4), load16_s16(z + 16)));
        s2 = _mm256_add_epi32(s2, _mm256_madd_epi16(_mm256_and_si256(y, low), load16_s16(z + 32)));
        s3 = _mm256_add_epi32(s3, _mm256_madd_epi16(_mm256_srli_epi16(y, 4), load16_s16(z + 48)));
    }
    if (block * 32 < n) {
        const __m256i x = widen16(codes + block * 16);
        s0 = _mm256_add_epi32(s0, _mm256_madd_epi16(_mm256_and_si256(x, low), load16_s16(q + block * 32)));
        s1 = _mm256_add_epi32(s1, _mm256_madd_epi16(_mm256_srli_epi16(x, 4), load16_s16(q + block * 32 + 16)));
    }
    return sum_s32(_mm256_add_epi32(_mm256_add_epi32(s0, s1), _mm256_add_epi32(s2, s3)));
}

int64_t dot_u8_u8(const uint8_t *a, const uint8_t *b, size_t n)
{
    __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        s0 = _mm256_add_epi32(s0, _mm256_madd_epi16(widen16(a + i), widen16(b + i)));
        s1 = _mm256_add_epi32(s1, _mm256_madd_epi16(widen16(a + i + 16), widen16(b + i + 16)));
        s2 = _mm256_add_epi32(s2, _mm256_madd_epi16(widen16(a + i + 32), widen16(b + i + 32)));
        s3 = _mm256_add_epi32(s3, _mm256_madd_epi16(widen16(a + i + 48), widen16(b + i + 48)));
    }
    for (; i + 16 <= n; i += 16) s0 = _mm256_add_epi32(s0, _mm256_madd_epi16(widen16(a + i), widen16(b + i)));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(s0, s1), _mm256_add_epi32(s2, s3));
    return sum_s32(sum) + plain_dot_u8_u8(a + i, b + i, n - i);
}

// Two blocks at a time: 15 * 15 * 2 fits the int16 lanes of maddubs, also added for both nibbles.
int64_t dot_u4_u4(const uint8_t *a, const uint8_t *b, size_t n)
{
    const __m256i low = _mm256_set1_epi8(15), one = _mm256_set1_epi16(1);
    const auto products = [&](__m256i x, __m256i y) {
        const __m256i lows = _mm256_maddubs_epi16(_mm256_and_si256(x, low), _mm256_and_si256(y, low));
        const __m256i highs =
            _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(x, 4), low), _mm256_and_si256(_mm256_srli_epi16(y, 4), low));
        return _mm256_madd_epi16(_mm256_add_epi16(lows, highs), one);
    };
    const size_t bytes = (n + 31) / 32 * 16;
    __m256i sum = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + 32 <= bytes; i += 32) sum = _mm256_add_epi32(sum, products(load32_bytes(a + i), load32_bytes(b + i)));
    if (i < bytes) {
        const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i *>(a + i));
        const __m128i y = _mm_loadu_si128(reinterpret_cast<const __m128i *>(b + i));
        sum = _mm256_add_epi32(sum, products(_mm256_zextsi128_si256(x), _mm256_zextsi128_si256(y)));
    }
    return sum_s32(sum);
}

// ---- encoding -----------------------------------------------------------------------------------------------------------

void min_max(const float *x, size_t n, float *min, float *max)
{
    if (n < 8) return plain_min_max(x, n, min, max);
    __m256 low = load8(x), high = low;
    for (size_t i = 8; i < n; i += 8) {
        const __m256 value = load8(x + (i + 8 <= n ? i : n - 8));  // the last one may overlap
        low = _mm256_min_ps(low, value);
        high = _mm256_max_ps(high, value);
    }
    float lows[8], highs[8], unused;
    _mm256_storeu_ps(lows, low);
    _mm256_storeu_ps(highs, high);
    plain_min_max(lows, 8, min, &unused);
    plain_min_max(highs, 8, &unused, max);
}

void quantize_u8(const float *x, size_t n, float bias, float inverse_step, int levels, uint8_t *codes)
{
    const __m256 offset = _mm256_set1_ps(bias), scale = _mm256_set1_ps(inverse_step);
    const __m256 zero = _mm256_setzero_ps(), top = _mm256_set1_ps(static_cast<float>(levels));
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m256 value = _mm256_mul_ps(_mm256_sub_ps(load8(x + i), offset), scale);
        const __m256i whole = _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(value, zero), top));
        const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i *>(codes + i), _mm_packus_epi16(words, words));
    }
    plain_quantize_u8(x + i, n - i, bias, inverse_step, levels, codes + i);
}

}  // namespace

extern constinit const Kernels kAvx2Kernels = {
    .l2_f32 = reduce<L2, float>,
    .ip_f32 = reduce<Ip, float>,
    .l1_f32 = reduce<L1, float>,
    .cosine_f32 = cosine_avx2,
    .l2_f16 = reduce<L2, uint16_t>,
    .ip_f16 = reduce<Ip, uint16_t>,
    .l1_f16 = reduce<L1, uint16_t>,
    .cosine_f16 = cosine_avx2,
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
