// IEEE 754 half precision in plain C++: no compiler half type, no instruction set.
//
// float_to_half rounds to nearest, ties to even, with subnormals and overflow to infinity; a NaN becomes quiet and keeps the sign
// and the upper payload bits, as the hardware conversions do. half_to_float is exact.
#pragma once
#include <cstdint>

namespace vkv {

inline float half_to_float(uint16_t half)
{
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
    const uint32_t exponent = (half >> 10) & 0x1Fu;
    const uint32_t mantissa = half & 0x3FFu;
    if (exponent == 0) {
        const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    uint32_t bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    if (exponent == 31) bits = sign | 0x7F800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0u);
    return __builtin_bit_cast(float, bits);
}

inline uint16_t float_to_half(float value)
{
    const uint32_t bits = __builtin_bit_cast(uint32_t, value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7FFFFFFFu;
    uint32_t half;
    if (magnitude > 0x7F800000u) {
        half = 0x7E00u | ((magnitude >> 13) & 0x3FFu);
    } else if (magnitude >= 0x477FF000u) {  // 65520 and more round to infinity
        half = 0x7C00u;
    } else if (magnitude >= 0x38800000u) {  // normal: the carry of the rounding may move up into the exponent
        half = (magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
    } else if (magnitude > 0x33000000u) {  // subnormal: shift the full significand into units of 2^-24
        const uint32_t significand = (magnitude & 0x7FFFFFu) | 0x800000u;
        const uint32_t shift = 126 - (magnitude >> 23);  // 14 .. 24
        const uint32_t rest = significand & ((1u << shift) - 1), tie = 1u << (shift - 1);
        half = significand >> shift;
        half += rest > tie || (rest == tie && (half & 1u));
    } else {  // at most 2^-25: zero (the tie goes to even)
        half = 0;
    }
    return static_cast<uint16_t>(sign | half);
}

}  // namespace vkv
