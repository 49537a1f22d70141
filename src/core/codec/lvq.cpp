// LVQ: locally-adaptive scalar quantization around a mean of the data; lvq8, lvq4, and lvq4x8 with a second level on the residual.
// Layout and notation: lvq_layout.h; a query: lvq_query.cpp.
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

#include "core/codec/lvq_codec.h"

namespace vkv {
namespace lvq {

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
    if (header.magic != kModelMagic || header.version != kModelVersion || header.dim != dim_ || means > kMaxMeans ||
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
        mean_square_.push_back(sum_of(dim_, [&](uint32_t i) { return static_cast<double>(mean(j)[i]) * mean(j)[i]; }));
}

void LvqCodec::encode(const VectorView &x, uint8_t *code, uint8_t *second) const
{
    check_value(x, scalar_, dim_);
    std::vector<float> r(dim_);
    copy_values(x, metric_ == Metric::cosine ? inverse_norm(x) : 1, r.data());
    const bool is_nowhere = metric_ == Metric::cosine && std::all_of(r.begin(), r.end(), [](float value) { return value == 0; });
    const uint32_t number = nearest_mean(mean_.data(), means(), r.data(), dim_);
    const float *mean = this->mean(number);
    for (uint32_t i = 0; i < dim_; i++)
        r[i] = static_cast<float>(std::min<double>(FLT_MAX, std::max<double>(-FLT_MAX, static_cast<double>(r[i]) - mean[i])));
    const double square = sum_of(dim_, [&](uint32_t i) { return static_cast<double>(r[i]) * r[i]; });
    const double constant = metric_ == Metric::ip ? sum_of(dim_, [&](uint32_t i) { return static_cast<double>(r[i]) * mean[i]; })
                                                  : std::sqrt(square + is_nowhere);

    std::vector<uint8_t> codes(dim_);
    Affine line = quantize(r.data(), dim_, levels(), codes.data());
    const double stretch = line.square > 0 ? square / line.square : 1;
    line.bias = finite(line.bias * stretch);
    line.step = finite(line.step * stretch);
    const Header header{line.bias, line.step, finite(constant), line.sum | number << kSumBits};
    std::memcpy(code, &header, sizeof header);
    if (bits_ == 8)
        std::memcpy(code + sizeof header, codes.data(), dim_);
    else
        pack_u4(codes.data(), dim_, code + sizeof header);
    if (!two_levels_ || !second) return;

    for (uint32_t i = 0; i < dim_; i++) r[i] = finite(r[i] - (line.bias + static_cast<double>(line.step) * codes[i]));
    const Affine rest = quantize(r.data(), dim_, 255, second + sizeof(SecondHeader));
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
        unpack_u4(codes, dim_, unpacked.data());
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
        distance[i] = ordered(result);
    }
}

// Single precision will do for vectors that are far apart, in sixteen chains, so that the same operations fill any vector
// registers.
template <class Term>
static float sum_in_chains(uint32_t n, Term term)
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
        unpack_u4(codes, dim_, unpacked.data());
        codes = unpacked.data();
    }
    const float *x = decoded->data(), *mean = this->mean(mean_of(header));
    const float bias = header.bias, step = header.step;
    const auto value = [=](uint32_t i) { return mean[i] + (bias + step * static_cast<float>(codes[i])); };
    if (metric_ != Metric::l2)
        return finite((metric_ == Metric::cosine) - double{sum_in_chains(dim_, [=](uint32_t i) { return x[i] * value(i); })});
    const float square = sum_in_chains(dim_, [=](uint32_t i) {
        const float difference = x[i] - value(i);
        return difference * difference;
    });
    if (square <= kFar) return square;
    return ordered(sum_of(dim_, [=](uint32_t i) {
        const double difference = double{x[i]} - value(i);
        return difference * difference;
    }));
}

std::unique_ptr<Scorer> LvqCodec::query(const VectorView &q) const
{
    check_value(q, scalar_, dim_);
    std::vector<float> values(dim_);
    copy_values(q, 1, values.data());
    const double factor = metric_ == Metric::cosine ? inverse_norm(q) : 1;
    std::vector<double> scaled(dim_);
    for (uint32_t i = 0; i < dim_; i++) scaled[i] = values[i] * factor;
    return make_query_scorer(*this, std::move(scaled));
}

std::unique_ptr<Scorer> LvqCodec::query_code(const uint8_t *code) const { return make_code_scorer(*this, code); }

}  // namespace lvq

std::unique_ptr<Codec> make_lvq(const CodecArgs &args) { return std::make_unique<lvq::LvqCodec>(args); }

}  // namespace vkv
