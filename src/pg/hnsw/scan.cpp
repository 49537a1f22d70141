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

#include "pg/hnsw/scan.h"

#include <algorithm>

#include "core/codec/families.h"
#include "core/nearest/distance.h"

namespace vkv::hnsw {

namespace {

// A query without direction (NULL, or zero under cosine) is equally far from everything.
class Indifferent final : public Scorer {
public:
    void score(const uint8_t *const *, size_t n, float *distance) override { std::fill(distance, distance + n, 0.0f); }
    float rescore(const uint8_t *, const uint8_t *) override { return 0; }
    float error(const uint8_t *, float, bool) override { return 0; }
};

}  // namespace

void Scan::start(Datum query, bool isnull)
{
    state_ = State::fresh;
    pending_.clear();
    settled_.clear();
    late_.clear();
    search_.dropped.clear();
    search_.stats = {};
    given_.reset();
    last_ = -std::numeric_limits<double>::infinity();
    batches_ = 0;
    turned_back_ = 0;
    if (heap_) heap_->reset();
    MemoryContextReset(context_);
    indifferent_ = isnull;
    odd_ = false;
    if (!isnull) {
        MemoryContext old = MemoryContextSwitchTo(context_);
        // A copy: the caller's datum need not outlive this call.
        Datum copy = pg_call([&] { return PointerGetDatum(PG_DETOAST_DATUM_COPY(query)); });
        indifferent_ = !view_value(index_.shape(), copy, &query_);
        MemoryContextSwitchTo(old);
        if (index_.shape().metric == Metric::cosine && !indifferent_) {
            const double norm = norm_of(query_);
            odd_ = nearest::has_odd_cosine(norm * norm);
        }
    }
    if (indifferent_)
        scorer_ = std::make_unique<Indifferent>();
    else
        scorer_ = index_.codec().query(query_);
}

// Vacuum changes the meta page before it removes what an old snapshot may still see (old_snapshot_threshold). What is read up to
// here is whole for this snapshot if that has not happened, wherever rows and ways to them have gone.
bool Scan::next(IndexScanDesc scan)
{
    const bool found = find_next(scan);
    if (compat::removes_early()) {
        const XLogRecPtr changed = index_.entry().changed;
        pg_call([&] { compat::test_old_snapshot(scan->xs_snapshot, index_.rel(), changed); });
    }
    return found;
}

bool Scan::find_next(IndexScanDesc scan)
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

void Scan::close()
{
    if (heap_) heap_->close();
    heap_.reset();
}

// The next heap tuple of the nearest node; false if it had none left.
bool Scan::take_tid(ItemPointerData *tid)
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
bool Scan::take_late()
{
    if (late_.empty()) return false;
    settled_.swap(late_);
    std::make_heap(settled_.begin(), settled_.end(), Settled::later);
    last_ = -std::numeric_limits<double>::infinity();
    return true;
}

// Whether a settled tuple is kept back, since something that fell out of the pool, or what that leads to, may be nearer; what
// comes too late comes last. Without promise of order only where the two cannot be told apart.
bool Scan::must_wait(double distance) const
{
    return ordered() ? distance > ahead_ - turned_back_ : distance > ahead_ && distance <= ahead_end_;
}

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
