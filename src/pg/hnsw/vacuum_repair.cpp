// Vacuum, second half: the graph without its dead nodes.
//
// A list that lost links is chosen anew, by the heuristic that made it, from the links that are left and from the nodes that stand
// in for those that are lost (Singh et al. 2021, FreshDiskANN, section 4.2): mostly pages around the node. None of these may be
// left out for being far: the few links between groups of rows are what the rest is found by. Where much is gone, a search adds
// what the neighbourhood cannot give. Then the best of the list, and every node that is new to it, are offered a link back.
//
// A list must change freely, or the graph hardens pass by pass. It keeps only the way on which reach_all() came to a node: one link
// of all that lead there. So whatever has been repaired when vacuum ends, paths over live nodes lead to every row.

#include <algorithm>
#include <unordered_set>

#include "pg/hnsw/chance.h"
#include "pg/hnsw/vacuum.h"

namespace vkv::hnsw {

namespace {

constexpr uint32_t kFewLinks = 8;
constexpr size_t kBest = 8;               // of a list
constexpr size_t kFewestCandidates = 64;  // of a search, as many as by default: what is left is sparse, and its ways are few
constexpr size_t kFewStandIns = 3, kStandIns = 8;
constexpr size_t kStandInBytes = 150;  // of memory, about

}  // namespace

void Vacuum::repair_nodes()
{
    const size_t memory = static_cast<size_t>(maintenance_work_mem) * 1024 / 4;
    // Vacuum has locked the table. Its snapshot keeps no value out of line, and functions in indexes may not run in its workers.
    Relation heap = pg_call([&] { return table_open(index_.rel()->rd_index->indrelid, NoLock); });
    originals_.begin(view_, heap, CurrentMemoryContext, false);
    for (BlockNumber block = 1; block < blocks_; ++block) {
        if (offers_.size() * sizeof(Offer) > memory) link_back();
        if (stand_ins_.size() * kStandInBytes > memory) forget_stand_ins();
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
    link_back();
    forget_stand_ins();
    originals_.end();
    pg_call([&] { table_close(heap, NoLock); });
}

// One by one: many of them take a while.
void Vacuum::forget_stand_ins()
{
    while (!stand_ins_.empty()) {
        poll_interrupts();
        stand_ins_.erase(stand_ins_.begin());
    }
}

void Vacuum::repair_page(BlockNumber block)
{
    struct Change {
        uint32_t node;
        std::vector<uint32_t> before, after;
        std::vector<Detour> detours;
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
                changes.push_back({id, {links_of(n, shape_), links_of(n, shape_) + count}, {}, {}});
        }
    }
    if (changes.empty()) return;
    for (Change &c : changes) {
        pace();
        detours_.clear();
        c.after = repaired_list(c.node, 0, c.before);
        c.detours.swap(detours_);
    }
    // Two lists of the page may each count on what the other gives up.
    auto stands = [&](const char *p, const Detour &d) {
        if (shape_.block_of(d.by) != block) return true;
        const NodeHeader *n = node_in(p, shape_, d.by);
        const uint32_t *list = links_of(n, shape_), *end = list + std::min<uint32_t>(n->links, shape_.max_links(0));
        return std::find(list, end, d.lost) != end;
    };
    std::vector<Change *> late;
    WritePages pages(index_.rel());
    char *page = pages.lock(block, PageKind::nodes);
    for (Change &c : changes) {
        NodeHeader *n = node_in(page, shape_, c.node);
        if (!node_answers(n)) continue;
        uint32_t *list = links_of(n, shape_);
        if (n->links != c.before.size() || !std::equal(c.before.begin(), c.before.end(), list) ||
            !std::all_of(c.detours.begin(), c.detours.end(), [&](const Detour &d) { return stands(page, d); })) {
            late.push_back(&c);  // an insertion changed it
            continue;
        }
        std::copy(c.after.begin(), c.after.end(), list);
        n->links = static_cast<uint8_t>(c.after.size());
        remember_offers(c.node, 0, c.before, c.after);
    }
    pages.commit();
    for (const Change *c : late) repair(c->node, 0, c->before);
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
    for (Work &w : work) {
        pace();
        repair(w.node, w.level, std::move(w.list));
    }
}

void Vacuum::repair(uint32_t node, int level, std::vector<uint32_t> before)
{
    constexpr int kTries = 10;
    std::vector<uint32_t> now(view_.max_links());
    for (int tries = 0; tries < kTries; ++tries) {
        const std::vector<uint32_t> after = repaired_list(node, level, before);
        if (linker_.replace(node, level, before, after)) {
            remember_offers(node, level, before, after);
            return;
        }
        const uint32_t n = view_.neighbors(node, level, now.data());
        if (!has_dead(now.data(), n)) return;
        before.assign(now.begin(), now.begin() + n);
    }
    strip_dead(node, level);
}

// The first of a list are its best. They are offered a link back although they have seen the node before: since then their own
// lists have changed as well.
void Vacuum::remember_offers(uint32_t node, int level, const std::vector<uint32_t> &before, const std::vector<uint32_t> &after)
{
    for (size_t i = 0; i < after.size(); ++i)
        if (i < kBest || std::find(before.begin(), before.end(), after[i]) == before.end())
            offers_.push_back({after[i], level, node});
}

std::vector<uint32_t> Vacuum::repaired_list(uint32_t node, int level, const std::vector<uint32_t> &list)
{
    std::vector<uint32_t> live, fresh;
    for (uint32_t id : list) {
        if (!dead(id)) {
            live.push_back(id);
            continue;
        }
        const std::vector<uint32_t> &stand_ins = stand_ins_of(id, level);
        fresh.insert(fresh.end(), stand_ins.begin(), stand_ins.end());
    }
    search_.visited.clear();
    search_.visited.insert(node);
    for (uint32_t id : live) search_.visited.insert(id);
    std::erase_if(fresh, [this](uint32_t id) { return !search_.visited.insert(id); });
    std::vector<uint8_t> code;
    if (!view_.copy_code(node, &code)) return live;
    auto scorer = index_.codec().query_code(code.data());
    view_.set_scorer(scorer.get());
    std::vector<graph::Candidate> candidates;
    score(fresh, &candidates);
    if (wants_search(level, 1 - static_cast<double>(live.size()) / static_cast<double>(list.size())))
        candidates_by_search(node, level, live, &candidates);
    score(live, &candidates);
    view_.set_scorer(nullptr);
    std::vector<uint32_t> chosen = choose(node, code, *scorer, shape_.max_links(level), candidates);
    if (level == 0) keep_paths(node, live, &chosen);
    return chosen;
}

// A search costs more than all the rest. Levels above have few nodes. On level 0 it is worth it where much is gone; where little
// is, some nodes are searched for by chance, so that what many vacuums take is noticed in the end.
bool Vacuum::wants_search(int level, double lost)
{
    constexpr double kMuch = 0.5, kChance = 0.5;
    return level > 0 || lost >= kMuch || random_share(++asked_by_chance_) < kChance * lost;
}

// The live nodes that stand in for a dead one: those it links to; where there are few, as in the middle of what was deleted whole,
// the nearest that a walk from it finds.
const std::vector<uint32_t> &Vacuum::stand_ins_of(uint32_t node, int level)
{
    auto [at, added] = stand_ins_.try_emplace(static_cast<uint64_t>(node) << 8 | static_cast<uint64_t>(level));
    std::vector<uint32_t> &found = at->second;
    if (!added) return found;
    pace();
    std::vector<uint32_t> links(view_.max_links());
    // The first half of a list: the heuristic's choice comes first.
    const uint32_t n = std::min(view_.neighbors(node, level, links.data()), std::max(shape_.max_links(level) / 2, kFewLinks));
    for (uint32_t i = 0; i < n; ++i)
        if (!dead(links[i])) found.push_back(links[i]);
    if (found.size() >= kFewStandIns) return found;
    std::vector<uint8_t> code;
    if (!view_.copy_code(node, &code)) return found;
    auto scorer = index_.codec().query_code(code.data());
    view_.set_scorer(scorer.get());
    graph::enter(view_, search_, &node, 1, kStandIns);
    graph::search_layer(view_, search_, level, [this] { return pace(); });
    view_.set_scorer(nullptr);
    for (const auto &e : search_.pool.entries())
        if (e.counts && !dead(e.id) && std::find(found.begin(), found.end(), e.id) == found.end()) found.push_back(e.id);
    return found;
}

// The node that leads to another once that is not linked from here; kNoNode: it may then be one that no path leads to, for it is
// where the last flood came to it from here. What that did not meet has come since, and an insertion may have led the way
// elsewhere.
uint32_t Vacuum::other_way(uint32_t from, uint32_t to, const std::vector<uint32_t> &kept)
{
    if (to < way_.size() && way_[to] != kNoNode) {
        if (way_[to] == from) return kNoNode;
        if (linker_.has_detour({&way_[to], 1}, to, 0)) return way_[to];
    }
    return linker_.find_detour(kept, to, 0).by;
}

// What the list may not lose stays in it, in the place of the last link that is new and that nothing else was given up for. There
// is one: what is new are as many links at least as are given up.
void Vacuum::keep_paths(uint32_t node, const std::vector<uint32_t> &before, std::vector<uint32_t> *after)
{
    auto holds = [](const std::vector<uint32_t> &list, uint32_t id) {
        return std::find(list.begin(), list.end(), id) != list.end();
    };
    std::vector<uint32_t> counted_on;
    detours_.clear();
    for (uint32_t id : before) {
        if (holds(*after, id)) continue;
        const uint32_t way = other_way(node, id, *after);
        if (way != kNoNode) {
            counted_on.push_back(way);
            detours_.push_back({way, id});
            continue;
        }
        auto last_new = std::find_if(after->rbegin(), after->rend(),
                                     [&](uint32_t link) { return !holds(before, link) && !holds(counted_on, link); });
        if (last_new != after->rend()) *last_new = id;
    }
}

// As an insertion chooses: by original vectors where codes do not tell the node's neighbours from the node itself.
std::vector<uint32_t> Vacuum::choose(uint32_t node, const std::vector<uint8_t> &code, Scorer &scorer, size_t max,
                                     std::vector<graph::Candidate> &candidates)
{
    std::sort(candidates.begin(), candidates.end());
    const size_t kth = max / 2;
    bool close =
        originals_.serve() && kth > 0 && candidates.size() >= kth && is_too_close(view_, scorer, code, candidates[kth - 1]);
    bool counts;
    const uint8_t *original = close ? originals_.code(node, &counts) : nullptr;
    close = original != nullptr;
    if (close) {
        const std::vector<uint8_t> own(original, original + originals_.codec().code_size());
        auto exact_scorer = originals_.codec().query_code(own.data());
        OriginalsView exact(originals_, view_, *exact_scorer);
        for (graph::Candidate &c : candidates) exact.score(&c.id, 1, &c.distance, &counts);
        std::sort(candidates.begin(), candidates.end());
        linker_.use(&originals_);
    }
    std::vector<uint32_t> chosen;
    for (const graph::Candidate &c : linker_.choose(candidates, max)) chosen.push_back(c.id);
    linker_.use(nullptr);
    return chosen;
}

void Vacuum::score(const std::vector<uint32_t> &ids, std::vector<graph::Candidate> *out)
{
    std::vector<float> distance(ids.size());
    std::vector<uint8_t> counts(ids.size());
    view_.score(ids.data(), ids.size(), distance.data(), reinterpret_cast<bool *>(counts.data()));
    for (size_t i = 0; i < ids.size(); ++i)
        if (counts[i]) out->push_back({distance[i], ids[i]});
}

// Adds what a search from the entry finds, but for what is known. The node itself is found too; and where a list has room for all
// that a search keeps, the heuristic has no choice.
void Vacuum::candidates_by_search(uint32_t node, int level, const std::vector<uint32_t> &known, std::vector<graph::Candidate> *out)
{
    const Entry entry = index_.entry();
    if (entry.node == kNoNode || entry.level < level) return;
    const auto stop = [this] { return pace(); };
    const uint32_t from[] = {graph::descend(view_, search_, entry.node, entry.level, level, stop), entry.node};
    graph::enter(view_, search_, from, 2,
                 std::max<size_t>({size_t{shape_.ef_construction} + 1, size_t{2} * shape_.max_links(level), kFewestCandidates}));
    graph::search_layer(view_, search_, level, stop);
    std::unordered_set<uint32_t> seen(known.begin(), known.end());
    seen.insert(node);
    for (const graph::Candidate &c : *out) seen.insert(c.id);
    for (const auto &e : search_.pool.entries())
        if (e.counts && !dead(e.id) && seen.insert(e.id).second) out->push_back({e.distance, e.id});
}

// X links to Y: then Y may want X, as it would had X been inserted now. All that one node is offered is weighed at once.
void Vacuum::link_back()
{
    std::sort(offers_.begin(), offers_.end(), [](const Offer &a, const Offer &b) {
        poll_interrupts();
        return a < b;
    });
    std::vector<uint32_t> newcomers;
    for (size_t i = 0; i < offers_.size();) {
        const uint32_t to = offers_[i].to;
        const int level = offers_[i].level;
        newcomers.clear();
        for (; i < offers_.size() && offers_[i].to == to && offers_[i].level == level; ++i) newcomers.push_back(offers_[i].from);
        for (int tries = 0; tries < 3 && !offer_links(to, level, newcomers); ++tries) {
        }
    }
    offers_.clear();
}

// False if somebody else changed the list meanwhile.
bool Vacuum::offer_links(uint32_t node, int level, const std::vector<uint32_t> &newcomers)
{
    pace();
    std::vector<uint32_t> before(view_.max_links());
    before.resize(view_.neighbors(node, level, before.data()));
    std::vector<uint32_t> after = before;
    for (uint32_t id : newcomers)
        if (std::find(before.begin(), before.end(), id) == before.end()) after.push_back(id);
    if (after.size() == before.size()) return true;
    const uint32_t max = shape_.max_links(level);
    if (after.size() > max) {
        std::vector<uint8_t> code;
        if (!view_.copy_code(node, &code)) return true;
        auto scorer = index_.codec().query_code(code.data());
        view_.set_scorer(scorer.get());
        std::vector<graph::Candidate> candidates;
        score(after, &candidates);
        view_.set_scorer(nullptr);
        after = choose(node, code, *scorer, max, candidates);
        if (level == 0) keep_paths(node, before, &after);
        if (after == before) return true;
    }
    return linker_.replace(node, level, before, after);
}

}  // namespace vkv::hnsw
