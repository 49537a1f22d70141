// What a list of links does with a newcomer. The list keeps the links that the diversity heuristic chose (select.h) before the ones
// that only fill its room, so that a newcomer need not be weighed against all pairs again: its distances to the list are enough.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/graph/candidate.h"

namespace vkv::graph {

struct LinkList {
    std::vector<Candidate> links;  // distances to the owner; the first `diverse` are the heuristic's choice
    size_t diverse = 0;
};

// to_newcomer[i] = distance(newcomer, links[i]). A newcomer that a chosen, nearer link dominates (it is as near to it as the owner,
// or nearer) is a filler; one that is chosen turns the chosen links that it dominates into fillers. If the list then has more than
// max links, the farthest filler goes, or else the farthest of all. Returns what went (kNoNode if nothing did; possibly the
// newcomer).
inline uint32_t admit(LinkList &list, Candidate newcomer, const float *to_newcomer, size_t max)
{
    std::vector<Candidate> chosen, fillers;
    chosen.reserve(list.links.size() + 1);
    fillers.reserve(list.links.size() + 1);
    bool dominated = false;
    for (size_t i = 0; i < list.diverse && !dominated; ++i)
        dominated = list.links[i].distance < newcomer.distance && to_newcomer[i] <= newcomer.distance;
    for (size_t i = 0; i < list.links.size(); ++i) {
        const bool demoted = !dominated && list.links[i].distance > newcomer.distance && to_newcomer[i] <= list.links[i].distance;
        (i < list.diverse && !demoted ? chosen : fillers).push_back(list.links[i]);
    }
    (dominated ? fillers : chosen).push_back(newcomer);
    uint32_t lost = kNoNode;
    if (chosen.size() + fillers.size() > max) {
        std::vector<Candidate> &from = fillers.empty() ? chosen : fillers;
        auto worst = std::max_element(from.begin(), from.end());
        lost = worst->id;
        from.erase(worst);
    }
    list.diverse = chosen.size();
    list.links = std::move(chosen);
    list.links.insert(list.links.end(), fillers.begin(), fillers.end());
    return lost;
}

}  // namespace vkv::graph
