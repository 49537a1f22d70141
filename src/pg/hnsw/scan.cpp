// An index scan: nearest first, for as long as the executor asks.
//
// A search with ef_search candidates gives a batch. Candidates are ordered by the lowest distance they can have, given the error of
// their codes, and are settled one at a time - read again under a lock, their exact distance taken from the heap tuple - until the
// best settled one is nearer than anything that is left can be. A second level, if there is one, narrows the interval first, and
// the heap is read only where intervals still overlap. So the order is the exact one, and a LIMIT 10 reads little more than 10
// heap tuples.
//
// What fell out of the pool is left too: a row that may be farther than one of those waits while the search goes on from them, if
// the settings allow it. So rows that their codes cannot tell apart are settled together, however many they are. When a batch is
// used up, the search goes on in the same way.

#include <algorithm>
#include <memory>
#include <optional>

#include "pg/hnsw/hnsw.h"
#include "pg/hnsw/node_tids.h"
#include "pg/hnsw/page_view.h"
#include "pg/hnsw/rerank.h"

namespace vkv::hnsw {

namespace {

// A query without direction (NULL, or zero under cosine) is equally far from everything.
class Indifferent final : public Scorer {
public:
    void score(const uint8_t *const *, size_t n, float *distance) override { std::fill(distance, distance + n, 0.0f); }
    float rescore(const uint8_t *, const uint8_t *) override { return 0; }
    float error(const uint8_t *, float, bool) override { return 0; }
};

class Scan {
public:
    Scan(Relation rel, MemoryContext context) : index_(rel), context_(context) {}

    void start(Datum query, bool isnull)
    {
        state_ = State::fresh;
        pending_.clear();
        settled_.clear();
        late_.clear();
        search_.dropped.clear();
        search_.stats = {};
        last_ = -std::numeric_limits<double>::infinity();
        batches_ = 0;
        turned_back_ = 0;
        if (heap_) heap_->reset();
        MemoryContextReset(context_);
        indifferent_ = isnull;
        if (!isnull) {
            MemoryContext old = MemoryContextSwitchTo(context_);
            // A copy: the caller's datum need not outlive this call.
            Datum copy = pg_call([&] { return PointerGetDatum(PG_DETOAST_DATUM_COPY(query)); });
            indifferent_ = !view_value(index_.shape(), copy, &query_);
            MemoryContextSwitchTo(old);
        }
        if (indifferent_)
            scorer_ = std::make_unique<Indifferent>();
        else
            scorer_ = index_.codec().query(query_);
    }

    bool next(IndexScanDesc scan)
    {
        if (state_ == State::unset) throw Error(Errc::internal, "an hnsw scan was read before it was started");
        if (state_ == State::fresh) first_batch(scan);
        for (;;) {
            while (!pending_.empty() && (settled_.empty() || pending_.front().lower <= settled_.front().distance)) {
                poll_interrupts();
                settle(scan);
            }
            if (settled_.empty() || must_wait(settled_.front().distance)) {
                if (next_batch()) continue;
                if (settled_.empty() && !take_late()) return false;
            }
            const double distance = settled_.front().distance;
            if (ordered() && distance < last_) {
                std::pop_heap(settled_.begin(), settled_.end(), Settled::later);
                late_.push_back(std::move(settled_.back()));
                settled_.pop_back();
                continue;
            }
            ItemPointerData tid;
            if (!take_tid(&tid)) continue;
            last_ = distance;
            scan->xs_heaptid = tid;
            scan->xs_recheck = false;
            scan->xs_recheckorderby = false;
            return true;
        }
    }

    void close()
    {
        if (heap_) heap_->close();
        heap_.reset();
    }

private:
    enum class State { unset, fresh, searching, draining, done };

    struct Pending {
        float lower, distance;  // distance: that of the first level
        uint32_t node;
        bool refined = false;  // lower and upper are as narrow as they get without the heap
        float upper = 0;
        static bool later(const Pending &a, const Pending &b)
        {
            return a.lower > b.lower || (a.lower == b.lower && a.node > b.node);
        }
    };
    // A node whose heap tuples are returned one after the other, and read as they are asked for: there may be a million of them.
    struct Settled {
        double distance;
        uint64_t order;  // of arrival, so that equal distances keep it
        std::vector<ItemPointerData> tids;
        TidReader chain;  // the rest
        size_t next;
        static bool later(const Settled &a, const Settled &b)
        {
            return a.distance > b.distance || (a.distance == b.distance && a.order > b.order);
        }
    };

    // The next heap tuple of the nearest node; false if it had none left.
    bool take_tid(ItemPointerData *tid)
    {
        Settled &nearest = settled_.front();
        if (nearest.next == nearest.tids.size()) {
            nearest.tids.clear();
            nearest.next = 0;
            nearest.chain.read(index_, &nearest.tids);
        }
        const bool any = nearest.next < nearest.tids.size();
        if (any) *tid = nearest.tids[nearest.next++];
        if (nearest.next == nearest.tids.size() && !nearest.chain.more()) {
            std::pop_heap(settled_.begin(), settled_.end(), Settled::later);
            settled_.pop_back();
        }
        return any;
    }

    // What was met too late for its place comes after everything else: a row too far behind is better than a row too few.
    bool take_late()
    {
        if (late_.empty()) return false;
        settled_.swap(late_);
        std::make_heap(settled_.begin(), settled_.end(), Settled::later);
        last_ = -std::numeric_limits<double>::infinity();
        return true;
    }

    bool goes_on() const { return settings.iterative_scan != static_cast<int>(IterativeScan::off) || settings.scan_past_ef; }
    bool ordered() const { return settings.iterative_scan != static_cast<int>(IterativeScan::relaxed); }
    // Whether a settled tuple is kept back, since something that fell out of the pool, or what that leads to, may be nearer; what
    // comes too late comes last. Without promise of order only where the two cannot be told apart.
    bool must_wait(double distance) const
    {
        return ordered() ? distance > ahead_ - turned_back_ : distance > ahead_ && distance <= ahead_end_;
    }
    // Codes misplace candidates around the edge of the pool; an eighth more of them makes up for it. (Not where a scan must end
    // after ef_search.)
    size_t width() const
    {
        const auto ef = static_cast<size_t>(settings.ef_search);
        return index_.codec().exact() || !goes_on() ? ef : ef + ef / 8;
    }
    // Batch by batch a scan gets wider: one that is still read will be read on, and a wide search misses less than narrow ones.
    size_t grown_width() const
    {
        const auto most = static_cast<size_t>(settings.max_scan_tuples);
        const size_t left = most - std::min<size_t>(search_.stats.scored, most);
        return std::clamp(width() << std::min(batches_, 6), width(), std::max(width(), left / 8));
    }
    // Null: there is no heap to ask.
    HeapReader *heap(IndexScanDesc scan)
    {
        if (!heap_ && scan->heapRelation && !indifferent_)
            heap_.emplace(scan->heapRelation, scan->indexRelation, MemoryContextGetParent(context_));
        return heap_ ? &*heap_ : nullptr;
    }

    void first_batch(IndexScanDesc scan)
    {
        state_ = State::searching;
        pg_call([&] { pgstat_count_index_scan(scan->indexRelation); });
        PageView view(index_, scorer_.get());
        search_.keep_dropped = goes_on();
        for (Entry entry = index_.entry();;) {
            if (entry.node == kNoNode) {
                state_ = State::done;
                return;
            }
            // From the entry too: every node can be reached from it on level 0, but not from every node that a descent leads to.
            const uint32_t from[] = {graph::descend(view, search_, entry.node, entry.level, 0, poll_interrupts), entry.node};
            graph::enter(view, search_, from, 2, width());
            graph::search_layer(view, search_, 0, poll_interrupts);
            if (entry.level > 0 && graph::looks_astray(search_.pool)) search_widely(view, entry, from[0]);
            // Had vacuum freed nodes meanwhile, the way through one of them may have ended early.
            const Entry after = index_.entry();
            if (after.free_epoch == entry.free_epoch) break;
            entry = after;
        }
        take_batch(view);
    }

    // All rows found are equally far, as from a group that is not the query's: once more, from all groups that a wide descent
    // meets.
    void search_widely(PageView &view, const Entry &entry, uint32_t descended)
    {
        std::vector<uint32_t> from;
        graph::descend_widely(view, search_, entry.node, entry.level, 0, from, poll_interrupts);
        from.insert(from.end(), {descended, entry.node});
        graph::enter(view, search_, from.data(), from.size(), width());
        graph::search_layer(view, search_, 0, poll_interrupts);
    }

    bool next_batch()
    {
        if (state_ == State::done || !goes_on() || search_.dropped.empty()) return false;
        auto &dropped = search_.dropped;
        if (state_ == State::searching) {
            const size_t memory = dropped.capacity() * sizeof(graph::Candidate) + search_.visited.bytes();
            const double limit = static_cast<double>(work_mem) * 1024 * settings.scan_mem_multiplier;
            if (search_.stats.scored >= static_cast<uint64_t>(settings.max_scan_tuples) || static_cast<double>(memory) > limit) {
                state_ = State::draining;  // what has been met is still returned
                std::make_heap(dropped.begin(), dropped.end(), std::greater<>{});
            }
        }
        PageView view(index_, scorer_.get());
        if (state_ == State::draining) {
            for (int i = 0; i < settings.ef_search && !dropped.empty(); ++i) {
                std::pop_heap(dropped.begin(), dropped.end(), std::greater<>{});
                push_pending(view, dropped.back());
                dropped.pop_back();
            }
            look_ahead(view);
            return true;
        }
        resume(view, settled_.empty() ? grown_width() : std::min(grown_width(), overlapping()));
        return true;
    }

    // How many of what fell out of the pool may be nearer than the tuple that waits. A few at the pool's edge are no reason for a
    // whole batch; but no scan makes many small batches.
    size_t overlapping() const
    {
        const double end = settled_.front().distance + (ahead_end_ - ahead_) / 2 + turned_back_;
        const auto count = static_cast<size_t>(
            std::count_if(search_.dropped.begin(), search_.dropped.end(), [&](const auto &c) { return c.distance <= end; }));
        return std::max(count, size_t{1} << std::min(batches_, 20));
    }

    // Searches on from the nearest of what fell out of the pool.
    void resume(PageView &view, size_t most)
    {
        auto &dropped = search_.dropped;
        const size_t take = std::min(most, dropped.size());
        std::nth_element(dropped.begin(), dropped.begin() + static_cast<std::ptrdiff_t>(take - 1), dropped.end());
        std::vector<graph::Candidate> from(dropped.begin(), dropped.begin() + static_cast<std::ptrdiff_t>(take));
        dropped.erase(dropped.begin(), dropped.begin() + static_cast<std::ptrdiff_t>(take));
        search_.pool.reset(most);
        for (const graph::Candidate &c : from) search_.pool.insert(c, true, [](const auto &) {});
        const double frontier = search_.pool.entries().front().distance;
        graph::search_layer(view, search_, 0, poll_interrupts);
        // (A few candidates at the pool's edge say nothing of that.)
        if (most >= width()) turned_back_ = std::max(turned_back_, frontier - search_.pool.entries().front().distance);
        take_batch(view);
    }

    void take_batch(PageView &view)
    {
        for (const auto &e : search_.pool.entries())
            if (e.counts) push_pending(view, {e.distance, e.id});
        look_ahead(view);
    }

    // Where the next batch begins: the nearest candidate left, less and more the error of its code.
    void look_ahead(PageView &view)
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

    void push_pending(PageView &view, const graph::Candidate &c) { add_pending(c, error_of(view, c)); }

    float error_of(PageView &view, const graph::Candidate &c)
    {
        float error = 0;
        if (index_.codec().exact())
            error = scorer_->error(nullptr, c.distance, false);
        else if (!index_.shape().apart)
            view.peek(c.id, [&](const NodeHeader *, const uint8_t *code) { error = scorer_->error(code, c.distance, false); });
        else if (view.copy_code(c.id, &code_))
            error = scorer_->error(code_.data(), c.distance, false);
        return graph::finite(error);
    }

    // An exact codec's distance is as good as a refined one: what rounding leaves open is settled from the heap.
    void add_pending(const graph::Candidate &c, float error)
    {
        const bool rounded = index_.codec().exact() && error > 0;
        add_pending({c.distance - error, c.distance, c.id, rounded, c.distance + error});
    }

    void add_pending(const Pending &p)
    {
        pending_.push_back(p);
        std::push_heap(pending_.begin(), pending_.end(), Pending::later);
    }

    // The nearest pending candidate, read for certain.
    void settle(IndexScanDesc scan)
    {
        const Pending p = take_pending();
        const Shape &s = index_.shape();
        tids_.clear();
        float distance = p.distance;
        NodeHeader header;
        {
            ReadPage page(index_.rel(), s.block_of(p.node), PageKind::nodes);
            const NodeHeader *n = node_in(page.page(), s, p.node);
            if (!node_answers(n)) return;
            header = *n;
            if (!s.apart) {
                const uint8_t *code = code_of(n);
                scorer_->score(&code, 1, &distance);
                distance = graph::finite(distance);
                if (distance != p.distance) {  // the slot was taken by another vector since it was scored
                    add_pending(graph::Candidate{distance, p.node}, graph::finite(scorer_->error(code, distance, false)));
                    return;
                }
                if (refines(p)) code_.assign(code, code + s.code_bytes);
            }
            if (!refines(p)) inline_tids(n, &tids_);
        }
        TidReader chain(p.node, &header);
        if (tids_.empty() && !chain.more() && !refines(p)) return;
        if (s.apart && !indifferent_) {
            PageView view(index_, scorer_.get());
            bool counts;
            view.score(&p.node, 1, &distance, &counts);
            if (!counts) return;
            if (distance != p.distance) {
                push_pending(view, {distance, p.node});
                return;
            }
        }
        if (refines(p)) {
            refine(p, PayloadOf(p.node, &header));
            return;
        }
        std::optional<double> exact = distance;
        const bool open = !index_.codec().exact() || p.refined;
        if (p.refined && (is_alone(p) || !heap(scan))) {
            exact = end_of(p);  // no nearer than it is: what comes late is measured against this
        } else if (open && heap(scan)) {
            // The first of its tuples that the snapshot shows tells the distance.
            exact = heap_->distance(tids_, scan->xs_snapshot, s, query_);
            while (!exact && chain.more()) {
                poll_interrupts();
                tids_.clear();
                chain.read(index_, &tids_);
                exact = heap_->distance(tids_, scan->xs_snapshot, s, query_);
            }
        }
        if (!exact) return;
        settled_.push_back({*exact, arrivals_++, tids_, chain, 0});
        std::push_heap(settled_.begin(), settled_.end(), Settled::later);
    }

    Pending take_pending()
    {
        std::pop_heap(pending_.begin(), pending_.end(), Pending::later);
        Pending p = pending_.back();
        pending_.pop_back();
        if (!p.refined || pending_.empty() || pending_.front().refined || pending_.front().lower > end_of(p)) return p;
        // What is in its way may not be once its own second level has been read, which is cheaper than the heap.
        std::pop_heap(pending_.begin(), pending_.end(), Pending::later);
        std::swap(p, pending_.back());
        std::push_heap(pending_.begin(), pending_.end(), Pending::later);
        return p;
    }

    bool refines(const Pending &p) const { return index_.shape().second_bytes > 0 && !p.refined && !indifferent_; }

    // Puts the candidate back with the interval of its second level; not if the level is gone, with its node.
    void refine(const Pending &p, const PayloadOf &payload)
    {
        const Shape &s = index_.shape();
        const size_t skip = s.apart ? s.code_bytes : 0;
        if (!read_payload(index_.rel(), payload, skip + s.second_bytes, &payload_) || payload_.size() != skip + s.second_bytes)
            return;
        const uint8_t *code = s.apart ? payload_.data() : code_.data();
        const float distance = graph::finite(scorer_->rescore(code, payload_.data() + skip));
        const float error = graph::finite(scorer_->error(code, distance, true));
        add_pending({distance - error, p.distance, p.node, true, distance + error});
    }

    // Twice the error beyond a refined distance: nothing that begins there is nearer.
    static double end_of(const Pending &p) { return p.upper + (double{p.upper} - p.lower) / 2; }

    // Whether the place of a refined candidate, the first of those that are left, is certain without the heap.
    bool is_alone(const Pending &p) const
    {
        const double end = end_of(p);
        return (pending_.empty() || end < pending_.front().lower) && (settled_.empty() || end < settled_.front().distance) &&
               end < ahead_;
    }

    Index index_;
    MemoryContext context_;  // holds the query
    State state_ = State::unset;
    VectorView query_;
    bool indifferent_ = false;
    std::unique_ptr<Scorer> scorer_;
    graph::SearchState search_;
    std::vector<Pending> pending_;  // heap, lowest bound first
    std::vector<Settled> settled_;  // heap, nearest first
    std::vector<Settled> late_;     // nearer than a row that was returned before they were met
    std::vector<ItemPointerData> tids_;
    std::vector<uint8_t> code_, payload_;
    std::optional<HeapReader> heap_;
    double last_ = 0;
    float ahead_ = 0, ahead_end_ = 0;  // the interval of the nearest candidate that is left for later batches
    double turned_back_ = 0;           // how far a batch has come back behind the distance that it began at
    int batches_ = 0;
    uint64_t arrivals_ = 0;
};

}  // namespace

IndexScanDesc begin_scan(Relation index, int keys, int order_bys)
{
    IndexScanDesc scan = RelationGetIndexScan(index, keys, order_bys);
    MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "hnsw scan query", ALLOCSET_SMALL_SIZES);
    scan->opaque = own<Scan>(CurrentMemoryContext, index, context);
    return scan;
}

void rescan(IndexScanDesc scan, ScanKey keys, int key_count, ScanKey order_bys, int order_by_count)
{
    if (keys && key_count > 0) memmove(scan->keyData, keys, static_cast<size_t>(scan->numberOfKeys) * sizeof(ScanKeyData));
    if (order_bys && order_by_count > 0)
        memmove(scan->orderByData, order_bys, static_cast<size_t>(scan->numberOfOrderBys) * sizeof(ScanKeyData));
    if (scan->numberOfOrderBys < 1) throw Error(Errc::not_supported, "cannot scan hnsw index without order");
    const ScanKeyData &key = scan->orderByData[0];
    static_cast<Scan *>(scan->opaque)->start(key.sk_argument, (key.sk_flags & SK_ISNULL) != 0);
}

bool get_tuple(IndexScanDesc scan, ScanDirection direction)
{
    if (!ScanDirectionIsForward(direction)) throw Error(Errc::not_supported, "an hnsw index can only be scanned forward");
    return static_cast<Scan *>(scan->opaque)->next(scan);
}

void end_scan(IndexScanDesc scan) { static_cast<Scan *>(scan->opaque)->close(); }

}  // namespace vkv::hnsw
