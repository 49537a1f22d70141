// Attention kernels for AVX2, FMA and F16C: vectors of eight floats. Codes go through blocks: see kernels.h.
// Included headers are limited to types and intrinsics, as in simd/kernels_avx2.cpp.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "core/kv/kernels.h"

namespace vkv::kv {
namespace {

constexpr int kLanes = 8;

#include "core/kv/kernels_vec.inl"

inline float load_half(const uint16_t *p) { return _cvtsh_ss(load_as<uint16_t>(p)); }

// All ones in the first n lanes.
inline __m256i lanes_below(int n) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
inline IVec load_words(const uint32_t *p, int n)
{
    return (IVec)_mm256_maskload_epi32(reinterpret_cast<const int *>(p), lanes_below(n));
}
inline Vec halves(const uint32_t *words) { return _mm256_cvtph_ps(load_as<__m128i>(words)); }
inline Vec halves(const uint32_t *words, int n)
{
    return _mm256_cvtph_ps(_mm_maskload_epi32(reinterpret_cast<const int *>(words), _mm256_castsi256_si128(lanes_below(n))));
}
inline Vec half_row(const uint16_t *p) { return _mm256_cvtph_ps(load_as<__m128i>(p)); }
inline Vec half_row(const uint16_t *p, int n)
{
    uint16_t padded[kLanes] = {};
    for (int i = 0; i < n && i < kLanes; i++) padded[i] = load_as<uint16_t>(p + i);
    return half_row(padded);
}
inline Vec splat_pair(const float *p) { return (Vec)_mm256_broadcast_sd(reinterpret_cast<const double *>(p)); }
inline Vec pair_sums(Vec a, Vec b) { return (Vec)_mm256_permute4x64_pd((__m256d)_mm256_hadd_ps(a, b), 0xD8); }
inline Vec vmax(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline bool any_greater(Vec a, Vec b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0; }
inline Vec rounded(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec times_power(Vec a, Vec n) { return a * (Vec)((__builtin_convertvector(n, IVec) + 127) << 23); }
inline Vec zero_below(Vec a, Vec x, float least) { return _mm256_and_ps(a, _mm256_cmp_ps(x, splat(least), _CMP_GE_OQ)); }

inline float largest(Vec a)
{
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

inline Vec lookup(const float *table, IVec index)
{
    const __m256i i = (__m256i)index;
    const __m256 low = _mm256_permutevar8x32_ps(load(table), i), high = _mm256_permutevar8x32_ps(load(table + 8), i);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(i, 28)));
}
inline Vec first_lanes(Vec x, int n, float other) { return _mm256_blendv_ps(splat(other), x, _mm256_castsi256_ps(lanes_below(n))); }

// Bytes of codes, sixteen levels of a table looked up by them, and byte kByte of each word at its top, the others zero.
inline IVec byte_table(const int8_t *bytes) { return (IVec)_mm256_broadcastsi128_si256(load_as<__m128i>(bytes)); }
inline IVec look_up_bytes(IVec table, IVec codes) { return (IVec)_mm256_shuffle_epi8((__m256i)table, (__m256i)codes); }
template <int kByte>
inline IVec byte_to_top(IVec x)
{
    if constexpr (kByte == 0) return x << 24;
    if constexpr (kByte == 3) return x & splat(static_cast<int32_t>(0xFF000000));
    constexpr char kNone = -128;
    const __m128i order = _mm_setr_epi8(kNone, kNone, kNone, kByte, kNone, kNone, kNone, kByte + 4, kNone, kNone, kNone, kByte + 8,
                                        kNone, kNone, kNone, kByte + 12);
    return (IVec)_mm256_shuffle_epi8((__m256i)x, _mm256_broadcastsi128_si256(order));
}
inline Vec splat_from(const float *p) { return _mm256_broadcast_ss(p); }

#include "core/kv/kernels_body.inl"
#include "core/kv/kernels_decoded.inl"

#include "core/kv/kernels_codes.inl"

inline Vec weight(Vec x) { return exp_negative(x); }

}  // namespace

extern constinit const AttendKernels kAvx2Attend = {
    .scores = {VKV_BY_ROWS(f16_scores), VKV_BY_ROWS(Direct<Codec::int8>::scores), VKV_BY_ROWS(Direct<Codec::uniform4>::scores),
               VKV_BY_ROWS(Direct<Codec::uniform3>::scores), VKV_BY_ROWS(Direct<Codec::uniform2>::scores),
               VKV_BY_ROWS(Direct<Codec::rotated4>::scores), VKV_BY_ROWS(Direct<Codec::rotated3>::scores),
               VKV_BY_ROWS(Direct<Codec::rotated2>::scores)},
    .values = {VKV_BY_ROWS(f16_values), VKV_BY_ROWS(Direct<Codec::int8>::values), VKV_BY_ROWS(Direct<Codec::uniform4>::values),
               VKV_BY_ROWS(Direct<Codec::uniform3>::values), VKV_BY_ROWS(Direct<Codec::uniform2>::values),
               VKV_BY_ROWS(Direct<Codec::rotated4>::values), VKV_BY_ROWS(Direct<Codec::rotated3>::values),
               VKV_BY_ROWS(Direct<Codec::rotated2>::values)},
    .decode_keys = VKV_ALL_CODECS(decode_keys),
    .decode_values = VKV_ALL_CODECS(decode_values),
    .block_scores = block_scores,
    .block_values = block_values,
    .rope_block = rope_block,
    .softmax = softmax,
    .digits = nullptr,
    .most_rows_of_codes = 16,

    .softcap = softcap,
    .hadamard = hadamard,
    .scale = scale,
    .shift = shift,
};

}  // namespace vkv::kv
