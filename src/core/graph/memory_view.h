// The in-memory graph as a search and the neighbour selection see it, with a stored code as the query.
#pragma once
#include <algorithm>
#include <vector>

#include "core/graph/memory_graph.h"

namespace vkv::graph {

struct MemoryView {
    const MemoryGraph &graph;
    const uint8_t *query;
    std::vector<const uint8_t *> codes;

    MemoryView(const MemoryGraph &g, const uint8_t *q) : graph(g), query(q) { codes.resize(g.max_links(0) + 1); }
    size_t max_links() const { return graph.max_links(0); }
    uint32_t neighbors(uint32_t id, int level, uint32_t *out) const { return graph.links(id, level, out); }
    void prefetch_links(uint32_t id) const
    {
        __builtin_prefetch(reinterpret_cast<const char *>(graph.node(id)) + graph.links_offset_);
    }
    void gather(const uint32_t *ids, size_t n)
    {
        if (codes.size() < n) codes.resize(n);
        for (size_t i = 0; i < n; ++i) {
            codes[i] = graph.code(ids[i]);
            __builtin_prefetch(codes[i]);
            __builtin_prefetch(codes[i] + 64);
        }
    }
    void score(const uint32_t *ids, size_t n, float *distance, bool *counts)
    {
        gather(ids, n);
        graph.codec().distances(query, codes.data(), n, distance);
        std::transform(distance, distance + n, distance, finite);
        std::fill(counts, counts + n, true);
    }
    // select_neighbors' metric
    void distances(uint32_t a, const uint32_t *ids, size_t n, float *out)
    {
        gather(ids, n);
        graph.codec().distances(graph.code(a), codes.data(), n, out);
        std::transform(out, out + n, out, finite);
    }
};

// By the distance of queries, where that is another (Codec::asking_code).
struct AskingView : MemoryView {
    Scorer &scorer;

    AskingView(const MemoryGraph &g, Scorer &by) : MemoryView(g, nullptr), scorer(by) {}
    void score(const uint32_t *ids, size_t n, float *distance, bool *counts)
    {
        gather(ids, n);
        scorer.score(codes.data(), n, distance);
        std::transform(distance, distance + n, distance, finite);
        std::fill(counts, counts + n, true);
    }
};

struct MemoryGraph::Scratch {
    SearchState search, asking;
    Selected selected[kMaxLevel + 1];  // of each level
    LinkList list;
    std::vector<Candidate> found, above;
    std::vector<uint32_t> ids;
    std::vector<float> distance;
    std::vector<uint32_t> others;  // linked at the same moment
    std::vector<float> to_others;
};

}  // namespace vkv::graph
