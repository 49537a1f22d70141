// Vectors as the table has them, for choosing links among rows that lie closer together than their codes can tell: in an index
// whose model knows no group of theirs (it was created empty, or they came later), codes of a group are all the same but for
// chance, and links that are chosen by them lead to the same few rows and leave others where no search comes.
//
// A node's vector is read from one of its heap tuples, whoever sees that, and is believed if it has the node's hash. Where there is
// none to be had (pruned away, out of line and of a transaction in progress, not a heap table), the decoded code has to do.
// Distances between such vectors are those that the index links by, of codec `none`.
#pragma once

#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "pg/hnsw/page_view.h"
#include "pg/hnsw/rerank.h"

namespace vkv::hnsw {

class Originals {
public:
    explicit Originals(const Index &index) : index_(index) {}
    Originals(const Originals &) = delete;
    Originals &operator=(const Originals &) = delete;

    // From begin to end, nodes are read through this view and rows from this table. context: where what PostgreSQL keeps lives
    // meanwhile. detoasts: whether values out of line may be read, too, which takes a snapshot that vacuum respects.
    void begin(PageView &view, Relation heap, MemoryContext context, bool detoasts);
    void end();

    // Whether there are vectors to be had for this index; its codes are exact otherwise, or all there is.
    bool serve() const { return heap_ && !index_.codec().exact(); }
    const Codec &codec();
    void encode(const VectorView &x, std::vector<uint8_t> *code);
    // The exact code of a node, valid until end() or make_room(); null if the node is gone. *counts: whether it is an answer.
    const uint8_t *code(uint32_t node, bool *counts);
    // Before a batch of codes is asked for.
    void make_room();

private:
    struct Kept {
        uint64_t hash = 0;
        uint64_t round = 0;  // when it was decoded; 0: read from the table
        std::vector<uint8_t> code;
    };
    void load(const NodeHeader &header, uint32_t node, Kept *kept);

    const Index &index_;
    std::unique_ptr<Codec> codec_;
    std::unordered_map<uint32_t, Kept> kept_;  // by node
    size_t kept_bytes_ = 0;
    uint64_t round_ = 0;
    PageView *view_ = nullptr;
    Relation heap_ = nullptr;
    MemoryContext context_ = nullptr;
    bool detoasts_ = false;
    std::optional<HeapReader> reader_;
    std::vector<float> values_;
};

// The same links as a PageView, scored by exact codes (core/graph/search.h).
class OriginalsView {
public:
    OriginalsView(Originals &originals, PageView &view, Scorer &scorer) : originals_(originals), view_(view), scorer_(scorer) {}
    size_t max_links() const { return view_.max_links(); }
    uint32_t neighbors(uint32_t id, int level, uint32_t *out) { return view_.neighbors(id, level, out); }
    void score(const uint32_t *ids, size_t n, float *distance, bool *counts);
    void prefetch_links(uint32_t id) { view_.prefetch_links(id); }

private:
    Originals &originals_;
    PageView &view_;
    Scorer &scorer_;
};

// Whether codes cannot tell the candidate, one of many that are no farther, from the vector with this code itself, which the scorer
// is of.
bool is_too_close(PageView &view, Scorer &scorer, const std::vector<uint8_t> &own_code, const graph::Candidate &candidate);

}  // namespace vkv::hnsw
