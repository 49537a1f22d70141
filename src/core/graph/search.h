// Best-first search of one layer, and the greedy descent above it: Malkov & Yashunin, "Efficient and robust approximate nearest
// neighbor search using Hierarchical Navigable Small World graphs", algorithms 2 and 5. One algorithm, several views of a graph:
// the one in memory that a build works on, and the pages of an index.
//
// A View offers
//   uint32_t neighbors(uint32_t id, int level, uint32_t *out)           ids of the links, at most max_links(); 0 if the node is
//   gone void score(const uint32_t *ids, size_t n, float *distance, bool *counts)  distances to the query the view was made for;
//   infinity for a
//                                                                       node that cannot be read; counts = false for tombstones
//   size_t max_links()
//   void prefetch_links(uint32_t id)                                    a hint
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/graph/candidate.h"

namespace vkv::graph {

struct SearchStats {
    uint64_t expanded = 0, scored = 0;
};

// The state of a search, kept between searches so that nothing is allocated on the way.
struct SearchState {
    Pool pool;
    Visited visited;
    std::vector<uint32_t> ids;
    std::vector<float> distance;
    std::vector<uint8_t> counts;
    std::vector<Candidate> dropped;  // met but not (or no longer) in the pool; filled if keep_dropped: where a search can resume
    bool keep_dropped = false;
    // Of each node met, how much nearer it is than the farthest that was expanded before; filled if keep_dropped.
    std::vector<float> nearer;
    SearchStats stats;

    void prepare(size_t max_links)
    {
        if (ids.size() < max_links) {
            ids.resize(max_links);
            distance.resize(max_links);
            counts.resize(max_links);
        }
    }
};

namespace detail {

inline auto keep(SearchState &s)
{
    return [&s](const Pool::Entry &e) {
        if (s.keep_dropped) s.dropped.push_back({e.distance, e.id});
    };
}

template <class View>
void score_into_pool(View &view, SearchState &s, size_t n)
{
    bool *counts = reinterpret_cast<bool *>(s.counts.data());
    view.score(s.ids.data(), n, s.distance.data(), counts);
    s.stats.scored += n;
    auto dropped = keep(s);
    for (size_t i = 0; i < n; ++i) {
        if (!(s.distance[i] < std::numeric_limits<float>::infinity())) continue;  // unreadable, or garbage read in passing
        if (s.keep_dropped && counts[i]) s.nearer.push_back(s.pool.frontier() - s.distance[i]);
        if (!s.pool.insert({s.distance[i], s.ids[i]}, counts[i], dropped) && s.keep_dropped)
            s.dropped.push_back({s.distance[i], s.ids[i]});
    }
}

}  // namespace detail

// Expands the pool until its nearest `width` nodes, and those as far as the last of them, are all expanded. The pool must hold the
// entry points. stop() is asked once per expansion; a true answer ends the search early.
template <class View, class Stop>
void search_layer(View &view, SearchState &s, int level, Stop &&stop)
{
    s.prepare(view.max_links() + 1);
    for (uint32_t id; (id = s.pool.expand_next()) != kNoNode;) {
        if (stop()) break;
        size_t n = view.neighbors(id, level, s.ids.data());
        ++s.stats.expanded;
        size_t fresh = 0;
        for (size_t i = 0; i < n; ++i)
            if (s.visited.insert(s.ids[i])) s.ids[fresh++] = s.ids[i];
        if (fresh == 0) continue;
        detail::score_into_pool(view, s, fresh);
        uint32_t next = s.pool.peek_next();
        if (next != kNoNode) view.prefetch_links(next);
    }
    s.pool.drop_ties(detail::keep(s));
}

// Starts a search of the given width from entry points.
template <class View>
void enter(View &view, SearchState &s, const uint32_t *entries, size_t n, size_t width)
{
    s.pool.reset(width);
    s.visited.clear();
    s.dropped.clear();
    s.nearer.clear();
    s.prepare(std::max(n, view.max_links() + 1));
    size_t fresh = 0;
    for (size_t i = 0; i < n; ++i)
        if (s.visited.insert(entries[i])) s.ids[fresh++] = entries[i];
    detail::score_into_pool(view, s, fresh);
}

// Greedy descent from `entry` at `from` down to the level above `to`: returns the nearest node found.
template <class View, class Stop>
uint32_t descend(View &view, SearchState &s, uint32_t entry, int from, int to, Stop &&stop)
{
    const bool keep = s.keep_dropped;
    s.keep_dropped = false;
    for (int level = from; level > to; --level) {
        enter(view, s, &entry, 1, 1);
        search_layer(view, s, level, stop);
        if (!s.pool.entries().empty()) entry = s.pool.entries().front().id;
    }
    s.keep_dropped = keep;
    return entry;
}

// ---- groups of rows that look alike from afar --------------------------------------------------------------------------------
// A greedy descent may end in a group that is not the query's: all of its rows are about equally far, none is a step towards
// another group, and there are more of them than a pool holds.

// Whether the nearest in a pool look so. Distances that may be negative tell nothing.
inline bool looks_astray(const Pool &pool)
{
    constexpr size_t kAlike = 16, kFewest = 8;
    constexpr float kSpread = 0.02f;
    const auto &e = pool.entries();
    if (e.size() < kFewest) return false;
    const float first = e.front().distance;
    return first > 0 && e[std::min(kAlike, e.size()) - 1].distance - first <= kSpread * first;
}

inline constexpr size_t kWideDescent = 64;  // some of many groups

// The descent with a pool on each level: its last one, nearest first, is in `entries`.
template <class View, class Stop>
void descend_widely(View &view, SearchState &s, uint32_t entry, int from, int to, std::vector<uint32_t> &entries, Stop &&stop,
                    size_t width = kWideDescent)
{
    const bool keep = s.keep_dropped;
    s.keep_dropped = false;
    entries.assign(1, entry);
    for (int level = from; level > to; --level) {
        enter(view, s, entries.data(), entries.size(), width);
        search_layer(view, s, level, stop);
        entries.clear();
        for (const Pool::Entry &e : s.pool.entries()) entries.push_back(e.id);
        if (entries.empty()) entries.push_back(entry);
    }
    s.keep_dropped = keep;
}

// ---- ties --------------------------------------------------------------------------------------------------------------------

// Whether most of a pool are as far as others of it, but for rounding, as bits and small integers are.
inline bool has_ties(const Pool &pool)
{
    constexpr size_t kFewest = 8;
    constexpr float kRounding = 1e-5f;
    const auto &e = pool.entries();
    size_t equal = 0;
    for (size_t i = 1; i < e.size(); ++i) equal += e[i].distance - e[i - 1].distance <= kRounding * std::abs(e[i].distance);
    return e.size() >= kFewest && equal * 2 >= e.size();
}

// Goes on with the search that filled the pool, from more nodes.
template <class View, class Stop>
void search_on(View &view, SearchState &s, const uint32_t *entries, size_t n, int level, Stop &&stop)
{
    s.prepare(std::max(n, view.max_links() + 1));
    size_t fresh = 0;
    for (size_t i = 0; i < n; ++i)
        if (s.visited.insert(entries[i])) s.ids[fresh++] = entries[i];
    if (fresh == 0) return;
    detail::score_into_pool(view, s, fresh);
    search_layer(view, s, level, stop);
}

// Links among equals are few of many: what one level lacks, another has. A search that met ties goes on from what is nearest on
// the levels above.
template <class View, class Stop>
void search_from_above(View &view, SearchState &s, uint32_t entry, int from, int to, size_t width, Stop &&stop)
{
    SearchState above;
    std::vector<uint32_t> entries;
    descend_widely(view, above, entry, from, to, entries, stop, width);
    s.stats.expanded += above.stats.expanded;
    s.stats.scored += above.stats.scored;
    search_on(view, s, entries.data(), entries.size(), to, stop);
}

// What a node of several levels met on the level above, added to what it found on this one: others of its group may fill the pool
// here, and its links are to lead out of the group. `above` becomes what was found.
inline void add_from_above(std::vector<Candidate> &found, std::vector<Candidate> &above)
{
    std::vector<Candidate> here = found;
    for (const Candidate &c : above)
        if (std::none_of(here.begin(), here.end(), [&](const Candidate &o) { return o.id == c.id; })) found.push_back(c);
    std::sort(found.begin(), found.end());
    above = std::move(here);
}

}  // namespace vkv::graph
