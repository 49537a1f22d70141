// The pages of an index as a graph search sees them (core/graph/search.h), and the ways to read one node for certain.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "core/graph/search.h"
#include "core/graph/select.h"
#include "pg/hnsw/index.h"
#include "pg/hnsw/resident.h"

namespace vkv::hnsw {

class PageView {
public:
    // scorer may be null for a view that only walks links and compares stored codes.
    PageView(const Index &index, Scorer *scorer);
    ~PageView() { resident_->report_hits(index_.rel()); }
    PageView(const PageView &) = delete;
    PageView &operator=(const PageView &) = delete;

    void set_scorer(Scorer *scorer) { scorer_ = scorer; }
    Scorer *scorer() const { return scorer_; }

    // core/graph/search.h
    size_t max_links() const { return index_.shape().max_links(0); }
    uint32_t neighbors(uint32_t id, int level, uint32_t *out);
    void score(const uint32_t *ids, size_t n, float *distance, bool *counts);
    void prefetch_links(uint32_t id);

    // A copy of a node's first-level code; false if the node is free or gone.
    bool copy_code(uint32_t id, std::vector<uint8_t> *code);

    // Calls use(header, code) with the node as it is, without lock; false if the node is free or gone. What use() saw may be stale,
    // and it may be called several times: what it saw last counts.
    template <class Use>
    bool peek(uint32_t id, Use &&use);
    // The same under a share lock: neither stale nor torn.
    template <class Use>
    bool inspect(uint32_t id, Use &&use);

    const Index &index() const { return index_; }
    Resident *resident() const { return resident_; }

private:
    const uint8_t *code_at(uint32_t id, const NodeHeader *node);
    const uint8_t *code_apart(uint32_t id, NodeHeader *header);
    void score_one(uint32_t id, float *distance, bool *counts);

    const Index &index_;
    Scorer *scorer_;
    Resident *resident_;
    std::vector<Resident::Look> looks_;  // of a batch, as are the next four
    std::vector<const uint8_t *> codes_;
    std::vector<uint32_t> again_;
    std::vector<uint8_t> apart_;
    std::vector<uint32_t> where_;
    std::vector<float> found_;
};

// Copies of codes, for choosing neighbours among them: ids of candidates are positions here.
class CodeSet {
public:
    void clear(const Codec &codec)
    {
        codec_ = &codec;
        bytes_.clear();
        starts_.clear();
        ids_.clear();
    }
    uint32_t add(uint32_t id, const std::vector<uint8_t> &code)
    {
        starts_.push_back(bytes_.size());
        bytes_.insert(bytes_.end(), code.begin(), code.end());
        ids_.push_back(id);
        return static_cast<uint32_t>(ids_.size() - 1);
    }
    uint32_t id(uint32_t position) const { return ids_[position]; }
    double length(uint32_t position) const { return codec_->length(code(position)); }
    // core/graph/select.h
    void distances(uint32_t a, const uint32_t *positions, size_t n, float *out)
    {
        pointers_.resize(n);
        for (size_t i = 0; i < n; ++i) pointers_[i] = code(positions[i]);
        codec_->distances(code(a), pointers_.data(), n, out);
        std::transform(out, out + n, out, graph::finite);
    }

private:
    const uint8_t *code(uint32_t position) const { return bytes_.data() + starts_[position]; }

    const Codec *codec_ = nullptr;
    std::vector<uint8_t> bytes_;
    std::vector<size_t> starts_;
    std::vector<uint32_t> ids_;
    std::vector<const uint8_t *> pointers_;
};

// The bytes of a node's payload, at most `max`; false if the chain is not whole, or not of this node and vector (freed meanwhile).
struct PayloadOf {
    uint32_t node;
    uint64_t hash;
    ItemPointerData first;
    PayloadOf(uint32_t id, const NodeHeader *header) : node(id), hash(header->hash), first(header->payload) {}
};
bool read_payload(Relation rel, const PayloadOf &of, size_t max, std::vector<uint8_t> *out);
// The links of a level above 0; false if the item is not that node's.
bool read_upper(const Index &index, const ItemPointerData &at, uint32_t node, int level, uint32_t *out, uint32_t *n);
// Checks that a payload's start is a whole first-level code; its size is in *bytes.
bool code_is_whole(const Shape &shape, const std::vector<uint8_t> &payload, size_t *bytes);

template <class Use>
bool PageView::inspect(uint32_t id, Use &&use)
{
    const Shape &s = index_.shape();
    bool used = false;
    resident_->locked(index_.rel(), s.block_of(id), [&](const char *page) {
        used = page && node_used(node_in(page, s, id));
        if (used) use(node_in(page, s, id), s.apart ? nullptr : code_of(node_in(page, s, id)));
    });
    return used;
}

template <class Use>
bool PageView::peek(uint32_t id, Use &&use)
{
    const Shape &s = index_.shape();
    bool used = false;
    const bool certain = resident_->read(index_.rel(), s.block_of(id), [&](const char *page) {
        used = page && node_used(node_in(page, s, id));
        if (used) use(node_in(page, s, id), s.apart ? nullptr : code_of(node_in(page, s, id)));
    });
    return used || (!certain && inspect(id, use));
}

}  // namespace vkv::hnsw
