// The arithmetic of the emulated instructions against plain loops and exact numbers: what warps exchange, the matrix product with
// PTX's fragments, conversions of halves, pairs of halves, byte permutation.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <vector>

#include "core/simd/half.h"
#include "gpu/cuda/target.h"

namespace {

using namespace vkv::gpu::cu;

constexpr int kThreads = 128;

struct Numbers {
    float *out;
    int *blocks;
};

VKV_KERNEL void collectives(Numbers numbers)
{
    const int lane = thread() % 32;
    int sum = thread();
    for (int mask = 16; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    const double wide = shuffle(static_cast<double>(thread()) + 0.25, lane + 1);
    const bool any = warp_any(thread() == 70), none = warp_any(false);
    float *out = numbers.out + 4 * (block() * block_threads() + thread());
    out[0] = static_cast<float>(sum);
    out[1] = static_cast<float>(wide);
    out[2] = static_cast<float>(any);
    out[3] = static_cast<float>(none);
    if (thread() == 0) numbers.blocks[block()] += blocks();
}

TEST(EmulatorArithmetic, WarpCollectives)
{
    const int blocks_run = 50;
    std::vector<float> out(4 * kThreads * blocks_run);
    std::vector<int> ran(blocks_run);
    launch(collectives, blocks_run, kThreads, 0, nullptr, Numbers{out.data(), ran.data()});
    EXPECT_EQ(ran, std::vector<int>(blocks_run, blocks_run)) << "each block runs once";
    for (int i = 0; i < kThreads * blocks_run; ++i) {
        const int index = i % kThreads, warp = index / 32;
        ASSERT_EQ(out[4 * i], 32 * 32 * warp + 16 * 31);
        ASSERT_EQ(out[4 * i + 1], warp * 32 + (index + 1) % 32 + 0.25);
        ASSERT_EQ(out[4 * i + 2], warp == 2);
        ASSERT_EQ(out[4 * i + 3], 0);
    }
}

struct Matrices {
    const uint16_t *a, *b;  // [16][16], [16][8]
    float *d;               // [16][8]
};

uint32_t word(uint16_t low, uint16_t high) { return low | static_cast<uint32_t>(high) << 16; }

// Fragments as PTX ISA 9.7.14, "Matrix Fragments for mma.m16n8k16 with floating point type".
VKV_KERNEL void product(Matrices matrices)
{
    const int lane = thread() % 32, group = lane >> 2, of_four = lane % 4;
    const auto a_at = [&](int i) {
        const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8, column = of_four * 2 + (i & 1) + (i >= 4 ? 8 : 0);
        return matrices.a[row * 16 + column];
    };
    const auto b_at = [&](int i) { return matrices.b[(of_four * 2 + (i & 1) + (i >= 2 ? 8 : 0)) * 8 + group]; };
    const auto d_at = [&](int i) { return matrices.d + (i < 2 ? group : group + 8) * 8 + of_four * 2 + (i & 1); };
    uint32_t a[4], b[2];
    float d[4];
    for (int i = 0; i < 4; ++i) a[i] = word(a_at(2 * i), a_at(2 * i + 1));
    for (int i = 0; i < 2; ++i) b[i] = word(b_at(2 * i), b_at(2 * i + 1));
    for (int i = 0; i < 4; ++i) d[i] = *d_at(i);
    mma_m16n8k16(d, a, b);
    for (int i = 0; i < 4; ++i) *d_at(i) = d[i];
}

TEST(EmulatorArithmetic, MatrixProduct)
{
    std::mt19937 random(5);
    std::uniform_real_distribution<float> uniform(-2, 2);
    std::vector<uint16_t> a(256), b(128);
    std::vector<float> d(128), expected(128);
    for (uint16_t &value : a) value = vkv::float_to_half(uniform(random));
    for (uint16_t &value : b) value = vkv::float_to_half(uniform(random));
    a[3] = 1;  // a subnormal
    for (float &value : d) value = uniform(random);
    for (int row = 0; row < 16; ++row) {
        for (int column = 0; column < 8; ++column) {
            float sum = d[row * 8 + column];
            for (int k = 0; k < 16; ++k) sum += vkv::half_to_float(a[row * 16 + k]) * vkv::half_to_float(b[k * 8 + column]);
            expected[row * 8 + column] = sum;
        }
    }
    launch(product, 1, 32, 0, nullptr, Matrices{a.data(), b.data(), d.data()});
    EXPECT_EQ(d, expected);
}

TEST(EmulatorArithmetic, HalvesOfEveryBitPattern)
{
    for (uint32_t bits = 0; bits < 65536; ++bits) {
        const auto half = static_cast<uint16_t>(bits);
        const float value = half_to_float(half), expected = vkv::half_to_float(half);
        if (std::isnan(expected)) {
            ASSERT_TRUE(std::isnan(value)) << bits;
            ASSERT_EQ(float_to_half(value), 0x7fff) << bits;
        } else {
            ASSERT_EQ(std::bit_cast<uint32_t>(value), std::bit_cast<uint32_t>(expected)) << bits;
            ASSERT_EQ(float_to_half(value), half) << bits;
        }
    }
}

// An exact number, in units of 2^-60.
using Exact = __int128;
Exact exact(float value) { return static_cast<Exact>(std::ldexp(static_cast<double>(value), 60)); }
Exact exact_product(uint16_t a, uint16_t b)  // of halves
{
    const auto units = [](uint16_t half) { return static_cast<Exact>(std::ldexp(vkv::half_to_float(half), 24)); };
    return units(a) * units(b) * (1 << 12);
}

// The half nearest to an exact number, found among all of them; ties to the even one.
uint16_t nearest_half(Exact number)
{
    const auto units = [](uint32_t half) {
        const uint32_t exponent = std::max(1U, half >> 10), significand = (half & 0x3ff) | (half >> 10 ? 0x400 : 0);
        return static_cast<Exact>(significand) << (exponent - 25 + 60);
    };
    const Exact magnitude = number < 0 ? -number : number;
    uint32_t low = 0, high = 0x7c00;
    if (magnitude >= units(high)) low = high - 1;
    while (high - low > 1) {
        const uint32_t middle = (low + high) / 2;
        (units(middle) <= magnitude ? low : high) = middle;
    }
    const Exact below = magnitude - units(low), above = units(high) - magnitude;
    const uint32_t best = below < above || (below == above && low % 2 == 0) ? low : high;
    return static_cast<uint16_t>(best | (number < 0 ? 0x8000U : 0U));
}

TEST(EmulatorArithmetic, FloatsToHalves)
{
    std::mt19937 random(6);
    for (int i = 0; i < 500000; ++i) {
        const float value = std::ldexp(static_cast<float>(random()), static_cast<int>(random() % 43) - 57) * (i % 2 ? 1.0F : -1.0F);
        ASSERT_EQ(float_to_half(value), nearest_half(exact(value))) << value;
    }
    for (uint32_t half = 0; half < 0x7c00; ++half) {  // ties, and their neighbours
        const float low = half_to_float(static_cast<uint16_t>(half));
        const float high = half < 0x7bff ? half_to_float(static_cast<uint16_t>(half + 1)) : 65536.0F, tie = (low + high) / 2;
        for (const float value : {std::nextafter(tie, 0.0F), tie, std::nextafter(tie, 1e9F)}) {
            ASSERT_EQ(float_to_half(value), nearest_half(exact(value))) << value;
            ASSERT_EQ(float_to_half(-value), float_to_half(value) | 0x8000) << value;
        }
    }
    EXPECT_EQ(float_to_half(1e30F), 0x7c00);
    EXPECT_EQ(float_to_half(-INFINITY), 0xfc00);
    EXPECT_EQ(float_to_half(-1e-30F), 0x8000);
    EXPECT_EQ(float_to_half(NAN), 0x7fff);
    EXPECT_EQ(floats_to_half2(1.0F, -2.0F), 0xc0003c00U);
}

TEST(EmulatorArithmetic, PairsOfHalvesAreRoundedOnce)
{
    std::mt19937 random(7);
    const auto finite = [&] {
        const auto bits = static_cast<uint16_t>(random());
        return static_cast<uint16_t>((bits & 0x7c00) == 0x7c00 ? bits & 0xbfff : bits);
    };
    const auto same = [](uint32_t bits, Exact number) {
        return (number == 0 && (bits & 0x7fff) == 0) || bits == nearest_half(number);
    };
    const auto value = [](uint16_t half) { return exact(vkv::half_to_float(half)); };
    for (int i = 0; i < 400000; ++i) {
        const uint16_t a = finite(), b = finite(), c = finite(), e = finite();
        const uint32_t sum = half2_fma(word(a, e), word(b, a), word(c, b)), difference = half2_sub(word(a, b), word(c, e));
        ASSERT_TRUE(same(sum & 0xffff, exact_product(a, b) + value(c))) << a << " " << b << " " << c;
        ASSERT_TRUE(same(sum >> 16, exact_product(e, a) + value(b))) << e << " " << a << " " << b;
        ASSERT_TRUE(same(difference & 0xffff, value(a) - value(c))) << a << " " << c;
        ASSERT_TRUE(same(difference >> 16, value(b) - value(e))) << b << " " << e;
    }
    // What a float in between would round to a tie.
    EXPECT_EQ(emulated::double_to_half(1 + 0x1p-11 + 0x1p-40), 0x3c01);
    EXPECT_EQ(emulated::double_to_half(1 + 0x1p-11), 0x3c00);
    EXPECT_EQ(emulated::double_to_half(-(1 + 0x1p-11 - 0x1p-40)), 0xbc00);
    EXPECT_EQ(emulated::double_to_half(-(1 + 0x1p-11 + 0x1p-40)), 0xbc01);
}

TEST(EmulatorArithmetic, BytePermutation)
{
    EXPECT_EQ(byte_permute(0x33221100, 0x77665544, 0x7531), 0x77553311U);
    EXPECT_EQ(byte_permute(0x33221100, 0x77665544, 0x0246), 0x00224466U);
    EXPECT_EQ(byte_permute(0x33221100, 0x77665544, 0x8f9a), 0x00771122U) << "the upper bit of a selector's digit does not count";
}

}  // namespace
