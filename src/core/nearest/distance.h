// Distances as the operators <->, <#>, <=> and <+> give them, bit for bit: they are made here, of the kernels of the active level.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "core/simd/kernels.h"
#include "core/value.h"

namespace vkv::nearest {

inline constexpr double kMostSquare = FLT_MAX, kLeastSquare = 0x1p-150;  // beyond them a float is infinite, or 0

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

// 1 - cosine; NaN when a vector is zero, and, as pgvector says it, between two vectors whose squared lengths both are infinite in
// single precision, or both 0.
inline double cosine_distance(simd::CosineParts parts)
{
    const double least = std::fmin(parts.norm_a, parts.norm_b), most = std::fmax(parts.norm_a, parts.norm_b);
    if (least > kMostSquare || most < kLeastSquare) return std::numeric_limits<double>::quiet_NaN();
    return 1.0 - clamp_similarity(parts.dot / std::sqrt(parts.norm_a * parts.norm_b));
}
// Whether the cosine of a vector of this squared length may be NaN although neither is zero.
inline bool has_odd_cosine(double square) { return square > kMostSquare || square < kLeastSquare; }

// Of sparse vectors, by one merge of their ascending indices.
inline simd::CosineParts sparse_cosine_parts(const VectorView &a, const VectorView &b)
{
    simd::CosineParts parts{0, 0, 0};
    for (uint32_t i = 0; i < a.nnz; ++i) parts.norm_a += static_cast<double>(a.f32()[i]) * static_cast<double>(a.f32()[i]);
    for (uint32_t j = 0; j < b.nnz; ++j) parts.norm_b += static_cast<double>(b.f32()[j]) * static_cast<double>(b.f32()[j]);
    for (uint32_t i = 0, j = 0; i < a.nnz && j < b.nnz;) {
        const int32_t at_a = a.indices[i], at_b = b.indices[j];
        if (at_a == at_b) parts.dot += static_cast<double>(a.f32()[i]) * static_cast<double>(b.f32()[j]);
        i += at_a <= at_b;
        j += at_b <= at_a;
    }
    return parts;
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
