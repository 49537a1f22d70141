// Vacuum, second half: the graph without its dead nodes.
//
// A list that lost links keeps its live ones and is filled from the lists of the nodes it lost, by the same heuristic that made it
// (Singh et al. 2021, FreshDiskANN, section 4.2, with the live links kept). That touches only pages around the node. A list that
// lost more than a quarter is chosen anew from both; where half of it or more is gone, a search adds what the neighbourhood cannot
// give.

#include <algorithm>
#include <unordered_set>

#include "pg/hnsw/vacuum.h"

namespace vkv::hnsw {

namespace {

constexpr uint32_t kFewLinks = 8;
constexpr auto kNever = [] { return false; };

}  // namespace

void Vacuum::repair_nodes()
{
    for (BlockNumber block = 1; block < blocks_; ++block) {
        PageKind kind{};
        {
            ReadPage page(index_.rel(), block);
            if (page.blank()) continue;
            kind = static_cast<PageKind>(page.opaque()->kind);
        }
        if (kind == PageKind::nodes)
            repair_page(block);
        else if (kind == PageKind::upper)
            repair_upper(block);
        else
            continue;
        pg_call([] { compat::vacuum_delay(); });
    }
}

void Vacuum::repair_page(BlockNumber block)
{
    struct Change {
        uint32_t node;
        std::vector<uint32_t> before, after;
    };
    std::vector<Change> changes;
    {
        ReadPage page(index_.rel(), block, PageKind::nodes);
        for (uint32_t slot = 0; slot < shape_.per_page; ++slot) {
            const uint32_t id = shape_.node_at(block, slot);
            const NodeHeader *n = node_in(page.page(), shape_, id);
            if (!node_answers(n)) continue;
            const uint32_t count = std::min<uint32_t>(n->links, shape_.max_links(0));
            if (has_dead(links_of(n, shape_), count))
                changes.push_back({id, {links_of(n, shape_), links_of(n, shape_) + count}, {}});
        }
    }
    if (changes.empty()) return;
    for (Change &c : changes) c.after = repaired_list(c.node, 0, c.before);
    WritePages pages(index_.rel());
    char *page = pages.lock(block, PageKind::nodes);
    for (const Change &c : changes) {
        NodeHeader *n = node_in(page, shape_, c.node);
        if (!node_answers(n)) continue;
        uint32_t *list = links_of(n, shape_);
        const uint32_t count = std::min<uint32_t>(n->links, shape_.max_links(0));
        if (count == c.before.size() && std::equal(c.before.begin(), c.before.end(), list)) {
            std::copy(c.after.begin(), c.after.end(), list);
            n->links = static_cast<uint8_t>(c.after.size());
        } else {  // an insertion changed it: what it wrote stays, the dead go
            uint32_t *end = std::remove_if(list, list + count, [this](uint32_t id) { return dead(id); });
            n->links = static_cast<uint8_t>(end - list);
        }
    }
    pages.commit();
}

void Vacuum::repair_upper(BlockNumber block)
{
    struct Work {
        uint32_t node;
        int level;
        std::vector<uint32_t> list;
    };
    std::vector<Work> work;
    {
        ReadPage page(index_.rel(), block, PageKind::upper);
        char *p = const_cast<char *>(page.page());
        for (OffsetNumber o = FirstOffsetNumber; o <= PageGetMaxOffsetNumber(p); ++o) {
            ItemId id = PageGetItemId(p, o);
            if (!ItemIdIsUsed(id)) continue;
            const auto *u = reinterpret_cast<const UpperHeader *>(PageGetItem(p, id));
            if (dead(u->node) || shape_.upper_size(static_cast<int>(u->level)) > ItemIdGetLength(id)) continue;
            for (int level = 1; level <= static_cast<int>(u->level); ++level) {
                const uint32_t *list = upper_list(u, shape_, level);
                const uint32_t n = std::min(list[0], shape_.max_links(level));
                if (has_dead(list + 1, n)) work.push_back({u->node, level, {list + 1, list + 1 + n}});
            }
        }
    }
    for (Work &w : work)
        for (int tries = 0; tries < 10; ++tries) {
            if (linker_.replace(w.node, w.level, w.list, repaired_list(w.node, w.level, w.list))) break;
            std::vector<uint32_t> now(view_.max_links());
            const uint32_t n = view_.neighbors(w.node, w.level, now.data());
            if (!has_dead(now.data(), n)) break;
            w.list.assign(now.begin(), now.begin() + n);
        }
}

std::vector<uint32_t> Vacuum::repaired_list(uint32_t node, int level, const std::vector<uint32_t> &list)
{
    std::vector<uint32_t> live, fresh, links(view_.max_links());
    for (uint32_t id : list)
        if (!dead(id)) live.push_back(id);
    search_.visited.clear();
    search_.visited.insert(node);
    for (uint32_t id : live) search_.visited.insert(id);
    for (uint32_t id : list) {
        if (!dead(id)) continue;
        // The first half of a list: the heuristic's choice comes first.
        const uint32_t n = std::min(view_.neighbors(id, level, links.data()), std::max(shape_.max_links(level) / 2, kFewLinks));
        for (uint32_t i = 0; i < n; ++i)
            if (!dead(links[i]) && search_.visited.insert(links[i])) fresh.push_back(links[i]);
    }
    std::vector<uint8_t> code;
    if (!view_.copy_code(node, &code)) return live;
    auto scorer = index_.codec().query_code(code.data());
    view_.set_scorer(scorer.get());
    std::vector<graph::Candidate> candidates;
    score(fresh, &candidates);
    if (live.size() * 2 <= list.size()) candidates_by_search(node, level, live, &candidates);
    // Only the nearest can be taken.
    const size_t near = std::min(candidates.size(), Linker::candidates_for(list.size() - live.size()));
    std::partial_sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(near), candidates.end());
    candidates.resize(near);
    if (live.size() * 4 > list.size() * 3) {
        linker_.fill(&live, candidates, list.size());
    } else {  // much is gone: what is left is weighed again together with what may come
        score(live, &candidates);
        std::sort(candidates.begin(), candidates.end());
        std::vector<uint32_t> chosen;
        for (const graph::Candidate &c : linker_.choose(candidates, list.size())) chosen.push_back(c.id);
        if (level == 0) keep_paths(live, &chosen);
        live = std::move(chosen);
    }
    view_.set_scorer(nullptr);
    return live;
}

// What only this list leads to stays in it, in the place of the last link that is new.
void Vacuum::keep_paths(const std::vector<uint32_t> &before, std::vector<uint32_t> *after)
{
    auto holds = [](const std::vector<uint32_t> &list, uint32_t id) {
        return std::find(list.begin(), list.end(), id) != list.end();
    };
    for (uint32_t id : before) {
        if (holds(*after, id) || linker_.has_detour(*after, id, 0)) continue;
        auto last_new = std::find_if(after->rbegin(), after->rend(), [&](uint32_t link) { return !holds(before, link); });
        if (last_new != after->rend()) *last_new = id;
    }
}

void Vacuum::score(const std::vector<uint32_t> &ids, std::vector<graph::Candidate> *out)
{
    std::vector<float> distance(ids.size());
    std::vector<uint8_t> counts(ids.size());
    view_.score(ids.data(), ids.size(), distance.data(), reinterpret_cast<bool *>(counts.data()));
    for (size_t i = 0; i < ids.size(); ++i)
        if (counts[i]) out->push_back({distance[i], ids[i]});
}

// Adds what a search from the entry finds, but for what is known.
void Vacuum::candidates_by_search(uint32_t node, int level, const std::vector<uint32_t> &known, std::vector<graph::Candidate> *out)
{
    const Entry entry = index_.entry();
    if (entry.node == kNoNode || entry.level < level) return;
    const uint32_t from[] = {graph::descend(view_, search_, entry.node, entry.level, level, kNever), entry.node};
    graph::enter(view_, search_, from, 2, shape_.ef_construction);
    graph::search_layer(view_, search_, level, kNever);
    std::unordered_set<uint32_t> seen(known.begin(), known.end());
    seen.insert(node);
    for (const graph::Candidate &c : *out) seen.insert(c.id);
    for (const auto &e : search_.pool.entries())
        if (e.counts && !dead(e.id) && seen.insert(e.id).second) out->push_back({e.distance, e.id});
}

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
        const uint32_t n = view_.neighbors(queue[head], 0, links.data());
        for (uint32_t i = 0; i < n; ++i)
            if (mark(links[i]) && !dead(links[i])) queue.push_back(links[i]);
    }
}

void Vacuum::reach_all()
{
    const Entry entry = index_.entry();
    if (entry.node == kNoNode) return;
    std::vector<bool> reached(static_cast<size_t>(blocks_) * shape_.per_page);
    flood(entry.node, reached);
    std::vector<uint8_t> code;
    for (BlockNumber block = 1; block < blocks_; ++block) {
        for (uint32_t slot = 0; slot < shape_.per_page; ++slot) {
            const uint32_t id = shape_.node_at(block, slot);
            if (reached[id] || dead(id)) continue;
            bool lost = false;
            const bool used =
                view_.peek(id, [&](const NodeHeader *n, const uint8_t *) { lost = node_answers(n) && !(n->flags & kNodePending); });
            if (!used || !lost || !view_.copy_code(id, &code)) continue;
            auto scorer = index_.codec().query_code(code.data());
            view_.set_scorer(scorer.get());
            std::vector<graph::Candidate> found;
            candidates_by_search(id, 0, {}, &found);
            view_.set_scorer(nullptr);
            std::erase_if(found, [&](const graph::Candidate &c) { return c.id >= reached.size() || !reached[c.id]; });
            found.push_back({0, entry.node});  // if all else fails
            for (size_t i = 0; i < found.size(); ++i)
                if (linker_.force(found[i].id, id)) break;
            flood(id, reached);
        }
    }
}

}  // namespace vkv::hnsw
