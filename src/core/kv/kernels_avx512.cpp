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
inline bool any_greater(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
inline Vec rounded(Vec a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec times_power(Vec a, Vec n) { return _mm512_scalef_ps(a, n); }
inline Vec zero_below(Vec a, Vec x, float least) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, splat(least), _CMP_GE_OQ), a); }

inline float largest(Vec a) { return _mm512_reduce_max_ps(a); }

inline Vec lookup(const float *table, IVec index) { return _mm512_permutexvar_ps((__m512i)index, load(table)); }
inline Vec first_lanes(Vec x, int n, float other) { return _mm512_mask_mov_ps(splat(other), lanes_below(n), x); }

#include "core/kv/kernels_body.inl"
#include "core/kv/kernels_decoded.inl"
#include "core/kv/kernels_vnni.inl"

// ---- halves: keys ------------------------------------------------------------------------------------------------------------
// Unlike f16_scores, pairs of dims are separated after they were converted: floats of queries then come as broadcasts within the
// multiplication, where broadcasts of pairs would take the units that convert. Tokens stand in the order of vshufps until the end.

template <int kRows, int kGroups>
void f16_scores_part(const ScoreJob &job, int t0)
{
    const TileView &tile = *job.job.tile;
    const auto tokens = static_cast<size_t>(tile.tokens);
    const uint32_t *k = reinterpret_cast<const uint32_t *>(tile.k) + t0;
    const float *q = job.queries.q;
    const size_t stride = job.queries.stride;
    __m512 sums[kRows][kGroups][2];
    repeat<kRows>(VKV_EACH(r) { repeat<kGroups>(VKV_EACH(g) { sums[r][g][0] = sums[r][g][1] = _mm512_setzero_ps(); }); });
    const int words = (tile.dim_k + 1) / 2;
    Ahead ahead = *job.ahead;
    for (int word = 0; word < words; word++, k += tokens, q += 2) {
        fetch<1>(ahead);
        __m512 x[kGroups][2];
        repeat<kGroups>(VKV_EACH(g) {
            const __m512 a = halves(k + 16 * g), b = halves(k + 16 * g + 8);
            x[g][0] = _mm512_shuffle_ps(a, b, 0x88);
            x[g][1] = _mm512_shuffle_ps(a, b, 0xDD);
        });
        repeat<kRows>(VKV_EACH(r) {
            repeat<2>(VKV_EACH(i) {
                const __m512 factor = _mm512_set1_ps(load_as<float>(q + static_cast<size_t>(r) * stride + i));
                repeat<kGroups>(VKV_EACH(g) { sums[r][g][i] = _mm512_fmadd_ps(x[g][i], factor, sums[r][g][i]); });
            });
        });
    }
    *job.ahead = ahead;
    const __m512i order = _mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    repeat<kRows>(VKV_EACH(r) {
        repeat<kGroups>(VKV_EACH(g) {
            store(job.out + static_cast<size_t>(r) * job.stride + t0 + 16 * g,
                  _mm512_permutexvar_ps(order, _mm512_add_ps(sums[r][g][0], sums[r][g][1])));
        });
    });
}

template <int kRows>
void f16_scores_wide(const ScoreJob &job)
{
    const int tokens = job.job.tile->tokens;
    int t = 0;
    // One group at a time where that gives enough sums: the compiler then takes a broadcast from memory for every product.
    for (; kRows <= 2 && t + 16 < tokens; t += 32) f16_scores_part<kRows, 2>(job, t);
    for (; t < tokens; t += 16) f16_scores_part<kRows, 1>(job, t);
}

}  // namespace

extern constinit const AttendKernels kAvx512Attend = {
    .scores = {VKV_BY_ROWS(f16_scores_wide), VKV_BY_ROWS(Vnni<Codec::int8>::scores), VKV_BY_ROWS(Vnni<Codec::uniform4>::scores),
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
    .digits = make_digits,

    .softcap = softcap,
    .hadamard = hadamard,
    .scale = scale,
};

}  // namespace vkv::kv
