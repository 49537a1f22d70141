// Half precision: all 65,536 halves and the rounding of floats, in plain C++ and on every kernel level.
#include "core/simd/half.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/simd/kernels.h"

namespace vkv {
namespace {

// The value of a half from its definition, not from bit tricks.
double defined_value(uint16_t half)
{
    const int exponent = (half >> 10) & 31, mantissa = half & 1023;
    const double sign = half & 0x8000 ? -1 : 1;
    if (exponent == 31) return mantissa ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
    if (exponent == 0) return sign * std::ldexp(mantissa, -24);
    return sign * std::ldexp(1024 + mantissa, exponent - 25);
}

bool is_nan(uint16_t half) { return (half & 0x7C00) == 0x7C00 && (half & 0x3FF); }

std::vector<simd::Level> levels()
{
    std::vector<simd::Level> found;
    for (simd::Level level : {simd::Level::scalar, simd::Level::neon, simd::Level::avx2, simd::Level::avx512})
        if (simd::supported(level)) found.push_back(level);
    return found;
}

TEST(Half, EveryHalfHasItsDefinedValue)
{
    for (uint32_t i = 0; i < 65536; i++) {
        const uint16_t half = static_cast<uint16_t>(i);
        const float value = half_to_float(half);
        if (is_nan(half))
            ASSERT_TRUE(std::isnan(value)) << i;
        else
            ASSERT_EQ(value, defined_value(half)) << i;
        ASSERT_EQ(std::signbit(value), (half & 0x8000) != 0) << i;
    }
}

TEST(Half, EveryHalfSurvivesTheWayToFloatAndBack)
{
    for (uint32_t i = 0; i < 65536; i++) {
        const uint16_t half = static_cast<uint16_t>(i);
        // a signalling NaN becomes quiet
        ASSERT_EQ(float_to_half(half_to_float(half)), is_nan(half) ? half | 0x200 : half) << i;
    }
}

TEST(Half, RoundsToNearestAndTiesToEven)
{
    for (uint32_t i = 0; i < 0x7BFF; i++) {  // every positive half and its successor
        const uint16_t low = static_cast<uint16_t>(i), high = static_cast<uint16_t>(i + 1);
        const float middle = static_cast<float>((defined_value(low) + defined_value(high)) / 2);  // exact in float
        const uint16_t even = low & 1 ? high : low;
        for (const float sign : {1.0f, -1.0f}) {
            const uint16_t bit = sign < 0 ? 0x8000 : 0;
            ASSERT_EQ(float_to_half(sign * middle), even | bit) << i;
            ASSERT_EQ(float_to_half(sign * std::nextafter(middle, 0.0f)), low | bit) << i;
            ASSERT_EQ(float_to_half(sign * std::nextafter(middle, 1e9f)), high | bit) << i;
        }
    }
}

TEST(Half, OverflowAndUnderflow)
{
    EXPECT_EQ(float_to_half(65504.0f), 0x7BFF);
    EXPECT_EQ(float_to_half(std::nextafter(65520.0f, 0.0f)), 0x7BFF);
    EXPECT_EQ(float_to_half(65520.0f), 0x7C00);
    EXPECT_EQ(float_to_half(std::numeric_limits<float>::max()), 0x7C00);
    EXPECT_EQ(float_to_half(-std::numeric_limits<float>::infinity()), 0xFC00);
    EXPECT_EQ(float_to_half(0x1p-25f), 0);
    EXPECT_EQ(float_to_half(std::nextafter(0x1p-25f, 1.0f)), 1);
    EXPECT_EQ(float_to_half(-std::numeric_limits<float>::denorm_min()), 0x8000);
    EXPECT_TRUE(is_nan(float_to_half(std::numeric_limits<float>::quiet_NaN())));
}

TEST(Half, KernelsAgreeBitForBit)
{
    std::vector<uint16_t> halves(65536);
    for (uint32_t i = 0; i < 65536; i++) halves[i] = static_cast<uint16_t>(i);
    std::vector<float> floats;
    std::mt19937 random(7);
    for (int i = 0; i < 400000; i++) floats.push_back(std::bit_cast<float>(static_cast<uint32_t>(random())));
    for (uint32_t i = 0; i < 0x7C00; i++)
        floats.push_back(
            static_cast<float>((defined_value(static_cast<uint16_t>(i)) + half_to_float(static_cast<uint16_t>(i + 1))) / 2));

    for (simd::Level level : levels()) {
        const simd::Kernels &kernels = simd::kernels(level);
        std::vector<float> widened(halves.size());
        kernels.f16_to_f32(halves.data(), widened.data(), halves.size());
        for (size_t i = 0; i < halves.size(); i++)
            ASSERT_EQ(std::bit_cast<uint32_t>(widened[i]), std::bit_cast<uint32_t>(half_to_float(halves[i])))
                << simd::level_name(level) << " " << i;
        std::vector<uint16_t> narrowed(floats.size());
        kernels.f32_to_f16(floats.data(), narrowed.data(), floats.size());
        for (size_t i = 0; i < floats.size(); i++)
            ASSERT_EQ(narrowed[i], float_to_half(floats[i])) << simd::level_name(level) << " " << floats[i];
    }
}

}  // namespace
}  // namespace vkv
