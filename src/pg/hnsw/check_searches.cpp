// hnsw_check, searches => true. Reachable is not yet found: each vector that a row has is asked for as a query would ask, by an
// index scan with the settings of the session, which settles what codes leave open. What counts is what a user sees: the row itself
// comes, or another that is as far.

#include <algorithm>

#include "pg/hnsw/build_write.h"
#include "pg/hnsw/check.h"
#include "pg/hnsw/hnsw.h"
#include "pg/hnsw/meta_page.h"
#include "pg/hnsw/rerank.h"

namespace vkv::hnsw {

namespace {

class OwnSearch {
public:
    OwnSearch(Relation heap, Relation index, const Shape &shape) : shape_(shape)
    {
        pg_call([&] {
            context_ = AllocSetContextCreate(CurrentMemoryContext, "hnsw check of searches", ALLOCSET_DEFAULT_SIZES);
            snapshot_ = RegisterSnapshot(GetLatestSnapshot());
        });
        reader_.emplace(heap, index, CurrentMemoryContext);
        scan_ = begin_scan(index, 0, 1);
        scan_->heapRelation = heap;
        scan_->xs_snapshot = snapshot_;
    }

    // Whether a search for the vector of these tuples comes to one of them, or to another as far; also if none of them is there to
    // be found, or as many rows come before it as a search keeps.
    bool finds(const std::vector<ItemPointerData> &tids)
    {
        pg_call([&] { MemoryContextReset(context_); });
        if (!ask(tids)) return true;
        const double own = distance(query_);
        for (int rows = 0; rows < settings.ef_search;) {
            poll_interrupts();
            if (!get_tuple(scan_, ForwardScanDirection)) return false;
            const ItemPointerData got = scan_->xs_heaptid;
            if (std::any_of(tids.begin(), tids.end(), [&](const auto &tid) { return pack_tid(tid) == pack_tid(got); })) return true;
            double other = 0;
            if (!reader_->value({&got, 1}, snapshot_, shape_, [&](const VectorView &x, Datum) { other = distance(x); })) continue;
            if (other == own) return true;
            if (other > own) return false;
            ++rows;
        }
        return true;
    }

    void close()
    {
        end_scan(scan_);
        reader_->close();
        pg_call([&] {
            IndexScanEnd(scan_);
            UnregisterSnapshot(snapshot_);
            MemoryContextDelete(context_);
        });
    }

private:
    double distance(const VectorView &x) const { return settled_distance(shape_.metric, query_, x); }

    bool ask(const std::vector<ItemPointerData> &tids)
    {
        Datum query = 0;
        const bool seen = reader_->value(tids, snapshot_, shape_, [&](const VectorView &, Datum value) {
            query = pg_call([&] {
                MemoryContext old = MemoryContextSwitchTo(context_);
                Datum copy = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
                MemoryContextSwitchTo(old);
                return copy;
            });
        });
        if (!seen || !view_value(shape_, query, &query_)) return false;
        ScanKeyData key{};
        key.sk_argument = query;
        rescan(scan_, nullptr, 0, &key, 1);
        return true;
    }

    const Shape &shape_;
    MemoryContext context_ = nullptr;  // holds the query
    Snapshot snapshot_ = nullptr;
    std::optional<HeapReader> reader_;
    IndexScanDesc scan_ = nullptr;
    VectorView query_;
};

}  // namespace

void Checker::check_searches()
{
    if (!is_node(meta_.entry) || fault_of_entry(meta_)) return;  // reported
    std::sort(tids_.begin(), tids_.end(), [](const auto &a, const auto &b) { return a.second < b.second; });
    OwnSearch search(heap_, index_.rel(), shape_);
    std::vector<ItemPointerData> tids;
    for (size_t i = 0; i < tids_.size();) {
        const uint32_t id = tids_[i].second;
        tids.clear();
        for (; i < tids_.size() && tids_[i].second == id; ++i) tids.push_back(unpack_tid(tids_[i].first));
        if (!search.finds(tids))
            report_node(
                id, "a search for its own vector does not find it (hnsw.ef_search = " + std::to_string(settings.ef_search) + ")");
    }
    search.close();
}

}  // namespace vkv::hnsw
