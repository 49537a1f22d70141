// Whitening: loading L and the mean, and solving and multiplying by them. Formulas: whiten.h.

#include "core/codec/whiten_transform.h"

#include <cmath>

#include "core/codec/families.h"
#include "core/simd/kernels.h"

namespace vkv::whiten {

Whitening::Whitening(Scalar scalar, uint32_t dim, std::span<const uint8_t> model) : scalar_(scalar), dim_(dim)
{
    const auto misfit = [&] {
        return Error(Errc::index_corrupted, "model of an inner product index does not fit " + std::to_string(dim) + " dimensions",
                     "REINDEX the index.");
    };
    if (model.size() < sizeof(Header)) throw misfit();
    const Header header = read_as<Header>(model.data());
    if (header.magic != kMagic || header.version != kVersion || header.dim != dim ||
        header.shape > static_cast<uint16_t>(Shape::triangle) || !(header.scale > 0) || !std::isfinite(header.scale))
        throw misfit();
    shape_ = static_cast<Shape>(header.shape);
    scale_ = header.scale;
    if (model.size() < head_size()) throw misfit();
    mean_ = model.data() + sizeof(Header);
    factor_ = mean_ + sizeof(float) * size_t{dim};
    diagonal_.assign(dim, 1.0f);
    if (shape_ == Shape::diagonal) load_diagonal();
    for (uint32_t i = 0; i < dim; i++) {
        if (shape_ == Shape::triangle) simd::kernels().f16_to_f32(row(i) + i, &diagonal_[i], 1);
        if (!std::isfinite(mean(i)) || !(diagonal_[i] > 0) || !std::isfinite(diagonal_[i])) throw misfit();
    }
    if (!(stretch_ > 0) || !std::isfinite(stretch_)) throw misfit();
}

void Whitening::load_diagonal()
{
    stretch_ = read_as<float>(factor_);
    const auto *halves = reinterpret_cast<const uint16_t *>(factor_ + sizeof(float));
    std::vector<float> along(dim_);
    simd::kernels().f16_to_f32(halves, diagonal_.data(), dim_);
    simd::kernels().f16_to_f32(halves + dim_, along.data(), dim_);
    along_.assign(along.begin(), along.end());
    const double length = length_of(along_);
    for (double &value : along_) value = length > 0 ? value / length : 0;
}

void Whitening::stretch(double by, double *values) const
{
    if (along_.empty()) return;
    const double part = (by - 1) * sum_of(dim_, [&](size_t i) { return along_[i] * values[i]; });
    for (uint32_t i = 0; i < dim_; i++) values[i] += part * along_[i];
}

// y and its norm, in units of scale.
double Whitening::direction(const VectorView &x, std::vector<double> *y) const
{
    check_value(x, scalar_, dim_);
    std::vector<float> values(dim_);
    copy_values(x, 1, values.data());
    y->resize(dim_);
    for (uint32_t i = 0; i < dim_; i++) (*y)[i] = (values[i] - mean(i)) / scale_;
    solve(y);
    return length_of(*y);
}

void Whitening::solve(std::vector<double> *r) const
{
    double *y = r->data();
    if (shape_ != Shape::triangle) {
        for (uint32_t i = 0; i < dim_; i++) y[i] /= diagonal_[i];
        stretch(1 / stretch_, y);
        return;
    }
    std::vector<float> factors(dim_);
    for (uint32_t i = 0; i < dim_; i++) {
        simd::kernels().f16_to_f32(row(i), factors.data(), i);
        const float *f = factors.data();
        y[i] = (y[i] - sum_of(i, [&](size_t k) { return f[k] * y[k]; })) / diagonal_[i];
    }
}

// Four rows at a time: the result is passed over a quarter as often.
void Whitening::product(const float *q, std::vector<double> *w) const
{
    if (shape_ != Shape::triangle) {
        w->resize(dim_);
        for (uint32_t i = 0; i < dim_; i++) (*w)[i] = q[i] * double{diagonal_[i]};
        stretch(stretch_, w->data());
        return;
    }
    std::vector<float> sum(dim_, 0.0f);
    float *out = sum.data();
    constexpr uint32_t kRows = 4;
    std::vector<float> factors(size_t{kRows} * dim_);
    for (uint32_t from = 0; from < dim_; from += kRows) {
        float *f[kRows], weight[kRows] = {};
        const uint32_t to = std::min(dim_, from + kRows);
        for (uint32_t k = 0; k < kRows; k++) {
            f[k] = factors.data() + size_t{k} * dim_;
            const uint32_t length = from + k < to ? from + k + 1 : 0;
            if (length) simd::kernels().f16_to_f32(row(from + k), f[k], length);
            std::fill(f[k] + length, f[k] + to, 0.0f);
            if (length) weight[k] = q[from + k];
        }
        for (uint32_t j = 0; j < to; j++)
            out[j] += weight[0] * f[0][j] + weight[1] * f[1][j] + (weight[2] * f[2][j] + weight[3] * f[3][j]);
    }
    w->assign(sum.begin(), sum.end());
}

void Whitening::restore(double norm, float *out) const
{
    std::vector<double> z(out, out + dim_);
    stretch(stretch_, z.data());
    const double factor = scale_ * norm;
    std::vector<float> factors(dim_);
    for (uint32_t i = 0; i < dim_; i++) {
        double value = z[i] * diagonal_[i];
        if (shape_ == Shape::triangle) {
            simd::kernels().f16_to_f32(row(i), factors.data(), i);
            value += sum_of(i, [&](size_t k) { return factors[k] * z[k]; });
        }
        out[i] = finite(mean(i) + factor * value);
    }
}

}  // namespace vkv::whiten
