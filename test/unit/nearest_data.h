// Data for tests of exact search: values that rounding is easy or hard on, of both types, and the answer that sorting gives.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "core/nearest/nearest.h"
#include "core/simd/half.h"

namespace vkv::nearest {

inline constexpr Metric kMetrics[] = {Metric::l2, Metric::ip, Metric::cosine, Metric::l1};
inline constexpr Scalar kScalars[] = {Scalar::f32, Scalar::f16};

inline std::vector<simd::Level> levels_here()
{
    std::vector<simd::Level> found;
    for (simd::Level level : {simd::Level::scalar, simd::Level::neon, simd::Level::avx2, simd::Level::avx512})
        if (simd::supported(level)) found.push_back(level);
    return found;
}

// Rows of one of the types.
struct Rows {
    Rows(Scalar scalar, size_t dim, const std::vector<float> &values) : scalar(scalar), dim(dim), n(values.size() / dim)
    {
        for (float x : values) {
            if (scalar == Scalar::f32)
                f32.push_back(x);
            else
                f16.push_back(float_to_half(x));
        }
    }
    const void *at(size_t i) const { return scalar == Scalar::f32 ? static_cast<const void *>(&f32[i * dim]) : &f16[i * dim]; }
    const void *data() const { return n ? at(0) : nullptr; }
    double value(size_t i, size_t d) const
    {
        return static_cast<double>(scalar == Scalar::f32 ? f32[i * dim + d] : half_to_float(f16[i * dim + d]));
    }
    Scalar scalar;
    size_t dim, n;
    std::vector<float> f32;
    std::vector<uint16_t> f16;
};

enum class Data { normal, small_integers, far_away, huge, tiny, tiny_squares, zero, mixed, mixed_rows };

// [n / dim][dim]. mixed: every value is of another kind; mixed_rows: every row is. Drawn once for all levels and metrics.
inline const std::vector<float> &draw(Data data, size_t n, size_t dim, uint32_t seed)
{
    static std::map<std::tuple<Data, size_t, size_t, uint32_t>, std::vector<float>> drawn;
    std::vector<float> &values = drawn[{data, n, dim, seed}];
    if (!values.empty()) return values;
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::uniform_int_distribution<int> few(-1, 1), kind(0, static_cast<int>(Data::zero));
    values.resize(n);
    Data of = data;
    for (size_t i = 0; i < n; ++i) {
        if (data == Data::mixed || (data == Data::mixed_rows && i % dim == 0)) of = static_cast<Data>(kind(random));
        const float x = normal(random);
        values[i] = of == Data::normal           ? x
                    : of == Data::small_integers ? static_cast<float>(few(random))
                    : of == Data::far_away       ? 1000 + x
                    : of == Data::huge           ? x * 1e37f
                    : of == Data::tiny           ? x * 1e-30f
                    : of == Data::tiny_squares   ? x * 1e-21f
                                                 : 0;
    }
    return values;
}

// Halves of huge and tiny values would be infinite or zero.
inline std::vector<float> for_type(Scalar scalar, std::vector<float> values)
{
    if (scalar == Scalar::f16)
        for (float &x : values) x = std::clamp(x, -60000.f, 60000.f);
    return values;
}

inline bool before(const Neighbor &a, const Neighbor &b)
{
    const bool a_nan = std::isnan(a.distance), b_nan = std::isnan(b.distance);
    if (a_nan || b_nan) {
        if (a_nan != b_nan) return b_nan;
    } else if (a.distance != b.distance) {
        return a.distance < b.distance;
    }
    return a.source != b.source ? a.source < b.source : a.id < b.id;
}

inline RowId id_of(size_t i, size_t n)
{
    return {(n - i) * 7 % (n + 1), static_cast<uint32_t>(i % 3)};
}  // not in the order of rows

// The operator's distances of all rows to query q, sorted.
inline std::vector<Neighbor> sorted(const Distance &distance, const Rows &rows, const void *query, size_t k)
{
    std::vector<Neighbor> all;
    for (size_t i = 0; i < rows.n; ++i) {
        const RowId id = id_of(i, rows.n);
        all.push_back({distance.shown(distance.compared(rows.at(i), query)), id.id, id.source});
    }
    std::sort(all.begin(), all.end(), before);
    all.resize(std::min(all.size(), k));
    return all;
}

// The nearest of query q are what sorting says, in order.
inline void expect_sorted(const std::vector<Neighbor> &got, const std::vector<Neighbor> &want)
{
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_EQ(got[i].id, want[i].id) << "rank " << i << " distance " << got[i].distance;
        ASSERT_EQ(got[i].source, want[i].source);
        if (!(std::isnan(got[i].distance) && std::isnan(want[i].distance))) {
            ASSERT_EQ(got[i].distance, want[i].distance);
        }
    }
}

class AtLevels : public testing::Test {
protected:
    ~AtLevels() override { simd::set_level(simd::best_level()); }
    template <class F>
    void each(F body)
    {
        for (simd::Level level : levels_here()) {
            simd::set_level(level);
            for (Metric metric : kMetrics)
                for (Scalar scalar : kScalars) {
                    SCOPED_TRACE(std::string(simd::level_name(level)) + ", metric " + std::to_string(static_cast<int>(metric)) +
                                 ", scalar " + std::to_string(static_cast<int>(scalar)));
                    body(metric, scalar);
                    if (HasFatalFailure()) return;
                }
        }
    }
};

}  // namespace vkv::nearest
