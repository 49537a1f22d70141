// Bits in, bits out; nothing here knows of threads.
#include "gpu/emulator/arithmetic.h"

#include <bit>
#include <cmath>

#include "core/simd/half.h"

namespace vkv::gpu::cu::emulated {

namespace {

// Without branches, so that loops over it become vectors. Shifted into a float's place a half is too small by 2^112, subnormals
// included; infinities and NaNs then get the exponent that they lost.
[[gnu::always_inline]] inline float widen(uint32_t half)
{
    const uint32_t shifted = (half & 0x7fffu) << 13;
    const float magnitude = std::bit_cast<float>(shifted) * 0x1p112f;
    const uint32_t special = static_cast<int32_t>(shifted) >= 0x0f800000 ? 0x7f800000u : 0u;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | special | (half & 0x8000u) << 16);
}

uint32_t pair(uint16_t low, uint16_t high) { return static_cast<uint32_t>(low) | static_cast<uint32_t>(high) << 16; }
double low(uint32_t word) { return widen(word & 0xffffu); }
double high(uint32_t word) { return widen(word >> 16); }

}  // namespace

float half_to_float(uint16_t half) { return widen(half); }

uint16_t float_to_half(float value) { return std::isnan(value) ? 0x7fff : vkv::float_to_half(value); }

// By way of a float that is rounded to odd: it keeps which side of a tie the number is on.
uint16_t double_to_half(double value)
{
    const auto cut = static_cast<float>(value);
    const double error = value - cut;
    if (error == 0 || !std::isfinite(cut)) return float_to_half(cut);
    uint32_t bits = std::bit_cast<uint32_t>(cut);
    if ((error < 0) != (value < 0)) --bits;  // it was rounded away from zero
    return float_to_half(std::bit_cast<float>(bits | 1));
}

// A product of halves and its sum with a third are exact in double, or so far from a tie that rounding twice changes nothing.
uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c)
{
    return pair(double_to_half(low(a) * low(b) + low(c)), double_to_half(high(a) * high(b) + high(c)));
}

uint32_t half2_sub(uint32_t a, uint32_t b) { return pair(double_to_half(low(a) - low(b)), double_to_half(high(a) - high(b))); }

uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector)
{
    const uint64_t bytes = a | static_cast<uint64_t>(b) << 32;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) result |= static_cast<uint32_t>(bytes >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return result;
}

namespace {

struct Operands {
    alignas(64) uint32_t a[16][16];  // halves
    alignas(64) uint32_t b[16][8];
    alignas(64) float d[16][8];
};

[[gnu::always_inline]] inline void multiply_plain(Operands *of)
{
    alignas(64) float a[16][16], b[16][8];
    for (int i = 0; i < 256; ++i) (&a[0][0])[i] = widen((&of->a[0][0])[i]);
    for (int i = 0; i < 128; ++i) (&b[0][0])[i] = widen((&of->b[0][0])[i]);
    for (int row = 0; row < 16; ++row) {
        float sum[8];
        for (int column = 0; column < 8; ++column) sum[column] = of->d[row][column];
        for (int k = 0; k < 16; ++k) {
            for (int column = 0; column < 8; ++column) sum[column] += a[row][k] * b[k][column];
        }
        for (int column = 0; column < 8; ++column) of->d[row][column] = sum[column];
    }
}

// The same operations in wider registers; nothing is fused.
#if defined(__x86_64__)
__attribute__((target("avx2"))) void multiply_avx2(Operands *of) { multiply_plain(of); }
#endif
void multiply_any(Operands *of) { multiply_plain(of); }

void multiply_here(Operands *of)
{
#if defined(__x86_64__)
    static const bool wide = __builtin_cpu_supports("avx2");
    if (wide) return multiply_avx2(of);
#endif
    multiply_any(of);
}

}  // namespace

void multiply(const Fragments (&lanes)[32])
{
    Operands of;
    for (int lane = 0; lane < 32; ++lane) {
        const Fragments &from = lanes[lane];
        const int group = lane / 4, pair = lane % 4 * 2;
        for (int half = 0; half < 2; ++half) {
            of.a[group][pair + half] = from.a[0] >> 16 * half & 0xffff;
            of.a[group + 8][pair + half] = from.a[1] >> 16 * half & 0xffff;
            of.a[group][pair + 8 + half] = from.a[2] >> 16 * half & 0xffff;
            of.a[group + 8][pair + 8 + half] = from.a[3] >> 16 * half & 0xffff;
            of.b[pair + half][group] = from.b[0] >> 16 * half & 0xffff;
            of.b[pair + 8 + half][group] = from.b[1] >> 16 * half & 0xffff;
            of.d[group][pair + half] = from.d[half];
            of.d[group + 8][pair + half] = from.d[2 + half];
        }
    }
    multiply_here(&of);
    for (int lane = 0; lane < 32; ++lane) {
        const int group = lane / 4, pair = lane % 4 * 2;
        for (int half = 0; half < 2; ++half) {
            lanes[lane].d[half] = of.d[group][pair + half];
            lanes[lane].d[2 + half] = of.d[group + 8][pair + half];
        }
    }
}

}  // namespace vkv::gpu::cu::emulated
