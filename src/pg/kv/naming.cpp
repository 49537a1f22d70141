// Looks at header rows page by page; see naming.h for why they suffice.

#include "pg/kv/naming.h"

#include <algorithm>

#include "pg/boundary/boundary.h"
#include "pg/boundary/fault.h"
#include "pg/boundary/pg.h"

namespace vkv::kv {

namespace {

constexpr AttrNumber kSeq = 1, kExtents = 6, kStops = 7;
constexpr BlockNumber kFewPages = 8;  // not worth an index
constexpr int kProbes = 2;
constexpr StrategyNumber kContains = 2;  // of GIN's class of arrays: @>

struct Names {
    const int64_t *extents;
    const int32_t *stops;
    int count;
    int64_t too_many;  // 0, or how many there are, none of which was read
};

void free_copy(ArrayType *array, Datum of)
{
    if (PointerGetDatum(array) != of) pfree(array);
}

// use(names) of a row, unless it is what no function of this schema writes; what it returns, or `otherwise`. Rows may have been
// written by hand: arrays of any length compress well, so that they are read only when they are short, and freed afterwards.
template <typename F>
bool use_names(Datum extents, Datum stops, bool otherwise, F &&use)
{
    const int64_t n = std::max(elements_of(extents, sizeof(int64_t)), elements_of(stops, sizeof(int32_t)));
    if (n > kMostExtents) return use(Names{nullptr, nullptr, 0, n});
    ArrayType *e = DatumGetArrayTypeP(extents), *s = DatumGetArrayTypeP(stops);
    bool result = otherwise;
    if (ARR_NDIM(e) == 1 && ARR_NDIM(s) == 1 && !ARR_HASNULL(e) && !ARR_HASNULL(s))
        result = use(Names{reinterpret_cast<const int64_t *>(ARR_DATA_PTR(e)), reinterpret_cast<const int32_t *>(ARR_DATA_PTR(s)),
                           std::min(ARR_DIMS(e)[0], ARR_DIMS(s)[0]), 0});
    free_copy(e, extents);
    free_copy(s, stops);
    return result;
}

// Whether a row version has to be counted under a snapshot: all but what is deleted in its eyes, and what was rolled back.
// Versions that others delete later stay on their pages as long as the snapshot is held.
bool counts(HeapTuple tuple, Snapshot snapshot, Buffer buffer)
{
    if (HeapTupleSatisfiesVisibility(tuple, snapshot, buffer)) return true;
    const TransactionId inserter = HeapTupleHeaderGetXmin(tuple->t_data);
    if (HeapTupleHeaderXminInvalid(tuple->t_data) || TransactionIdIsCurrentTransactionId(inserter)) return false;
    if (!XidInMVCCSnapshot(inserter, snapshot)) return false;
    return TransactionIdIsInProgress(inserter) || TransactionIdDidCommit(inserter);
}

// use(names, seq) of every row version of a page that counts, until it returns false; whether all were used.
template <typename F>
bool use_page(Relation rel, BlockNumber block, F &&use)
{
    fault_point();
    Buffer buffer = ReadBuffer(rel, block);
    LockBuffer(buffer, BUFFER_LOCK_SHARE);
    Page page = BufferGetPage(buffer);
    compat::test_old_snapshot(GetActiveSnapshot(), rel, PageGetLSN(page));
    HeapTuple found[MaxHeapTuplesPerPage];
    int n = 0;
    const OffsetNumber last = PageGetMaxOffsetNumber(page);
    for (OffsetNumber offset = FirstOffsetNumber; offset <= last; ++offset) {
        ItemId item = PageGetItemId(page, offset);
        if (!ItemIdIsNormal(item)) continue;
        HeapTupleData tuple;
        tuple.t_data = reinterpret_cast<HeapTupleHeader>(PageGetItem(page, item));
        tuple.t_len = ItemIdGetLength(item);
        tuple.t_tableOid = RelationGetRelid(rel);
        ItemPointerSet(&tuple.t_self, block, offset);
        if (counts(&tuple, GetActiveSnapshot(), buffer)) found[n++] = heap_copytuple(&tuple);
    }
    UnlockReleaseBuffer(buffer);
    bool more = true;
    for (int i = 0; i < n; ++i) {
        CHECK_FOR_INTERRUPTS();
        bool no_seq, no_extents, no_stops;
        const Datum seq = heap_getattr(found[i], kSeq, RelationGetDescr(rel), &no_seq);
        const Datum extents = heap_getattr(found[i], kExtents, RelationGetDescr(rel), &no_extents);
        const Datum stops = heap_getattr(found[i], kStops, RelationGetDescr(rel), &no_stops);
        if (more && !no_seq && !no_extents && !no_stops)
            more = use_names(extents, stops, true, [&](const Names &names) { return use(names, DatumGetInt64(seq)); });
        heap_freetuple(found[i]);
    }
    CHECK_FOR_INTERRUPTS();
    return more;
}

// The index over extents that kv.create_cache made.
Relation open_extents_index(Relation rel)
{
    List *indexes = RelationGetIndexList(rel);
    ListCell *cell;
    foreach (cell, indexes) {
        Relation index = index_open(lfirst_oid(cell), AccessShareLock);
        const Form_pg_index form = index->rd_index;
        if (index->rd_rel->relam == GIN_AM_OID && form->indisvalid && form->indnatts == 1 && form->indkey.values[0] == kExtents &&
            heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, nullptr))
            return index;
        index_close(index, AccessShareLock);
    }
    return nullptr;
}

TIDBitmap *rows_naming(Relation index, int64_t extent)
{
    Datum value = Int64GetDatum(extent);
    ScanKeyData key;
    ScanKeyInit(&key, 1, kContains, F_ARRAYCONTAINS,
                PointerGetDatum(construct_array(&value, 1, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE)));
    TIDBitmap *rows = tbm_create(static_cast<long>(work_mem) * 1024, nullptr);
    IndexScanDesc scan = compat::begin_bitmap_scan(index, GetActiveSnapshot(), 1);
    index_rescan(scan, &key, 1, nullptr, 0);
    index_getbitmap(scan, rows);
    index_endscan(scan);
    return rows;
}

bool names_all(const Names &names, const Sequence *copy)
{
    if (names.count < copy->spans - 1) return false;
    for (int i = 0; i < copy->spans - 1; ++i)
        if (names.extents[i] != copy->extents[i] || names.stops[i] < copy->stops[i]) return false;
    return true;
}

bool slot_names_all(TupleTableSlot *slot, const Sequence *copy)
{
    if (copy->spans <= 1) return true;
    bool no_extents, no_stops;
    const Datum extents = slot_getattr(slot, kExtents, &no_extents), stops = slot_getattr(slot, kStops, &no_stops);
    if (no_extents || no_stops) return false;
    return use_names(extents, stops, false, [copy](const Names &names) { return names_all(names, copy); });
}

// The place of the version that replaces the one in the slot; false: there is none. `deleted`: nor will there be.
bool next_version(TupleTableSlot *slot, ItemPointer next, bool *deleted)
{
    auto *heap = reinterpret_cast<BufferHeapTupleTableSlot *>(slot);
    LockBuffer(heap->buffer, BUFFER_LOCK_SHARE);
    HeapTupleHeader header = heap->base.tuple->t_data;
    *next = header->t_ctid;
    const bool removed = (header->t_infomask & HEAP_XMAX_INVALID) == 0 && !HeapTupleHeaderIsOnlyLocked(header);
    LockBuffer(heap->buffer, BUFFER_LOCK_UNLOCK);
    const bool last = ItemPointerEquals(next, &slot->tts_tid);
    *deleted = last && removed;
    return removed && !last;
}

// Whether the versions that replace the one in the slot, not committed yet, name what the copy does. Where that is not certain: no.
bool successors_name_all(Relation rel, TupleTableSlot *slot, const Sequence *copy)
{
    TupleTableSlot *successor = table_slot_create(rel, nullptr);
    ItemPointerData next;
    bool deleted, sound = true;
    for (TupleTableSlot *at = slot; sound && next_version(at, &next, &deleted); at = successor) {
        CHECK_FOR_INTERRUPTS();
        sound = table_tuple_fetch_row_version(rel, &next, SnapshotAny, successor) && slot_names_all(successor, copy);
    }
    ExecDropSingleTupleTableSlot(successor);
    return sound && !deleted;
}

}  // namespace

bool open_headers(const Cache *c, DirectTable *headers)
{
    constexpr Oid kTypes[] = {INT8OID, INT4OID, INT4OID, INT8OID, INT4OID, INT8ARRAYOID, INT4ARRAYOID};
    constexpr AttrNumber kKeys[] = {kSeq};
    return open_unasked(c->header, {kTypes, 7, kKeys, 1}, headers);
}

Look still_names(const DirectTable &headers, int64_t seq, const Sequence *copy)
{
    fault_point();
    SnapshotData dirty;
    InitDirtySnapshot(dirty);
    ScanKeyData key;
    ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(seq));
    Relation index = index_open(headers.index, AccessShareLock);
    IndexScanDesc scan = compat::begin_index_scan(headers.rel, index, &dirty, 1);
    TupleTableSlot *slot = table_slot_create(headers.rel, nullptr);
    index_rescan(scan, &key, 1, nullptr, 0);
    Look look{Naming::gone, InvalidTransactionId};
    while (look.naming != Naming::unsure && index_getnext_slot(scan, ForwardScanDirection, slot)) {
        CHECK_FOR_INTERRUPTS();
        const TransactionId inserter = dirty.xmin, remover = dirty.xmax;
        const bool sound = slot_names_all(slot, copy);
        if (TransactionIdIsValid(inserter)) {
            if (!sound) look = {Naming::unsure, inserter};
        } else if (sound && TransactionIdIsValid(remover) && !successors_name_all(headers.rel, slot, copy)) {
            look = {Naming::unsure, remover};
        } else if (sound) {
            look.naming = Naming::sound;
        }
    }
    index_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    index_close(index, AccessShareLock);
    return look;
}

int32_t reach_of(const DirectTable &headers, int64_t extent, int32_t enough)
{
    int32_t reach = 0;
    auto use = [&](const Names &names, int64_t) {
        if (names.too_many) reach = enough;
        for (int i = 0; i < names.count; ++i)
            if (names.extents[i] == extent) reach = std::max(reach, names.stops[i]);
        return reach < enough;
    };
    const BlockNumber pages = RelationGetNumberOfBlocks(headers.rel);
    if (pages <= kFewPages) {
        for (BlockNumber block = 0; block < pages && use_page(headers.rel, block, use);) ++block;
        return reach;
    }
    // What thousands share is found on nearly every page.
    for (int i = 0; i < kProbes; ++i) {
        const auto block = static_cast<BlockNumber>(pg_prng_uint64_range(&pg_global_prng_state, 0, pages - 1));
        if (!use_page(headers.rel, block, use)) return reach;
    }
    Relation index = open_extents_index(headers.rel);
    if (!index) return enough;
    TIDBitmap *rows = rows_naming(index, extent);
    compat::for_blocks(rows, [&](BlockNumber block) { return use_page(headers.rel, block, use); });
    tbm_free(rows);
    index_close(index, AccessShareLock);
    return reach;
}

namespace {

HTAB *new_reaches()
{
    HASHCTL control{};
    control.keysize = sizeof(int64_t);
    control.entrysize = sizeof(Reach);
    control.hcxt = CurrentMemoryContext;
    return hash_create("vectorkv extents", 1024, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

void raise_reach(HTAB *reaches, int64_t extent, int32_t stop, HASHACTION action)
{
    bool found;
    auto *reach = static_cast<Reach *>(hash_search(reaches, &extent, action, &found));
    if (reach) reach->stop = found ? std::max(reach->stop, stop) : stop;
}

}  // namespace

HTAB *reaches_of(const Cache *c, const DirectTable &headers)
{
    HTAB *reaches = new_reaches();
    const BlockNumber pages = RelationGetNumberOfBlocks(headers.rel);
    for (BlockNumber block = 0; block < pages; ++block)
        use_page(headers.rel, block, [c, reaches](const Names &names, int64_t seq) {
            if (names.too_many) too_many_extents(c, seq, names.too_many);
            for (int i = 0; i < names.count; ++i) raise_reach(reaches, names.extents[i], names.stops[i], HASH_ENTER);
            return true;
        });
    return reaches;
}

HTAB *reaches_of_sequence(const DirectTable &headers, const Sequence *s)
{
    constexpr BlockNumber kFewExtents = 16;
    const BlockNumber pages = RelationGetNumberOfBlocks(headers.rel), extents = static_cast<BlockNumber>(s->spans);
    if (extents <= kFewExtents || pages > std::max(extents, kFewPages)) return nullptr;
    HTAB *reaches = new_reaches();
    for (int i = 0; i < s->spans; ++i) raise_reach(reaches, s->extents[i], 0, HASH_ENTER);
    for (BlockNumber block = 0; block < pages; ++block)
        use_page(headers.rel, block, [s, reaches](const Names &names, int64_t) {
            for (int i = 0; names.too_many && i < s->spans; ++i) raise_reach(reaches, s->extents[i], kOpenStop, HASH_ENTER);
            for (int i = 0; i < names.count; ++i) raise_reach(reaches, names.extents[i], names.stops[i], HASH_FIND);
            return !names.too_many;
        });
    return reaches;
}

int32_t reach_in(HTAB *reaches, int64_t extent)
{
    const auto *reach = static_cast<const Reach *>(hash_search(reaches, &extent, HASH_FIND, nullptr));
    return reach ? reach->stop : 0;
}

void push_newest_snapshot()
{
    CommandCounterIncrement();
    PushActiveSnapshot(GetLatestSnapshot());
}

}  // namespace vkv::kv
