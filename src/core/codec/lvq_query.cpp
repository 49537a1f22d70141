// A query to LVQ codes: distances and how far they may be off. Formulas: lvq.cpp; layout and notation: lvq_layout.h.
#include <algorithm>
#include <cmath>

#include "core/codec/lvq_codec.h"

namespace vkv::lvq {
namespace {

constexpr int kQueryLevels = 4095;
constexpr double kErrorDeviations = 5;            // of 3.5, one row in 4,000 lies beyond, and then behind rows that are farther
constexpr double kFloatSlack = 4e-7;              // of the terms of a sum, for float constants and results
constexpr double kUniform = 0.28867513459481287;  // 1 / sqrt(12): deviation of a uniform error of one step

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
    double length_;                             // of the values
    std::vector<std::unique_ptr<Side>> sides_;  // [means]
};

LvqScorer::LvqScorer(const LvqCodec &codec, std::vector<double> values)
    : codec_(codec),
      values_(std::move(values)),
      length_(std::sqrt(sum_of(codec.dim(), [&](uint32_t i) { return values_[i] * values_[i]; }))),
      sides_(codec.means())
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
    const double mean_dot = sum_of(dim, [&](uint32_t i) { return values[i] * mean[i]; });
    if (codec_.metric() == Metric::ip) side->offset = mean_dot;
    const double query_square = sum_of(dim, [&](uint32_t i) { return values[i] * values[i]; });
    if (codec_.metric() == Metric::ip && codec_.mean_square(number) - 2 * mean_dot > query_square) side->mean_weight = 0;
    for (uint32_t i = 0; i < dim; i++) s[i] = values[i] - side->mean_weight * mean[i];
    side->square = sum_of(dim, [&](uint32_t i) { return s[i] * s[i]; });
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
        distance[i] = ordered(distance_of(side, header, dot, side.high_square));
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
    return ordered(distance_of(side, header, dot, side.square));
}

// The error is <s, e> (twice that under l2) with e uniform in a step: its deviation is step / sqrt(12) * |part of s across r|, and
// that part follows from |s|, |r| and the dot, which the distance tells: |s|^2 - <s, r>^2 / |r|^2. Under ip |r| is not known, and
// |s| is the bound, as for a second level, whose own error is not orthogonal to r. A rounded query adds as much for its own step,
// against |s - r| (l2) or |r^|. And rows are in the order of the operator, which rounds what it adds, but for the cosine, which is
// of the values before they were normalised.
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

    double across = side.square, half, terms, exact = std::fabs(double{distance}), rounding;
    if (codec_.metric() == Metric::ip) {
        half = std::sqrt(across) * step + code_length * query_step;
        terms = std::fabs(side.offset) + std::fabs(side.mean_weight * constant) + std::sqrt(side.square) * code_length;
        rounding = operator_rounding(dim) * length_ * (std::sqrt(codec_.mean_square(codec_.mean_of(header))) + code_length);
    } else {
        const double apart = halves() ? 2.0 * distance : distance;
        const double square = constant * constant, dot = (side.square + square - apart) / 2;
        if (square > 0 && !refined) across = std::fmin(side.square, std::fmax(0.0, side.square - dot * dot / square) + noise);
        half = 2 * std::sqrt(across) * step + 2 * std::sqrt(std::fmax(0.0, apart) + noise + query_noise) * query_step;
        terms = side.square + square;
        exact = std::fabs(apart);
        rounding = halves() ? unit_rounding(std::fmax(0.0, apart) + noise) : operator_rounding(dim) * exact;
    }
    const double error = kErrorDeviations * kUniform * half + query_noise + kFloatSlack * (terms + exact) + rounding;
    return finite(halves() ? error / 2 : error + (distance > kFar ? kFarError : 0));
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

}  // namespace

std::unique_ptr<Scorer> make_query_scorer(const LvqCodec &codec, std::vector<double> values)
{
    return std::make_unique<LvqScorer>(codec, std::move(values));
}

std::unique_ptr<Scorer> make_code_scorer(const LvqCodec &codec, const uint8_t *code)
{
    return std::make_unique<LvqCodeScorer>(codec, code);
}

}  // namespace vkv::lvq
