// Tables of a cache read without the planner; see direct.h.

#include "pg/kv/direct.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/fault.h"
#include "pg/boundary/open_relation.h"

namespace vkv::kv {
namespace {

// A hook that checks what statements read, for an audit or for labels, has to see statements.
bool may_read_all(Oid table)
{
    return !ExecutorCheckPerms_hook && !IsolationIsSerializable() &&
           pg_class_aclcheck(table, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
           check_enable_rls(table, InvalidOid, true) == RLS_NONE;
}

bool as_it_was_made(Relation rel, const DirectLayout &layout)
{
    const Form_pg_class form = rel->rd_rel;
    TupleDesc desc = RelationGetDescr(rel);
    if (form->relkind != RELKIND_RELATION || rel->rd_tableam != GetHeapamTableAmRoutine() || form->relhassubclass ||
        form->relhasrules || desc->natts < layout.columns)
        return false;
    for (int i = 0; i < layout.columns; ++i)
        if (TupleDescAttr(desc, i)->attisdropped || TupleDescAttr(desc, i)->atttypid != layout.types[i]) return false;
    return true;
}

// The primary key, if it is the one that is expected.
Oid key_index(Relation rel, const DirectLayout &layout)
{
    Oid index = compat::primary_key_index(rel);
    if (!OidIsValid(index)) return InvalidOid;
    Relation opened = index_open(index, AccessShareLock);
    const Form_pg_index form = opened->rd_index;
    bool same = form->indnkeyatts == layout.key_columns && form->indisvalid;
    for (int i = 0; same && i < layout.key_columns; ++i) same = form->indkey.values[i] == layout.keys[i];
    index_close(opened, AccessShareLock);
    return same ? index : InvalidOid;
}

}  // namespace

bool open_direct(Oid table, const DirectLayout &layout, DirectTable *opened)
{
    return may_read_all(table) && open_unasked(table, layout, opened);
}

bool open_unasked(Oid table, const DirectLayout &layout, DirectTable *opened)
{
    fault_point();
    Relation rel = open_existing(table, AccessShareLock);
    *opened = {rel, as_it_was_made(rel, layout) ? key_index(rel, layout) : InvalidOid};
    if (OidIsValid(opened->index)) return true;
    table_close(rel, AccessShareLock);
    return false;
}

void close_direct(DirectTable *table) { table_close(table->rel, AccessShareLock); }

DirectScan::DirectScan(const DirectTable &table, int keys)
    : index_(index_open(table.index, AccessShareLock)),
      scan_(compat::begin_index_scan(table.rel, index_, GetActiveSnapshot(), keys)),
      slot_(table_slot_create(table.rel, nullptr))
{
}

void DirectScan::start(ScanKeyData *keys, int n)
{
    fault_point();
    index_rescan(scan_, keys, n, nullptr, 0);
}

TupleTableSlot *DirectScan::next() { return index_getnext_slot(scan_, ForwardScanDirection, slot_) ? slot_ : nullptr; }

void DirectScan::end()
{
    index_endscan(scan_);
    ExecDropSingleTupleTableSlot(slot_);
    index_close(index_, AccessShareLock);
}

}  // namespace vkv::kv
