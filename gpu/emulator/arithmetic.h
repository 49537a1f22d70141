// What the emulated instructions compute: conversions of halves, pairs of halves, byte permutation, and a warp's matrix product.
#pragma once
#include <cstdint>

namespace vkv::gpu::cu::emulated {

float half_to_float(uint16_t half);
uint16_t float_to_half(float value);  // to nearest, ties to even; any NaN becomes 0x7fff, as the device's does
uint16_t double_to_half(double value);
uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c);  // each rounded once
uint32_t half2_sub(uint32_t a, uint32_t b);
uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector);

// The registers of one lane in mma.m16n8k16.row.col.f32.f16.f16.f32.
struct Fragments {
    float *d;           // [4]
    const uint32_t *a;  // [4]
    const uint32_t *b;  // [2]
};
// Products are exact, sums are floats in the order of k.
void multiply(const Fragments (&lanes)[32]);

}  // namespace vkv::gpu::cu::emulated
