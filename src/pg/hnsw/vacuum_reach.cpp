// Vacuum: every live node has a path over live nodes from the entry, and no live node links to a dead one.

#include <algorithm>

#include "pg/hnsw/vacuum.h"

namespace vkv::hnsw {

// What is met is marked; the dead are met, but lead nowhere. Depth first: then the ways to all nodes leave each list by a link or
// two, and others may be exchanged.
void Vacuum::flood(uint32_t from, std::vector<bool> &reached)
{
    auto mark = [&](uint32_t id) {
        if (id >= reached.size()) reached.resize(id + 1);
        if (reached[id]) return false;
        reached[id] = true;
        return true;
    };
    std::vector<uint32_t> path{from}, links(view_.max_links());
    mark(from);
    for (bool first = true; !path.empty();) {
        if (first)
            pace();
        else
            poll_interrupts();
        const uint32_t node = path.back();
        const uint32_t n = view_.neighbors(node, 0, links.data());
        if (first && has_dead(links.data(), n)) stale_.push_back(node);
        first = false;
        const uint32_t *next = std::find_if(links.data(), links.data() + n, [&](uint32_t id) { return mark(id) && !dead(id); });
        first = next != links.data() + n;
        if (first) {
            if (*next < way_.size()) way_[*next] = way_from(node);
            path.push_back(*next);
        } else {
            path.pop_back();
        }
    }
}

void Vacuum::reach_all()
{
    const Entry entry = index_.entry();
    if (entry.node == kNoNode) return;
    std::vector<bool> reached(static_cast<size_t>(blocks_) * shape_.per_page);
    stale_.clear();
    const bool room = reached.size() <= static_cast<size_t>(maintenance_work_mem) * 1024 / 4;
    way_.assign(room ? reached.size() : 0, 0);
    flood(entry.node, reached);
    for (BlockNumber block = 1; block < blocks_; ++block) {
        poll_interrupts();
        for (uint32_t slot = 0; slot < shape_.per_page; ++slot) {
            const uint32_t id = shape_.node_at(block, slot);
            if (reached[id] || dead(id)) continue;
            pace();
            bool lost = false;
            const bool used = view_.peek(id, [&](const NodeHeader *n, const uint8_t *) {
                lost = node_answers(n) && (!node_pending(n) || unfinished_.count(id));
            });
            if (!used || !lost) continue;
            attach(id, entry.node, reached);
            flood(id, reached);
        }
    }
}

uint8_t Vacuum::way_from(uint32_t node)
{
    constexpr uint32_t kSpread = 2654435761;
    return static_cast<uint8_t>(1 + (node * kSpread >> 16) % UINT8_MAX);
}

void Vacuum::attach(uint32_t node, uint32_t entry, const std::vector<bool> &reached)
{
    std::vector<uint8_t> code;
    if (!view_.copy_code(node, &code)) return;
    auto scorer = index_.codec().query_code(code.data());
    view_.set_scorer(scorer.get());
    std::vector<graph::Candidate> found;
    candidates_by_search(node, 0, {}, &found);
    view_.set_scorer(nullptr);
    std::erase_if(found, [&](const graph::Candidate &c) { return c.id >= reached.size() || !reached[c.id]; });
    found.push_back({0, entry});  // if all else fails
    for (const graph::Candidate &c : found) {
        uint32_t moved = kNoNode;
        if (!linker_.force(c.id, node, &moved)) continue;
        if (node < way_.size()) way_[node] = way_from(c.id);
        if (moved < way_.size() && way_[moved] == way_from(c.id)) way_[moved] = way_from(node);
        return;
    }
}

// After the barrier: what still is pending, its insertion has left so. It is whole if other tuples have joined it, as indexes of
// former versions let them, and then its upper lists and its payload are there; what is not whole has its own tuple only, which
// goes with the next vacuum.
void Vacuum::find_unfinished()
{
    for (uint32_t id : pending_) {
        pg_call([] { compat::vacuum_delay(); });
        int level = -1;
        view_.inspect(id, [&](const NodeHeader *n, const uint8_t *) {
            const bool whole = (n->level == 0 || is_item(n->upper)) && (!shape_.has_payload() || is_item(n->payload));
            if (node_answers(n) && node_pending(n) && whole) level = n->level;
        });
        if (level < 0) continue;
        unfinished_.insert(id);
        if (level > best_level_) {
            best_level_ = level;
            best_node_ = id;
        }
    }
    pending_.clear();
}

// A path leads to the node now.
void Vacuum::finish(uint32_t node)
{
    WritePages pages(index_.rel());
    NodeHeader *n = node_in(pages.lock(shape_.block_of(node), PageKind::nodes), shape_, node);
    if (!node_answers(n) || !node_pending(n)) return;
    n->flags &= static_cast<uint8_t>(~kNodePending);
    pages.commit();
}

// For lists that were changed whenever they were to be repaired.
void Vacuum::strip_dead(uint32_t node, int level)
{
    linker_.remove_if(node, level, [this](uint32_t id) { return dead(id); });
}

}  // namespace vkv::hnsw
