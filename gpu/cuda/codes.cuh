// How the codes of a tile become fragments of mma.m16n8k16.
//
// Keys are operand B of the scores [rows][tokens] = Q K^T, values operand B of the sums [rows][dims] = P V. In both a lane holds,
// for column lane / 4 of an n-tile, four elements of every step of 16 along k: register 0 the k positions 2 * (lane % 4) + {0, 1},
// register 1 the same + 8. Which dim (keys) or token (values) a k position stands for is free as long as operand A says the same.
// So a lane takes whole words of codes, and the assignment follows from what one shift and one mask make of a word:
//   f16   a word is a register
//   int8  bytes with 0x64 above them are the halves 1024 + code; 1152 is subtracted
//   less  the word is brought into eight nibbles. Uniform: nibbles masked in pairs are subnormal halves, code * 2^-24, or with the
//         odd nibbles code * 2^-20 (operand A takes 1/16 of these). Rotated, 4 bits: the magnitude of a level by byte_permute and
//         its sign above make subnormal halves, level * 2^-24; 2 and 3 bits: both bytes of a half by byte_permute. All are exact;
//         the factor 2^24 is applied to the sums.
//
// A unit of keys is what a lane gets of one word: 16 dims (one step) of the four lanes of a column, for nibbles 32 (two steps).
// Tokens are worked on in chunks; column c of n-tile j of the scores is the token that token_of(c / 2, c % 2, j) says, so that the
// lane that gets the weights of a token (columns 2 * (lane % 4) + {0, 1}) also holds its values.
#pragma once
#include <cstdint>

#include "core/kv/tile_layout.h"
#include "gpu/cuda/target.h"

namespace vkv::gpu::cu {

inline constexpr int kWarp = 32;

// 2^24 where halves are subnormal.
VKV_DEVICE constexpr float factor_of(kv::Codec codec)
{
    return codec >= kv::Codec::uniform4 && codec <= kv::Codec::rotated4 ? 16777216.0f : 1.0f;
}

template <kv::Codec codec>
struct Codes {
    static constexpr int kBits = kv::bits_of(codec);
    static constexpr bool kNibbles = kBits <= 4, kUniform = kv::is_uniform(codec), kRotated = kv::is_rotated(codec);
    static constexpr bool kScaled = codec != kv::Codec::f16, kHigh = kv::has_high_plane(codec);
    static constexpr int kLowBits = kv::low_bits(codec), kWord = 32 / kLowBits;  // elements of a word (of low bits)
    static constexpr int kSteps = kNibbles ? 2 : 1, kUnitDims = 16 * kSteps;     // of a unit of keys
    static constexpr int kGroup = kUniform                   ? kv::kUniformGroup
                                  : codec == kv::Codec::int8 ? kv::kInt8Group
                                                             : 1024;  // dims of a scale
    static constexpr int kNext = kUniform ? 2 : 1;                    // elements from half to half of a register
    static constexpr float kFactor = factor_of(codec);                // what sums of products lack

    VKV_DEVICE static constexpr int groups(int dim) { return kScaled ? (dim + kGroup - 1) / kGroup : 0; }
    VKV_DEVICE static constexpr bool sixteenth(int reg) { return kUniform && reg % 2 == 1; }

    // Element of half 0 of register reg (of four) that is made of the nibbles of part `part` of a word (codes of 2 and 3 bits have
    // two parts to a word).
    VKV_DEVICE static constexpr int nibble_element(int reg, int part)
    {
        const int row = kUniform ? reg / 2 : reg / 2 * 2;  // byte
        return kBits == 4 ? row + reg % 2 * 4 : row + reg % 2 * 8 + part * 4;
    }

    // Dim of half `half` of register `reg` (of two a step) of a unit of keys.
    VKV_DEVICE static constexpr int dim_of(int unit, int quad, int reg, int half)
    {
        if (kBits == 16) return 16 * unit + 8 * reg + 2 * quad + half;
        if (kBits == 8) return 16 * unit + 4 * quad + 2 * reg + half;
        if (kBits == 4) return 8 * (4 * unit + quad) + nibble_element(reg, 0) + half * kNext;
        const int part = 4 * unit + quad;
        return 16 * (part / 2) + nibble_element(reg, part % 2) + half * kNext;
    }
};

// Tokens that are worked on together: what fits registers, and not much more than a full tile has. A row of values is a row of
// words, one for each of the four lanes of a column; for codes of 2 and 3 bits half of a word may do, two lanes then share it.
template <kv::Codec codec, int dim_v>
struct Chunk {
    using C = Codes<codec>;
    static constexpr bool kHalved = C::kBits == 3 && (dim_v == 256 || dim_v == 96 || (dim_v == 128 && C::kRotated));
    static constexpr bool kOneRow = C::kBits < 4 || (C::kBits < 16 && dim_v == 256) || (C::kBits == 4 && dim_v == 96);
    static constexpr int kRows = kOneRow ? 1 : 2, kRowTokens = 4 * C::kWord / (kHalved ? 2 : 1);
    static constexpr int kTokens = kRows * kRowTokens;
    static constexpr int kTiles = kTokens / 8;  // n-tiles of scores

    // Token of the chunk: quad is the lane in a column, 0..3, half its register's half.
    VKV_DEVICE static constexpr int token_of_tile(int j)
    {
        if (C::kBits == 16) return 8 * j;
        if (C::kBits == 8) return j / 2 * 16 + j % 2 * 2;
        if (C::kBits == 4) return j / 4 * 32 + C::nibble_element(j % 4, 0);
        return C::nibble_element(j % 4, j / 4);
    }
    VKV_DEVICE static constexpr int token_of_lane(int quad, int half)
    {
        const int first = kHalved ? C::kWord * (quad / 2) + C::nibble_element(0, quad % 2) : C::kWord * quad;
        return first + half * C::kNext;
    }
};

// ---- words to halves ------------------------------------------------------------------------------------------------------

VKV_DEVICE void bytes_to_halves(uint32_t word, uint32_t *out)
{
    constexpr uint32_t kAbove = 0x64646464, k1152 = 0x64806480;
    out[0] = half2_sub(byte_permute(word, kAbove, 0x4140), k1152);
    out[1] = half2_sub(byte_permute(word, kAbove, 0x4342), k1152);
}

VKV_DEVICE void uniform_nibbles(uint32_t nibbles, uint32_t *out)
{
    const uint32_t upper = nibbles >> 8;
    out[0] = nibbles & 0x000F000F;
    out[1] = nibbles & 0x00F000F0;
    out[2] = upper & 0x000F000F;
    out[3] = upper & 0x00F000F0;
}

// The magnitudes of the upper half of 16 levels.
inline constexpr uint32_t kMagnitudesLow = 6 | 18 << 8 | 31 << 16 | 44 << 24, kMagnitudesHigh = 58 | 75 << 8 | 96 << 16 | 127 << 24;

// Codes whose highest bit is 0 are negative, and levels are antisymmetric.
VKV_DEVICE void rotated_of_16(uint32_t nibbles, uint32_t *out)
{
    const uint32_t negative = ~nibbles & 0x88888888;
    const uint32_t index = (nibbles ^ (negative - (negative >> 3))) & 0x77777777;
    const uint32_t first = byte_permute(kMagnitudesLow, kMagnitudesHigh, index);         // nibbles 0, 1, 2, 3
    const uint32_t second = byte_permute(kMagnitudesLow, kMagnitudesHigh, index >> 16);  // nibbles 4, 5, 6, 7
    const uint32_t even = (negative << 4) & 0x80808080, odd = negative & 0x80808080;
    out[0] = byte_permute(first, even, 0x5240);
    out[1] = byte_permute(first, odd, 0x5341);
    out[2] = byte_permute(second, even, 0x7260);
    out[3] = byte_permute(second, odd, 0x7361);
}

// Levels as halves, their lower and their upper bytes: 2 bits have four, 3 bits eight.
template <int bits>
struct LevelBytes;
template <>
struct LevelBytes<3> {  // -127 -79 -45 -14 14 45 79 127
    static constexpr uint32_t kLower[2] = {0x00a0f0f0, 0xf0f0a000}, kUpper[2] = {0xcbd1d4d7, 0x5754514b};
};
template <>
struct LevelBytes<2> {  // -127 -38 38 127
    static constexpr uint32_t kLower[2] = {0xf0c0c0f0, 0}, kUpper[2] = {0x5750d0d7, 0};
};

template <int bits>
VKV_DEVICE void rotated_of_few(uint32_t nibbles, uint32_t *out)
{
    using L = LevelBytes<bits>;
    for (int i = 0; i < 2; ++i) {  // nibbles 0..3, 4..7
        const uint32_t lower = byte_permute(L::kLower[0], L::kLower[1], nibbles >> 16 * i);
        const uint32_t upper = byte_permute(L::kUpper[0], L::kUpper[1], nibbles >> 16 * i);
        out[2 * i] = byte_permute(lower, upper, 0x6240);
        out[2 * i + 1] = byte_permute(lower, upper, 0x7351);
    }
}

template <kv::Codec codec>
VKV_DEVICE void nibbles_to_halves(uint32_t nibbles, uint32_t *out)
{
    if constexpr (Codes<codec>::kUniform)
        uniform_nibbles(nibbles, out);
    else if constexpr (Codes<codec>::kBits == 4)
        rotated_of_16(nibbles, out);
    else
        rotated_of_few<Codes<codec>::kBits>(nibbles, out);
}

// Part `part` (0 or 1) of a word of 2-bit fields as nibbles: fields `part` and `part` + 2 of each byte.
VKV_DEVICE uint32_t nibbles_of_pairs(uint32_t word, int part) { return (word >> (2 * part)) & 0x33333333; }

// With the third bit of each from a word of the high plane that was shifted so that the fields of the low word are its low nibbles.
VKV_DEVICE uint32_t nibbles_of_triples(uint32_t word, uint32_t high, int part)
{
    const uint32_t own = high >> part;
    return nibbles_of_pairs(word, part) | ((own << 2) & 0x04040404) | ((own << 4) & 0x40404040);
}

}  // namespace vkv::gpu::cu
