// Making the model: mean and covariance of a sample, its Cholesky factor, and the inner codec's model of the transformed sample.
#include <algorithm>
#include <cmath>

#include "core/codec/families.h"
#include "core/codec/whiten.h"
#include "core/codec/whiten_layout.h"
#include "core/simd/kernels.h"

namespace vkv {

using whiten::Header;
using whiten::Shape;

namespace {

constexpr size_t kMostFloats = 8u << 20;  // of the sample; twice as many before it is thinned out
constexpr size_t kMostRows = 8192;
constexpr double kRidge = 0.25;  // in mean variances
constexpr double kLongest = 16;  // in medians
// -<a, b> is half of |a - b|^2 - |a|^2 - |b|^2. Where lengths make less than this share of what rows differ by, they are one
// length, or nearly so; and one that was rounded, where rows hardly differ.
constexpr double kUnlike = 0.02;
constexpr double kRoundedFloats = 1e-6, kRoundedHalves = 0x1p-12;  // of a length
// Products of two vectors of lengths in between are well within single precision, in which links by the inner product are chosen.
constexpr double kShort = 0x1p-50, kLong = 0x1p50;

}  // namespace

DirectionTrainer::DirectionTrainer(Scalar scalar, uint32_t dim, std::function<void()> poll)
    : scalar_(scalar), dim_(dim), poll_(std::move(poll)), most_rows_(std::clamp(kMostFloats / dim, size_t{256}, kMostRows))
{
}

void DirectionTrainer::add(const VectorView &x)
{
    check_value(x, scalar_, dim_);
    const double norm = norm_of(x), delta = norm - norm_mean_;
    norm_mean_ += delta / static_cast<double>(rows_ + 1);
    norm_square_ += delta * (norm - norm_mean_);
    if (rows_++ % stride_ != 0) return;
    sample_.resize(sample_.size() + dim_);
    copy_values(x, 1, sample_.data() + sample_.size() - dim_);
    if (sample_.size() == 2 * most_rows_ * dim_) thin_out();
}

// Every other row, of those kept and of those to come.
void DirectionTrainer::thin_out()
{
    for (size_t row = 1; row < most_rows_; row++)
        std::copy_n(sample_.begin() + static_cast<std::ptrdiff_t>(2 * row * dim_), dim_,
                    sample_.begin() + static_cast<std::ptrdiff_t>(row * dim_));
    sample_.resize(most_rows_ * dim_);
    stride_ *= 2;
}

bool DirectionTrainer::wanted() const
{
    if (rows_ == 0 || (norm_mean_ > 0 && (norm_mean_ < kShort || norm_mean_ > kLong))) return true;
    const double deviation = std::sqrt(norm_square_ / static_cast<double>(rows_));
    if (deviation <= (scalar_ == Scalar::f16 ? kRoundedHalves : kRoundedFloats) * norm_mean_) return false;
    return deviation > kUnlike * norm_mean_ || deviation * norm_mean_ > kUnlike * spread_square();
}

// The sample's mean square distance from its mean.
double DirectionTrainer::spread_square() const
{
    std::vector<double> mean(dim_);
    const double rows = static_cast<double>(sample_.size() / dim_);
    for (size_t at = 0; at < sample_.size(); at += dim_)
        for (uint32_t i = 0; i < dim_; i++) mean[i] += sample_[at + i] / rows;
    double sum = 0;
    for (size_t at = 0; at < sample_.size(); at += dim_)
        sum += whiten::sum_of(dim_, [&](size_t i) { return (sample_[at + i] - mean[i]) * (sample_[at + i] - mean[i]); });
    return sum / rows;
}

// Of the sample, whose mean was taken out and which was divided by scale; lower triangle, [dim, dim].
std::vector<double> DirectionTrainer::covariance(double scale) const
{
    constexpr size_t kTile = 256;  // rows at a time, so that a tile of all dimensions stays in the cache
    const size_t rows = sample_.size() / dim_;
    const float *mean = reinterpret_cast<const float *>(head_.data() + sizeof(Header));
    std::vector<double> sum(size_t{dim_} * dim_, 0.0);
    std::vector<float> columns(kTile * dim_);  // [dim, kTile]
    for (size_t from = 0; from < rows; from += kTile) {
        const size_t n = std::min(kTile, rows - from);
        for (size_t row = 0; row < n; row++)
            for (uint32_t i = 0; i < dim_; i++)
                columns[i * kTile + row] =
                    static_cast<float>((sample_[(from + row) * dim_ + i] - static_cast<double>(mean[i])) / scale);
        for (uint32_t i = 0; i < dim_; i++) {
            for (uint32_t j = 0; j <= i; j++)
                sum[size_t{i} * dim_ + j] +=
                    static_cast<double>(simd::kernels().ip_f32(&columns[i * kTile], &columns[j * kTile], n));
            if (i % 64 == 0) poll_();
        }
    }
    for (double &value : sum) value /= static_cast<double>(rows);
    return sum;
}

// Cholesky, in place, row by row. No pivot is below the ridge but for rounding.
void DirectionTrainer::factorize(std::vector<double> &matrix) const
{
    for (uint32_t i = 0; i < dim_; i++) {
        double *row = &matrix[size_t{i} * dim_];
        for (uint32_t j = 0; j <= i; j++) {
            const double *other = &matrix[size_t{j} * dim_];
            const double rest = row[j] - whiten::sum_of(j, [&](size_t k) { return row[k] * other[k]; });
            row[j] = j == i ? std::sqrt(std::max(rest, kRidge)) : rest / other[j];
        }
        if (i % 8 == 0) poll_();
    }
}

// Of lengths so far apart that a few rows would be all that a mean and a covariance see, the others would be one point to the
// model, which no graph can search: the longest count with their direction, and with a length like that of others.
void DirectionTrainer::shorten()
{
    const size_t rows = sample_.size() / dim_;
    std::vector<double> length(rows), known;
    for (size_t row = 0; row < rows; row++) {
        length[row] = norm_of({Scalar::f32, dim_, &sample_[row * dim_], nullptr, 0});
        if (length[row] > 0) known.push_back(length[row]);
    }
    if (known.empty()) return;
    const auto middle = known.begin() + static_cast<std::ptrdiff_t>(known.size() / 2);
    std::nth_element(known.begin(), middle, known.end());
    const double most = kLongest * *middle;
    for (size_t row = 0; row < rows; row++)
        for (uint32_t i = 0; i < dim_ && length[row] > most; i++) {
            float &value = sample_[row * dim_ + i];
            value = static_cast<float>(value * (most / length[row]));
        }
}

void DirectionTrainer::whiten()
{
    shorten();
    const size_t rows = sample_.size() / dim_;
    std::vector<double> sum(dim_), square(dim_);
    for (size_t at = 0; at < sample_.size(); at += dim_)
        for (uint32_t i = 0; i < dim_; i++) sum[i] += sample_[at + i];
    for (double &value : sum) value /= static_cast<double>(std::max<size_t>(rows, 1));
    for (size_t at = 0; at < sample_.size(); at += dim_)
        for (uint32_t i = 0; i < dim_; i++) square[i] += (sample_[at + i] - sum[i]) * (sample_[at + i] - sum[i]);
    double trace = 0;
    for (double &value : square) trace += value /= static_cast<double>(std::max<size_t>(rows, 1));
    const bool known = trace > 0 && std::isfinite(trace);
    // A covariance of fewer rows than dimensions says little of directions, and of later rows.
    const Shape shape = !known                                              ? Shape::identity
                        : dim_ <= kMaxWhitenDim && rows >= 2 * size_t{dim_} ? Shape::triangle
                                                                            : Shape::diagonal;
    const double scale = known ? std::sqrt(trace / dim_) : 1;
    const Header header{whiten::kMagic, whiten::kVersion, static_cast<uint16_t>(shape), dim_, static_cast<uint32_t>(rows), scale};
    head_.assign(whiten::head_size(shape, dim_), 0);
    std::memcpy(head_.data(), &header, sizeof header);
    auto *mean = reinterpret_cast<float *>(head_.data() + sizeof header);
    for (uint32_t i = 0; known && i < dim_; i++) mean[i] = finite(sum[i]);

    uint8_t *factor = head_.data() + sizeof header + sizeof(float) * dim_;
    if (shape == Shape::diagonal) {
        for (double &value : square) value = value / (scale * scale) + kRidge;
        put_diagonal(square, scale, factor);
    } else if (shape == Shape::triangle) {
        std::vector<double> matrix = covariance(scale);
        for (uint32_t i = 0; i < dim_; i++) matrix[size_t{i} * dim_ + i] += kRidge;
        factorize(matrix);
        std::vector<float> values(dim_);
        for (uint32_t i = 0; i < dim_; i++) {
            for (uint32_t j = 0; j <= i; j++) values[j] = static_cast<float>(matrix[size_t{i} * dim_ + j]);
            simd::kernels().f32_to_f16(values.data(), reinterpret_cast<uint16_t *>(factor + size_t{i} * (i + 1)), i + 1);
        }
    }
}

// Besides each dimension's own spread, that along the mean, which is where vectors of unlike length in one half-space lie.
void DirectionTrainer::put_diagonal(const std::vector<double> &variance, double scale, uint8_t *factor) const
{
    const auto *mean = reinterpret_cast<const float *>(head_.data() + sizeof(Header));
    std::vector<double> along(dim_);
    std::vector<float> diagonal(dim_), values(dim_);
    for (uint32_t i = 0; i < dim_; i++) {
        diagonal[i] = static_cast<float>(std::sqrt(variance[i]));
        along[i] = mean[i] / scale / diagonal[i];
    }
    const double length = std::sqrt(whiten::sum_of(dim_, [&](size_t i) { return along[i] * along[i]; }));
    for (uint32_t i = 0; i < dim_; i++) values[i] = static_cast<float>(along[i] = length > 0 ? along[i] / length : 0);
    double spread = 0;
    for (size_t at = 0; at < sample_.size(); at += dim_) {
        const double part =
            whiten::sum_of(dim_, [&](size_t i) { return along[i] * ((sample_[at + i] - double{mean[i]}) / scale / diagonal[i]); });
        spread += part * part;
    }
    const auto stretch =
        static_cast<float>(length > 0 ? std::sqrt(spread / static_cast<double>(sample_.size() / dim_) + kRidge) : 1);
    std::memcpy(factor, &stretch, sizeof stretch);
    auto *halves = reinterpret_cast<uint16_t *>(factor + sizeof stretch);
    simd::kernels().f32_to_f16(diagonal.data(), halves, dim_);
    simd::kernels().f32_to_f16(values.data(), halves + dim_, dim_);
}

std::vector<uint8_t> DirectionTrainer::finish(CodecId id)
{
    if (head_.empty()) whiten();
    std::vector<uint8_t> model = head_;
    // The inner codec is trained on what it will see; an exact one needs no training.
    const Scalar inner_scalar = id == CodecId::none ? scalar_ : Scalar::f32;
    auto trainer = make_trainer(id, inner_scalar, Metric::cosine, dim_);
    if (id != CodecId::none) {
        const auto exact_model = [&] {
            std::vector<uint8_t> m = head_;
            const std::vector<uint8_t> inner = make_trainer(CodecId::none, Scalar::f32, Metric::cosine, dim_)->finish();
            m.insert(m.end(), inner.begin(), inner.end());
            return m;
        }();
        const auto transform = make_direction_codec(CodecId::none, Scalar::f32, dim_, exact_model);
        std::vector<uint8_t> code(transform->code_size());
        std::vector<float> z(dim_);
        for (size_t at = 0; at < sample_.size(); at += dim_) {
            transform->encode({Scalar::f32, dim_, &sample_[at], nullptr, 0}, code.data(), nullptr);
            std::memcpy(z.data(), code.data() + sizeof(float), dim_ * sizeof(float));
            trainer->add({Scalar::f32, dim_, z.data(), nullptr, 0});
            if (at / dim_ % 16 == 0) poll_();
        }
    }
    const std::vector<uint8_t> inner = trainer->finish(poll_);
    model.insert(model.end(), inner.begin(), inner.end());
    return model;
}

}  // namespace vkv
