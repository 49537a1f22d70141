// LVQ: locally-adaptive scalar quantization around a mean of the data; lvq8, lvq4, and lvq4x8 with a second level on the residual.
// Layout and notation: lvq_layout.h.
//
// A query works on s = q - a * mean, rounded to int16 (|z| <= 4095), and on its own rounded sum, so that the sum is consistent:
//   <s, r^>  =  scale * (bias * sum z + step * <z, c>)
//   l2       =  |s|^2 - 2 <s, r^> + |r|^2                            a = 1; |s| that of the rounded s
//   cosine   =  l2 / 2, of normalised q and x; a zero vector, which has no direction, counts as one across all others
//   ip       = -(<q, mean> + a <mean, r> + <s, r^>)                  a = 1, but 0 if |q - mean|^2 > 2 |q|^2
// |r| and <mean, r> are exact, and e is orthogonal to r, so the only error is <s, e>, of which only the part of s across r counts:
// less than for the distance to the decoded vector, and nothing for a vector's own code. Distances between codes use the same
// identities, with
//   <r^x, r^y> = dim bx by + bx sy Cy + by sx Cx + sx sy <cx, cy>.
// Between codes of different means, which are far apart beside their errors, the decoded vectors are compared. So all distances
// estimate those of the inputs, and may be compared with each other. They are not clamped to the range of exact ones, which would
// lose order: equal codes come out below 0.
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

    // A code that is read while it is overwritten may name a mean that is none.
    uint32_t mean_of(const Header &header) const { return header.mean() < means() ? header.mean() : 0; }
    uint32_t means() const { return static_cast<uint32_t>(mean_square_.size()); }
    const float *mean(uint32_t number) const { return mean_.data() + size_t{number} * dim_; }
    double mean_square(uint32_t number) const { return mean_square_[number]; }
    Metric metric() const { return metric_; }
    uint32_t dim() const { return dim_; }
    int levels() const { return bits_ == 8 ? 255 : 15; }
    bool two_levels() const { return two_levels_; }
    DotQuery dot_query() const { return bits_ == 8 ? simd::kernels().dot_u8_s16 : simd::kernels().dot_u4_s16; }

private:
    float decoded_distance(const uint8_t *a, const uint8_t *code, std::vector<float> *decoded) const;

    CodecId id_;
    Scalar scalar_;
    Metric metric_;
    uint32_t dim_;
    int bits_;
    bool two_levels_;
    std::vector<float> mean_;  // [means, dim]
    std::vector<double> mean_square_;
};

inline void prefetch_code(const uint8_t *code, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(code + at);
}

// ---- query against codes ----------------------------------------------------------------------------------------------------

class LvqScorer : public Scorer {
public:
    LvqScorer(const LvqCodec &codec, std::vector<double> values);

    void score(const uint8_t *const *codes, size_t n, float *distance) override;
    float rescore(const uint8_t *code, const uint8_t *second) override;
    float error(const uint8_t *code, float distance, bool second) override;

private:
    // What a query is to the codes around one mean. Made when the first of them is met.
    struct Side {
        std::vector<int16_t> high, low;  // s ~ scale * high + low_scale * low, padded to 32
        double scale = 0, low_scale = 0;
        double high_sum = 0, sum = 0;        // of scale * high, of both
        double high_square = 0, square = 0;  // |scale * high|^2, |s|^2
        double offset = 0;                   // ip: <q, mean>
        double mean_weight = 1;              // a
    };
    const Side &side_of(const Header &header)
    {
        const uint32_t number = codec_.mean_of(header);
        if (!sides_[number]) sides_[number] = make_side(number);
        return *sides_[number];
    }
    std::unique_ptr<Side> make_side(uint32_t number) const;
    void round_query(const std::vector<double> &s, Side *side) const;
    double distance_of(const Side &side, const Header &header, double dot, double query_square) const;
    bool halves() const { return codec_.metric() == Metric::cosine; }

    const LvqCodec &codec_;
    std::vector<double> values_;
    std::vector<std::unique_ptr<Side>> sides_;  // [means]
};

LvqScorer::LvqScorer(const LvqCodec &codec, std::vector<double> values)
    : codec_(codec), values_(std::move(values)), sides_(codec.means())
{
    sides_[0] = make_side(0);
}

std::unique_ptr<LvqScorer::Side> LvqScorer::make_side(uint32_t number) const
{
    auto side = std::make_unique<Side>();
    const uint32_t dim = codec_.dim();
    const float *mean = codec_.mean(number);
    const std::vector<double> &values = values_;
    std::vector<double> s(dim);
    const double mean_dot = lvq::sum_of(dim, [&](uint32_t i) { return values[i] * mean[i]; });
    if (codec_.metric() == Metric::ip) side->offset = mean_dot;
    const double query_square = lvq::sum_of(dim, [&](uint32_t i) { return values[i] * values[i]; });
    if (codec_.metric() == Metric::ip && codec_.mean_square(number) - 2 * mean_dot > query_square) side->mean_weight = 0;
    for (uint32_t i = 0; i < dim; i++) s[i] = values[i] - side->mean_weight * mean[i];
    side->square = lvq::sum_of(dim, [&](uint32_t i) { return s[i] * s[i]; });
    round_query(s, side.get());
    if (halves() && query_square == 0) {
        side->square += 1;
        side->high_square += 1;
    }
    return side;
}

// Rounds s once, and for a second level its remainder too.
void LvqScorer::round_query(const std::vector<double> &s, Side *side) const
{
    const size_t padded = (s.size() + 31) / 32 * 32;
    side->high.assign(padded, 0);
    if (codec_.two_levels()) side->low.assign(padded, 0);
    double largest = 0;
    for (const double value : s) largest = std::max(largest, std::fabs(value));
    if (largest == 0) return;
    const double scale = side->scale = largest / kQueryLevels;
    const double to_high = 1 / scale;
    int64_t sum = 0, square = 0;
    for (size_t i = 0; i < s.size(); i++) {
        const int high = static_cast<int>(std::lrint(s[i] * to_high));
        side->high[i] = static_cast<int16_t>(high);
        sum += high;
        square += high * high;
    }
    side->high_sum = side->sum = scale * static_cast<double>(sum);
    side->high_square = scale * scale * static_cast<double>(square);
    if (!codec_.two_levels()) return;

    side->low_scale = scale / (2.0 * kQueryLevels);
    const double to_low = 1 / side->low_scale;
    sum = 0;
    for (size_t i = 0; i < s.size(); i++) {
        const int low = static_cast<int>(std::lrint((s[i] - scale * side->high[i]) * to_low));
        side->low[i] = static_cast<int16_t>(std::max(-kQueryLevels, std::min(kQueryLevels, low)));
        sum += side->low[i];
    }
    side->sum += side->low_scale * static_cast<double>(sum);
}

inline double LvqScorer::distance_of(const Side &side, const Header &header, double dot, double query_square) const
{
    const double constant = header.constant;
    if (codec_.metric() == Metric::ip) return -(side.offset + side.mean_weight * constant + dot);
    const double square = query_square - 2 * dot + constant * constant;
    return halves() ? square / 2 : square;
}

void LvqScorer::score(const uint8_t *const *codes, size_t n, float *distance)
{
    const DotQuery dot_query = codec_.dot_query();
    const size_t bytes = codec_.code_size(), dim = codec_.dim();
    for (size_t i = 0; i < n; i++) {
        if (i + 1 < n) prefetch_code(codes[i + 1], bytes);
        const Header header = read_as<Header>(codes[i]);
        const Side &side = side_of(header);
        const double codes_dot = static_cast<double>(dot_query(codes[i] + sizeof(Header), side.high.data(), dim));
        const double dot = header.bias * side.high_sum + header.step * side.scale * codes_dot;
        distance[i] = finite(distance_of(side, header, dot, side.high_square));
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
    const Side &side = side_of(header);
    const DotQuery dot_query = codec_.dot_query(), dot_u8 = simd::kernels().dot_u8_s16;
    const auto dot_both = [&](DotQuery dot, const uint8_t *packed) {
        return side.scale * static_cast<double>(dot(packed, side.high.data(), codec_.dim())) +
               side.low_scale * static_cast<double>(dot(packed, side.low.data(), codec_.dim()));
    };
    const double dot = (static_cast<double>(header.bias) + extra.bias) * side.sum +
                       header.step * dot_both(dot_query, code + sizeof(Header)) +
                       extra.step * dot_both(dot_u8, second + sizeof(SecondHeader));
    return finite(distance_of(side, header, dot, side.square));
}

// The error is <s, e> (twice that under l2) with e uniform in a step: its deviation is step / sqrt(12) * |part of s across r|, and
// that part follows from |s|, |r| and the dot, which the distance tells: |s|^2 - <s, r>^2 / |r|^2. Under ip |r| is not known, and
// |s| is the bound, as for a second level, whose own error is not orthogonal to r. A rounded query adds as much for its own step,
// against |s - r| (l2) or |r^|.
float LvqScorer::error(const uint8_t *code, float distance, bool second)
{
    const Header header = read_as<Header>(code);
    const Side &side = side_of(header);
    const bool refined = second && codec_.two_levels();
    const double dim = codec_.dim(), constant = header.constant, top = header.bias + double{header.step} * codec_.levels();
    // the residual of the first level reaches a little beyond half a step
    const double step = refined ? header.step * 1.5 / 255 : header.step;
    const double query_step = refined ? side.low_scale : side.scale;
    const double noise = dim * step * step / 12;  // |e|^2, which |r^|^2 lacks
    const double query_noise = dim * query_step * query_step / 12;
    const double code_length = std::sqrt(dim) * std::fmax(std::fabs(double{header.bias}), std::fabs(top));

    double across = side.square, half, terms, exact = std::fabs(double{distance});
    if (codec_.metric() == Metric::ip) {
        half = std::sqrt(across) * step + code_length * query_step;
        terms = std::fabs(side.offset) + std::fabs(side.mean_weight * constant) + std::sqrt(side.square) * code_length;
    } else {
        const double apart = halves() ? 2.0 * distance : distance;
        const double square = constant * constant, dot = (side.square + square - apart) / 2;
        if (square > 0 && !refined) across = std::fmin(side.square, std::fmax(0.0, side.square - dot * dot / square) + noise);
        half = 2 * std::sqrt(across) * step + 2 * std::sqrt(std::fmax(0.0, apart) + noise + query_noise) * query_step;
        terms = side.square + square;
        exact = std::fabs(apart);
    }
    const double error = kErrorDeviations * kUniform * half + query_noise + kFloatSlack * (terms + exact);
    return finite(halves() ? error / 2 : error);
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
      two_levels_(args.id == CodecId::lvq4x8)
{
    const bool whole = args.model.size() >= sizeof(ModelHeader);
    const ModelHeader header = whole ? read_as<ModelHeader>(args.model.data()) : ModelHeader{};
    const size_t means = size_t{1} + header.further, values = means * dim_;
    if (header.magic != lvq::kModelMagic || header.version != lvq::kModelVersion || header.dim != dim_ || means > lvq::kMaxMeans ||
        args.model.size() != sizeof(ModelHeader) + values * sizeof(float))
        throw Error(Errc::index_corrupted,
                    "model of codec \"" + std::string(codec_name(id_)) + "\" does not fit an index of " + std::to_string(dim_) +
                        " dimensions",
                    "REINDEX the index.");
    mean_.resize(values);
    std::memcpy(mean_.data(), args.model.data() + sizeof(ModelHeader), values * sizeof(float));
    if (!std::all_of(mean_.begin(), mean_.end(), [](float value) { return std::isfinite(value); }))
        throw Error(Errc::index_corrupted, "model of codec \"" + std::string(codec_name(id_)) + "\" is damaged",
                    "REINDEX the index.");
    for (uint32_t j = 0; j < means; j++)
        mean_square_.push_back(lvq::sum_of(dim_, [&](uint32_t i) { return static_cast<double>(mean(j)[i]) * mean(j)[i]; }));
}

void LvqCodec::encode(const VectorView &x, uint8_t *code, uint8_t *second) const
{
    check_value(x, scalar_, dim_);
    std::vector<float> r(dim_);
    copy_values(x, metric_ == Metric::cosine ? inverse_norm(x) : 1, r.data());
    const bool is_nowhere = metric_ == Metric::cosine && std::all_of(r.begin(), r.end(), [](float value) { return value == 0; });
    const uint32_t number = lvq::nearest_mean(mean_.data(), means(), r.data(), dim_);
    const float *mean = this->mean(number);
    for (uint32_t i = 0; i < dim_; i++)
        r[i] = static_cast<float>(std::min<double>(FLT_MAX, std::max<double>(-FLT_MAX, static_cast<double>(r[i]) - mean[i])));
    const double square = lvq::sum_of(dim_, [&](uint32_t i) { return static_cast<double>(r[i]) * r[i]; });
    const double constant = metric_ == Metric::ip
                                ? lvq::sum_of(dim_, [&](uint32_t i) { return static_cast<double>(r[i]) * mean[i]; })
                                : std::sqrt(square + is_nowhere);

    std::vector<uint8_t> codes(dim_);
    Affine line = lvq::quantize(r.data(), dim_, levels(), codes.data());
    const double stretch = line.square > 0 ? square / line.square : 1;
    line.bias = finite(line.bias * stretch);
    line.step = finite(line.step * stretch);
    const Header header{line.bias, line.step, finite(constant), line.sum | number << lvq::kSumBits};
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
    const float *mean = this->mean(mean_of(header));
    for (uint32_t i = 0; i < dim_; i++) {
        double value = static_cast<double>(mean[i]) + header.bias + static_cast<double>(header.step) * codes[i];
        if (refined) value += extra.bias + static_cast<double>(extra.step) * second[sizeof extra + i];
        out[i] = finite(value);
    }
}

void LvqCodec::distances(const uint8_t *a, const uint8_t *const *codes, size_t n, float *distance) const
{
    const DotCodes dot_codes = bits_ == 8 ? simd::kernels().dot_u8_u8 : simd::kernels().dot_u4_u4;
    const size_t bytes = code_size();
    const Header x = read_as<Header>(a);
    const uint32_t number = mean_of(x);
    const double bias = x.bias, step = x.step, constant = x.constant, mean_square = mean_square_[number];
    const double sum = dim_ * bias + step * x.sum();  // of a's decoded residual
    std::vector<float> decoded;
    for (size_t i = 0; i < n; i++) {
        if (i + 1 < n) prefetch_code(codes[i + 1], bytes);
        const Header y = read_as<Header>(codes[i]);
        if (mean_of(y) != number) {
            distance[i] = decoded_distance(a, codes[i], &decoded);
            continue;
        }
        const double codes_dot = static_cast<double>(dot_codes(a + sizeof(Header), codes[i] + sizeof(Header), dim_));
        const double dot = y.bias * sum + y.step * (bias * y.sum() + step * codes_dot);
        const double other = y.constant;
        double result;
        if (metric_ == Metric::ip) {
            result = -(mean_square + constant + other + dot);
        } else {
            result = constant * constant + other * other - 2 * dot;
            if (metric_ == Metric::cosine) result /= 2;
        }
        distance[i] = finite(result);
    }
}

// Single precision will do for vectors that are far apart, in sixteen chains, so that the same operations fill any vector
// registers.
template <class Term>
float sum_in_chains(uint32_t n, Term term)
{
    constexpr uint32_t kChains = 16;
    float chain[kChains] = {};
    uint32_t i = 0;
    for (; i + kChains <= n; i += kChains)
        for (uint32_t k = 0; k < kChains; k++) chain[k] += term(i + k);
    for (; i < n; i++) chain[0] += term(i);
    double sum = 0;
    for (const float part : chain) sum += part;
    return finite(sum);
}

// decoded: of a; empty at first.
float LvqCodec::decoded_distance(const uint8_t *a, const uint8_t *code, std::vector<float> *decoded) const
{
    if (decoded->empty()) {
        decoded->resize(dim_);
        decode(a, nullptr, decoded->data());
    }
    const Header header = read_as<Header>(code);
    const uint8_t *codes = code + sizeof header;
    std::vector<uint8_t> unpacked;
    if (bits_ == 4) {
        unpacked.resize(dim_);
        lvq::unpack_u4(codes, dim_, unpacked.data());
        codes = unpacked.data();
    }
    const float *x = decoded->data(), *mean = this->mean(mean_of(header));
    const float bias = header.bias, step = header.step;
    const auto value = [=](uint32_t i) { return mean[i] + (bias + step * static_cast<float>(codes[i])); };
    if (metric_ != Metric::l2)
        return finite((metric_ == Metric::cosine) - double{sum_in_chains(dim_, [=](uint32_t i) { return x[i] * value(i); })});
    return sum_in_chains(dim_, [=](uint32_t i) {
        const float difference = x[i] - value(i);
        return difference * difference;
    });
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
