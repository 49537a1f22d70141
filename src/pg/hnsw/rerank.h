// The exact distance of a candidate: from the heap tuple that the scan's snapshot sees.
#pragma once

#include <optional>
#include <span>

#include "pg/hnsw/index.h"

namespace vkv::hnsw {

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
    void reset();  // lets go of buffers
    void close();  // lets go of everything; the reader cannot be used any more

private:
    Datum indexed_value(bool *isnull);

    IndexFetchTableData *fetch_ = nullptr;
    TupleTableSlot *slot_ = nullptr;
    AttrNumber column_ = 0;      // of the heap; 0 for an expression
    IndexInfo *info_ = nullptr;  // expressions only
    EState *estate_ = nullptr;
    MemoryContext context_ = nullptr;
};

}  // namespace vkv::hnsw
