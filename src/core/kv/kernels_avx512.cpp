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
// Broadcasts from memory as integers are loads and nothing else; those of floats take the units that convert.
inline Vec splat_pair(const float *p) { return (Vec)_mm512_set1_epi64(load_as<int64_t>(p)); }
// What vshufps has taken from two vectors, in the order of those.
inline Vec in_order(Vec x)
{
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15), x);
}
inline Vec pair_sums(Vec a, Vec b) { return in_order(_mm512_shuffle_ps(a, b, 0x88) + _mm512_shuffle_ps(a, b, 0xDD)); }
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

// ---- softmax -----------------------------------------------------------------------------------------------------------------

// 2^(i / 16), less i in the bits that an integer multiple of 1 / 16 moves: adding the multiple there gives the power.
alignas(64) constexpr float kRoots[16] = {1.0f,        1.04427378f, 1.09050773f, 1.13878864f, 1.18920712f, 1.24185781f,
                                          1.29683955f, 1.35425555f, 1.41421356f, 1.47682615f, 1.54221083f, 1.61049033f,
                                          1.68179283f, 1.75625216f, 1.83400809f, 1.91520656f};
struct RootTable {
    alignas(64) int32_t bits[16];
    constexpr RootTable() : bits()
    {
        for (int i = 0; i < 16; i++) bits[i] = __builtin_bit_cast(int32_t, kRoots[i]) - (i << 19);
    }
};
constexpr RootTable kRootTable;

// e^x for x <= 0, also -inf; 0 below kLeastExponent. x = k ln 2 / 16 + r: the power of k is looked up, and r is so small that three
// terms do. The unit that multiplies is busy with products of keys and values: half the work for it of exp_negative.
inline Vec weight(Vec x)
{
    const __m512i table = _mm512_load_si512(kRootTable.bits);
    const __m512 shift = _mm512_set1_ps(12582912.0f);  // 1.5 * 2^23: the integer part of a sum stands in its low bits
    const __m512 sum = _mm512_fmadd_ps(x, _mm512_set1_ps(16 * kLog2E), shift);
    const __m512 r = _mm512_fnmadd_ps(_mm512_sub_ps(sum, shift), _mm512_set1_ps(0.693147181f / 16), x);
    const __m512i k = _mm512_castps_si512(sum);
    const __m512 power = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_permutexvar_epi32(k, table), _mm512_slli_epi32(k, 19)));
    const __m512 half = _mm512_fmadd_ps(r, _mm512_set1_ps(1.0f / 6), _mm512_set1_ps(0.5f));
    const __m512 rest = _mm512_fmadd_ps(half, _mm512_mul_ps(r, r), r);
    const __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kLeastExponent), _CMP_GE_OQ);
    return _mm512_maskz_fmadd_ps(counts, power, rest, power);
}

// m of a row grows: what has come to l, and later to o, shrinks by a factor.
void raise_most(const SoftmaxJob &job, int row, __m512 most)
{
    const float now = _mm512_reduce_max_ps(most), factor = exp_negative(splat(job.m[row] - now))[0];
    job.m[row] = now;
    job.factors[row] = factor;
    store(job.l + row * kBlock, load(job.l + row * kBlock) * factor);
}

// All rows of some tokens before the next tokens: sums of values begin with the first tokens, while weights of later ones are made.
template <int kRows>
bool softmax_rows(const SoftmaxJob &job, int row)
{
    const __m512 nothing = _mm512_set1_ps(-__builtin_inff());
    float *s = job.scores + static_cast<size_t>(row) * job.stride;
    const int last = (job.tokens - 1) / 16 * 16;
    const __mmask16 last_lanes = lanes_below(job.tokens - last);
    __m512 most[kRows], base[kRows], total[kRows];
    repeat<kRows>(VKV_EACH(r) { most[r] = _mm512_mask_mov_ps(nothing, last_lanes, load(s + r * job.stride + last)); });
    for (int t = 0; t < last; t += 16) repeat<kRows>(VKV_EACH(r) { most[r] = vmax(most[r], load(s + r * job.stride + t)); });
    int grown = 0;
    repeat<kRows>(VKV_EACH(r) {
        job.factors[row + r] = 1.0f;
        grown |= any_greater(most[r], splat(job.m[row + r])) << r;
    });
    if (grown)
        for (int r = 0; r < kRows; r++)
            if (grown >> r & 1) raise_most(job, row + r, most[r]);
    repeat<kRows>(VKV_EACH(r) {
        const float m = job.m[row + r];
        base[r] = splat(m == nothing[0] ? 0.0f : m);  // nothing seen: e^(-inf - 0) = 0
        total[r] = load(job.l + (row + r) * kBlock);
    });
    const auto weigh = [&](int t, __mmask16 lanes) __attribute__((always_inline))
    {
        repeat<kRows>(VKV_EACH(r) {
            float *at = s + r * job.stride + t;
            const __m512 p = weight(_mm512_mask_mov_ps(nothing, lanes, load(at)) - base[r]);
            total[r] += p;
            store(at, p);
        });
    };
    for (int t = 0; t < last; t += 16) weigh(t, 0xFFFF);
    weigh(last, last_lanes);
    repeat<kRows>(VKV_EACH(r) { store(job.l + (row + r) * kBlock, total[r]); });
    return grown != 0;
}

bool softmax_wide(const SoftmaxJob &job)
{
    bool grew = false;
    int row = 0;
    for (; row + 4 <= job.rows; row += 4) grew |= softmax_rows<4>(job, row);
    if (job.rows - row == 3) return softmax_rows<3>(job, row) || grew;
    for (; row < job.rows; row++) grew |= softmax_rows<1>(job, row);
    return grew;
}

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
                const float *from = q + static_cast<size_t>(r) * stride + i;
                const __m512 factor = kGroups == 1 ? splat(load_as<float>(from)) : (Vec)splat(load_as<int32_t>(from));
                repeat<kGroups>(VKV_EACH(g) { sums[r][g][i] = _mm512_fmadd_ps(x[g][i], factor, sums[r][g][i]); });
            });
        });
    }
    *job.ahead = ahead;
    repeat<kRows>(VKV_EACH(r) {
        repeat<kGroups>(VKV_EACH(g) {
            store(job.out + static_cast<size_t>(r) * job.stride + t0 + 16 * g, in_order(sums[r][g][0] + sums[r][g][1]));
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
    .softmax = softmax_wide,
    .digits = make_digits,
    .most_rows_of_codes = INT32_MAX,

    .softcap = softcap,
    .hadamard = hadamard,
    .scale = scale,
    .shift = shift,
};

}  // namespace vkv::kv
