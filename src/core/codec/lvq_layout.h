// Bytes of the LVQ family and the arithmetic of making them. Native byte order; nothing is aligned.
//
//   model   0  u32 magic | u16 version | u16 further means | u32 dim | u32 rows of the sample | f32 mean[1 + further means][dim]
//   code    0  f32 bias | f32 step | f32 constant | u32 sum of codes + number of the mean << 22
//              | u8 codes[dim]           (8 bits)
//              | u4 codes, 16 bytes a 32  (4 bits, order of simd/kernels.h)
//   second  0  f32 bias | f32 step | u8 codes[dim]
//
// A vector is coded around the mean of its group, or the first. With r = x - mean (x normalised under cosine), the first level is
// r^ = bias + step * c and the second adds bias2 + step2 * c2. Codes are rounded on the grid from min r to max r; bias and step are
// the least-squares fit of r on the codes. In the first level both are then stretched by |r|^2 / <r, r^>, so that <r, r^> = |r|^2:
// the error e = r - r^ is orthogonal to r, and <s, r^> is an estimate of <s, r> without bias for any s, exact for s = r. The
// constant is |r| under l2 and cosine (the norm, since its square leaves the range of float for inputs that do not; of a zero
// vector under cosine sqrt(|r|^2 + 1)) and <mean, r> under ip; both are of r itself, not of r^.
//
// bias and step are float, not half: a vector may hold any finite floats.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/codec/families.h"
#include "core/codec/lvq_means.h"

namespace vkv::lvq {

inline constexpr uint32_t kModelMagic = 0x4D51564C;  // "LVQM"
inline constexpr uint16_t kModelVersion = 1;

inline constexpr int kSumBits = 22;

struct ModelHeader {
    uint32_t magic;
    uint16_t version;
    uint16_t further;  // means
    uint32_t dim;
    uint32_t rows;
};
static_assert(sizeof(ModelHeader) == 16);

struct Header {
    float bias, step, constant;
    uint32_t sum_and_mean;

    uint32_t sum() const { return sum_and_mean & ((1u << kSumBits) - 1); }  // of the codes
    uint32_t mean() const { return sum_and_mean >> kSumBits; }
};
static_assert(sizeof(Header) == 16);
static_assert(kMaxDim * 255 < 1u << kSumBits && kMaxMeans == 1u << (32 - kSumBits));

struct SecondHeader {
    float bias, step;
};
static_assert(sizeof(SecondHeader) == 8);

inline size_t packed_size(uint32_t dim, int bits) { return bits == 8 ? dim : (size_t{dim} + 31) / 32 * 16; }

struct Affine {
    float bias, step;
    uint32_t sum;   // of the codes
    double square;  // of bias + step * codes: |r^|^2 = <r, r^>, since the fit leaves an orthogonal rest
};

// Sums term(i) for i < n in four chains, which do not wait for each other's additions and fit vector registers.
template <class Term>
inline double sum_of(uint32_t n, Term term)
{
    double sum[4] = {};
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (uint32_t k = 0; k < 4; k++) sum[k] += term(i + k);
    for (; i < n; i++) sum[0] += term(i);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// codes[i] in 0..levels and the least-squares line through them; n > 0. Any finite floats.
Affine quantize(const float *r, uint32_t n, int levels, uint8_t *codes);

void pack_u4(const uint8_t *codes, uint32_t n, uint8_t *packed);
void unpack_u4(const uint8_t *packed, uint32_t n, uint8_t *codes);

}  // namespace vkv::lvq
