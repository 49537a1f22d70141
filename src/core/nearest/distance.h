// Distances as the operators <->, <#>, <=> and <+> give them, bit for bit: they are made here, of the kernels of the active level.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "core/simd/kernels.h"
#include "core/value.h"

namespace vkv::nearest {

inline double clamp_similarity(double x) { return x > 1 ? 1 : (x < -1 ? -1 : x); }  // NaN stays

// An inner product whose sum in single precision left the range: infinity less infinity is no number, and a part of the sum may be
// too large though the whole is not.
inline float wide_inner_product(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    return static_cast<float>(sum);
}
inline float inner_product(const float *a, const float *b, size_t n)
{
    const float product = simd::kernels().ip_f32(a, b, n);
    return std::isfinite(product) ? product : wide_inner_product(a, b, n);
}

// 1 - cosine; NaN when a vector is zero.
inline double cosine_distance(simd::CosineParts parts)
{
    const double norms = std::sqrt(static_cast<double>(parts.norm_a) * static_cast<double>(parts.norm_b));
    return 1.0 - clamp_similarity(static_cast<double>(parts.dot) / norms);
}

// What a search compares: the operator's distance, except that l2 is squared (every squared float has a root of its own in double).
struct Distance {
    Metric metric;  // l2, ip, cosine, l1
    Scalar scalar;  // f32, f16
    size_t dim;

    double compared(const void *a, const void *b) const
    {
        return scalar == Scalar::f32 ? compared_f32(static_cast<const float *>(a), static_cast<const float *>(b))
                                     : compared_f16(static_cast<const uint16_t *>(a), static_cast<const uint16_t *>(b));
    }
    double shown(double compared) const { return metric == Metric::l2 ? std::sqrt(compared) : compared; }

private:
    double compared_f32(const float *a, const float *b) const
    {
        const simd::Kernels &k = simd::kernels();
        switch (metric) {
            case Metric::l2:
                return static_cast<double>(k.l2_f32(a, b, dim));
            case Metric::ip:
                return -static_cast<double>(inner_product(a, b, dim));
            case Metric::cosine:
                return cosine_distance(k.cosine_f32(a, b, dim));
            default:
                return static_cast<double>(k.l1_f32(a, b, dim));
        }
    }
    double compared_f16(const uint16_t *a, const uint16_t *b) const
    {
        const simd::Kernels &k = simd::kernels();
        switch (metric) {
            case Metric::l2:
                return static_cast<double>(k.l2_f16(a, b, dim));
            case Metric::ip:
                return -static_cast<double>(k.ip_f16(a, b, dim));
            case Metric::cosine:
                return cosine_distance(k.cosine_f16(a, b, dim));
            default:
                return static_cast<double>(k.l1_f16(a, b, dim));
        }
    }
};

}  // namespace vkv::nearest
