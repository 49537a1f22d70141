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
        uint32_t n = view_.neighbors(node, 0, links.data());
        if (first && has_dead(links.data(), n)) stale_.push_back(node);
        if (first && node != from && !leads_on(node)) n = 0;
        first = false;
        const uint32_t *next = std::find_if(links.data(), links.data() + n, [&](uint32_t id) { return mark(id) && !dead(id); });
        first = next != links.data() + n;
        if (first) {
            if (*next < way_.size()) way_[*next] = node;
            path.push_back(*next);
        } else {
            path.pop_back();
        }
    }
}

// What is being inserted may still exchange its links, and what never will be goes with the next vacuum. (A new entry point leads
// to the old one all the same.)
bool Vacuum::leads_on(uint32_t node)
{
    bool pending = false;
    view_.peek(node, [&](const NodeHeader *n, const uint8_t *) { pending = node_pending(n); });
    return !pending || unfinished_.count(node);
}

// No insertion runs at the barrier, and no list is repaired from here on. So a node that is there now and is not met has lost its
// way; one that comes later is linked by its insertion, from a node that is met or attached, and is left alone: what it hangs on is
// newer than what the flood has read.
void Vacuum::reach_all()
{
    barrier();
    blocks_ = pg_call([&] { return RelationGetNumberOfBlocks(index_.rel()); });
    const std::vector<bool> there = nodes_there();
    const Entry entry = index_.entry();
    if (entry.node == kNoNode) return;
    std::vector<bool> reached(there.size());
    stale_.clear();
    const bool room = reached.size() <= static_cast<size_t>(maintenance_work_mem) * 1024 / 4 / sizeof(uint32_t);
    way_.assign(room ? reached.size() : 0, kNoNode);
    flood(entry.node, reached);
    for (uint32_t id = 0; id < there.size(); ++id) {
        if (id % shape_.per_page == 0) poll_interrupts();
        if (!there[id] || reached[id]) continue;
        pace();
        attach(id, entry.node, reached);
        flood(id, reached);
    }
}

// The live nodes, by id, but for those that are being inserted.
std::vector<bool> Vacuum::nodes_there()
{
    std::vector<bool> there(static_cast<size_t>(blocks_) * shape_.per_page);
    for (BlockNumber block = 1; block < blocks_; ++block) {
        pg_call([] { compat::vacuum_delay(); });
        ReadPage page(index_.rel(), block);
        if (!page_is(page, PageKind::nodes)) continue;
        for (uint32_t slot = 0; slot < shape_.per_page; ++slot) {
            const uint32_t id = shape_.node_at(block, slot);
            const NodeHeader *n = node_in(page.page(), shape_, id);
            there[id] = node_answers(n) && !dead(id) && (!node_pending(n) || unfinished_.count(id));
        }
    }
    return there;
}

// From a list where nobody loses anything by it, if there is one. A node that loses its way all the same is next, as long as each
// step ends nearer to a list with room: a few are enough.
void Vacuum::attach(uint32_t node, uint32_t entry, const std::vector<bool> &reached)
{
    constexpr size_t kMostCut = 16;
    std::vector<uint32_t> lost{node};
    for (size_t i = 0; i < lost.size() && i < kMostCut; ++i) attach_one(lost[i], entry, reached, &lost);
    some_cut_ |= lost.size() > kMostCut;
}

void Vacuum::attach_one(uint32_t node, uint32_t entry, const std::vector<bool> &reached, std::vector<uint32_t> *lost)
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
    auto came_from = [&](uint32_t id, uint32_t from) {
        if (id < way_.size()) way_[id] = from;
    };
    for (const graph::Candidate &c : found)
        if (linker_.attach(c.id, node)) return came_from(node, c.id);
    for (const graph::Candidate &c : found) {
        Linker::Forced forced;
        if (!linker_.force(c.id, node, &forced)) continue;
        came_from(node, c.id);
        if (forced.moved < way_.size() && way_[forced.moved] == c.id) came_from(forced.moved, node);
        lost->insert(lost->end(), forced.cut.begin(), forced.cut.end());
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
