// Codec `none` for sparsevec. A code is: u32 nnz | i32 indices[nnz], ascending | f32 values[nnz]; nothing is aligned.
//
// Distances walk both index lists at once, in double. Under cosine the values are normalised when encoded (in float) and the
// distance is 1 - dot, kept in [0, 2]. Under the inner product codes are linked by -dot / sqrt(|a| |b|): by the inner product
// itself the longest would be everybody's neighbours (whiten.h does more for dense vectors).
#include <cmath>

#include "core/codec/families.h"

namespace vkv {
namespace {

struct SparseCode {
    explicit SparseCode(const uint8_t *code) : nnz(read_as<uint32_t>(code)), indices(code + 4), values(indices + 4 * size_t{nnz}) {}

    int32_t index(uint32_t i) const { return read_as<int32_t>(indices + 4 * size_t{i}); }
    double value(uint32_t i) const { return read_as<float>(values + 4 * size_t{i}); }
    size_t bytes() const { return 4 + 8 * size_t{nnz}; }

    uint32_t nnz;
    const uint8_t *indices, *values;
};

// Calls both(x, y) for indices that both have.
template <class Both>
void for_common(const SparseCode &a, const SparseCode &b, Both both)
{
    uint32_t i = 0, j = 0;
    while (i < a.nnz && j < b.nnz) {
        const int32_t at_a = a.index(i), at_b = b.index(j);
        if (at_a == at_b) both(a.value(i), b.value(j));
        i += at_a <= at_b;
        j += at_b <= at_a;
    }
}

// Sums term(x, y) over indices that at least one has.
template <class Term>
double sum_any(const SparseCode &a, const SparseCode &b, Term term)
{
    double sum = 0;
    uint32_t i = 0, j = 0;
    while (i < a.nnz || j < b.nnz) {
        const int32_t at_a = i < a.nnz ? a.index(i) : INT32_MAX, at_b = j < b.nnz ? b.index(j) : INT32_MAX;
        const double x = at_a <= at_b ? a.value(i++) : 0.0, y = at_b <= at_a ? b.value(j++) : 0.0;
        sum += term(x, y);
    }
    return sum;
}

float sparse_distance(Metric metric, const SparseCode &a, const SparseCode &b)
{
    if (metric == Metric::l2) return ordered(sum_any(a, b, [](double x, double y) { return (x - y) * (x - y); }));
    if (metric == Metric::l1) return ordered(sum_any(a, b, [](double x, double y) { return std::fabs(x - y); }));
    double dot = 0;
    for_common(a, b, [&](double x, double y) { dot += x * y; });
    return metric == Metric::ip ? finite(-dot) : static_cast<float>(std::fmin(2.0, std::fmax(0.0, 1 - dot)));
}

double norm_of(const SparseCode &a)
{
    double sum = 0;
    for (uint32_t i = 0; i < a.nnz; i++) sum += a.value(i) * a.value(i);
    return std::sqrt(sum);
}

// The distance that links, of codes under the inner product.
void link_sparse(const uint8_t *a, const uint8_t *const *codes, size_t n, float *distance)
{
    const SparseCode own(a);
    const double weight = std::sqrt(norm_of(own));
    for (size_t i = 0; i < n; i++) {
        if (i + 1 < n) __builtin_prefetch(codes[i + 1]);
        const SparseCode other(codes[i]);
        double dot = 0;
        for_common(own, other, [&](double x, double y) { dot += x * y; });
        distance[i] = dot == 0 ? 0 : finite(-dot / (weight * std::sqrt(norm_of(other))));
    }
}

void score_sparse(Metric metric, const uint8_t *q, const uint8_t *const *codes, size_t n, float *distance)
{
    const SparseCode query(q);
    for (size_t i = 0; i < n; i++) {
        if (i + 1 < n) __builtin_prefetch(codes[i + 1]);
        distance[i] = sparse_distance(metric, query, SparseCode(codes[i]));
    }
}

class SparseScorer : public Scorer {
public:
    SparseScorer(Metric metric, bool links, std::vector<uint8_t> code) : metric_(metric), links_(links), code_(std::move(code)) {}

    void score(const uint8_t *const *codes, size_t n, float *distance) override
    {
        if (links_)
            link_sparse(code_.data(), codes, n, distance);
        else
            score_sparse(metric_, code_.data(), codes, n, distance);
    }
    float rescore(const uint8_t *code, const uint8_t *) override
    {
        float distance;
        score(&code, 1, &distance);
        return distance;
    }
    // The operator's doubles rounded to single precision; under cosine the values were, too, and 1 - dot has the errors of 1.
    float error(const uint8_t *, float distance, bool) override
    {
        if (metric_ == Metric::cosine) return 0x1p-21f;
        return 0x1p-23f * std::fabs(distance) + FLT_MIN + far_error(distance);
    }

private:
    Metric metric_;
    bool links_;  // by another distance than the metric
    std::vector<uint8_t> code_;
};

class SparseCodec : public Codec {
public:
    explicit SparseCodec(const CodecArgs &args) : metric_(args.metric), dim_(args.dim) {}

    CodecId id() const override { return CodecId::none; }
    bool exact() const override { return true; }
    size_t code_size() const override { return 0; }
    size_t second_size() const override { return 0; }
    size_t code_size(const VectorView &x) const override { return 4 + 8 * size_t{x.nnz}; }

    void encode(const VectorView &x, uint8_t *code, uint8_t *) const override
    {
        check_value(x, Scalar::sparse, dim_);
        const double factor = metric_ == Metric::cosine ? inverse_norm(x) : 1;
        std::memcpy(code, &x.nnz, 4);
        if (x.nnz) std::memcpy(code + 4, x.indices, 4 * size_t{x.nnz});
        uint8_t *values = code + 4 + 4 * size_t{x.nnz};
        for (uint32_t i = 0; i < x.nnz; i++) {
            const float value = finite(x.f32()[i] * factor);
            std::memcpy(values + 4 * size_t{i}, &value, 4);
        }
    }
    void distances(const uint8_t *a, const uint8_t *const *codes, size_t n, float *distance) const override
    {
        if (metric_ == Metric::ip)
            link_sparse(a, codes, n, distance);
        else
            score_sparse(metric_, a, codes, n, distance);
    }
    std::unique_ptr<Scorer> query(const VectorView &q) const override
    {
        std::vector<uint8_t> code(code_size(q));
        encode(q, code.data(), nullptr);
        return std::make_unique<SparseScorer>(metric_, false, std::move(code));
    }
    std::unique_ptr<Scorer> query_code(const uint8_t *code) const override { return scorer_of(code, metric_ == Metric::ip); }
    std::unique_ptr<Scorer> linker(const VectorView &x) const override
    {
        std::vector<uint8_t> code(code_size(x));
        encode(x, code.data(), nullptr);
        return query_code(code.data());
    }
    double length(const uint8_t *code) const override { return metric_ == Metric::ip ? norm_of(SparseCode(code)) : 0; }
    std::unique_ptr<Scorer> asking_code(const uint8_t *code) const override
    {
        return metric_ == Metric::ip ? scorer_of(code, false) : nullptr;
    }
    void decode(const uint8_t *, const uint8_t *, float *) const override
    {
        throw Error(Errc::not_supported, "codes of type sparsevec are not decoded");
    }

private:
    std::unique_ptr<Scorer> scorer_of(const uint8_t *code, bool links) const
    {
        return std::make_unique<SparseScorer>(metric_, links, std::vector<uint8_t>(code, code + SparseCode(code).bytes()));
    }

    Metric metric_;
    uint32_t dim_;
};

}  // namespace

std::unique_ptr<Codec> make_exact_sparse(const CodecArgs &args) { return std::make_unique<SparseCodec>(args); }

}  // namespace vkv
