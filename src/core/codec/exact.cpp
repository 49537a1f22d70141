// Codec `none` for vector, halfvec and bit: the code is the value itself, without its header (bits: whole bytes).
//
// Under cosine the value is normalised when encoded, in its own type. The distance of vectors is half the square of how far they
// are apart, which has digits where 1 - dot has the errors of 1, so that rows close together are linked and searched in order; a
// zero vector, which counts as one across all others, is coded as no number. That of halves is 1 - dot, kept in [0, 2]: a query is
// not normalised, which would round it; the dot is divided by its norm. Kernels sum in float; a sum that leaves the range of float
// is made again in double and clamped, so no distance is infinite or NaN.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/codec/families.h"
#include "core/simd/half.h"
#include "core/simd/kernels.h"

namespace vkv {
namespace {

// ---- vector and halfvec ---------------------------------------------------------------------------------------------------

template <class T>
constexpr Scalar kScalarOf = sizeof(T) == 2 ? Scalar::f16 : Scalar::f32;

template <class T>
const T *values_of(const uint8_t *code)
{
    return reinterpret_cast<const T *>(code);  // kernels read them unaligned
}

template <class T>
auto dense_kernel(Metric metric) -> float (*)(const T *, const T *, size_t)
{
    const simd::Kernels &kernels = simd::kernels();
    if constexpr (sizeof(T) == 2)
        return metric == Metric::l2 ? kernels.l2_f16 : metric == Metric::l1 ? kernels.l1_f16 : kernels.ip_f16;
    else
        return metric == Metric::ip ? kernels.ip_f32 : metric == Metric::l1 ? kernels.l1_f32 : kernels.l2_f32;
}

inline void prefetch_code(const uint8_t *code, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(code + at);
}

struct DenseQuery {
    Metric metric;
    uint32_t dim;
    double scale = 1;    // cosine: 1 / norm of the query
    double largest = 1;  // no value of the normalised query is larger
};

template <class T>
float far_distance(const DenseQuery &query, const T *q, const T *x)
{
    if (query.metric == Metric::cosine) return 1;  // a zero vector
    const VectorView a{kScalarOf<T>, query.dim, q, nullptr, 0}, b{kScalarOf<T>, query.dim, x, nullptr, 0};
    return ordered(exact_distance(query.metric, a, b));
}

template <class T>
void score_dense(const DenseQuery &query, const T *q, const uint8_t *const *codes, size_t n, float *distance)
{
    const auto kernel = dense_kernel<T>(query.metric);
    const Metric metric = query.metric;
    for (size_t i = 0; i < n; i++) {
        if (i + 1 < n) prefetch_code(codes[i + 1], query.dim * sizeof(T));
        float value = kernel(q, values_of<T>(codes[i]), query.dim);
        if (metric == Metric::ip) value = -value;
        if (!(value <= kFar && value >= -FLT_MAX))
            distance[i] = far_distance(query, q, values_of<T>(codes[i]));
        else if (metric == Metric::cosine && sizeof(T) == sizeof(float))
            distance[i] = value / 2;
        else if (metric == Metric::cosine)
            distance[i] = static_cast<float>(std::fmin(2.0, std::fmax(0.0, 1 - query.scale * value)));
        else
            distance[i] = value;
    }
}

template <class T>
class DenseScorer : public Scorer {
public:
    DenseScorer(const DenseQuery &query, std::vector<T> values) : query_(query), values_(std::move(values)) {}

    void score(const uint8_t *const *codes, size_t n, float *distance) override
    {
        score_dense(query_, values_.data(), codes, n, distance);
    }
    float rescore(const uint8_t *code, const uint8_t *) override
    {
        float distance;
        score(&code, 1, &distance);
        return distance;
    }
    // What the operator says, bit for bit, but for cosine, where values were rounded when they were normalised, and sums are
    // floats. A half is rounded by at most 2^-11 of itself, which makes no more of the dot; where many add up, five deviations of
    // it are less: sum (q x)^2 is at most the largest q^2.
    float error(const uint8_t *, float distance, bool) override
    {
        if (query_.metric != Metric::cosine) return far_error(distance);
        const double sums = operator_rounding(query_.dim);
        if constexpr (sizeof(T) == 2) return static_cast<float>(0x1p-11 * std::fmin(1, 5 / std::sqrt(3.0) * query_.largest) + sums);
        return static_cast<float>(unit_rounding(2.0 * distance) / 2 + sums * distance);
    }

private:
    DenseQuery query_;
    std::vector<T> values_;
};

template <class T>
class DenseCodec : public Codec {
public:
    explicit DenseCodec(const CodecArgs &args) : metric_(args.metric), dim_(args.dim) {}

    CodecId id() const override { return CodecId::none; }
    bool exact() const override { return true; }
    size_t code_size() const override { return dim_ * sizeof(T); }
    size_t second_size() const override { return 0; }
    size_t code_size(const VectorView &) const override { return code_size(); }

    void encode(const VectorView &x, uint8_t *code, uint8_t *) const override
    {
        check_value(x, kScalarOf<T>, dim_);
        const std::vector<T> values = metric_ == Metric::cosine ? normalised(x) : copied(x.data);
        std::memcpy(code, values.data(), code_size());
    }

    void distances(const uint8_t *a, const uint8_t *const *codes, size_t n, float *distance) const override
    {
        score_dense(DenseQuery{metric_, dim_}, values_of<T>(a), codes, n, distance);
    }

    std::unique_ptr<Scorer> query(const VectorView &q) const override
    {
        check_value(q, kScalarOf<T>, dim_);
        DenseQuery query{metric_, dim_};
        const bool normalise = metric_ == Metric::cosine && sizeof(T) == sizeof(float);
        if (metric_ == Metric::cosine && !normalise) {
            query.scale = inverse_norm(q);
            query.largest = query.scale * largest_of(q);
        }
        return std::make_unique<DenseScorer<T>>(query, normalise ? normalised(q) : copied(q.data));
    }

    std::unique_ptr<Scorer> query_code(const uint8_t *code) const override
    {
        return std::make_unique<DenseScorer<T>>(DenseQuery{metric_, dim_}, copied(code));
    }

    void decode(const uint8_t *code, const uint8_t *, float *out) const override
    {
        copy_values({kScalarOf<T>, dim_, code, nullptr, 0}, 1, out);
        if (std::isnan(out[0])) out[0] = 0;
    }

private:
    double largest_of(const VectorView &x) const
    {
        std::vector<float> values(dim_);
        copy_values(x, 1, values.data());
        float largest = 0;
        for (const float value : values) largest = std::max(largest, std::fabs(value));
        return largest;
    }

    std::vector<T> copied(const void *data) const
    {
        std::vector<T> values(dim_);
        std::memcpy(values.data(), data, dim_ * sizeof(T));
        return values;
    }

    std::vector<T> normalised(const VectorView &x) const
    {
        std::vector<float> values(dim_);
        const double factor = inverse_norm(x);
        copy_values(x, factor, values.data());
        if constexpr (sizeof(T) == sizeof(float)) {
            if (factor == 0) values[0] = std::numeric_limits<float>::quiet_NaN();
            return values;
        } else {
            std::vector<T> halves(dim_);
            simd::kernels().f32_to_f16(values.data(), halves.data(), dim_);
            return halves;
        }
    }

    Metric metric_;
    uint32_t dim_;
};

// ---- bit --------------------------------------------------------------------------------------------------------------------

void score_bits(Metric metric, const uint8_t *q, size_t bytes, const uint8_t *const *codes, size_t n, float *distance)
{
    const simd::Kernels &kernels = simd::kernels();
    for (size_t i = 0; i < n; i++) {
        if (i + 1 < n) prefetch_code(codes[i + 1], bytes);
        if (metric == Metric::hamming) {
            distance[i] = static_cast<float>(kernels.hamming(q, codes[i], bytes));
        } else {
            uint64_t both, any;
            kernels.and_or_count(q, codes[i], bytes, &both, &any);
            distance[i] = both == 0 ? 1 : static_cast<float>(1 - static_cast<double>(both) / static_cast<double>(any));
        }
    }
}

class BitScorer : public Scorer {
public:
    BitScorer(Metric metric, const uint8_t *q, size_t bytes) : metric_(metric), bytes_(q, q + bytes) {}

    void score(const uint8_t *const *codes, size_t n, float *distance) override
    {
        score_bits(metric_, bytes_.data(), bytes_.size(), codes, n, distance);
    }
    float rescore(const uint8_t *code, const uint8_t *) override
    {
        float distance;
        score(&code, 1, &distance);
        return distance;
    }
    float error(const uint8_t *, float, bool) override { return 0; }

private:
    Metric metric_;
    std::vector<uint8_t> bytes_;
};

class BitCodec : public Codec {
public:
    explicit BitCodec(const CodecArgs &args) : metric_(args.metric), dim_(args.dim) {}

    CodecId id() const override { return CodecId::none; }
    bool exact() const override { return true; }
    size_t code_size() const override { return (static_cast<size_t>(dim_) + 7) / 8; }
    size_t second_size() const override { return 0; }
    size_t code_size(const VectorView &) const override { return code_size(); }

    void encode(const VectorView &x, uint8_t *code, uint8_t *) const override
    {
        check_value(x, Scalar::bit, dim_);
        std::memcpy(code, x.data, code_size());
    }
    void distances(const uint8_t *a, const uint8_t *const *codes, size_t n, float *distance) const override
    {
        score_bits(metric_, a, code_size(), codes, n, distance);
    }
    std::unique_ptr<Scorer> query(const VectorView &q) const override
    {
        check_value(q, Scalar::bit, dim_);
        return query_code(q.bytes());
    }
    std::unique_ptr<Scorer> query_code(const uint8_t *code) const override
    {
        return std::make_unique<BitScorer>(metric_, code, code_size());
    }
    void decode(const uint8_t *, const uint8_t *, float *) const override
    {
        throw Error(Errc::not_supported, "codes of type bit have no decoded values");
    }

private:
    Metric metric_;
    uint32_t dim_;
};

}  // namespace

std::unique_ptr<Codec> make_exact_dense(const CodecArgs &args)
{
    if (args.scalar == Scalar::f16) return std::make_unique<DenseCodec<uint16_t>>(args);
    return std::make_unique<DenseCodec<float>>(args);
}

std::unique_ptr<Codec> make_exact_bit(const CodecArgs &args) { return std::make_unique<BitCodec>(args); }

}  // namespace vkv
