// Vacuum: every live node has a path over live nodes from the entry, and no live node links to a dead one.

#include <algorithm>

#include "pg/hnsw/vacuum.h"

namespace vkv::hnsw {

// What is met is marked; the dead are met, but lead nowhere.
void Vacuum::flood(uint32_t from, std::vector<bool> &reached)
{
    auto mark = [&](uint32_t id) {
        if (id >= reached.size()) reached.resize(id + 1);
        if (reached[id]) return false;
        reached[id] = true;
        return true;
    };
    std::vector<uint32_t> queue{from}, links(view_.max_links());
    mark(from);
    for (size_t head = 0; head < queue.size(); ++head) {
        pace();
        const uint32_t n = view_.neighbors(queue[head], 0, links.data());
        for (uint32_t i = 0; i < n; ++i)
            if (mark(links[i]) && !dead(links[i])) queue.push_back(links[i]);
        if (has_dead(links.data(), n)) stale_.push_back(queue[head]);
    }
}

void Vacuum::reach_all()
{
    const Entry entry = index_.entry();
    if (entry.node == kNoNode) return;
    std::vector<bool> reached(static_cast<size_t>(blocks_) * shape_.per_page);
    stale_.clear();
    flood(entry.node, reached);
    for (BlockNumber block = 1; block < blocks_; ++block) {
        poll_interrupts();
        for (uint32_t slot = 0; slot < shape_.per_page; ++slot) {
            const uint32_t id = shape_.node_at(block, slot);
            if (reached[id] || dead(id)) continue;
            bool lost = false;
            const bool used =
                view_.peek(id, [&](const NodeHeader *n, const uint8_t *) { lost = node_answers(n) && !(n->flags & kNodePending); });
            if (!used || !lost) continue;
            attach(id, entry.node, reached);
            flood(id, reached);
        }
    }
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
    for (const graph::Candidate &c : found)
        if (linker_.force(c.id, node)) return;
}

// For lists that were changed whenever they were to be repaired.
void Vacuum::strip_dead(uint32_t node, int level)
{
    linker_.remove_if(node, level, [this](uint32_t id) { return dead(id); });
}

}  // namespace vkv::hnsw
