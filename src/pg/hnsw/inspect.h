// What hnsw_check and hnsw_info share: an index named by a user, opened with its table.
#pragma once

#include <string>
#include <vector>

#include "pg/hnsw/index.h"
#include "pg/hnsw/node_tids.h"

namespace vkv::hnsw {

// What the index computes, its expressions and its predicate, is code of the table's owner: while this lives, he is the current
// user, in an operation that nothing outlasts, and his settings end with it.
class OpenedIndex {
public:
    // lock: of both table and index, taken in that order. Raises unless this is an hnsw index whose table the user may read.
    OpenedIndex(Oid index, LOCKMODE lock);
    ~OpenedIndex();
    OpenedIndex(const OpenedIndex &) = delete;
    OpenedIndex &operator=(const OpenedIndex &) = delete;
    Relation index() const { return index_; }
    Relation heap() const { return heap_; }

private:
    Relation heap_ = nullptr, index_ = nullptr;
    Oid user_ = InvalidOid;
    int context_ = 0, settings_ = 0;
};

}  // namespace vkv::hnsw
