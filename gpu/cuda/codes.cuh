// How the codes of a tile become fragments of mma.m16n8k16.
//
// Keys are operand B of the scores [rows][tokens] = Q K^T, values operand B of the sums [rows][dims] = P V. In both a lane holds,
// for column lane / 4 of an n-tile, four elements of every step of 16 along k: register 0 the k positions 2 * (lane % 4) + {0, 1},
// register 1 the same + 8. Which dim (keys) or token (values) a k position stands for is free as long as operand A says the same.
// So a lane takes whole words of codes, and the assignment follows from what one shift and one mask make of a word:
//   f16   a word is a register
//   int8  bytes with 0x64 above them are the halves 1024 + code; 1152 is subtracted
//   less  the word is brought into eight nibbles. Uniform: nibbles masked in pairs are subnormal halves, code * 2^-24, or with the
//         odd nibbles code * 2^-20 (operand A takes 1/16 of these). Rotated: the magnitude of a level by byte_permute and its sign
//         above make subnormal halves, level * 2^-24. All are exact; the factor 2^24 is applied to the sums.
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

template <kv::Codec codec>
struct Codes {
    static constexpr int kBits = kv::bits_of(codec);
    static constexpr bool kNibbles = kBits <= 4, kUniform = kv::is_uniform(codec), kRotated = kv::is_rotated(codec);
    static constexpr bool kScaled = codec != kv::Codec::f16, kHigh = kv::has_high_plane(codec);
    static constexpr int kLowBits = kv::low_bits(codec), kWord = 32 / kLowBits;  // elements of a word (of low bits)
    static constexpr int kSteps = kNibbles ? 2 : 1, kUnitDims = 16 * kSteps;     // of a unit of keys
    static constexpr int kChunk = kNibbles ? 64 : kBits == 8 ? 32 : 16;          // tokens
    static constexpr int kTiles = kChunk / 8;                                    // n-tiles of scores of a chunk
    static constexpr int kLaneTokens = kChunk / 4;                               // of values
    static constexpr int kGroup = kUniform                   ? kv::kUniformGroup
                                  : codec == kv::Codec::int8 ? kv::kInt8Group
                                                             : 1024;  // dims of a scale
    static constexpr int kNext = kUniform ? 2 : 1;                    // elements from half to half of a register
    static constexpr float kFactor = kNibbles ? 16777216.0f : 1.0f;   // what sums of products lack

    VKV_DEVICE static constexpr int groups(int dim) { return kScaled ? (dim + kGroup - 1) / kGroup : 0; }
    VKV_DEVICE static constexpr bool sixteenth(int reg) { return kUniform && reg % 2 == 1; }

    // Element of half 0 of register reg (of four) that is made of the nibbles of part `part` of a word (codes of 2 and 3 bits have
    // two parts to a word).
    VKV_DEVICE static constexpr int nibble_element(int reg, int part)
    {
        const int row = kUniform ? reg / 2 : reg / 2 * 2;  // byte
        return kBits == 4 ? row + reg % 2 * 4 : row + reg % 2 * 8 + part * 4;
    }

    // Token of the chunk: quad is the lane in a column, 0..3, half its register's half.
    VKV_DEVICE static constexpr int token_of_tile(int j)
    {
        if (kBits == 16) return 8 * j;
        if (kBits == 8) return j / 2 * 16 + j % 2 * 2;
        if (kBits == 4) return j / 4 * 32 + nibble_element(j % 4, 0);
        return nibble_element(j % 4, j / 4);
    }
    VKV_DEVICE static constexpr int token_of_lane(int quad, int half)
    {
        return quad * (kBits == 16 ? 2 : kBits == 8 ? 4 : kBits == 4 ? 8 : 16) + half * kNext;
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

// Magnitudes of levels: of the upper half's for 4 bits, of all for less.
template <int bits>
struct Magnitudes;
template <>
struct Magnitudes<4> {
    static constexpr uint32_t kLow = 6 | 18 << 8 | 31 << 16 | 44 << 24, kHigh = 58 | 75 << 8 | 96 << 16 | 127 << 24;
};
template <>
struct Magnitudes<3> {
    static constexpr uint32_t kLow = 127 | 79 << 8 | 45 << 16 | 14 << 24, kHigh = 14 | 45 << 8 | 79 << 16 | 127 << 24;
};
template <>
struct Magnitudes<2> {
    static constexpr uint32_t kLow = 127 | 38 << 8 | 38 << 16 | 127 << 24, kHigh = 0;
};

// Codes whose highest bit is 0 are negative, and levels are antisymmetric.
template <int bits>
VKV_DEVICE void rotated_nibbles(uint32_t nibbles, uint32_t *out)
{
    constexpr uint32_t kSign = 0x11111111u << (bits - 1);
    const uint32_t negative = ~nibbles & kSign;
    uint32_t index = nibbles;
    if constexpr (bits == 4) index = (nibbles ^ (negative - (negative >> 3))) & 0x77777777;
    const uint32_t first = byte_permute(Magnitudes<bits>::kLow, Magnitudes<bits>::kHigh, index);         // nibbles 0, 1, 2, 3
    const uint32_t second = byte_permute(Magnitudes<bits>::kLow, Magnitudes<bits>::kHigh, index >> 16);  // nibbles 4, 5, 6, 7
    const uint32_t even = (negative << (8 - bits)) & 0x80808080, odd = (negative << (4 - bits)) & 0x80808080;
    out[0] = byte_permute(first, even, 0x5240);
    out[1] = byte_permute(first, odd, 0x5341);
    out[2] = byte_permute(second, even, 0x7260);
    out[3] = byte_permute(second, odd, 0x7361);
}

template <kv::Codec codec>
VKV_DEVICE void nibbles_to_halves(uint32_t nibbles, uint32_t *out)
{
    if constexpr (Codes<codec>::kUniform)
        uniform_nibbles(nibbles, out);
    else
        rotated_nibbles<Codes<codec>::kBits>(nibbles, out);
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
