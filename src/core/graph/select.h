// Which of the candidates become neighbours: the diversity heuristic (algorithm 4 of the HNSW paper). A candidate is kept if it is
// nearer to the node than to every neighbour kept so far; what it turned down fills the room that is left, nearest first.
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

// candidates ascending; at most `max` are kept. fill: whether turned-down candidates fill the rest.
template <class Metric>
void select_neighbors(Metric &metric, std::span<const Candidate> candidates, size_t max, bool fill, Selected &out)
{
    constexpr size_t kBatch = 8;  // candidates are mostly refused by a near neighbour: small batches, early exit
    out.kept.clear();
    out.turned.clear();
    std::vector<uint32_t> ids;
    ids.reserve(max);
    float d[kBatch];
    for (const Candidate &c : candidates) {
        if (out.kept.size() == max) {
            if (!fill) break;
            out.turned.push_back(c);
            continue;
        }
        bool diverse = true;
        for (size_t i = 0; diverse && i < ids.size(); i += kBatch) {
            size_t n = std::min(kBatch, ids.size() - i);
            metric.distances(c.id, ids.data() + i, n, d);
            for (size_t j = 0; j < n; ++j) diverse &= !(d[j] < c.distance);
        }
        if (diverse) {
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
