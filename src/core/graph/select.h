// Which of the candidates become neighbours: the diversity heuristic (algorithm 4 of the HNSW paper). A candidate is kept if it is
// nearer to the node than to every neighbour kept so far, where a tie counts against it; what it turned down fills the room that is
// left, nearest first.
//
// A Metric offers void distances(uint32_t a, const uint32_t *ids, size_t n, float *out).
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "core/graph/candidate.h"

namespace vkv::graph {

struct Selected {
    std::vector<Candidate> kept;    // diverse ones first, then the fillers, each part in ascending distance
    std::vector<Candidate> turned;  // turned down by the heuristic, ascending
    size_t diverse = 0;             // how many of kept the heuristic chose
};

// Is one of the kept nodes as near to the candidate as the node that it is a candidate for, or nearer?
template <class Metric>
bool is_dominated(Metric &metric, const Candidate &c, std::span<const uint32_t> kept)
{
    constexpr size_t kBatch = 8;  // mostly one of the first few is: small batches, early exit
    float d[kBatch];
    for (size_t i = 0; i < kept.size(); i += kBatch) {
        const size_t n = std::min(kBatch, kept.size() - i);
        metric.distances(c.id, kept.data() + i, n, d);
        for (size_t j = 0; j < n; ++j)
            if (d[j] <= c.distance) return true;
    }
    return false;
}

// candidates ascending; at most `max` are kept. fill: whether turned-down candidates fill the rest.
template <class Metric>
void select_neighbors(Metric &metric, std::span<const Candidate> candidates, size_t max, bool fill, Selected &out)
{
    out.kept.clear();
    out.turned.clear();
    std::vector<uint32_t> ids;
    ids.reserve(max);
    for (const Candidate &c : candidates) {
        if (out.kept.size() == max) {
            if (!fill) break;
            out.turned.push_back(c);
            continue;
        }
        if (!is_dominated(metric, c, ids)) {
            out.kept.push_back(c);
            ids.push_back(c.id);
        } else {
            out.turned.push_back(c);
        }
    }
    out.diverse = out.kept.size();
    if (!fill) return;
    size_t take = std::min(max - out.kept.size(), out.turned.size());
    out.kept.insert(out.kept.end(), out.turned.begin(), out.turned.begin() + static_cast<std::ptrdiff_t>(take));
    out.turned.erase(out.turned.begin(), out.turned.begin() + static_cast<std::ptrdiff_t>(take));
}

}  // namespace vkv::graph
