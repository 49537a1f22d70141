// The k nearest rows of each of many queries, exactly, while rows stream by once.
//
// Rows are compared with all queries in panels (panel.h), whose sums are made in another order than the operators make theirs. So
// a panel only says which rows cannot be among the nearest, with a margin that bounds what both sums may err; every other distance
// is made by the operators' own kernels (distance.h), and only such distances are kept. The result is therefore what sorting all
// rows by the operator would give, equal distances in order of `source`, then `id`, NaN last.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/nearest/distance.h"
#include "core/nearest/panel.h"
#include "core/value.h"

namespace vkv::nearest {

struct Neighbor {
    double distance;  // as the operator says
    uint64_t id;
    uint32_t source;
};

// Where rows come from: numbers of the caller's, which order equal distances.
struct RowId {
    uint64_t id;
    uint32_t source;
};

class Search {
public:
    // queries: values of type `scalar`, [count][dim]. k: 1 or more. The level of simd must stay what it is.
    struct Setup {
        Metric metric = Metric::l2;   // l2, ip, cosine, l1
        Scalar scalar = Scalar::f32;  // f32, f16
        uint32_t dim = 0;
        size_t k = 0;
        const void *queries = nullptr;
        size_t count = 0;
    };
    explicit Search(const Setup &setup);

    // rows: [n][dim] of the same type, aligned as its values are.
    void add(const void *rows, const RowId *ids, size_t n);
    // A row that another device found near to query q: distance by the operator, kept if it is near enough.
    void offer(size_t q, const void *row, RowId id);

    size_t k() const { return k_; }
    size_t queries() const { return count_; }
    const void *query(size_t q) const { return queries_.data() + q * row_bytes_; }
    const Distance &distance() const { return distance_; }
    // What a row must not exceed (Distance::compared) to be kept for query q; infinite while fewer than k are known.
    double limit(size_t q) const;
    // The nearest of query q, nearest first. Ends the search for it.
    std::vector<Neighbor> take(size_t q);
    std::vector<Neighbor> take_compared(size_t q);  // distances as Distance::compared

    uint64_t compared() const { return compared_; }      // pairs
    uint64_t recomputed() const { return recomputed_; }  // of them by the operators' kernels

private:
    // What panels compare for a query: the sum of `op` over dimensions, scaled and shifted for each row, against a limit.
    struct Query {
        double norm2 = 0;
        bool odd = false;  // beyond what the margin covers: every row is recomputed
    };

    void pack_queries();
    void pack_rows(const uint8_t *rows, size_t n);
    void row_terms(const uint8_t *row, size_t i);
    void set_limit(size_t q);
    void add_panel(const uint8_t *rows, const RowId *ids, size_t n);
    void add_directly(const uint8_t *rows, const RowId *ids, size_t n);
    void choose_operation();
    void keep(size_t q, double compared, RowId id);

    Distance distance_;
    size_t k_, count_, row_bytes_;
    double operator_error_, panel_error_;  // of a sum, as a share of the sum of its terms' magnitudes
    std::vector<uint8_t> queries_;
    std::vector<Query> facts_;
    std::vector<float> packed_queries_;  // [groups][dim][kPanelQueries]
    std::vector<float> limits_;          // [groups][kPanelQueries]
    std::vector<float> packed_rows_;     // [dim][kPanelRows], from panel_rows_ on
    float *panel_rows_ = nullptr;
    std::vector<float> widened_;  // a query, or halves of a panel, as floats
    float scale_[kPanelRows] = {}, offset_[kPanelRows] = {};
    void (*operation_)(const Panel &) = nullptr;
    bool by_products_ = false;                 // l2 from norms and products, not from differences
    std::vector<std::vector<Neighbor>> kept_;  // a heap for each query, the farthest first; distances as compared
    uint64_t compared_ = 0, recomputed_ = 0;
};

}  // namespace vkv::nearest
