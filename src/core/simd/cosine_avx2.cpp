// The sums of a cosine (cosine.h) for AVX2: sixteen lanes are four vectors. Included headers are limited as in kernels_avx2.cpp.
#include <immintrin.h>

#include "core/simd/cosine.h"
#include "core/simd/cosine_steps.h"

namespace vkv::simd {
namespace {

inline __m128 load4(const float *p) { return _mm_loadu_ps(p); }
inline __m128 load4(const uint16_t *p) { return _mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))); }

inline double reduce_lanes(const __m256d *s)
{
    const __m256d four = _mm256_add_pd(_mm256_add_pd(s[0], s[2]), _mm256_add_pd(s[1], s[3]));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

template <class T>
CosineParts sums(const T *a, const T *b, size_t n)
{
    __m256d dot[4] = {}, norm_a[4] = {}, norm_b[4] = {};
    const auto step = [&](const T *p, const T *q) __attribute__((always_inline))
    {
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            const __m256d x = _mm256_cvtps_pd(load4(p + 4 * k)), y = _mm256_cvtps_pd(load4(q + 4 * k));
            dot[k] = _mm256_fmadd_pd(x, y, dot[k]);
            norm_a[k] = _mm256_fmadd_pd(x, x, norm_a[k]);
            norm_b[k] = _mm256_fmadd_pd(y, y, norm_b[k]);
        }
    };
    each_sixteen(a, b, n, step);
    return {reduce_lanes(dot), reduce_lanes(norm_a), reduce_lanes(norm_b)};
}

}  // namespace

CosineParts cosine_avx2(const float *a, const float *b, size_t n) { return sums(a, b, n); }
CosineParts cosine_avx2(const uint16_t *a, const uint16_t *b, size_t n) { return sums(a, b, n); }

}  // namespace vkv::simd
