// After a build: no node may be left that no path leads to, and neighbours should lie near each other on disk.
//
// What counts are the paths on level 0 from the entry, where every search begins besides the node that its descent leads to: links
// above are no way to what only they lead to.
// Pruning a full list can take away the last link to a node; a few in ten thousand end so. Each is attached to the nearest
// reachable node: where that one's list is full, the new link takes the place of another, and the node that lost its link is linked
// from the attached node in turn, so that every path that was there still is.
#include <algorithm>

#include "core/graph/memory_graph.h"
#include "core/graph/memory_view.h"

namespace vkv::graph {

namespace {
constexpr size_t kPollEvery = 1024;
}

void MemoryGraph::flood(uint32_t from, std::vector<bool> &reached, std::vector<uint32_t> &queue, const Poll &poll) const
{
    std::vector<uint32_t> ids(max_links(0));
    queue.assign(1, from);
    reached[from] = true;
    for (size_t head = 0; head < queue.size(); ++head) {
        if (poll && head % kPollEvery == 0) poll();
        const uint32_t n = links(queue[head], 0, ids.data());
        for (uint32_t i = 0; i < n; ++i)
            if (!reached[ids[i]]) {
                reached[ids[i]] = true;
                queue.push_back(ids[i]);
            }
    }
}

void MemoryGraph::attach(uint32_t id, const std::vector<bool> &reached, Scratch &s)
{
    MemoryView view(*this, code(id));
    auto never = [] { return false; };
    const uint32_t from[] = {entry(), descend(view, s.search, entry(), top_level_.load(), 0, never)};
    enter(view, s.search, from, reached[from[1]] ? 2 : 1, params_.ef_construction);  // what is found then is reached too
    search_layer(view, s.search, 0, never);
    const uint32_t max = max_links(0);
    const auto &found = s.search.pool.entries();
    for (const Pool::Entry &e : found) {
        Link *l = list(e.id, 0);
        load_list(l, 0, &s.list);
        if (s.list.links.size() == max) continue;
        s.list.links.push_back({e.distance, id});
        store_list(s.list, e.id, 0);
        return;
    }
    Link *theirs = list(found.front().id, 0), *mine = list(id, 0);
    load_list(theirs, 0, &s.list);
    const Candidate moved = s.list.links.back();  // a filler, if there is one
    s.list.links.back() = {found.front().distance, id};
    store_list(s.list, found.front().id, 0);
    load_list(mine, 0, &s.list);
    if (std::any_of(s.list.links.begin(), s.list.links.end(), [&](const Candidate &c) { return c.id == moved.id; })) return;
    if (s.list.links.size() == max) s.list.links.pop_back();  // nothing reachable depends on this node's links
    s.list.links.push_back(moved);
    store_list(s.list, id, 0);
}

uint32_t MemoryGraph::reach_all(const Poll &poll)
{
    if (size_ == 0) return 0;
    std::vector<bool> reached(size_);
    std::vector<uint32_t> queue;
    Scratch s;
    flood(entry(), reached, queue, poll);
    uint32_t lost = 0;
    for (uint32_t id = 0; id < size_; ++id)
        if (!reached[id]) {
            ++lost;
            attach(id, reached, s);
            flood(id, reached, queue, poll);
        }
    return lost;
}

uint64_t MemoryGraph::probe(uint32_t id, uint32_t width) const
{
    MemoryView view(*this, code(id));
    SearchState s;
    auto never = [] { return false; };
    uint32_t at = descend(view, s, entry(), top_level_.load(), 0, never);
    enter(view, s, &at, 1, width);
    search_layer(view, s, 0, never);
    return s.stats.scored;
}

std::vector<uint32_t> MemoryGraph::order(const Poll &poll) const
{
    std::vector<uint32_t> queue;
    if (size_ == 0) return queue;
    std::vector<bool> reached(size_);
    flood(entry(), reached, queue, poll);
    // reach_all() leaves none out; a caller that skipped it still gets every node.
    for (uint32_t id = 0; id < size_; ++id)
        if (!reached[id]) queue.push_back(id);
    return queue;
}

}  // namespace vkv::graph
