// Links between nodes on pages, one page change at a time. Used by insertions and by vacuum's repairs.
//
// A full list that takes a new link loses another one. So that no node becomes unreachable by that, a link p -> z of level 0 is
// only dropped if p keeps a neighbour n that links to z, or takes it for a node that is being inserted, which then links to z
// itself. Both p and n are locked when p -> z goes, so that no two sessions each count on what the other drops: whatever led to z
// before, leads to it afterwards.
//
// One writer may drop links without that: an insertion its own first ones, as long as its node is pending. So nobody else counts on
// the links of a pending node, an insertion beside it neither, and the insertion gives that up once somebody else has dropped one
// of them.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "pg/hnsw/originals.h"
#include "pg/hnsw/page_view.h"

namespace vkv::hnsw {

// What a list loses, and the neighbour of the list's node that links to it.
struct Detour {
    uint32_t by = graph::kNoNode, lost = graph::kNoNode;
};

class Linker {
public:
    Linker(const Index &index, PageView &view) : index_(index), view_(view) {}
    // From here on, links are chosen by the distances of original vectors; null: of stored codes, as at first.
    void use(Originals *originals) { originals_ = originals; }

    // The neighbours for a node among candidates found by a search, ascending by distance to it.
    std::vector<graph::Candidate> choose(std::span<const graph::Candidate> found, size_t max);
    // How many of what choose() gave, the first ones, the heuristic chose; the others only fill the list.
    size_t diverse() const { return selected_.diverse; }
    // Links from -> to if `to` deserves a place among from's neighbours. True if the link is there afterwards. The code is one of
    // those that links are chosen by.
    bool add(uint32_t from, uint32_t to, const std::vector<uint8_t> &to_code, int level);
    // The node that is being inserted, with its links of level 0: lists that take it may hand the links it displaces over to it.
    // Its link to `entry`, if it has one, stays.
    void insert(uint32_t node, uint32_t entry, std::vector<uint32_t> links)
    {
        inserted_ = node;
        own_ = std::move(links);
        relied_on_.assign(1, {0, entry});
    }
    // Links from -> to, on level 0, if there is room or if another way leads to what gives way.
    bool attach(uint32_t from, uint32_t to);
    struct Forced {
        uint32_t moved = graph::kNoNode;  // is linked from `to` now, and not from `from` any more
        std::vector<uint32_t> cut;        // `to` lost its links to these, and no detour was found
    };
    // Links from -> to whatever it takes: the link that gives way is made from `to` instead. Only a node that is gone is not linked
    // from: false.
    bool force(uint32_t from, uint32_t to, Forced *forced = nullptr);
    // The list of a level, replaced if it still is what it was, and if the detour is there; false if somebody changed either.
    bool replace(uint32_t node, int level, std::span<const uint32_t> before, std::span<const uint32_t> after, Detour detour = {});
    void remove_if(uint32_t node, int level, const std::function<bool(uint32_t)> &gone);

    // Whether what a node links to can be counted on: it lives, and its insertion has ended, or is this one.
    bool leads_on(uint32_t id);
    // The kept node, if there is one, that can be counted on and links to the lost one.
    Detour find_detour(std::span<const uint32_t> kept, uint32_t lost, int level);
    bool has_detour(std::span<const uint32_t> kept, uint32_t lost, int level)
    {
        return find_detour(kept, lost, level).by != graph::kNoNode;
    }

private:
    bool copy_code(uint32_t id, std::vector<uint8_t> *code);
    void clear_set();
    bool append(uint32_t from, uint32_t to, int level);
    bool lives(uint32_t id);
    bool leads_on(uint32_t id, const NodeHeader *n) const { return node_answers(n) && (!node_pending(n) || id == inserted_); }
    bool stands(const char *page, const Detour &detour) const;
    size_t find_spare(std::span<const uint32_t> list, size_t n, Detour *detour);
    bool may_drop(std::span<const uint32_t> list, uint32_t id, int level) const;
    uint32_t take_over(uint32_t to, uint32_t moved);
    void announce_cut();
    void keep_longest(std::span<const uint32_t> positions, std::vector<uint32_t> *order) const;
    bool find_victim(uint32_t from, uint32_t to, const std::vector<uint8_t> &to_code, int level, std::span<const uint32_t> list,
                     Detour *victim);
    bool hand_over(uint32_t lost, int level);
    template <class Change>
    bool change_list(uint32_t node, int level, const Detour &detour, Change &&change);

    const Index &index_;
    PageView &view_;
    Originals *originals_ = nullptr;
    CodeSet set_;
    graph::Selected selected_;
    uint32_t inserted_ = graph::kNoNode;
    std::vector<uint32_t> own_;  // its links of level 0 that it was written with, but for those that it dropped itself
    std::vector<std::pair<int, uint32_t>> relied_on_;  // the level and end of its links that are others' only known way
};

}  // namespace vkv::hnsw
