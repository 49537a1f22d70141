// Making LVQ codes: the grid, the fit, the nibbles; and the trainer, which finds the means that vectors are coded around.
#include "core/codec/lvq_layout.h"

#include <algorithm>
#include <cmath>

#include "core/simd/kernels.h"

namespace vkv::lvq {
namespace {

// Below this the inverse of a step would overflow; such a vector is constant for every distance that float can express.
constexpr float kSmallestStep = 1e-37f;

// A mean whose norm is this many times the median norm of the sample was made by a few outliers. Coding around it would cost all
// other vectors their precision, so the mean is not used.
constexpr double kMeanNormLimit = 2;

// Sums of the codes and of their squares; 4096 * 255^2 fits u32.
void code_sums(const uint8_t *codes, uint32_t n, double *sum, double *square)
{
    constexpr uint32_t kChunk = 4096;
    *sum = *square = 0;
    for (uint32_t from = 0; from < n; from += kChunk) {
        uint32_t code = 0, code2 = 0;
        const uint32_t to = std::min(n, from + kChunk);
        for (uint32_t i = from; i < to; i++) {
            code += codes[i];
            code2 += static_cast<uint32_t>(codes[i]) * codes[i];
        }
        *sum += code;
        *square += code2;
    }
}

}  // namespace

Affine quantize(const float *r, uint32_t n, int levels, uint8_t *codes)
{
    const simd::Kernels &kernels = simd::kernels();
    float low, high;
    kernels.min_max(r, n, &low, &high);
    const float grid = static_cast<float>((static_cast<double>(high) - low) / levels);
    const bool flat = grid < kSmallestStep;
    if (flat)
        std::fill(codes, codes + n, uint8_t{0});
    else
        kernels.quantize_u8(r, n, low, 1 / grid, levels, codes);

    double sum, square;  // of the codes
    code_sums(codes, n, &sum, &square);
    const double start = low;  // values are taken relative to the grid's start
    const double value = sum_of(n, [&](uint32_t i) { return r[i] - start; });
    const double value_code = sum_of(n, [&](uint32_t i) { return (r[i] - start) * codes[i]; });
    const double spread = n * square - sum * sum;
    double step = flat ? 0 : grid;
    if (spread > 0) {
        const double fitted = (n * value_code - sum * value) / spread;
        if (fitted > 0 && std::isfinite(fitted)) step = fitted;
    }
    const float rounded = static_cast<float>(step);
    const float bias = finite(start + (value - rounded * sum) / n);
    const double b = bias, d = rounded;
    return {bias, rounded, static_cast<uint32_t>(sum), n * b * b + 2 * b * d * sum + d * d * square};
}

void pack_u4(const uint8_t *codes, uint32_t n, uint8_t *packed)
{
    uint32_t i = 0;
    for (; i + 32 <= n; i += 32, codes += 32, packed += 16)
        for (uint32_t k = 0; k < 16; k++) packed[k] = static_cast<uint8_t>(codes[k] | codes[k + 16] << 4);
    if (i == n) return;
    uint8_t padded[32] = {};
    std::memcpy(padded, codes, n - i);
    pack_u4(padded, 32, packed);
}

void unpack_u4(const uint8_t *packed, uint32_t n, uint8_t *codes)
{
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t both = packed[i / 32 * 16 + i % 16];
        codes[i] = i % 32 < 16 ? both & 15 : both >> 4;
    }
}

namespace {

class MeanTrainer : public Trainer {
public:
    explicit MeanTrainer(const CodecArgs &args) : args_(args), sum_(args.dim), values_(args.dim), sample_(args.dim) {}

    void add(const VectorView &x) override
    {
        check_value(x, args_.scalar, args_.dim);
        const double norm = norm_of(x);
        const bool normalise = args_.metric == Metric::cosine;
        if (normalise && norm == 0) return;  // no direction
        copy_values(x, normalise ? 1 / norm : 1, values_.data());
        for (uint32_t i = 0; i < args_.dim; i++) sum_[i] += values_[i];
        norms_.push_back(normalise ? 1 : norm);
        sample_.add(values_.data());
    }

    std::vector<uint8_t> finish(const std::function<void()> &poll) override
    {
        std::vector<float> mean(args_.dim, 0.0f);
        double square = 0;
        for (uint32_t i = 0; i < args_.dim && !norms_.empty(); i++) {
            mean[i] = finite(sum_[i] / static_cast<double>(norms_.size()));
            square += static_cast<double>(mean[i]) * mean[i];
        }
        if (std::sqrt(square) > kMeanNormLimit * median_norm()) std::fill(mean.begin(), mean.end(), 0.0f);
        const std::vector<float> groups = group_means(sample_, args_.dim, mean, poll);
        mean.insert(mean.end(), groups.begin(), groups.end());
        const ModelHeader header{kModelMagic, kModelVersion, static_cast<uint16_t>(groups.size() / args_.dim), args_.dim,
                                 static_cast<uint32_t>(std::min<size_t>(norms_.size(), UINT32_MAX))};
        std::vector<uint8_t> model(sizeof header + mean.size() * sizeof(float));
        std::memcpy(model.data(), &header, sizeof header);
        std::memcpy(model.data() + sizeof header, mean.data(), mean.size() * sizeof(float));
        return model;
    }

private:
    double median_norm()
    {
        if (norms_.empty()) return 0;
        const auto middle = norms_.begin() + static_cast<std::ptrdiff_t>(norms_.size() / 2);
        std::nth_element(norms_.begin(), middle, norms_.end());
        return *middle;
    }

    CodecArgs args_;
    std::vector<double> sum_, norms_;
    std::vector<float> values_;
    Sample sample_;
};

}  // namespace
}  // namespace vkv::lvq

namespace vkv {

std::unique_ptr<Trainer> make_mean_trainer(const CodecArgs &args) { return std::make_unique<lvq::MeanTrainer>(args); }

}  // namespace vkv
