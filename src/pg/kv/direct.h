// Tables of a cache read by their primary keys, without the planner: for a caller who may read all of the table, when it is laid
// out as kv.create_cache made it. Planning a look-up takes longer than the look-up, and than attention to a short sequence.
#pragma once

#include "pg/boundary/pg.h"

namespace vkv::kv {

struct DirectTable {
    Relation rel;
    Oid index;
};

// The first columns of a table, and those of its primary key by number.
struct DirectLayout {
    const Oid *types;
    int columns;
    const AttrNumber *keys;
    int key_columns;
};

// False where the planner has to be asked: in serializable transactions (it locks what is read), where a hook checks what is
// read (ExecutorCheckPerms_hook: audits, labels), where the caller lacks SELECT on
// the whole table or row security binds him, and where the table is not as it was made. Else the table is open (AccessShareLock)
// until close_direct. Both raise.
bool open_direct(Oid table, const DirectLayout &layout, DirectTable *opened);
// The same whoever asks: to learn whether a row is there, not what is in it.
bool open_unasked(Oid table, const DirectLayout &layout, DirectTable *opened);
void close_direct(DirectTable *table);

// An index scan of an open table under the active snapshot. Raises, and holds nothing that a transaction's end does not release.
class DirectScan {
public:
    explicit DirectScan(const DirectTable &table, int keys);
    void start(ScanKeyData *keys, int n);
    TupleTableSlot *next();  // null: no more
    void end();

private:
    Relation index_;
    IndexScanDesc scan_;
    TupleTableSlot *slot_;
};

}  // namespace vkv::kv
