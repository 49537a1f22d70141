// Every kernel of every level this processor has, against the scalar level: integer kernels and the sums of a cosine bit for bit,
// float kernels within a budget relative to the sum of the terms' magnitudes. All sizes 0..130 and some large ones, at every
// misalignment that matters.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "core/error.h"
#include "core/simd/half.h"
#include "core/simd/kernels.h"

namespace vkv::simd {
namespace {

constexpr double kFloatBudget = 1e-6;    // of the sum of |terms|
constexpr double kDoubleBudget = 5e-15;  // ... of exact products

std::vector<size_t> sizes()
{
    std::vector<size_t> all;
    for (size_t n = 0; n <= 130; n++) all.push_back(n);
    for (size_t n : {383, 384, 385, 768, 1000, 1536, 2000, 4095, 16000}) all.push_back(n);
    return all;
}

// n values of T that start `shift` bytes behind an aligned address, with guard bytes whose reading as values would show.
template <class T>
class Shifted {
public:
    Shifted(size_t n, size_t shift) : bytes_(n * sizeof(T) + 256, 0xEE), shift_(shift), n_(n) {}

    void set(size_t i, T value) { std::memcpy(bytes_.data() + shift_ + i * sizeof(T), &value, sizeof(T)); }
    T get(size_t i) const
    {
        T value;
        std::memcpy(&value, bytes_.data() + shift_ + i * sizeof(T), sizeof(T));
        return value;
    }
    const T *data() const { return reinterpret_cast<const T *>(bytes_.data() + shift_); }
    T *data() { return reinterpret_cast<T *>(bytes_.data() + shift_); }
    bool guards_intact() const
    {
        for (size_t i = shift_ + n_ * sizeof(T); i < bytes_.size(); i++)
            if (bytes_[i] != 0xEE) return false;
        return true;
    }

private:
    std::vector<uint8_t> bytes_;
    size_t shift_, n_;
};

class SimdLevel : public testing::TestWithParam<Level> {
protected:
    const Kernels &truth() { return kernels(Level::scalar); }
    const Kernels &level() { return kernels(GetParam()); }

    std::mt19937 random_{42};
};

std::vector<Level> levels_here()
{
    std::vector<Level> found;
    for (Level level : {Level::scalar, Level::neon, Level::avx2, Level::avx512})
        if (supported(level)) found.push_back(level);
    return found;
}

template <class T>
double as_double(T value)
{
    if constexpr (sizeof(T) == 2)
        return half_to_float(value);
    else
        return value;
}

template <class T>
void check_float(const char *name, float (*kernel)(const T *, const T *, size_t), float (*truth)(const T *, const T *, size_t),
                 double (*magnitude)(double, double), std::mt19937 &random)
{
    std::normal_distribution<float> normal;
    for (size_t n : sizes()) {
        for (size_t shift : {0, 2, 4, 6, 32}) {
            Shifted<T> a(n, shift), b(n, shift + 10);
            double terms = 0;
            for (size_t i = 0; i < n; i++) {
                const float x = normal(random), y = normal(random);
                if constexpr (sizeof(T) == 2) {
                    a.set(i, float_to_half(x));
                    b.set(i, float_to_half(y));
                } else {
                    a.set(i, x);
                    b.set(i, y);
                }
                terms += magnitude(as_double(a.get(i)), as_double(b.get(i)));
            }
            ASSERT_NEAR(kernel(a.data(), b.data(), n), truth(a.data(), b.data(), n), kFloatBudget * terms) << name << " n=" << n;
        }
    }
}

double l2_term(double x, double y) { return (x - y) * (x - y); }
double ip_term(double x, double y) { return std::fabs(x * y); }
double l1_term(double x, double y) { return std::fabs(x - y); }

TEST_P(SimdLevel, FloatDistances)
{
    check_float("l2_f32", level().l2_f32, truth().l2_f32, l2_term, random_);
    check_float("ip_f32", level().ip_f32, truth().ip_f32, ip_term, random_);
    check_float("l1_f32", level().l1_f32, truth().l1_f32, l1_term, random_);
    check_float("l2_f16", level().l2_f16, truth().l2_f16, l2_term, random_);
    check_float("ip_f16", level().ip_f16, truth().ip_f16, ip_term, random_);
    check_float("l1_f16", level().l1_f16, truth().l1_f16, l1_term, random_);
}

// The scalar level is the truth for the others, so it has its own check, against sums written here.
TEST(SimdScalar, DistancesByHand)
{
    const float a[] = {1, -2, 3}, b[] = {4, 5, -6};
    const Kernels &scalar = kernels(Level::scalar);
    EXPECT_FLOAT_EQ(scalar.l2_f32(a, b, 3), 9 + 49 + 81);
    EXPECT_FLOAT_EQ(scalar.ip_f32(a, b, 3), 4 - 10 - 18);
    EXPECT_FLOAT_EQ(scalar.l1_f32(a, b, 3), 3 + 7 + 9);
    const CosineParts parts = scalar.cosine_f32(a, b, 3);
    EXPECT_FLOAT_EQ(parts.dot, -24);
    EXPECT_FLOAT_EQ(parts.norm_a, 14);
    EXPECT_FLOAT_EQ(parts.norm_b, 77);
    const uint8_t codes[] = {255, 0, 7};
    const int16_t query[] = {-4095, 4095, 2};
    EXPECT_EQ(scalar.dot_u8_s16(codes, query, 3), -255 * 4095 + 14);
    EXPECT_EQ(scalar.dot_u8_u8(codes, codes, 3), 255 * 255 + 49);
    uint8_t packed[16] = {0xF1, 0x02};  // values 0, 1, 16, 17 are 1, 2, 15, 0
    int16_t weights[32] = {10, 20};
    weights[16] = 300;
    weights[17] = 4000;
    EXPECT_EQ(scalar.dot_u4_s16(packed, weights, 18), 10 + 40 + 4500);
    EXPECT_EQ(scalar.dot_u4_u4(packed, packed, 18), 1 + 4 + 225);
    const uint8_t x[] = {0b1100}, y[] = {0b1010};
    EXPECT_EQ(scalar.hamming(x, y, 1), 2u);
    uint64_t both, any;
    scalar.and_or_count(x, y, 1, &both, &any);
    EXPECT_EQ(both, 1u);
    EXPECT_EQ(any, 3u);
}

template <class T>
void check_cosine(const char *name, CosineParts (*kernel)(const T *, const T *, size_t),
                  CosineParts (*truth)(const T *, const T *, size_t), std::mt19937 &random)
{
    std::normal_distribution<float> normal;
    for (size_t n : sizes()) {
        Shifted<T> a(n, 2), b(n, 6);
        long double dot = 0, terms = 0, norm_a = 0, norm_b = 0;
        for (size_t i = 0; i < n; i++) {
            if constexpr (sizeof(T) == 2) {
                a.set(i, float_to_half(normal(random)));
                b.set(i, float_to_half(normal(random)));
            } else {
                a.set(i, normal(random));
                b.set(i, normal(random));
            }
            const long double x = as_double(a.get(i)), y = as_double(b.get(i));
            dot += x * y;
            terms += std::fabs(x * y);
            norm_a += x * x;
            norm_b += y * y;
        }
        const CosineParts got = kernel(a.data(), b.data(), n), expected = truth(a.data(), b.data(), n);
        ASSERT_EQ(std::memcmp(&got, &expected, sizeof got), 0) << name << " n=" << n;
        ASSERT_NEAR(got.dot, static_cast<double>(dot), kDoubleBudget * static_cast<double>(terms)) << name << " n=" << n;
        ASSERT_NEAR(got.norm_a, static_cast<double>(norm_a), kDoubleBudget * static_cast<double>(norm_a)) << name << " n=" << n;
        ASSERT_NEAR(got.norm_b, static_cast<double>(norm_b), kDoubleBudget * static_cast<double>(norm_b)) << name << " n=" << n;
    }
}

TEST_P(SimdLevel, CosineParts)
{
    check_cosine("cosine_f32", level().cosine_f32, truth().cosine_f32, random_);
    check_cosine("cosine_f16", level().cosine_f16, truth().cosine_f16, random_);
}

TEST_P(SimdLevel, HalfConversionsOfAllSizes)
{
    std::normal_distribution<float> normal(0, 100);
    for (size_t n : sizes()) {
        Shifted<float> floats(n, 2), widened(n, 6);
        Shifted<uint16_t> halves(n, 4);
        for (size_t i = 0; i < n; i++) floats.set(i, normal(random_));
        level().f32_to_f16(floats.data(), halves.data(), n);
        level().f16_to_f32(halves.data(), widened.data(), n);
        for (size_t i = 0; i < n; i++) {
            ASSERT_EQ(halves.get(i), float_to_half(floats.get(i))) << n;
            ASSERT_EQ(widened.get(i), half_to_float(halves.get(i))) << n;
        }
        ASSERT_TRUE(halves.guards_intact()) << n;
        ASSERT_TRUE(widened.guards_intact()) << n;
    }
}

TEST_P(SimdLevel, Bits)
{
    for (size_t n : sizes()) {
        for (size_t shift : {0, 1, 3, 8}) {
            Shifted<uint8_t> a(n, shift), b(n, shift + 1);
            for (size_t i = 0; i < n; i++) {
                a.set(i, static_cast<uint8_t>(random_()));
                b.set(i, static_cast<uint8_t>(random_()));
            }
            ASSERT_EQ(level().hamming(a.data(), b.data(), n), truth().hamming(a.data(), b.data(), n)) << n;
            uint64_t got[2], expected[2];
            level().and_or_count(a.data(), b.data(), n, &got[0], &got[1]);
            truth().and_or_count(a.data(), b.data(), n, &expected[0], &expected[1]);
            ASSERT_EQ(got[0], expected[0]) << n;
            ASSERT_EQ(got[1], expected[1]) << n;
        }
    }
}

enum class Fill { random, largest, negative };

uint8_t fill_code(Fill fill, std::mt19937 &random) { return fill == Fill::random ? static_cast<uint8_t>(random()) : 255; }
int16_t fill_query(Fill fill, std::mt19937 &random)
{
    if (fill == Fill::random) return static_cast<int16_t>(static_cast<int>(random() % 8191) - 4095);
    return fill == Fill::largest ? 4095 : -4095;
}

TEST_P(SimdLevel, EightBitDots)
{
    for (size_t n : sizes()) {
        for (Fill fill : {Fill::random, Fill::largest, Fill::negative}) {
            for (size_t shift : {0, 1, 7, 16}) {
                Shifted<uint8_t> a(n, shift), b(n, shift + 3);
                Shifted<int16_t> q(n, shift * 2);
                for (size_t i = 0; i < n; i++) {
                    a.set(i, fill_code(fill, random_));
                    b.set(i, fill_code(fill, random_));
                    q.set(i, fill_query(fill, random_));
                }
                ASSERT_EQ(level().dot_u8_s16(a.data(), q.data(), n), truth().dot_u8_s16(a.data(), q.data(), n)) << n;
                ASSERT_EQ(level().dot_u8_u8(a.data(), b.data(), n), truth().dot_u8_u8(a.data(), b.data(), n)) << n;
            }
        }
    }
}

TEST_P(SimdLevel, FourBitDots)
{
    for (size_t n : sizes()) {
        const size_t padded = (n + 31) / 32 * 32;
        for (Fill fill : {Fill::random, Fill::largest, Fill::negative}) {
            for (size_t shift : {0, 1, 7, 16}) {
                Shifted<uint8_t> a(padded / 2, shift), b(padded / 2, shift + 3);
                Shifted<int16_t> q(padded, shift * 2);
                for (size_t i = 0; i < padded / 2; i++) {
                    a.set(i, fill_code(fill, random_));
                    b.set(i, fill_code(fill, random_));
                }
                for (size_t i = n; i < padded; i++) {  // padding codes are zero
                    const size_t byte = i / 32 * 16 + i % 16;
                    const uint8_t keep = i % 32 < 16 ? 0xF0 : 0x0F;
                    a.set(byte, a.get(byte) & keep);
                    b.set(byte, b.get(byte) & keep);
                }
                for (size_t i = 0; i < padded; i++) q.set(i, i < n ? fill_query(fill, random_) : int16_t{0});
                ASSERT_EQ(level().dot_u4_s16(a.data(), q.data(), n), truth().dot_u4_s16(a.data(), q.data(), n)) << n;
                ASSERT_EQ(level().dot_u4_u4(a.data(), b.data(), n), truth().dot_u4_u4(a.data(), b.data(), n)) << n;
            }
        }
    }
}

TEST_P(SimdLevel, MinMaxAndQuantize)
{
    std::normal_distribution<float> normal;
    for (size_t n : sizes()) {
        Shifted<float> x(n, 2);
        for (size_t i = 0; i < n; i++) x.set(i, normal(random_));
        float low, high, expected_low, expected_high;
        level().min_max(x.data(), n, &low, &high);
        truth().min_max(x.data(), n, &expected_low, &expected_high);
        ASSERT_EQ(low, expected_low) << n;
        ASSERT_EQ(high, expected_high) << n;
        for (int top : {15, 255}) {
            Shifted<uint8_t> got(n, 1), expected(n, 1);
            // a narrower range than the data's, so that both ends are clamped
            level().quantize_u8(x.data(), n, -1.5f, static_cast<float>(top) / 3, top, got.data());
            truth().quantize_u8(x.data(), n, -1.5f, static_cast<float>(top) / 3, top, expected.data());
            for (size_t i = 0; i < n; i++) ASSERT_EQ(got.get(i), expected.get(i)) << n << " " << x.get(i);
            ASSERT_TRUE(got.guards_intact()) << n;
        }
    }
}

TEST_P(SimdLevel, QuantizeRoundsTiesToEvenAndClamps)
{
    const float x[] = {0.5f, 1.5f, 2.5f, 253.5f, 254.5f, -3,     1e30f, -1e30f, INFINITY,
                       300,  0,    255,  1e-30f, 17.49f, 17.51f, 18.5f, 19.5f};
    const uint8_t expected[] = {0, 2, 2, 254, 254, 0, 255, 0, 255, 255, 0, 255, 0, 17, 18, 18, 20};
    uint8_t codes[17];
    level().quantize_u8(x, 17, 0, 1, 255, codes);
    for (int i = 0; i < 17; i++) EXPECT_EQ(codes[i], expected[i]) << x[i];
}

TEST_P(SimdLevel, CanBeSelected)
{
    const Level before = active_level();
    set_level(GetParam());
    EXPECT_EQ(active_level(), GetParam());
    EXPECT_EQ(&kernels(), &level());
    set_level(before);
}

INSTANTIATE_TEST_SUITE_P(Levels, SimdLevel, testing::ValuesIn(levels_here()),
                         [](const auto &info) { return level_name(info.param); });

TEST(SimdChoice, TheBestLevelIsActiveAndOthersAreRefused)
{
    EXPECT_EQ(active_level(), best_level());
    for (Level level : {Level::neon, Level::avx2, Level::avx512}) {
        if (supported(level)) continue;
        try {
            set_level(level);
            FAIL() << level_name(level);
        } catch (const Error &error) {
            EXPECT_EQ(error.code(), Errc::not_supported);
            EXPECT_NE(error.message().find(level_name(level)), std::string::npos);
        }
        EXPECT_EQ(active_level(), best_level());
    }
}

}  // namespace
}  // namespace vkv::simd
