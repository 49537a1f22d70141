// The sums of a cosine (cosine.h) in plain loops: the truth for the other levels, bit for bit.
#include "core/simd/cosine.h"
#include "core/simd/half.h"

namespace vkv::simd {
namespace {

constexpr size_t kLanes = 16;

template <class T>
double value_of(const T *p)
{
    T value;
    __builtin_memcpy(&value, p, sizeof value);  // nothing is aligned
    if constexpr (sizeof(T) == 2)
        return half_to_float(value);
    else
        return value;
}

// Lane i to lane i + half, for halves of 8, 4, 2 and 1.
double reduce_lanes(double *lanes)
{
    for (size_t half = kLanes / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}

template <class T>
CosineParts sums(const T *a, const T *b, size_t n)
{
    double dot[kLanes] = {}, norm_a[kLanes] = {}, norm_b[kLanes] = {};
    const auto step = [&](size_t i, size_t lane) {
        const double x = value_of(a + i), y = value_of(b + i);
        dot[lane] += x * y;
        norm_a[lane] += x * x;
        norm_b[lane] += y * y;
    };
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
        for (size_t lane = 0; lane < kLanes; lane++) step(i + lane, lane);
    for (size_t lane = 0; i < n; i++, lane++) step(i, lane);
    return {reduce_lanes(dot), reduce_lanes(norm_a), reduce_lanes(norm_b)};
}

}  // namespace

CosineParts cosine_scalar(const float *a, const float *b, size_t n) { return sums(a, b, n); }
CosineParts cosine_scalar(const uint16_t *a, const uint16_t *b, size_t n) { return sums(a, b, n); }

}  // namespace vkv::simd
