// Choosing and changing links on pages. Decisions are made from what was read without locks; a change is made under the exclusive
// lock, and only if the list, and the list that the decision counted on, still are what it was about.

#include "pg/hnsw/linker.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "pg/hnsw/meta_page.h"

namespace vkv::hnsw {

bool Linker::copy_code(uint32_t id, std::vector<uint8_t> *code)
{
    if (!originals_) return view_.copy_code(id, code);
    bool counts;
    const uint8_t *original = originals_->code(id, &counts);
    if (original) code->assign(original, original + originals_->codec().code_size());
    return original;
}

void Linker::clear_set()
{
    if (originals_) originals_->make_room();
    set_.clear(originals_ ? originals_->codec() : index_.codec());
}

std::vector<graph::Candidate> Linker::choose(std::span<const graph::Candidate> found, size_t max)
{
    clear_set();
    std::vector<graph::Candidate> candidates;
    std::vector<uint8_t> code;
    for (const graph::Candidate &c : found)
        if (copy_code(c.id, &code)) candidates.push_back({c.distance, set_.add(c.id, code)});
    select_neighbors(set_, candidates, max, true, selected_);
    std::vector<graph::Candidate> chosen;
    for (const graph::Candidate &c : selected_.kept) chosen.push_back({c.distance, set_.id(c.id)});
    return chosen;
}

// change(list, &count) edits the list of a live node under the exclusive lock and says whether to keep the change. If there is a
// detour, its list is locked too.
template <class Change>
bool Linker::change_list(uint32_t node, int level, const Detour &detour, Change &&change)
{
    const Shape &s = index_.shape();
    const BlockNumber block = s.block_of(node), other = detour.by == kNoNode ? block : s.block_of(detour.by);
    std::optional<ReadPage> lower, higher;
    if (other < block) lower.emplace(index_.rel(), other, PageKind::nodes);
    WritePages pages(index_.rel());
    char *own = pages.lock(block, PageKind::nodes);
    if (other > block) higher.emplace(index_.rel(), other, PageKind::nodes);
    if (detour.by != kNoNode && !stands(lower ? lower->page() : higher ? higher->page() : own, detour)) return false;
    NodeHeader *n = node_in(own, s, node);
    if (!node_used(n)) return false;
    if (level == 0) {
        uint32_t count = std::min<uint32_t>(n->links, s.max_links(0));
        if (!change(links_of(n, s), &count)) return false;
        n->links = static_cast<uint8_t>(count);
    } else {
        if (!is_item(n->upper)) return false;
        char *page = pages.lock(ItemPointerGetBlockNumber(&n->upper), PageKind::upper);
        auto *u = reinterpret_cast<UpperHeader *>(item_in(index_.rel(), page, n->upper));
        if (u->node != node || static_cast<int>(u->level) < level) return false;
        uint32_t *list = upper_list(u, s, level);
        uint32_t count = std::min(list[0], s.max_links(level));
        if (!change(list + 1, &count)) return false;
        list[0] = count;
    }
    pages.commit();
    return true;
}

bool Linker::append(uint32_t from, uint32_t to, int level)
{
    const uint32_t max = index_.shape().max_links(level);
    return change_list(from, level, {}, [&](uint32_t *list, uint32_t *n) {
        if (*n >= max || std::find(list, list + *n, to) != list + *n) return false;
        list[(*n)++] = to;
        return true;
    });
}

bool Linker::replace(uint32_t node, int level, std::span<const uint32_t> before, std::span<const uint32_t> after, Detour detour)
{
    return change_list(node, level, detour, [&](uint32_t *list, uint32_t *n) {
        if (*n != before.size() || !std::equal(before.begin(), before.end(), list)) return false;
        std::copy(after.begin(), after.end(), list);
        *n = static_cast<uint32_t>(after.size());
        return true;
    });
}

Detour Linker::find_detour(std::span<const uint32_t> kept, uint32_t lost, int level)
{
    std::vector<uint32_t> links(view_.max_links());
    for (uint32_t id : kept) {
        if (id == lost) continue;
        const uint32_t n = view_.neighbors(id, level, links.data());
        if (std::find(links.begin(), links.begin() + n, lost) == links.begin() + n) continue;
        if (leads_on(id)) return {id, lost};
    }
    return {};
}

// The page of the detour's node is locked.
bool Linker::stands(const char *page, const Detour &detour) const
{
    const Shape &s = index_.shape();
    const NodeHeader *n = node_in(page, s, detour.by);
    const uint32_t *list = links_of(n, s), *end = list + std::min<uint32_t>(n->links, s.max_links(0));
    return leads_on(detour.by, n) && std::find(list, end, detour.lost) != end;
}

// Whether the inserted node may drop this link of its list: it was written with it, and nothing relies on it.
bool Linker::may_drop(std::span<const uint32_t> list, uint32_t id, int level) const
{
    if (std::find(relied_on_.begin(), relied_on_.end(), std::pair{level, id}) != relied_on_.end()) return false;
    if (level > 0) return true;
    const auto holds = [](std::span<const uint32_t> links, uint32_t link) {
        return std::find(links.begin(), links.end(), link) != links.end();
    };
    return holds(own_, id) && std::all_of(own_.begin(), own_.end(), [&](uint32_t link) { return holds(list, link); });
}

// Gives the inserted node a link that another list loses to it, in place of its own last one that nothing relies on; at most half
// of its links are others'. A link to a dead node is not handed on: vacuum may have done with the list that it would come into.
bool Linker::hand_over(uint32_t lost, int level)
{
    if (!lives(lost)) return false;
    const uint32_t max = index_.shape().max_links(level);
    uint32_t dropped = kNoNode;
    const bool done = change_list(inserted_, level, {}, [&](uint32_t *list, uint32_t *n) {
        if (std::find(list, list + *n, lost) != list + *n) return false;
        if (*n < max) {
            list[(*n)++] = lost;
            return true;
        }
        for (uint32_t i = *n; i-- > *n / 2;)
            if (may_drop({list, *n}, list[i], level)) {
                dropped = std::exchange(list[i], lost);
                return true;
            }
        return false;
    });
    if (!done) return false;
    relied_on_.emplace_back(level, lost);
    if (level == 0) std::erase(own_, dropped);
    return true;
}

// Where queries ask for long vectors and links are chosen by direction, what leads to long ones goes last: a quarter of a list, as
// many as are answers (Inserter::add_answers). Far by the distance of lists, they would be displaced by whatever is inserted.
void Linker::keep_longest(std::span<const uint32_t> positions, std::vector<uint32_t> *order) const
{
    const size_t most = std::min<size_t>(index_.shape().max_links(0) / 4, positions.size());
    std::vector<std::pair<double, uint32_t>> lengths;
    for (uint32_t at : positions) lengths.emplace_back(set_.length(at), set_.id(at));
    const auto end = lengths.begin() + static_cast<std::ptrdiff_t>(most);
    std::partial_sort(lengths.begin(), end, lengths.end(), std::greater<>());
    std::stable_partition(order->begin(), order->end(), [&](uint32_t id) {
        return std::none_of(lengths.begin(), end, [&](const auto &l) { return l.second == id; });
    });
}

// Which link of a full list gives way to `to`: the one the heuristic would not keep, if it can be reached another way or `to` can
// become one; else the next worst.
bool Linker::find_victim(uint32_t from, uint32_t to, const std::vector<uint8_t> &to_code, int level, std::span<const uint32_t> list,
                         Detour *victim)
{
    constexpr size_t kTries = 8;
    std::vector<uint8_t> code;
    clear_set();
    if (!copy_code(from, &code)) return false;
    const uint32_t self = set_.add(from, code);
    std::vector<uint32_t> positions;
    for (uint32_t id : list) {
        if (!copy_code(id, &code)) {  // a link to a node that is gone: the best there is
            *victim = {kNoNode, id};
            return true;
        }
        positions.push_back(set_.add(id, code));
    }
    positions.push_back(set_.add(to, to_code));
    std::vector<float> distance(positions.size());
    set_.distances(self, positions.data(), positions.size(), distance.data());
    std::vector<graph::Candidate> candidates;
    for (size_t i = 0; i < positions.size(); ++i) candidates.push_back({distance[i], positions[i]});
    std::sort(candidates.begin(), candidates.end());
    select_neighbors(set_, candidates, list.size(), true, selected_);
    // From worst to best: what was turned down and did not fit, then the fillers, then the diverse ones.
    std::vector<uint32_t> order;
    for (auto it = selected_.turned.rbegin(); it != selected_.turned.rend(); ++it) order.push_back(set_.id(it->id));
    for (auto it = selected_.kept.rbegin(); it != selected_.kept.rend(); ++it) order.push_back(set_.id(it->id));
    if (level == 0 && index_.shape().links_by_direction()) keep_longest(positions, &order);
    std::vector<uint32_t> kept(list.begin(), list.end());
    kept.insert(kept.begin(), to);
    for (size_t i = 0; i < std::min(kTries, order.size()); ++i) {
        if (order[i] == to) return false;  // the worst that may go is the newcomer itself
        *victim = find_detour(kept, order[i], level);
        if (victim->by != kNoNode) {
            if (victim->by == inserted_) relied_on_.emplace_back(level, order[i]);
            return true;
        }
        if (to == inserted_ && hand_over(order[i], level)) {
            *victim = {to, order[i]};
            return true;
        }
    }
    return false;
}

bool Linker::add(uint32_t from, uint32_t to, const std::vector<uint8_t> &to_code, int level)
{
    constexpr int kTries = 10;
    const uint32_t max = index_.shape().max_links(level);
    std::vector<uint32_t> list(view_.max_links());
    for (int i = 0; i < kTries; ++i) {
        const uint32_t n = view_.neighbors(from, level, list.data());
        std::span<const uint32_t> now(list.data(), n);
        if (std::find(now.begin(), now.end(), to) != now.end()) return true;
        if (n < max) {
            if (append(from, to, level)) return true;
            continue;  // filled or freed meanwhile
        }
        Detour victim;
        if (!find_victim(from, to, to_code, level, now, &victim)) return false;
        std::vector<uint32_t> after(now.begin(), now.end());
        std::replace(after.begin(), after.end(), victim.lost, to);
        if (replace(from, level, now, after, level == 0 ? victim : Detour{})) return true;
    }
    return false;
}

bool Linker::lives(uint32_t id)
{
    bool answers = false;
    view_.peek(id, [&](const NodeHeader *n, const uint8_t *) { answers = node_answers(n); });
    return answers;
}

bool Linker::leads_on(uint32_t id)
{
    bool leads = false;
    view_.peek(id, [&](const NodeHeader *n, const uint8_t *) { leads = leads_on(id, n); });
    return leads;
}

bool Linker::attach(uint32_t from, uint32_t to)
{
    if (!lives(from)) return false;
    if (append(from, to, 0)) return true;
    std::vector<uint32_t> list(view_.max_links());
    list.resize(view_.neighbors(from, 0, list.data()));
    if (std::find(list.begin(), list.end(), to) != list.end()) return true;
    std::vector<uint32_t> after = list;
    after.push_back(to);  // what leads on is looked for among these
    Detour detour;
    const size_t out = find_spare(after, list.size(), &detour);
    if (out == list.size()) return false;
    after[out] = to;
    after.pop_back();
    return replace(from, 0, list, after, detour);
}

// The last of the first n links that another one of the list leads to; n: none.
size_t Linker::find_spare(std::span<const uint32_t> list, size_t n, Detour *detour)
{
    for (size_t i = n; i-- > 0;) {
        *detour = find_detour(list, list[i], 0);
        if (detour->by != kNoNode) return i;
    }
    return n;
}

// Makes the link to -> moved. A full list loses one that another leads to, or that an insertion may drop; if there is none, its
// last, which is returned.
uint32_t Linker::take_over(uint32_t to, uint32_t moved)
{
    constexpr int kTries = 10;
    const uint32_t max = index_.shape().max_links(0);
    std::vector<uint32_t> list(view_.max_links());
    for (int i = 0; i < kTries; ++i) {
        const uint32_t n = view_.neighbors(to, 0, list.data());
        std::span<const uint32_t> now(list.data(), n);
        if (moved == to || std::find(now.begin(), now.end(), moved) != now.end()) return kNoNode;
        if (n < max) {
            if (append(to, moved, 0)) return kNoNode;
            if (!lives(to)) return kNoNode;
            continue;
        }
        std::vector<uint32_t> after(now.begin(), now.end());
        after.push_back(moved);
        Detour detour;
        size_t out = n;
        for (size_t i = n; to == inserted_ && out == n && i-- > 0;)
            if (may_drop(now, now[i], 0)) out = i;
        if (out == n) out = find_spare(after, n, &detour);
        const bool nothing_lost = out < n;
        if (!nothing_lost) {
            out = n - 1;
            announce_cut();
        }
        after[out] = moved;
        after.pop_back();
        if (!replace(to, 0, now, after, detour)) continue;
        if (to == inserted_) {
            std::erase(own_, now[out]);
            if (detour.by != kNoNode) relied_on_.emplace_back(0, detour.by);
        }
        return nothing_lost ? kNoNode : now[out];
    }
    return moved;
}

// Before an insertion cuts a path: a crash after the cut finds the mark. (Vacuum's own mark stands while it runs.)
void Linker::announce_cut()
{
    if (inserted_ != kNoNode) set_paths(index_.rel(), Paths::cut);
}

bool Linker::force(uint32_t from, uint32_t to, Forced *forced)
{
    const uint32_t max = index_.shape().max_links(0);
    std::vector<uint32_t> list(view_.max_links());
    for (;;) {
        poll_interrupts();
        if (append(from, to, 0)) return true;
        const uint32_t n = view_.neighbors(from, 0, list.data());
        std::span<const uint32_t> now(list.data(), n);
        if (std::find(now.begin(), now.end(), to) != now.end()) return true;
        if (n < max) {
            if (!view_.peek(from, [](const NodeHeader *, const uint8_t *) {})) return false;
            continue;
        }
        // A link to a dead node is not handed on: vacuum may have done with the list that it would come into.
        size_t out = n - 1;
        while (out > 0 && !lives(list[out])) --out;
        const uint32_t moved = list[out];
        const bool hand_on = lives(moved);
        // The way to the node that loses its link leads through `to` from the moment it is lost.
        const uint32_t cut = hand_on ? take_over(to, moved) : kNoNode;
        if (forced && cut != kNoNode) forced->cut.push_back(cut);
        std::vector<uint32_t> after(now.begin(), now.end());
        after[out] = to;
        // Another insertion may drop that link meanwhile, counting on the one that goes here: then all this is done again.
        const bool leads = hand_on && cut != moved && leads_on(to);
        if (cut == moved && hand_on) announce_cut();
        if (replace(from, 0, now, after, leads ? Detour{to, moved} : Detour{})) {
            if (forced && hand_on) forced->moved = moved;
            return true;
        }
    }
}

void Linker::remove_if(uint32_t node, int level, const std::function<bool(uint32_t)> &gone)
{
    change_list(node, level, {}, [&](uint32_t *list, uint32_t *n) {
        uint32_t *end = std::remove_if(list, list + *n, gone);
        if (end == list + *n) return false;
        *n = static_cast<uint32_t>(end - list);
        return true;
    });
}

}  // namespace vkv::hnsw
