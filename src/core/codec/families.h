// What the codec families share: their factories (rows of kCodecs in codec.cpp) and a few helpers on values.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstring>
#include <string>

#include "core/codec/codec.h"
#include "core/error.h"

namespace vkv {

// Distances never are infinite or NaN: heaps and sorts must stay in order whatever the input.
inline float finite(double value)
{
    if (!(value <= FLT_MAX)) return FLT_MAX;
    return value < -FLT_MAX ? -FLT_MAX : static_cast<float>(value);
}

// Distances of which the operator's sum leaves single precision, or nearly so, are no sums any more, but farther ones still are
// greater: else a search would be lost among vectors of which none is nearer than another.
inline constexpr float kFar = 0x1.ffp127f;
inline float ordered(double distance)
{
    if (distance <= kFar) return static_cast<float>(std::fmax(distance, -FLT_MAX));
    constexpr double kSteps = 200;  // of the last bit, a doubling: 163 of them, more than a square takes
    const double steps = std::fmin(kSteps * std::log2(distance / kFar), FLT_MAX / 0x1p104 - kFar / 0x1p104);
    return distance > kFar ? static_cast<float>(kFar + 0x1p104 * std::floor(steps)) : FLT_MAX;  // NaN
}
// What is not known of such a distance: whether the operator says infinity. Of four times the largest float it does.
inline constexpr float kFarError = 0x1p121f;
inline float far_error(float distance) { return distance > kFar && distance < ordered(4.0 * FLT_MAX) ? kFarError : 0; }

template <class T>
inline T read_as(const void *from)
{
    T value;
    std::memcpy(&value, from, sizeof(T));
    return value;
}

inline bool is_dense(Scalar scalar) { return scalar == Scalar::f32 || scalar == Scalar::f16; }

// The Euclidean norm of a dense or sparse value, in double: no float can overflow or underflow it.
double norm_of(const VectorView &x);

// Copies a dense value to float, times `factor`, which must not take it out of the range of float.
void copy_values(const VectorView &x, double factor, float *out);

// 1 / norm, or 0 for a zero vector, which normalises to itself.
inline double inverse_norm(const VectorView &x)
{
    const double norm = norm_of(x);
    return norm > 0 ? 1 / norm : 0;
}

// What rounding may do to an operator that adds in single precision, as a share of what it adds. Sums have lanes, and errors of
// both signs: they grow like a root.
inline double operator_rounding(uint32_t dim) { return 0x1p-23 * (8 + std::sqrt(static_cast<double>(dim))); }

// What rounding values of length 1 to floats, in one of two vectors or in both, does to the square of how far they are apart.
inline double unit_rounding(double square) { return 0x1p-22 * std::sqrt(square) + 0x1p-45; }

// Throws Error(data_exception) unless x has this type and this number of dimensions.
void check_value(const VectorView &x, Scalar scalar, uint32_t dim);

struct CodecArgs {
    CodecId id;
    Scalar scalar;
    Metric metric;
    uint32_t dim;
    std::span<const uint8_t> model;
};

std::unique_ptr<Codec> make_exact_dense(const CodecArgs &args);
std::unique_ptr<Codec> make_exact_bit(const CodecArgs &args);
std::unique_ptr<Codec> make_exact_sparse(const CodecArgs &args);
std::unique_ptr<Codec> make_lvq(const CodecArgs &args);

std::unique_ptr<Trainer> make_mean_trainer(const CodecArgs &args);  // LVQ: the mean of the sample

}  // namespace vkv
