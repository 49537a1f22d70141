// Attention kernels for the instruction set that the whole build is for (SSE2 or NEON), and the choice of a table. Vectors are
// those of the compiler's extension, four floats wide: this table serves the levels scalar and neon.
#include "core/kv/kernels.h"

#include <cstdint>

#include "core/simd/half.h"

namespace vkv::kv {
namespace {

constexpr int kLanes = 4;

#include "core/kv/kernels_vec.inl"

inline float load_half(const uint16_t *p) { return half_to_float(*p); }

typedef uint32_t UVec __attribute__((vector_size(16)));
typedef uint16_t Halves __attribute__((vector_size(8)));

inline IVec load_words(const uint32_t *p, int n)
{
    if (n >= kLanes) return load_words(p);
    IVec x = {};
    __builtin_memcpy(&x, p, static_cast<size_t>(n) * 4);
    return x;
}
// Exponents move by a product, which is right for subnormals too; tiles hold neither infinities nor NaN.
inline Vec widen(Halves x)
{
    const UVec bits = __builtin_convertvector(x, UVec);
    const Vec magnitude = (Vec)((bits & 0x7FFF) << 13) * 0x1p112f;
    return (Vec)((UVec)magnitude | (bits & 0x8000) << 16);
}
inline Vec halves(const uint32_t *words) { return widen(load_as<Halves>(words)); }
inline Vec half_row(const uint16_t *p, int n)
{
    Halves x = {};
    __builtin_memcpy(&x, p, static_cast<size_t>(n < kLanes ? n : kLanes) * 2);
    return widen(x);
}
inline Vec halves(const uint32_t *words, int n) { return half_row(reinterpret_cast<const uint16_t *>(words), 2 * n); }
inline Vec half_row(const uint16_t *p) { return widen(load_as<Halves>(p)); }
inline Vec splat_pair(const float *p) { return Vec{p[0], p[1], p[0], p[1]}; }
inline Vec pair_sums(Vec a, Vec b) { return Vec{a[0] + a[1], a[2] + a[3], b[0] + b[1], b[2] + b[3]}; }
inline Vec vmax(Vec a, Vec b)
{
    const IVec greater = (IVec)(a > b);
    return (Vec)(((IVec)a & greater) | ((IVec)b & ~greater));
}
inline bool any_greater(Vec a, Vec b)
{
    const IVec greater = (IVec)(a > b);
    return (greater[0] | greater[1] | greater[2] | greater[3]) != 0;
}
inline Vec rounded(Vec a) { return (a + 12582912.0f) - 12582912.0f; }  // 1.5 * 2^23
inline Vec times_power(Vec a, Vec n) { return a * (Vec)((__builtin_convertvector(n, IVec) + 127) << 23); }
inline Vec zero_below(Vec a, Vec x, float least) { return (Vec)((IVec)a & (IVec)(x >= least)); }

inline float largest(Vec a)
{
    const float x = a[0] > a[1] ? a[0] : a[1], y = a[2] > a[3] ? a[2] : a[3];
    return x > y ? x : y;
}

inline Vec lookup(const float *table, IVec i) { return Vec{table[i[0]], table[i[1]], table[i[2]], table[i[3]]}; }
inline Vec first_lanes(Vec x, int n, float other)
{
    const IVec in = IVec{0, 1, 2, 3} < n;
    return (Vec)(((IVec)x & in) | ((IVec)splat(other) & ~in));
}

#include "core/kv/kernels_body.inl"
#include "core/kv/kernels_decoded.inl"

inline Vec weight(Vec x) { return exp_negative(x); }

}  // namespace

extern constinit const AttendKernels kPlainAttend = {
    .scores = {VKV_BY_ROWS(f16_scores)},
    .values = {VKV_BY_ROWS(f16_values)},
    .decode_keys = VKV_ALL_CODECS(decode_keys),
    .decode_values = VKV_ALL_CODECS(decode_values),
    .block_scores = block_scores,
    .block_values = block_values,
    .rope_block = rope_block,
    .softmax = softmax,
    .digits = nullptr,
    .most_rows_of_codes = 0,

    .softcap = softcap,
    .hadamard = hadamard,
    .scale = scale,
    .shift = shift,
};

const AttendKernels &attend_kernels(simd::Level level)
{
#if defined(__x86_64__)
    if (level == simd::Level::avx512) return kAvx512Attend;
    if (level == simd::Level::avx2) return kAvx2Attend;
#endif
    static_cast<void>(level);
    return kPlainAttend;
}

}  // namespace vkv::kv
