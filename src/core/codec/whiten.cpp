// The codec: vectors and queries are transformed (whiten_transform.cpp), the rest is handed to the inner codec. Formulas: whiten.h.
#include "core/codec/whiten.h"

#include <algorithm>
#include <cmath>

#include "core/codec/families.h"
#include "core/codec/whiten_layout.h"
#include "core/codec/whiten_transform.h"
#include "core/simd/kernels.h"

namespace vkv {

using whiten::Header;
using whiten::Shape;
using whiten::Whitening;

namespace {

constexpr size_t kChunk = 64;              // codes handed on at a time
constexpr double kFloatSlack = 2.4e-7;     // of float constants, sums and results
constexpr double kHalfSlack = 1.0 / 1024;  // of a rounded query against a rounded code, both of halves

inline float norm_in(const uint8_t *code) { return read_as<float>(code); }

// How much the length of a y counts when it is linked: |y|^(3/4), without a sample |y|^(1/2).
struct Weight {
    bool sampled;
    double operator()(double norm) const { return std::sqrt(sampled ? norm * std::sqrt(norm) : norm); }
    // Of two vectors. The longer counts for so much more than the shorter, at most, as 16 times the length would: else rows that
    // are a thousand times as long as others would be the only neighbours of all.
    double both(double a, double b) const
    {
        constexpr double kMost = 8;  // 16^(3/4)
        const double shorter = std::fmin(a, b);
        return sampled ? shorter * std::fmin(std::fmax(a, b), kMost * shorter) : a * b;
    }
    // A distance that links: from the inner codec's, and the weight of the one vector.
    float distance(double weight, const uint8_t *code, float cosine_distance) const
    {
        return finite((cosine_distance - 1.0) * both(weight, (*this)(norm_in(code))));
    }
};

// Calls use(inner codes, from, n) for codes in chunks, each without its norm.
template <class Use>
void for_inner(const uint8_t *const *codes, size_t n, Use &&use)
{
    const uint8_t *inner[kChunk];
    for (size_t from = 0; from < n; from += kChunk) {
        const size_t count = std::min(kChunk, n - from);
        for (size_t i = 0; i < count; i++) inner[i] = codes[from + i] + sizeof(float);
        use(inner, from, count);
    }
}

// A double array as a value of the inner codec's type.
class InnerValue {
public:
    InnerValue(const std::vector<double> &values, double factor, Scalar scalar) : floats_(values.size())
    {
        for (size_t i = 0; i < values.size(); i++) floats_[i] = static_cast<float>(values[i] * factor);
        view_ = {scalar, static_cast<uint32_t>(values.size()), floats_.data(), nullptr, 0};
        if (scalar != Scalar::f16) return;
        halves_.resize(values.size());
        simd::kernels().f32_to_f16(floats_.data(), halves_.data(), values.size());
        view_.data = halves_.data();
    }
    const VectorView &view() const { return view_; }

private:
    std::vector<float> floats_;
    std::vector<uint16_t> halves_;
    VectorView view_;
};

class DirectionCodec : public Codec {
public:
    DirectionCodec(CodecId id, Scalar scalar, uint32_t dim, std::span<const uint8_t> model);

    CodecId id() const override { return inner_->id(); }
    bool exact() const override { return false; }
    size_t code_size() const override { return sizeof(float) + inner_->code_size(); }
    size_t second_size() const override { return inner_->second_size(); }
    size_t code_size(const VectorView &) const override { return code_size(); }
    void encode(const VectorView &x, uint8_t *code, uint8_t *second) const override
    {
        std::vector<double> y;
        const double norm = whitening_.direction(x, &y);
        const float stored = finite(norm);
        std::memcpy(code, &stored, sizeof stored);
        const InnerValue z(y, norm > 0 ? 1 / norm : 0, inner_scalar_);
        inner_->encode(z.view(), code + sizeof stored, second);
    }
    void distances(const uint8_t *a, const uint8_t *const *codes, size_t n, float *distance) const override
    {
        const double weight = weight_(norm_in(a));
        for_inner(codes, n, [&](const uint8_t *const *inner, size_t from, size_t count) {
            inner_->distances(a + sizeof(float), inner, count, distance + from);
            for (size_t i = from; i < from + count; i++) distance[i] = weight_.distance(weight, codes[i], distance[i]);
        });
    }
    std::unique_ptr<Scorer> query(const VectorView &q) const override;
    std::unique_ptr<Scorer> query_code(const uint8_t *code) const override;
    std::unique_ptr<Scorer> linker(const VectorView &x) const override;
    std::unique_ptr<Scorer> asking_code(const uint8_t *code) const override;
    double length(const uint8_t *code) const override { return norm_in(code); }
    void decode(const uint8_t *code, const uint8_t *second, float *out) const override;

private:
    Scalar scalar_, inner_scalar_;
    uint32_t dim_;
    Whitening whitening_;
    Weight weight_;
    std::unique_ptr<Codec> inner_;
};

// ---- scorers ----------------------------------------------------------------------------------------------------------------

// The inner product, from the inner codec's cosine.
class ProductScorer : public Scorer {
public:
    ProductScorer(std::unique_ptr<Scorer> inner, double offset, double length, double slack, double rounding, uint32_t dim)
        : inner_(std::move(inner)),
          offset_(offset),
          length_(length),
          slack_(slack),
          rounding_(rounding),
          product_rounding_(operator_rounding(dim))
    {
    }
    void score(const uint8_t *const *codes, size_t n, float *distance) override
    {
        for_inner(codes, n, [&](const uint8_t *const *inner, size_t from, size_t count) {
            inner_->score(inner, count, distance + from);
            for (size_t i = from; i < from + count; i++) distance[i] = product(codes[i], distance[i]);
        });
    }
    float rescore(const uint8_t *code, const uint8_t *second) override
    {
        return product(code, inner_->rescore(code + sizeof(float), second));
    }
    float error(const uint8_t *code, float distance, bool second) override
    {
        const float norm = norm_in(code);
        if (!(norm < FLT_MAX)) return FLT_MAX;  // not known
        const double reach = length_ * norm;
        const double cosine_distance = reach > 0 ? 1 + (distance + offset_) / reach : 1;
        const double inner = inner_->error(code + sizeof(float), finite(cosine_distance), second) + product_rounding_;
        return finite(reach * inner + slack_ * norm + rounding_ + kFloatSlack * (std::fabs(offset_) + std::fabs(double{distance})));
    }

private:
    float product(const uint8_t *code, float cosine_distance) const
    {
        return finite(-(offset_ + length_ * norm_in(code) * (1.0 - cosine_distance)));
    }

    std::unique_ptr<Scorer> inner_;
    double offset_, length_;   // <q, mean>, |L'q|
    double slack_;             // error of a product with |y| = 1 beyond that of the inner codec
    double rounding_;          // what the operator may lose of <q, mean>
    double product_rounding_;  // ... and of the rest, as a share
};

// The distance that links.
class LinkScorer : public Scorer {
public:
    LinkScorer(std::unique_ptr<Scorer> inner, Weight weight, double norm)
        : inner_(std::move(inner)), weight_(weight), own_(weight(norm))
    {
    }
    void score(const uint8_t *const *codes, size_t n, float *distance) override
    {
        for_inner(codes, n, [&](const uint8_t *const *inner, size_t from, size_t count) {
            inner_->score(inner, count, distance + from);
            for (size_t i = from; i < from + count; i++) distance[i] = weight_.distance(own_, codes[i], distance[i]);
        });
    }
    float rescore(const uint8_t *code, const uint8_t *second) override
    {
        return weight_.distance(own_, code, inner_->rescore(code + sizeof(float), second));
    }
    float error(const uint8_t *code, float distance, bool second) override
    {
        const double weight = weight_.both(own_, weight_(norm_in(code)));
        const double inner = weight > 0 ? inner_->error(code + sizeof(float), finite(1 + distance / weight), second) : 0;
        return finite(weight * inner + kFloatSlack * std::fabs(double{distance}));
    }

private:
    std::unique_ptr<Scorer> inner_;
    Weight weight_;
    double own_;
};

// ---- the codec --------------------------------------------------------------------------------------------------------------

DirectionCodec::DirectionCodec(CodecId id, Scalar scalar, uint32_t dim, std::span<const uint8_t> model)
    : scalar_(scalar),
      inner_scalar_(id == CodecId::none ? scalar : Scalar::f32),
      dim_(dim),
      whitening_(scalar, dim, model),
      weight_{whitening_.shape() != Shape::identity},
      inner_(make_codec(id, inner_scalar_, Metric::cosine, dim, model.subspan(whitening_.head_size())))
{
}

std::unique_ptr<Scorer> DirectionCodec::query(const VectorView &q) const
{
    check_value(q, scalar_, dim_);
    // In units of its length, so that nothing leaves the range of float.
    const double norm = norm_of(q), factor = norm > 0 ? 1 / norm : 0;
    std::vector<float> unit(dim_);
    copy_values(q, 1, unit.data());
    double offset = 0, mean_square = 0;
    for (uint32_t i = 0; i < dim_; i++) {
        const double mean = whitening_.mean(i);
        offset += unit[i] * mean;
        mean_square += mean * mean;
        unit[i] = static_cast<float>(unit[i] * factor);
    }
    std::vector<double> w;
    whitening_.product(unit.data(), &w);
    const double length = whiten::length_of(w);
    const InnerValue value(w, length > 0 ? 1 / length : 0, inner_scalar_);
    // What sums of floats lose: |L| is scale * sqrt(dim).
    double slack = norm * whitening_.scale() * std::sqrt(static_cast<double>(dim_)) * 2 * kFloatSlack;
    if (inner_scalar_ == Scalar::f16) slack += norm * whitening_.scale() * length * kHalfSlack;
    return std::make_unique<ProductScorer>(inner_->query(value.view()), offset, norm * whitening_.scale() * length, slack,
                                           operator_rounding(dim_) * norm * std::sqrt(mean_square), dim_);
}

std::unique_ptr<Scorer> DirectionCodec::query_code(const uint8_t *code) const
{
    return std::make_unique<LinkScorer>(inner_->query_code(code + sizeof(float)), weight_, norm_in(code));
}

std::unique_ptr<Scorer> DirectionCodec::linker(const VectorView &x) const
{
    std::vector<double> y;
    const double norm = whitening_.direction(x, &y);
    const InnerValue z(y, norm > 0 ? 1 / norm : 0, inner_scalar_);
    return std::make_unique<LinkScorer>(inner_->query(z.view()), weight_, norm);
}

std::unique_ptr<Scorer> DirectionCodec::asking_code(const uint8_t *code) const
{
    const double most = scalar_ == Scalar::f16 ? 65504 : FLT_MAX;
    std::vector<float> x(dim_);
    decode(code, nullptr, x.data());
    std::vector<double> values(x.begin(), x.end());
    for (double &value : values) value = std::clamp(value, -most, most);
    return query(InnerValue(values, 1, scalar_).view());
}

void DirectionCodec::decode(const uint8_t *code, const uint8_t *second, float *out) const
{
    inner_->decode(code + sizeof(float), second, out);
    whitening_.restore(norm_in(code), out);
}

}  // namespace

bool direction_supports(CodecId id, Scalar scalar, Metric metric)
{
    return metric == Metric::ip && is_dense(scalar) && codec_supports(id, scalar, Metric::cosine);
}

std::span<const uint8_t> direction_head(std::span<const uint8_t> model, uint32_t dim)
{
    return model.first(std::min(model.size(), whiten::head_size(static_cast<Shape>(read_as<Header>(model.data()).shape), dim)));
}

const char *direction_name(std::span<const uint8_t> model)
{
    switch (static_cast<Shape>(read_as<Header>(model.data()).shape)) {
        case Shape::identity:
            return "direction";
        case Shape::diagonal:
            return "scaled direction";
        case Shape::triangle:
            return "whitened direction";
    }
    return "unknown";
}

std::unique_ptr<Codec> make_direction_codec(CodecId id, Scalar scalar, uint32_t dim, std::span<const uint8_t> model)
{
    return std::make_unique<DirectionCodec>(id, scalar, dim, model);
}

}  // namespace vkv
