// What hnsw_check and hnsw_info share: an index named by a user, opened with its table.
#pragma once

#include <string>
#include <vector>

#include "pg/hnsw/index.h"
#include "pg/hnsw/node_tids.h"

namespace vkv::hnsw {

// What the index computes, its expressions and its predicate, is code of the table's owner: while this lives, he is the current
// user, in an operation that nothing outlasts, with a search path that is nobody's, and his settings end with it.
class OpenedIndex {
public:
    // Locks table and index, in that order, as long as this lives. Writers are kept out, if wanted, for a user whom LOCK TABLE
    // would let do it, and not on a standby, where only replay writes. Raises unless this is an hnsw index whose table the user may
    // read, every row of it.
    OpenedIndex(Oid index, bool keep_writers_out);
    ~OpenedIndex();
    OpenedIndex(const OpenedIndex &) = delete;
    OpenedIndex &operator=(const OpenedIndex &) = delete;
    Relation index() const { return index_; }
    Relation heap() const { return heap_; }
    bool keeps_writers_out() const { return lock_ == ShareLock; }

private:
    Relation heap_ = nullptr, index_ = nullptr;
    LOCKMODE lock_ = AccessShareLock;
    Oid user_ = InvalidOid;
    int context_ = 0, settings_ = 0;
};

}  // namespace vkv::hnsw
