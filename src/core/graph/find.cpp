// After a build: are nodes found? A group of vectors much closer to each other than to the rest can be reached (reach.cpp) by a
// link or two that no search comes across: each of its lists is full of its own kind, and so are those of other groups. Two builds
// of a hundred left one of ten groups of 300 so.
//
// A sample of the nodes is searched for as a scan does it. One that is missed, with its nearest neighbour, is linked from the node
// at which its search begins on level 0, which is expanded whatever else there is, and which all vectors of its group come to or to
// one like it.
#include <algorithm>
#include <unordered_map>

#include "core/graph/memory_graph.h"
#include "core/graph/memory_view.h"

namespace vkv::graph {

namespace {
constexpr uint32_t kMost = 2000, kFewest = 64, kShare = 8;  // of the nodes are searched for
constexpr size_t kWidth = 40;
constexpr int kTries = 3;               // another search may begin elsewhere
constexpr int kLinksOfOne = 4;          // that a node gives away
constexpr uint32_t kStep = 2654435761;  // of a walk through all nodes
}  // namespace

// Whether a search for the node's code ends at the node, or at one that is as near.
bool MemoryGraph::is_found(uint32_t id, uint32_t *began, Scratch &s) const
{
    MemoryView view(*this, code(id));
    auto never = [] { return false; };
    const int top = top_level_.load();
    const uint32_t from[] = {descend(view, s.search, entry(), top, 0, never), entry()};
    enter(view, s.search, from, 2, kWidth);
    search_layer(view, s.search, 0, never);
    if (top > 0 && looks_astray(s.search.pool)) {
        std::vector<uint32_t> entries;
        descend_widely(view, s.search, entry(), top, 0, entries, never);
        entries.insert(entries.end(), {from[0], entry()});
        enter(view, s.search, entries.data(), entries.size(), kWidth);
        search_layer(view, s.search, 0, never);
    }
    *began = from[0];
    const auto &found = s.search.pool.entries();
    if (std::any_of(found.begin(), found.end(), [id](const Pool::Entry &e) { return e.id == id; })) return true;
    float own;  // of codes that cannot be told apart any one will do
    view.distances(id, &id, 1, &own);
    return found.front().distance <= own;
}

// A link in the place of one that only fills the list; what that led to is linked from the node that is linked to.
bool MemoryGraph::give_filler(uint32_t from, uint32_t to, Scratch &s)
{
    const uint32_t max = max_links(0);
    LinkList mine;
    load_list(list(from, 0), 0, &s.list);
    load_list(list(to, 0), 0, &mine);
    auto &links = s.list.links;
    if (std::any_of(links.begin(), links.end(), [to](const Candidate &c) { return c.id == to; })) return false;
    float distance;
    MemoryView(*this, code(from)).distances(from, &to, 1, &distance);
    if (links.size() < max) {
        links.push_back({distance, to});
        store_list(s.list, from, 0);
        return true;
    }
    if (s.list.diverse >= links.size() || (mine.links.size() == max && mine.diverse >= max)) return false;
    Candidate moved = links.back();
    links.back() = {distance, to};
    const bool known = std::any_of(mine.links.begin(), mine.links.end(), [&](const Candidate &c) { return c.id == moved.id; });
    if (!known && moved.id != to) {
        MemoryView(*this, code(to)).distances(to, &moved.id, 1, &moved.distance);
        if (mine.links.size() == max) mine.links.pop_back();
        mine.links.push_back(moved);
        store_list(mine, to, 0);
    }
    store_list(s.list, from, 0);
    return true;
}

uint32_t MemoryGraph::find_sample(const Poll &poll)
{
    const uint32_t wanted = std::min(size_, std::clamp(size_ / kShare, kFewest, kMost));
    std::unordered_map<uint32_t, int> given;
    Scratch s;
    uint32_t links = 0;
    for (uint32_t i = 0; i < wanted; ++i) {
        if (poll) poll();
        const auto id = static_cast<uint32_t>(uint64_t{i} * kStep % size_);
        uint32_t began;
        for (int tries = 0; tries < kTries && !is_found(id, &began, s); ++tries) {
            if (began == id || given[began] == kLinksOfOne || !give_filler(began, id, s)) break;
            ++given[began];
            ++links;
        }
    }
    return links;
}

}  // namespace vkv::graph
