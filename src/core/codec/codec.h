// A codec turns vectors into codes and scores codes. It knows vectors and bytes; no graph, page or SQL.
//
// A Codec is immutable and may be shared by threads. Its model (the data mean for the LVQ family) is a flat block of bytes that the
// index stores; the codec points into it and does not copy, so the block must outlive it.
// Distances are those of value.h; under Metric::cosine vectors are normalised when encoded. Exact codecs compute them on the stored
// values; the LVQ family estimates them from codes (lvq.cpp gives the formulas). No distance of a whole code is infinite or NaN.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "core/value.h"

namespace vkv {

enum class CodecId : uint8_t { none = 0, lvq8 = 1, lvq4 = 2, lvq4x8 = 3 };  // on disk: never reuse a number

// A query against codes. Not shared between threads.
class Scorer {
public:
    virtual ~Scorer() = default;
    // distance[i] = distance(query, first level of codes[i]); code_bytes only matters to variable-sized codes (sparse)
    virtual void score(const uint8_t *const *codes, size_t n, float *distance) = 0;
    // distance with the second level; without one, the same as score
    virtual float rescore(const uint8_t *code, const uint8_t *second) = 0;
    // half-width of an interval that holds the exact distance with high probability (about 3.5 standard deviations of the
    // quantization error), given the distance that score (or rescore, if second) returned. Exact codecs: what rounding may do, 0
    // where they compute what the operator does; they do not look at the code, which may be null
    virtual float error(const uint8_t *code, float distance, bool second) = 0;
};

class Codec {
public:
    virtual ~Codec() = default;
    virtual CodecId id() const = 0;
    virtual bool exact() const = 0;          // decoded values are the input (after normalising under cosine)
    virtual size_t code_size() const = 0;    // bytes of the first level; 0 if it varies (sparse)
    virtual size_t second_size() const = 0;  // bytes of the second level, 0 if there is none
    virtual size_t code_size(const VectorView &x) const = 0;
    // second may be null if second_size() == 0
    virtual void encode(const VectorView &x, uint8_t *code, uint8_t *second) const = 0;
    // distances between codes (first level): distance[i] = d(a, codes[i])
    virtual void distances(const uint8_t *a, const uint8_t *const *codes, size_t n, float *distance) const = 0;
    virtual std::unique_ptr<Scorer> query(const VectorView &q) const = 0;
    // as a query, the decoded first level of a stored code: what an insertion or a repair searches with when only the code is at
    // hand
    virtual std::unique_ptr<Scorer> query_code(const uint8_t *code) const = 0;
    // by the distance that links, which distances() and query_code() give too: what an insertion of x searches with
    virtual std::unique_ptr<Scorer> linker(const VectorView &x) const { return query(x); }
    // as query_code(), but by the distance that queries search by; null where that is the one that links
    virtual std::unique_ptr<Scorer> asking_code(const uint8_t *) const { return nullptr; }
    // the length of a code's vector as it counts for such queries, in some unit; 0 where they ask by the distance that links
    virtual double length(const uint8_t *) const { return 0; }
    // decoded values, dense codecs only (throws Error(not_supported) otherwise); second may be null
    virtual void decode(const uint8_t *code, const uint8_t *second, float *out) const = 0;
};

// Collects a sample and makes a model of it. Deterministic.
class Trainer {
public:
    virtual ~Trainer() = default;
    virtual void add(const VectorView &x) = 0;
    // Model bytes; valid also with no sample ("untrained": mean 0). poll() is called again and again and may throw.
    virtual std::vector<uint8_t> finish(const std::function<void()> &poll) = 0;
    std::vector<uint8_t> finish()
    {
        return finish([] {});
    }
};

std::string_view codec_name(CodecId id);
const char *metric_name(Metric metric);
const char *type_name(Scalar scalar);  // of the SQL type
bool parse_codec(std::string_view name, CodecId *id);
// Is this codec defined for this type and metric? Only none is for l1, sparse and bit.
bool codec_supports(CodecId id, Scalar scalar, Metric metric);
std::unique_ptr<Trainer> make_trainer(CodecId id, Scalar scalar, Metric metric, uint32_t dim);
// Throws Error(index_corrupted) if the model does not fit.
std::unique_ptr<Codec> make_codec(CodecId id, Scalar scalar, Metric metric, uint32_t dim, std::span<const uint8_t> model);

// The exact distance of two values of one type (re-ranking against a heap tuple, tests); double arithmetic where it is cheap.
double exact_distance(Metric metric, const VectorView &a, const VectorView &b);

}  // namespace vkv
