// A scan's searches: the first, and those that go on from what fell out of the pool. What they find waits for scan_settle.cpp.

#include <algorithm>

#include "pg/hnsw/scan.h"

namespace vkv::hnsw {

namespace {
constexpr size_t kSomeGroups = 8;
}  // namespace

// Codes misplace candidates around the edge of the pool; an eighth more of them makes up for it. (Not where a scan must end
// after ef_search.)
size_t Scan::width() const
{
    const auto ef = static_cast<size_t>(settings.ef_search);
    return index_.codec().exact() || !goes_on() ? ef : ef + ef / 8;
}
// Batch by batch a scan gets wider: one that is still read will be read on, and a wide search misses less than narrow ones.
size_t Scan::grown_width() const
{
    const auto most = static_cast<size_t>(settings.max_scan_tuples);
    const size_t left = most - std::min<size_t>(search_.stats.scored, most);
    return std::clamp(width() << std::min(batches_, 6), width(), std::max(width(), left / 8));
}

void Scan::first_batch(IndexScanDesc scan)
{
    state_ = State::searching;
    pg_call([&] { pgstat_count_index_scan(scan->indexRelation); });
    PageView view(index_, scorer_.get());
    search_.keep_dropped = goes_on();
    if (search_from_entry(view, width())) take_batch(view);
}

// False: the index is empty.
bool Scan::search_from_entry(PageView &view, size_t width)
{
    for (Entry entry = index_.entry();;) {
        if (entry.node == kNoNode) {
            state_ = State::done;
            return false;
        }
        free_epoch_ = entry.free_epoch;
        // Links by direction keep to groups of rows that point the same way, and products of unlike lengths do not show that a
        // descent has ended in the wrong one: some more are brought down.
        std::vector<uint32_t> from;
        if (index_.shape().links_by_direction())
            graph::descend_widely(view, search_, entry.node, entry.level, 0, from, poll_interrupts, kSomeGroups);
        else
            from.push_back(graph::descend(view, search_, entry.node, entry.level, 0, poll_interrupts));
        // From the entry too: every node can be reached from it on level 0, but not from every node that a descent leads to.
        from.push_back(entry.node);
        graph::enter(view, search_, from.data(), from.size(), width);
        graph::search_layer(view, search_, 0, poll_interrupts);
        if (entry.level > 0 && graph::looks_astray(search_.pool))
            search_widely(view, entry, from[0], width);
        else if (entry.level > 0 && !indifferent_ && graph::has_ties(search_.pool))
            graph::search_from_above(view, search_, entry.node, entry.level, 0, width, poll_interrupts);
        // Had vacuum freed nodes meanwhile, the way through one of them may have ended early.
        const Entry after = index_.entry();
        if (after.free_epoch == entry.free_epoch) return true;
        entry = after;
    }
}

// All rows found are equally far, as from a group that is not the query's: once more, from all groups that a wide descent
// meets.
void Scan::search_widely(PageView &view, const Entry &entry, uint32_t descended, size_t width)
{
    std::vector<uint32_t> from;
    graph::descend_widely(view, search_, entry.node, entry.level, 0, from, poll_interrupts);
    from.insert(from.end(), {descended, entry.node});
    graph::enter(view, search_, from.data(), from.size(), width);
    graph::search_layer(view, search_, 0, poll_interrupts);
}

// Vacuum has freed nodes since the search began: what fell out of the pool may lead nowhere now, and the links that were mended
// instead are those of nodes met before. So the search begins again, as wide as it had become; what was made pending stays so, and
// is not made so twice. (A freed node may hold another vector by now: one that this scan's snapshot does not see.)
void Scan::search_again(PageView &view)
{
    std::vector<graph::Candidate> left;
    left.swap(search_.dropped);
    graph::Visited waiting;
    for (const graph::Candidate &c : left) waiting.insert(c.id);
    if (!given_) given_.emplace();
    search_.visited.for_each([&](uint32_t id) {
        if (!waiting.contains(id)) given_->insert(id);
    });
    search_.stats = {};  // what is met again does not count against hnsw.max_scan_tuples twice
    if (!search_from_entry(view, grown_width())) return;
    for (const graph::Candidate &c : left)
        if (search_.visited.insert(c.id)) search_.dropped.push_back(c);
    take_batch(view);
}

bool Scan::next_batch()
{
    if (state_ == State::done || !goes_on()) return false;
    PageView view(index_, scorer_.get());
    if (state_ == State::searching && freed_since()) {
        search_again(view);
        return true;
    }
    auto &dropped = search_.dropped;
    if (dropped.empty()) return false;
    if (state_ == State::searching) {
        const size_t memory =
            dropped.capacity() * sizeof(graph::Candidate) + search_.visited.bytes() + (given_ ? given_->bytes() : 0);
        const double limit = static_cast<double>(work_mem) * 1024 * settings.scan_mem_multiplier;
        if (search_.stats.scored >= static_cast<uint64_t>(settings.max_scan_tuples) || static_cast<double>(memory) > limit) {
            state_ = State::draining;  // what has been met is still returned
            std::make_heap(dropped.begin(), dropped.end(), std::greater<>{});
        }
    }
    if (state_ == State::draining) {
        for (int i = 0; i < settings.ef_search && !dropped.empty(); ++i) {
            poll_interrupts();
            std::pop_heap(dropped.begin(), dropped.end(), std::greater<>{});
            push_new(view, dropped.back());
            dropped.pop_back();
        }
        look_ahead(view);
        return true;
    }
    resume(view, settled_.empty() ? grown_width() : std::min(grown_width(), overlapping()));
    if (freed_since()) search_again(view);
    return true;
}

// How many of what fell out of the pool may be nearer than the tuple that waits. A few at the pool's edge are no reason for a
// whole batch; but no scan makes many small batches.
size_t Scan::overlapping() const
{
    const double end = settled_.front().distance + (ahead_end_ - ahead_) / 2 + turned_back_;
    const auto count = static_cast<size_t>(
        std::count_if(search_.dropped.begin(), search_.dropped.end(), [&](const auto &c) { return c.distance <= end; }));
    return std::max(count, size_t{1} << std::min(batches_, 20));
}

// Searches on from the nearest of what fell out of the pool.
void Scan::resume(PageView &view, size_t most)
{
    auto &dropped = search_.dropped;
    const size_t take = std::min(most, dropped.size());
    std::nth_element(dropped.begin(), dropped.begin() + static_cast<std::ptrdiff_t>(take - 1), dropped.end());
    std::vector<graph::Candidate> from(dropped.begin(), dropped.begin() + static_cast<std::ptrdiff_t>(take));
    dropped.erase(dropped.begin(), dropped.begin() + static_cast<std::ptrdiff_t>(take));
    std::sort(from.begin(), from.end());  // what is put into the pool last goes to its end
    search_.pool.reset(most);
    for (const graph::Candidate &c : from) search_.pool.insert(c, true, [](const auto &) {});
    const double frontier = search_.pool.entries().front().distance;
    search_.nearer.clear();
    graph::search_layer(view, search_, 0, poll_interrupts);
    // (A few candidates at the pool's edge say nothing of that.)
    if (most >= width()) {
        turned_back_ = std::max(turned_back_, frontier - search_.pool.entries().front().distance);
        turned_back_ = std::max<double>(turned_back_, turned_within());
    }
    take_batch(view);
}

// How far the batch came back behind where it had got to, if more than a twentieth of its nodes did. Of most graphs next to none
// do. Where many do, nodes are met late for want of links, and the batches to come have more of them: rows of this one wait for
// those.
float Scan::turned_within() const
{
    const auto &nearer = search_.nearer;
    const auto turned = std::count_if(nearer.begin(), nearer.end(), [](float by) { return by > 0; });
    return static_cast<size_t>(turned) * 20 > nearer.size() ? *std::max_element(nearer.begin(), nearer.end()) : 0;
}

void Scan::take_batch(PageView &view)
{
    for (const auto &e : search_.pool.entries()) {
        poll_interrupts();
        if (e.counts) push_new(view, {e.distance, e.id});
    }
    look_ahead(view);
}

// Where the next batch begins: the nearest candidate left, less and more the error of its code.
void Scan::look_ahead(PageView &view)
{
    ++batches_;
    ahead_ = ahead_end_ = std::numeric_limits<float>::infinity();
    if (state_ == State::draining) turned_back_ = 0;  // what is left leads nowhere any more
    const auto &dropped = search_.dropped;
    if (dropped.empty() || !goes_on()) return;
    graph::Candidate nearest = dropped.front();
    if (state_ != State::draining)
        for (const graph::Candidate &c : dropped)
            if (c.distance < nearest.distance) nearest = c;
    const float error = error_of(view, nearest);
    ahead_ = nearest.distance - error;
    ahead_end_ = nearest.distance + error;
}

}  // namespace vkv::hnsw
