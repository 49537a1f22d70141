// The exact distance of a candidate: from the heap tuple that the scan's snapshot sees.
#pragma once

#include <functional>
#include <optional>
#include <span>

#include "pg/hnsw/index.h"

namespace vkv::hnsw {

// The distance that scans order rows by.
double settled_distance(Metric metric, const VectorView &query, const VectorView &x);

class HeapReader {
public:
    // context: where the reader's own things live.
    HeapReader(Relation heap, Relation index, MemoryContext context);
    ~HeapReader() = default;
    HeapReader(const HeapReader &) = delete;
    HeapReader &operator=(const HeapReader &) = delete;

    // The indexed value of the first of these tuples that the snapshot sees, at its exact distance from the query; nothing if it
    // sees none.
    std::optional<double> distance(std::span<const ItemPointerData> tids, Snapshot snapshot, const Shape &shape,
                                   const VectorView &query);
    // Calls use(value, its datum) with the indexed value of the first of these tuples that the snapshot sees; false if it sees
    // none.
    bool value(std::span<const ItemPointerData> tids, Snapshot snapshot, const Shape &shape,
               const std::function<void(const VectorView &, Datum)> &use);
    // The indexed value of this tuple, whoever sees it, if use(value) takes it. Values that may go away while they are read, those
    // out of line and of expressions, only where detoasts says so, and of rows that are there at the moment.
    bool original(ItemPointerData tid, const Shape &shape, bool detoasts, const std::function<bool(const VectorView &)> &use);
    // Whether the two above and original() may look at rows that the user may not see; if not, original() finds nothing.
    bool may_compute() const { return computes_; }
    void reset();  // lets go of buffers
    void close();  // lets go of everything; the reader cannot be used any more

private:
    Datum indexed_value(bool *isnull);
    template <class Use>
    bool read(std::span<const ItemPointerData> tids, Snapshot snapshot, const Shape &shape, Use &&use);
    bool is_in_table(const ItemPointerData &tid);
    bool fetch_original(ItemPointerData tid, bool detoasts, Datum *value);
    void clear();

    Relation heap_ = nullptr;
    BlockNumber blocks_ = 0;
    IndexFetchTableData *fetch_ = nullptr;
    TupleTableSlot *slot_ = nullptr;
    AttrNumber column_ = 0;      // of the heap; 0 for an expression
    IndexInfo *info_ = nullptr;  // expressions only
    EState *estate_ = nullptr;
    bool computes_ = true;
    MemoryContext context_ = nullptr;
};

}  // namespace vkv::hnsw
