// Attention kernels for AVX-512 (F, BW, VL, DQ, VNNI): vectors of sixteen floats, tails by masked loads, codes multiplied as bytes.
// Included headers are limited to types and intrinsics, as in simd/kernels_avx2.cpp.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "core/kv/kernels.h"

namespace vkv::kv {
namespace {

constexpr int kLanes = 16;

#include "core/kv/kernels_vec.inl"

inline float load_half(const uint16_t *p) { return _cvtsh_ss(load_as<uint16_t>(p)); }

inline __mmask16 lanes_below(int n) { return static_cast<__mmask16>(n >= 16 ? 0xFFFF : (1u << n) - 1); }
inline IVec load_words(const uint32_t *p, int n) { return (IVec)_mm512_maskz_loadu_epi32(lanes_below(n), p); }
inline Vec halves(const uint32_t *words) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(words))); }
inline Vec halves(const uint32_t *words, int n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi32(static_cast<__mmask8>(lanes_below(n)), words));
}
inline Vec half_row(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); }
inline Vec half_row(const uint16_t *p, int n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes_below(n), p)); }
inline Vec splat_pair(const float *p) { return (Vec)_mm512_set1_pd(load_as<double>(p)); }
inline Vec pair_sums(Vec a, Vec b)
{
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_add_ps(_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b));
}
inline Vec vmax(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline float largest(Vec a) { return _mm512_reduce_max_ps(a); }
inline float sum(Vec a) { return _mm512_reduce_add_ps(a); }
inline Vec lookup(const float *table, IVec index) { return _mm512_permutexvar_ps((__m512i)index, load(table)); }
inline Vec first_lanes(Vec x, int n, float other) { return _mm512_mask_mov_ps(splat(other), lanes_below(n), x); }

#include "core/kv/kernels_body.inl"
#include "core/kv/kernels_vnni.inl"

}  // namespace

extern constinit const AttendKernels kAvx512Attend = {
    .scores = {VKV_BY_ROWS(f16_scores), VKV_BY_ROWS(Vnni<Codec::int8>::scores), VKV_BY_ROWS(Vnni<Codec::uniform4>::scores),
               VKV_BY_ROWS(Vnni<Codec::uniform3>::scores), VKV_BY_ROWS(Vnni<Codec::uniform2>::scores),
               VKV_BY_ROWS(Vnni<Codec::rotated4>::scores), VKV_BY_ROWS(Vnni<Codec::rotated3>::scores),
               VKV_BY_ROWS(Vnni<Codec::rotated2>::scores)},
    .values = {VKV_BY_ROWS(f16_values), VKV_BY_ROWS(Vnni<Codec::int8>::values), VKV_BY_ROWS(Vnni<Codec::uniform4>::values),
               VKV_BY_ROWS(Vnni<Codec::uniform3>::values), VKV_BY_ROWS(Vnni<Codec::uniform2>::values),
               VKV_BY_ROWS(Vnni<Codec::rotated4>::values), VKV_BY_ROWS(Vnni<Codec::rotated3>::values),
               VKV_BY_ROWS(Vnni<Codec::rotated2>::values)},
    .decode_keys = VKV_ALL_CODECS(decode_keys),
    .decode_values = VKV_ALL_CODECS(decode_values),
    .block_scores = block_scores,
    .block_values = block_values,
    .rope_block = rope_block,
    .softmax = softmax,
    .softcap = softcap,
    .scale = scale,
};

}  // namespace vkv::kv
