// A scan of an index: scan.cpp returns rows, scan_batches.cpp searches for candidates, scan_settle.cpp finds out how far they are.
#pragma once

#include <memory>
#include <optional>

#include "pg/hnsw/hnsw.h"
#include "pg/hnsw/node_tids.h"
#include "pg/hnsw/page_view.h"
#include "pg/hnsw/rerank.h"

namespace vkv::hnsw {

class Scan {
public:
    Scan(Relation rel, MemoryContext context) : index_(rel), context_(context) {}

    void start(Datum query, bool isnull);
    bool next(IndexScanDesc scan);
    void close();

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

    // scan.cpp
    bool find_next(IndexScanDesc scan);
    bool take_tid(ItemPointerData *tid);
    bool take_late();
    bool must_wait(double distance) const;
    bool goes_on() const { return settings.iterative_scan != static_cast<int>(IterativeScan::off) || settings.scan_past_ef; }
    bool ordered() const { return settings.iterative_scan != static_cast<int>(IterativeScan::relaxed); }
    // scan_batches.cpp
    size_t width() const;
    size_t grown_width() const;
    void first_batch(IndexScanDesc scan);
    bool search_from_entry(PageView &view, size_t width);
    void search_again(PageView &view);
    bool freed_since() const { return index_.entry().free_epoch != free_epoch_; }
    void search_widely(PageView &view, const Entry &entry, uint32_t descended, size_t width);
    bool next_batch();
    size_t overlapping() const;
    void resume(PageView &view, size_t most);
    float turned_within() const;
    void take_batch(PageView &view);
    void look_ahead(PageView &view);
    // scan_settle.cpp
    HeapReader *heap(IndexScanDesc scan);
    void push_pending(PageView &view, const graph::Candidate &c) { add_pending(c, error_of(view, c)); }
    void push_new(PageView &view, const graph::Candidate &c)
    {
        if (!given_ || !given_->contains(c.id)) push_pending(view, c);
    }
    float error_of(PageView &view, const graph::Candidate &c);
    void add_pending(const graph::Candidate &c, float error);
    void add_pending(const Pending &p);
    void settle(IndexScanDesc scan);
    Pending take_pending();
    bool refines(const Pending &p) const { return index_.shape().second_bytes > 0 && !p.refined && !indifferent_; }
    void refine(const Pending &p, const PayloadOf &payload);
    // Twice the error beyond a distance: nothing that begins there is nearer.
    static double end_of(const Pending &p) { return p.upper + (double{p.upper} - p.lower) / 2; }
    bool is_alone(const Pending &p) const;

    Index index_;
    MemoryContext context_;  // holds the query
    State state_ = State::unset;
    VectorView query_;
    bool indifferent_ = false;
    bool odd_ = false;  // has no cosine with some rows, which is told from the rows only
    std::unique_ptr<Scorer> scorer_;
    graph::SearchState search_;
    uint64_t free_epoch_ = 0;              // that of the meta page when the search began
    std::optional<graph::Visited> given_;  // nodes that a search which had to begin again had made pending
    std::vector<Pending> pending_;         // heap, lowest bound first
    std::vector<Settled> settled_;         // heap, nearest first
    std::vector<Settled> late_;            // nearer than a row that was returned before they were met
    std::vector<ItemPointerData> tids_;
    std::vector<uint8_t> code_, payload_;
    std::optional<HeapReader> heap_;
    double last_ = 0;
    float ahead_ = 0, ahead_end_ = 0;  // the interval of the nearest candidate that is left for later batches
    double turned_back_ = 0;           // how far a batch has come back behind the distance that it began at, or had got to
    int batches_ = 0;
    uint64_t arrivals_ = 0;
};

}  // namespace vkv::hnsw
