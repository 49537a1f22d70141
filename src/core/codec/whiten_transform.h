// The transformation of a model (drawn in whiten.h): vectors to y, and back, and queries to what is multiplied by y.
#pragma once
#include <cmath>
#include <span>
#include <vector>

#include "core/codec/codec.h"
#include "core/codec/families.h"
#include "core/codec/whiten_layout.h"

namespace vkv::whiten {

inline double length_of(const std::vector<double> &values)
{
    return std::sqrt(sum_of(values.size(), [&](size_t i) { return values[i] * values[i]; }));
}

class Whitening {
public:
    // The model must outlive it. Throws Error(index_corrupted) if it does not fit.
    Whitening(Scalar scalar, uint32_t dim, std::span<const uint8_t> model);

    Shape shape() const { return shape_; }
    size_t head_size() const { return whiten::head_size(shape_, dim_); }
    double scale() const { return scale_; }
    double mean(uint32_t i) const { return read_as<float>(mean_ + sizeof(float) * size_t{i}); }
    double direction(const VectorView &x, std::vector<double> *y) const;  // y and its norm, in units of scale
    void product(const float *q, std::vector<double> *w) const;           // w := L'q / scale
    void restore(double norm, float *out) const;                          // the vector of z = y / norm, in place

private:
    void load_diagonal();
    void solve(std::vector<double> *r) const;       // r := L^-1 r
    void stretch(double by, double *values) const;  // times I + (by - 1) a a'
    // i + 1 halves
    const uint16_t *row(uint32_t i) const { return reinterpret_cast<const uint16_t *>(factor_ + size_t{i} * (i + 1)); }

    Scalar scalar_;
    uint32_t dim_;
    Shape shape_;
    double scale_;
    const uint8_t *mean_, *factor_;  // in the model
    std::vector<float> diagonal_;    // of L / scale
    std::vector<double> along_;      // shape diagonal: of length 1, or 0
    double stretch_ = 1;
};

}  // namespace vkv::whiten
