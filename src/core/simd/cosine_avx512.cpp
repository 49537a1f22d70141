// The sums of a cosine (cosine.h) for AVX-512: sixteen lanes are two vectors. Tails are masked loads. Included headers are limited
// as in kernels_avx2.cpp.
#include <immintrin.h>

#include "core/simd/cosine.h"

namespace vkv::simd {
namespace {

inline __mmask8 first_bits(size_t n) { return static_cast<__mmask8>(n < 8 ? (1u << n) - 1 : 255); }

inline __m512d load8(const float *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
inline __m512d load8(const uint16_t *p)
{
    return _mm512_cvtps_pd(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))));
}
inline __m512d load_first(const float *p, size_t n) { return _mm512_cvtps_pd(_mm256_maskz_loadu_ps(first_bits(n), p)); }
inline __m512d load_first(const uint16_t *p, size_t n)
{
    return _mm512_cvtps_pd(_mm256_cvtph_ps(_mm_maskz_loadu_epi16(first_bits(n), p)));
}

inline double reduce_lanes(const __m512d *s)
{
    const __m512d eight = _mm512_add_pd(s[0], s[1]);
    const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd(eight, 1));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

template <class T>
CosineParts sums(const T *a, const T *b, size_t n)
{
    __m512d dot[2] = {}, norm_a[2] = {}, norm_b[2] = {};
    const auto step = [&](int k, __m512d x, __m512d y) {
        dot[k] = _mm512_fmadd_pd(x, y, dot[k]);
        norm_a[k] = _mm512_fmadd_pd(x, x, norm_a[k]);
        norm_b[k] = _mm512_fmadd_pd(y, y, norm_b[k]);
    };
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        step(0, load8(a + i), load8(b + i));
        step(1, load8(a + i + 8), load8(b + i + 8));
    }
    if (i < n) step(0, load_first(a + i, n - i), load_first(b + i, n - i));
    if (i + 8 < n) step(1, load_first(a + i + 8, n - i - 8), load_first(b + i + 8, n - i - 8));
    return {reduce_lanes(dot), reduce_lanes(norm_a), reduce_lanes(norm_b)};
}

}  // namespace

CosineParts cosine_avx512(const float *a, const float *b, size_t n) { return sums(a, b, n); }
CosineParts cosine_avx512(const uint16_t *a, const uint16_t *b, size_t n) { return sums(a, b, n); }

}  // namespace vkv::simd
