// The rotation: an isometry with an exact inverse, and the same for ever, because stored tiles depend on it.
#include "core/kv/rotation.h"

#include "kv_rows.h"

namespace vkv::kv {
namespace {

std::vector<float> normal_vector(int dim, uint32_t seed)
{
    std::vector<float> x;
    for (uint16_t half : normal_halves(static_cast<size_t>(dim), seed)) x.push_back(half_to_float(half));
    return x;
}

double dot(const std::vector<float> &a, const std::vector<float> &b)
{
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
    return sum;
}

TEST(Rotation, KeepsLengthsAndAnglesAndGoesBack)
{
    for (int dim = 1; dim <= kMaxHeadDim; dim = dim < 130 ? dim + 1 : dim * 5 / 4) {
        const std::vector<float> a = normal_vector(dim, 1), b = normal_vector(dim, 2);
        std::vector<float> x = a, y = b;
        rotate(x.data(), dim);
        rotate(y.data(), dim);
        const double size = std::sqrt(dot(a, a) * dot(b, b));
        EXPECT_NEAR(dot(x, x), dot(a, a), 1e-6 * dot(a, a)) << dim;
        EXPECT_NEAR(dot(x, y), dot(a, b), 1e-6 * size) << dim;
        rotate_back(x.data(), dim);
        for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], a[i], 3e-6) << dim;
    }
}

TEST(Rotation, SpreadsEveryDimensionOverMany)
{
    for (int dim : {64, 80, 96, 100, 128, 576, 1000, 1024})
        for (int d = 0; d < dim; d += 7) {
            std::vector<float> x(static_cast<size_t>(dim));
            x[static_cast<size_t>(d)] = 1;
            rotate(x.data(), dim);
            const auto largest =
                std::fabs(*std::max_element(x.begin(), x.end(), [](float a, float b) { return std::fabs(a) < std::fabs(b); }));
            EXPECT_LE(largest, std::sqrt(12.0 / dim)) << dim << " " << d;
        }
}

// Signs and results as they were when the format was made. A change here makes stored tiles unreadable.
TEST(Rotation, NeverChanges)
{
    const auto signs = [](int set, int from) {
        uint32_t word = 0;
        for (int i = 0; i < 32; ++i) word |= (rotation_signs(set)[from + i] >> 31) << i;
        return word;
    };
    EXPECT_EQ(signs(0, 0), 0x7B052E41u);
    EXPECT_EQ(signs(0, 64), 0xB31D55D9u);
    EXPECT_EQ(signs(0, 992), 0xE1FB5D5Du);
    EXPECT_EQ(signs(1, 0), 0xB1CC852Au);
    EXPECT_EQ(signs(1, 992), 0x02A45BBAu);
    const auto rotated = [](int dim) {
        std::vector<float> x;
        for (int d = 1; d <= dim; ++d) x.push_back(static_cast<float>(d));
        rotate(x.data(), dim);
        return x;
    };
    EXPECT_EQ(rotated(1), std::vector<float>({-1}));
    EXPECT_EQ(rotated(4), std::vector<float>({4, -2, -3, -1}));
    EXPECT_EQ(rotated(6), std::vector<float>({4, 2, -1.5, 3.5, -0.5, -7.5}));
    const std::vector<float> x = rotated(80);
    EXPECT_EQ(x[0], -84.5f);
    EXPECT_EQ(x[15], -101.0f);
    EXPECT_EQ(x[16], 33.25f);
    EXPECT_EQ(x[63], 39.0f);
    EXPECT_EQ(x[64], 49.25f);
    EXPECT_EQ(x[79], 15.75f);
}

}  // namespace
}  // namespace vkv::kv
