// The codecs lvq8, lvq4 and lvq4x8: what the codec (lvq.cpp) and a query to its codes (lvq_query.cpp) share.
#pragma once
#include <memory>
#include <vector>

#include "core/codec/lvq_layout.h"
#include "core/simd/kernels.h"

namespace vkv::lvq {

using DotQuery = int64_t (*)(const uint8_t *, const int16_t *, size_t);
using DotCodes = int64_t (*)(const uint8_t *, const uint8_t *, size_t);

class LvqCodec : public Codec {
public:
    explicit LvqCodec(const CodecArgs &args);

    CodecId id() const override { return id_; }
    bool exact() const override { return false; }
    size_t code_size() const override { return sizeof(Header) + packed_size(dim_, bits_); }
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

// Of a query's values, normalised under cosine; of a code, that is copied.
std::unique_ptr<Scorer> make_query_scorer(const LvqCodec &codec, std::vector<double> values);
std::unique_ptr<Scorer> make_code_scorer(const LvqCodec &codec, const uint8_t *code);

}  // namespace vkv::lvq
