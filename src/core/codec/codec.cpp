// The registry of codecs: which exist, what they are called, what they are defined for, and who makes them.
// Also what every family needs of a value: its norm, its copy as float, its exact distance to another one.
#include "core/codec/codec.h"

#include <cmath>

#include "core/codec/families.h"
#include "core/simd/half.h"
#include "core/simd/kernels.h"

namespace vkv {
namespace {

bool exact_supports(Scalar scalar, Metric metric)
{
    if (scalar == Scalar::bit) return metric == Metric::hamming || metric == Metric::jaccard;
    return metric != Metric::hamming && metric != Metric::jaccard;
}

bool lvq_supports(Scalar scalar, Metric metric)
{
    return is_dense(scalar) && (metric == Metric::l2 || metric == Metric::ip || metric == Metric::cosine);
}

class NoTrainer : public Trainer {
public:
    void add(const VectorView &) override {}
    std::vector<uint8_t> finish(const std::function<void()> &) override { return {}; }
};

std::unique_ptr<Trainer> make_no_trainer(const CodecArgs &) { return std::make_unique<NoTrainer>(); }

std::unique_ptr<Codec> make_exact(const CodecArgs &args)
{
    if (!args.model.empty())
        throw Error(Errc::index_corrupted,
                    "codec \"none\" has no model, but " + std::to_string(args.model.size()) + " bytes were found",
                    "REINDEX the index.");
    switch (args.scalar) {
        case Scalar::bit:
            return make_exact_bit(args);
        case Scalar::sparse:
            return make_exact_sparse(args);
        default:
            return make_exact_dense(args);
    }
}

struct CodecEntry {
    CodecId id;
    std::string_view name;
    bool (*supports)(Scalar, Metric);
    std::unique_ptr<Trainer> (*trainer)(const CodecArgs &);
    std::unique_ptr<Codec> (*codec)(const CodecArgs &);
};

constexpr CodecEntry kCodecs[] = {
    {CodecId::none, "none", exact_supports, make_no_trainer, make_exact},
    {CodecId::lvq8, "lvq8", lvq_supports, make_mean_trainer, make_lvq},
    {CodecId::lvq4, "lvq4", lvq_supports, make_mean_trainer, make_lvq},
    {CodecId::lvq4x8, "lvq4x8", lvq_supports, make_mean_trainer, make_lvq},
};

const CodecEntry *find_codec(CodecId id)
{
    for (const CodecEntry &entry : kCodecs)
        if (entry.id == id) return &entry;
    return nullptr;
}

const CodecEntry &checked_codec(const CodecArgs &args)
{
    const CodecEntry *entry = find_codec(args.id);
    if (!entry)
        throw Error(Errc::index_corrupted, "unknown codec number " + std::to_string(static_cast<int>(args.id)),
                    "REINDEX the index.");
    if (!entry->supports(args.scalar, args.metric))
        throw Error(Errc::not_supported,
                    "codec \"" + std::string(entry->name) + "\" is not defined for type " + type_name(args.scalar) + " and " +
                        metric_name(args.metric) + " distance",
                    "Use codec \"none\".");
    if (args.dim == 0 || (is_dense(args.scalar) && args.dim > kMaxDim))
        throw Error(Errc::limit_exceeded, std::string(type_name(args.scalar)) + " has " + std::to_string(args.dim) +
                                              " dimensions, a codec takes 1 to " + std::to_string(kMaxDim));
    return *entry;
}

template <class T>
double value_at(const T *values, size_t i)
{
    const T raw = read_as<T>(values + i);
    if constexpr (sizeof(T) == 2)
        return half_to_float(raw);
    else
        return raw;
}

// Sums term(a_i, b_i); four partial sums, so that the additions do not wait for each other.
template <class T, class Term>
double dense_sum(const T *a, const T *b, size_t n, Term term)
{
    double sum[4] = {};
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (size_t k = 0; k < 4; k++) sum[k] += term(value_at(a, i + k), value_at(b, i + k));
    for (; i < n; i++) sum[0] += term(value_at(a, i), value_at(b, i));
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

template <class Term>
double sparse_sum(const VectorView &a, const VectorView &b, Term term)
{
    double sum = 0;
    uint32_t i = 0, j = 0;
    while (i < a.nnz || j < b.nnz) {
        const int32_t at_a = i < a.nnz ? a.indices[i] : INT32_MAX, at_b = j < b.nnz ? b.indices[j] : INT32_MAX;
        const double x = at_a <= at_b ? a.f32()[i++] : 0.0, y = at_b <= at_a ? b.f32()[j++] : 0.0;
        sum += term(x, y);
    }
    return sum;
}

template <class Term>
double sum_over(const VectorView &a, const VectorView &b, Term term)
{
    switch (a.scalar) {
        case Scalar::f32:
            return dense_sum(a.f32(), b.f32(), a.dim, term);
        case Scalar::f16:
            return dense_sum(a.f16(), b.f16(), a.dim, term);
        default:
            return sparse_sum(a, b, term);
    }
}

double dot_of(const VectorView &a, const VectorView &b)
{
    return sum_over(a, b, [](double x, double y) { return x * y; });
}

double bit_distance(Metric metric, const VectorView &a, const VectorView &b)
{
    uint64_t differ = 0, both = 0, any = 0;
    for (size_t i = 0; i < a.bit_bytes(); i++) {
        const unsigned x = a.bytes()[i], y = b.bytes()[i];
        differ += static_cast<unsigned>(__builtin_popcount(x ^ y));
        both += static_cast<unsigned>(__builtin_popcount(x & y));
        any += static_cast<unsigned>(__builtin_popcount(x | y));
    }
    if (metric == Metric::hamming) return static_cast<double>(differ);
    return both == 0 ? 1 : 1 - static_cast<double>(both) / static_cast<double>(any);
}

}  // namespace

double norm_of(const VectorView &x) { return std::sqrt(dot_of(x, x)); }

void copy_values(const VectorView &x, double factor, float *out)
{
    if (x.scalar == Scalar::f16)
        simd::kernels().f16_to_f32(x.f16(), out, x.dim);
    else
        std::memcpy(out, x.data, x.dim * sizeof(float));
    if (factor == 1) return;
    for (uint32_t i = 0; i < x.dim; i++) out[i] = static_cast<float>(out[i] * factor);
}

void check_value(const VectorView &x, Scalar scalar, uint32_t dim)
{
    if (x.scalar != scalar)
        throw Error(Errc::internal, std::string("a codec for ") + type_name(scalar) + " was given a " + type_name(x.scalar));
    if (x.dim != dim)
        throw Error(Errc::data_exception, "expected " + std::to_string(dim) + " dimensions, not " + std::to_string(x.dim));
}

const char *type_name(Scalar scalar)
{
    switch (scalar) {
        case Scalar::f32:
            return "vector";
        case Scalar::f16:
            return "halfvec";
        case Scalar::bit:
            return "bit";
        case Scalar::sparse:
            return "sparsevec";
    }
    return "unknown";
}

const char *metric_name(Metric metric)
{
    switch (metric) {
        case Metric::l2:
            return "l2";
        case Metric::ip:
            return "inner product";
        case Metric::cosine:
            return "cosine";
        case Metric::l1:
            return "l1";
        case Metric::hamming:
            return "hamming";
        case Metric::jaccard:
            return "jaccard";
    }
    return "unknown";
}

std::string_view codec_name(CodecId id)
{
    const CodecEntry *entry = find_codec(id);
    return entry ? entry->name : std::string_view("unknown");
}

bool parse_codec(std::string_view name, CodecId *id)
{
    for (const CodecEntry &entry : kCodecs) {
        if (entry.name != name) continue;
        *id = entry.id;
        return true;
    }
    return false;
}

bool codec_supports(CodecId id, Scalar scalar, Metric metric)
{
    const CodecEntry *entry = find_codec(id);
    return entry && entry->supports(scalar, metric);
}

std::unique_ptr<Trainer> make_trainer(CodecId id, Scalar scalar, Metric metric, uint32_t dim)
{
    const CodecArgs args{id, scalar, metric, dim, {}};
    return checked_codec(args).trainer(args);
}

std::unique_ptr<Codec> make_codec(CodecId id, Scalar scalar, Metric metric, uint32_t dim, std::span<const uint8_t> model)
{
    const CodecArgs args{id, scalar, metric, dim, model};
    return checked_codec(args).codec(args);
}

double exact_distance(Metric metric, const VectorView &a, const VectorView &b)
{
    if (a.scalar != b.scalar) throw Error(Errc::internal, "distance of two values of different types");
    if (a.dim != b.dim)
        throw Error(Errc::data_exception, a.scalar == Scalar::bit
                                              ? "different bit lengths " + std::to_string(a.dim) + " and " + std::to_string(b.dim)
                                              : std::string("different ") + type_name(a.scalar) + " dimensions " +
                                                    std::to_string(a.dim) + " and " + std::to_string(b.dim));
    if (!exact_supports(a.scalar, metric))
        throw Error(Errc::not_supported,
                    std::string(metric_name(metric)) + " distance is not defined for type " + type_name(a.scalar));
    switch (metric) {
        case Metric::l2:
            return sum_over(a, b, [](double x, double y) { return (x - y) * (x - y); });
        case Metric::l1:
            return sum_over(a, b, [](double x, double y) { return std::fabs(x - y); });
        case Metric::ip:
            return -dot_of(a, b);
        case Metric::cosine: {
            const double norms = std::sqrt(dot_of(a, a) * dot_of(b, b));
            if (norms == 0) return 1;  // a zero vector has no direction; the SQL operator says NaN, an order cannot
            return 1 - std::fmax(-1.0, std::fmin(1.0, dot_of(a, b) / norms));
        }
        default:
            return bit_distance(metric, a, b);
    }
}

}  // namespace vkv
