// LVQ: locally-adaptive scalar quantization around the data mean; lvq8, lvq4, and lvq4x8 with a second level on the residual.
// Layout and notation: lvq_layout.h.
//
// A query works on s = q - a * mean, rounded to int16 (|z| <= 4095), and on its own rounded sum, so that the sum is consistent:
//   <s, r^>  =  scale * (bias * sum z + step * <z, c>)
//   l2       =  |s|^2 - 2 <s, r^> + |r|^2                            a = 1; |s| that of the rounded s
//   ip       = -(<q, mean> + a <mean, r> + <s, r^>)                  a = 1, but 0 if |q - mean|^2 > 2 |q|^2
//   cosine   =  1 + ip, of normalised q and x                        a = 1
// |r| and <mean, r> are exact, and e is orthogonal to r, so the only error is <s, e>, of which only the part of s across r counts:
// less than for the distance to the decoded vector, and nothing for a vector's own code. Distances between codes use the same
// identities, with
//   <r^x, r^y> = dim bx by + bx sy Cy + by sx Cx + sx sy <cx, cy>.
// So all distances estimate those of the inputs, and may be compared with each other. l2 is clamped at 0 (equal codes come out
// below it); ip and cosine are not clamped to the range of exact ones, which would lose order.
//
// The second level rounds s twice (z, and its remainder, again to 4095 steps), so rounding the query adds nothing to its error.
#include <algorithm>
#include <cmath>

#include "core/codec/lvq_layout.h"
#include "core/simd/kernels.h"

namespace vkv {
namespace {

using lvq::Affine;
using lvq::Header;
using lvq::ModelHeader;
using lvq::SecondHeader;

constexpr int kQueryLevels = 4095;
constexpr double kErrorDeviations = 3.5;
constexpr double kFloatSlack = 4e-7;              // of the terms of a sum, for float constants and results
constexpr double kUniform = 0.28867513459481287;  // 1 / sqrt(12): deviation of a uniform error of one step

using DotQuery = int64_t (*)(const uint8_t *, const int16_t *, size_t);
using DotCodes = int64_t (*)(const uint8_t *, const uint8_t *, size_t);

class LvqCodec : public Codec {
public:
    explicit LvqCodec(const CodecArgs &args);

    CodecId id() const override { return id_; }
    bool exact() const override { return false; }
    size_t code_size() const override { return sizeof(Header) + lvq::packed_size(dim_, bits_); }
    size_t second_size() const override { return two_levels_ ? sizeof(SecondHeader) + dim_ : 0; }
    size_t code_size(const VectorView &) const override { return code_size(); }
    void encode(const VectorView &x, uint8_t *code, uint8_t *second) const override;
    void distances(const uint8_t *a, const uint8_t *const *codes, size_t n, float *distance) const override;
    std::unique_ptr<Scorer> query(const VectorView &q) const override;
    std::unique_ptr<Scorer> query_code(const uint8_t *code) const override;
    void decode(const uint8_t *code, const uint8_t *second, float *out) const override;

    float mean(uint32_t i) const { return read_as<float>(mean_ + sizeof(float) * size_t{i}); }
    double mean_square() const { return mean_square_; }
    Metric metric() const { return metric_; }
    uint32_t dim() const { return dim_; }
    int levels() const { return bits_ == 8 ? 255 : 15; }
    bool two_levels() const { return two_levels_; }
    DotQuery dot_query() const { return bits_ == 8 ? simd::kernels().dot_u8_s16 : simd::kernels().dot_u4_s16; }

private:
    CodecId id_;
    Scalar scalar_;
    Metric metric_;
    uint32_t dim_;
    int bits_;
    bool two_levels_;
    const uint8_t *mean_;  // f32[dim], unaligned, in the model
    double mean_square_ = 0;
};

inline void prefetch_code(const uint8_t *code, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(code + at);
}

// ---- query against codes ----------------------------------------------------------------------------------------------------

class LvqScorer : public Scorer {
public:
    LvqScorer(const LvqCodec &codec, const std::vector<double> &values);

    void score(const uint8_t *const *codes, size_t n, float *distance) override;
    float rescore(const uint8_t *code, const uint8_t *second) override;
    float error(const uint8_t *code, float distance, bool second) override;

private:
    void round_query(const std::vector<double> &s);
    double distance_of(const Header &header, double dot, double query_square) const;

    const LvqCodec &codec_;
    std::vector<int16_t> high_, low_;  // s ~ scale * high + low_scale * low, padded to 32
    double scale_ = 0, low_scale_ = 0;
    double high_sum_ = 0, sum_ = 0;        // of scale * high, of both
    double high_square_ = 0, square_ = 0;  // |scale * high|^2, |s|^2
    double offset_ = 0;                    // ip, cosine: <q, mean>
    double mean_weight_ = 1;               // a
};

LvqScorer::LvqScorer(const LvqCodec &codec, const std::vector<double> &values) : codec_(codec)
{
    const uint32_t dim = codec.dim();
    std::vector<double> mean(dim), s(dim);
    for (uint32_t i = 0; i < dim; i++) mean[i] = codec.mean(i);
    const double mean_dot = lvq::sum_of(dim, [&](uint32_t i) { return values[i] * mean[i]; });
    if (codec.metric() != Metric::l2) offset_ = mean_dot;
    const double query_square = lvq::sum_of(dim, [&](uint32_t i) { return values[i] * values[i]; });
    if (codec.metric() == Metric::ip && codec.mean_square() - 2 * mean_dot > query_square) mean_weight_ = 0;
    for (uint32_t i = 0; i < dim; i++) s[i] = values[i] - mean_weight_ * mean[i];
    square_ = lvq::sum_of(dim, [&](uint32_t i) { return s[i] * s[i]; });
    round_query(s);
}

// Rounds s once, and for a second level its remainder too.
void LvqScorer::round_query(const std::vector<double> &s)
{
    const size_t padded = (s.size() + 31) / 32 * 32;
    high_.assign(padded, 0);
    if (codec_.two_levels()) low_.assign(padded, 0);
    double largest = 0;
    for (const double value : s) largest = std::max(largest, std::fabs(value));
    if (largest == 0) return;
    scale_ = largest / kQueryLevels;
    const double to_high = 1 / scale_;
    int64_t sum = 0, square = 0;
    for (size_t i = 0; i < s.size(); i++) {
        const int high = static_cast<int>(std::lrint(s[i] * to_high));
        high_[i] = static_cast<int16_t>(high);
        sum += high;
        square += high * high;
    }
    high_sum_ = sum_ = scale_ * static_cast<double>(sum);
    high_square_ = scale_ * scale_ * static_cast<double>(square);
    if (!codec_.two_levels()) return;

    low_scale_ = scale_ / (2.0 * kQueryLevels);
    const double to_low = 1 / low_scale_;
    sum = 0;
    for (size_t i = 0; i < s.size(); i++) {
        const int low = static_cast<int>(std::lrint((s[i] - scale_ * high_[i]) * to_low));
        low_[i] = static_cast<int16_t>(std::max(-kQueryLevels, std::min(kQueryLevels, low)));
        sum += low_[i];
    }
    sum_ += low_scale_ * static_cast<double>(sum);
}

inline double LvqScorer::distance_of(const Header &header, double dot, double query_square) const
{
    const double constant = header.constant;
    if (codec_.metric() == Metric::l2) return std::fmax(0.0, query_square - 2 * dot + constant * constant);
    const double ip = offset_ + mean_weight_ * constant + dot;
    return codec_.metric() == Metric::ip ? -ip : 1 - ip;
}

void LvqScorer::score(const uint8_t *const *codes, size_t n, float *distance)
{
    const DotQuery dot_query = codec_.dot_query();
    const size_t bytes = codec_.code_size(), dim = codec_.dim();
    for (size_t i = 0; i < n; i++) {
        if (i + 1 < n) prefetch_code(codes[i + 1], bytes);
        const Header header = read_as<Header>(codes[i]);
        const double codes_dot = static_cast<double>(dot_query(codes[i] + sizeof(Header), high_.data(), dim));
        const double dot = header.bias * high_sum_ + header.step * scale_ * codes_dot;
        distance[i] = finite(distance_of(header, dot, high_square_));
    }
}

float LvqScorer::rescore(const uint8_t *code, const uint8_t *second)
{
    float distance;
    if (!codec_.two_levels() || !second) {
        score(&code, 1, &distance);
        return distance;
    }
    const Header header = read_as<Header>(code);
    const SecondHeader extra = read_as<SecondHeader>(second);
    const DotQuery dot_query = codec_.dot_query(), dot_u8 = simd::kernels().dot_u8_s16;
    const auto dot_both = [&](DotQuery dot, const uint8_t *packed) {
        return scale_ * static_cast<double>(dot(packed, high_.data(), codec_.dim())) +
               low_scale_ * static_cast<double>(dot(packed, low_.data(), codec_.dim()));
    };
    const double dot = (static_cast<double>(header.bias) + extra.bias) * sum_ +
                       header.step * dot_both(dot_query, code + sizeof(Header)) +
                       extra.step * dot_both(dot_u8, second + sizeof(SecondHeader));
    return finite(distance_of(header, dot, square_));
}

// The error is <s, e> (twice that under l2) with e uniform in a step: its deviation is step / sqrt(12) * |part of s across r|, and
// that part follows from |s|, |r| and the dot, which the distance tells: |s|^2 - <s, r>^2 / |r|^2. Under ip |r| is not known, and
// |s| is the bound. A rounded query adds as much for its own step, against |s - r| (l2) or |r^|.
float LvqScorer::error(const uint8_t *code, float distance, bool second)
{
    const Header header = read_as<Header>(code);
    const bool refined = second && codec_.two_levels();
    const double dim = codec_.dim(), constant = header.constant, top = header.bias + double{header.step} * codec_.levels();
    // the residual of the first level reaches a little beyond half a step
    const double step = refined ? header.step * 1.5 / 255 : header.step;
    const double query_step = refined ? low_scale_ : scale_;
    const double noise = dim * step * step / 12;  // |e|^2, which |r^|^2 lacks
    const double query_noise = dim * query_step * query_step / 12;
    const double code_length = std::sqrt(dim) * std::fmax(std::fabs(double{header.bias}), std::fabs(top));

    double across = square_, half, terms;
    if (codec_.metric() == Metric::l2) {
        const double square = constant * constant, dot = (square_ + square - distance) / 2;
        if (square > 0) across = std::fmin(square_, std::fmax(0.0, square_ - dot * dot / square) + noise);
        half = 2 * std::sqrt(across) * step + 2 * std::sqrt(std::fmax(0.0, double{distance}) + noise + query_noise) * query_step;
        terms = square_ + square;
    } else {
        if (codec_.metric() == Metric::cosine) {
            const double square = 1 - 2 * constant - codec_.mean_square(), dot = 1 - distance - offset_ - constant;
            if (square > 0) across = std::fmin(square_, std::fmax(0.0, square_ - dot * dot / square) + noise);
        }
        half = std::sqrt(across) * step + code_length * query_step;
        terms = 1 + std::fabs(offset_) + std::fabs(mean_weight_ * constant) + std::sqrt(square_) * code_length;
    }
    return finite(kErrorDeviations * kUniform * half + query_noise + kFloatSlack * (terms + std::fabs(distance)));
}

// ---- code against codes -----------------------------------------------------------------------------------------------------

class LvqCodeScorer : public Scorer {
public:
    LvqCodeScorer(const LvqCodec &codec, const uint8_t *code) : codec_(codec), code_(code, code + codec.code_size()) {}

    void score(const uint8_t *const *codes, size_t n, float *distance) override
    {
        codec_.distances(code_.data(), codes, n, distance);
    }
    float rescore(const uint8_t *code, const uint8_t *second) override
    {
        if (second && codec_.two_levels()) return decoded().rescore(code, second);
        float distance;
        score(&code, 1, &distance);
        return distance;
    }
    float error(const uint8_t *code, float distance, bool second) override { return decoded().error(code, distance, second); }

private:
    LvqScorer &decoded()
    {
        if (!decoded_) {
            std::vector<float> values(codec_.dim());
            codec_.decode(code_.data(), nullptr, values.data());
            decoded_ = std::make_unique<LvqScorer>(codec_, std::vector<double>(values.begin(), values.end()));
        }
        return *decoded_;
    }

    const LvqCodec &codec_;
    std::vector<uint8_t> code_;
    std::unique_ptr<LvqScorer> decoded_;  // made when first needed
};

// ---- the codec --------------------------------------------------------------------------------------------------------------

LvqCodec::LvqCodec(const CodecArgs &args)
    : id_(args.id),
      scalar_(args.scalar),
      metric_(args.metric),
      dim_(args.dim),
      bits_(args.id == CodecId::lvq8 ? 8 : 4),
      two_levels_(args.id == CodecId::lvq4x8),
      mean_(args.model.data() + sizeof(ModelHeader))
{
    const size_t size = sizeof(ModelHeader) + size_t{dim_} * sizeof(float);
    const ModelHeader header = args.model.size() == size ? read_as<ModelHeader>(args.model.data()) : ModelHeader{};
    if (header.magic != lvq::kModelMagic || header.version != lvq::kModelVersion || header.dim != dim_)
        throw Error(Errc::index_corrupted,
                    "model of codec \"" + std::string(codec_name(id_)) + "\" does not fit an index of " + std::to_string(dim_) +
                        " dimensions",
                    "REINDEX the index.");
    for (uint32_t i = 0; i < dim_; i++) {
        if (!std::isfinite(mean(i)))
            throw Error(Errc::index_corrupted, "model of codec \"" + std::string(codec_name(id_)) + "\" is damaged",
                        "REINDEX the index.");
        mean_square_ += static_cast<double>(mean(i)) * mean(i);
    }
}

void LvqCodec::encode(const VectorView &x, uint8_t *code, uint8_t *second) const
{
    check_value(x, scalar_, dim_);
    std::vector<float> r(dim_);
    copy_values(x, metric_ == Metric::cosine ? inverse_norm(x) : 1, r.data());
    std::vector<double> mean(dim_);
    for (uint32_t i = 0; i < dim_; i++) {
        mean[i] = this->mean(i);
        r[i] = static_cast<float>(std::min<double>(FLT_MAX, std::max<double>(-FLT_MAX, r[i] - mean[i])));
    }
    const double square = lvq::sum_of(dim_, [&](uint32_t i) { return static_cast<double>(r[i]) * r[i]; });
    const double constant =
        metric_ == Metric::l2 ? std::sqrt(square) : lvq::sum_of(dim_, [&](uint32_t i) { return r[i] * mean[i]; });

    std::vector<uint8_t> codes(dim_);
    Affine line = lvq::quantize(r.data(), dim_, levels(), codes.data());
    const double stretch = line.square > 0 ? square / line.square : 1;
    line.bias = finite(line.bias * stretch);
    line.step = finite(line.step * stretch);
    const Header header{line.bias, line.step, finite(constant), line.sum};
    std::memcpy(code, &header, sizeof header);
    if (bits_ == 8)
        std::memcpy(code + sizeof header, codes.data(), dim_);
    else
        lvq::pack_u4(codes.data(), dim_, code + sizeof header);
    if (!two_levels_ || !second) return;

    for (uint32_t i = 0; i < dim_; i++) r[i] = finite(r[i] - (line.bias + static_cast<double>(line.step) * codes[i]));
    const Affine rest = lvq::quantize(r.data(), dim_, 255, second + sizeof(SecondHeader));
    const SecondHeader extra{rest.bias, rest.step};
    std::memcpy(second, &extra, sizeof extra);
}

void LvqCodec::decode(const uint8_t *code, const uint8_t *second, float *out) const
{
    const Header header = read_as<Header>(code);
    std::vector<uint8_t> unpacked;
    const uint8_t *codes = code + sizeof header;
    if (bits_ == 4) {
        unpacked.resize(dim_);
        lvq::unpack_u4(codes, dim_, unpacked.data());
        codes = unpacked.data();
    }
    const bool refined = two_levels_ && second;
    const SecondHeader extra = refined ? read_as<SecondHeader>(second) : SecondHeader{0, 0};
    for (uint32_t i = 0; i < dim_; i++) {
        double value = static_cast<double>(mean(i)) + header.bias + static_cast<double>(header.step) * codes[i];
        if (refined) value += extra.bias + static_cast<double>(extra.step) * second[sizeof extra + i];
        out[i] = finite(value);
    }
}

void LvqCodec::distances(const uint8_t *a, const uint8_t *const *codes, size_t n, float *distance) const
{
    const DotCodes dot_codes = bits_ == 8 ? simd::kernels().dot_u8_u8 : simd::kernels().dot_u4_u4;
    const size_t bytes = code_size();
    const Header x = read_as<Header>(a);
    const double bias = x.bias, step = x.step, constant = x.constant;
    const double sum = dim_ * bias + step * x.sum;  // of a's decoded residual
    for (size_t i = 0; i < n; i++) {
        if (i + 1 < n) prefetch_code(codes[i + 1], bytes);
        const Header y = read_as<Header>(codes[i]);
        const double codes_dot = static_cast<double>(dot_codes(a + sizeof(Header), codes[i] + sizeof(Header), dim_));
        const double dot = y.bias * sum + y.step * (bias * y.sum + step * codes_dot);
        const double other = y.constant;
        double result;
        if (metric_ == Metric::l2)
            result = std::fmax(0.0, constant * constant + other * other - 2 * dot);
        else
            result = (metric_ == Metric::cosine) - (mean_square_ + constant + other + dot);
        distance[i] = finite(result);
    }
}

std::unique_ptr<Scorer> LvqCodec::query(const VectorView &q) const
{
    check_value(q, scalar_, dim_);
    std::vector<float> values(dim_);
    copy_values(q, 1, values.data());
    const double factor = metric_ == Metric::cosine ? inverse_norm(q) : 1;
    std::vector<double> scaled(dim_);
    for (uint32_t i = 0; i < dim_; i++) scaled[i] = values[i] * factor;
    return std::make_unique<LvqScorer>(*this, scaled);
}

std::unique_ptr<Scorer> LvqCodec::query_code(const uint8_t *code) const { return std::make_unique<LvqCodeScorer>(*this, code); }

}  // namespace

std::unique_ptr<Codec> make_lvq(const CodecArgs &args) { return std::make_unique<LvqCodec>(args); }

}  // namespace vkv
