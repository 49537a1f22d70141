// Tile lists: made by an index scan under the caller's snapshot, extended as sequences grow, dropped when they turn out stale.
//
// A remembered row serves a later snapshot without asking for its visibility when its inserter is known to have committed and
// nobody has deleted it: the header that led here names its extent and a stop above it, so it was there when the header was
// written. Any other row is asked under the page's lock, as every scan does.

#include "pg/kv/tile_list.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/settings.h"

namespace vkv::kv {

namespace {

constexpr AttrNumber kExtent = 1, kLayer = 2, kPos = 4, kTile = 5;
constexpr size_t kKeyBytes = 16;  // extent, layer, head, pos in front of the tile

struct Positions {
    int32_t from, to;
};

int list_memory = 65536;  // kB
uint64_t uses = 0;
size_t listed_bytes = 0;
HTAB *lists = nullptr;
MemoryContext list_context = nullptr;

void start()
{
    list_context = AllocSetContextCreate(TopMemoryContext, "vectorkv tile lists", ALLOCSET_DEFAULT_SIZES);
    HASHCTL control{};
    control.keysize = sizeof(TileListKey);
    control.entrysize = sizeof(TileList);
    control.hcxt = list_context;
    lists = hash_create("vectorkv tile lists", 64, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

void release(TileList *list)
{
    if (list->refs) pfree(list->refs);
    listed_bytes -= sizeof(TileRef) * list->capacity;
    list->refs = nullptr;
    list->count = list->capacity = 0;
    list->covered = 0;
}

// Forgets the lists that were used longest ago, all but `keep`, until the memory is within its limit.
void shrink(const TileList *keep)
{
    while (listed_bytes > static_cast<size_t>(list_memory) * 1024) {
        HASH_SEQ_STATUS scan;
        TileList *oldest = nullptr;
        hash_seq_init(&scan, lists);
        while (auto *list = static_cast<TileList *>(hash_seq_search(&scan)))
            if (list != keep && (!oldest || list->last_use < oldest->last_use)) oldest = list;
        if (!oldest) return;
        release(oldest);
        TileListKey key = oldest->key;
        hash_search(lists, &key, HASH_REMOVE, nullptr);
    }
}

void add(TileList *list, const TileRef &ref)
{
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity ? list->capacity * 2 : 64;
        size_t bytes = sizeof(TileRef) * capacity;
        list->refs =
            static_cast<TileRef *>(list->refs ? repalloc_huge(list->refs, bytes) : MemoryContextAllocHuge(list_context, bytes));
        listed_bytes += sizeof(TileRef) * (capacity - list->capacity);
        list->capacity = capacity;
    }
    list->refs[list->count++] = ref;
}

bool expected_columns(const Cache *c, TupleDesc desc)
{
    const Oid types[] = {INT8OID, INT2OID, INT2OID, INT4OID, c->tile_type};
    if (desc->natts < kTile) return false;
    for (int i = 0; i < kTile; ++i) {
        const FormData_pg_attribute *a = TupleDescAttr(desc, i);
        if (a->attisdropped || a->atttypid != types[i] || (i == kTile - 1 && a->attstorage != TYPSTORAGE_PLAIN)) return false;
    }
    return true;
}

// The primary key, if it is the one on extent, layer, pos, head.
Oid key_index(Relation rel)
{
    Oid index = compat::primary_key_index(rel);
    if (!OidIsValid(index)) return InvalidOid;
    Relation opened = index_open(index, AccessShareLock);
    const Form_pg_index form = opened->rd_index;
    const int16 keys[] = {kExtent, kLayer, kPos, 3};
    bool same = form->indnkeyatts == 4 && form->indisvalid;
    for (int i = 0; same && i < 4; ++i) same = form->indkey.values[i] == keys[i];
    index_close(opened, AccessShareLock);
    return same ? index : InvalidOid;
}

// Scans the index for the tiles of an extent's layer that begin in [from, to), in order; take(ref) says whether to go on.
template <typename F>
void scan_index(SealedTable *table, int64_t extent, int layer, const Positions &positions, F &&take)
{
    Relation index = index_open(table->index, AccessShareLock);
    ScanKeyData keys[4];
    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(extent));
    ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT2EQ, Int16GetDatum(static_cast<int16>(layer)));
    ScanKeyInit(&keys[2], 3, BTGreaterEqualStrategyNumber, F_INT4GE, Int32GetDatum(positions.from));
    ScanKeyInit(&keys[3], 3, BTLessStrategyNumber, F_INT4LT, Int32GetDatum(positions.to));
    TupleTableSlot *slot = table_slot_create(table->rel, nullptr);
    IndexScanDesc scan = compat::begin_index_scan(table->rel, index, GetActiveSnapshot(), 4);
    index_rescan(scan, keys, 4, nullptr, 0);
    while (index_getnext_slot(scan, ForwardScanDirection, slot)) {
        CHECK_FOR_INTERRUPTS();
        bool null;
        const auto *tile = reinterpret_cast<const TileHeader *>(DatumGetPointer(slot_getattr(slot, kTile, &null)));
        const int32_t pos = DatumGetInt32(slot_getattr(slot, kPos, &null));
        const int16_t head = DatumGetInt16(slot_getattr(slot, 3, &null));
        Buffer buffer = reinterpret_cast<BufferHeapTupleTableSlot *>(slot)->buffer;
        const bool whole = VARSIZE(tile) >= kTileHeaderBytes;
        if (!take({pos, whole ? tile->tokens : 0, whole ? tile->id : 0, ItemPointerGetBlockNumber(&slot->tts_tid), buffer,
                   ItemPointerGetOffsetNumber(&slot->tts_tid), head}))
            break;
    }
    index_endscan(scan);
    ExecDropSingleTupleTableSlot(slot);
    index_close(index, AccessShareLock);
}

void extend(SealedTable *table, TileList *list, int32_t stop)
{
    // What a scan that was interrupted has left.
    while (list->count > 0 && list->refs[list->count - 1].pos >= list->covered) --list->count;
    scan_index(table, list->key.extent, list->key.layer, {list->covered, stop}, [list](const TileRef &ref) {
        add(list, ref);
        return true;
    });
    list->covered = stop;
}

}  // namespace

bool open_direct(const Cache *c, SealedTable *table)
{
    if (IsolationIsSerializable()) return false;
    if (pg_class_aclcheck(c->sealed, GetUserId(), ACL_SELECT) != ACLCHECK_OK) return false;
    if (check_enable_rls(c->sealed, InvalidOid, true) != RLS_NONE) return false;
    Relation rel = table_open(c->sealed, AccessShareLock);
    const Form_pg_class form = rel->rd_rel;
    table->rel = rel;
    table->index = InvalidOid;
    if (form->relkind == RELKIND_RELATION && rel->rd_tableam == GetHeapamTableAmRoutine() && !form->relhassubclass &&
        !form->relhasrules && expected_columns(c, RelationGetDescr(rel)))
        table->index = key_index(rel);
    if (OidIsValid(table->index)) return true;
    table_close(rel, AccessShareLock);
    return false;
}

void close_direct(SealedTable *table) { table_close(table->rel, AccessShareLock); }

TileList *tile_list(SealedTable *table, int64_t extent, int layer, int32_t stop)
{
    if (!lists) start();
    TileListKey key{RelationGetRelid(table->rel), layer, extent};
    bool found;
    auto *list = static_cast<TileList *>(hash_search(lists, &key, HASH_ENTER, &found));
    const uint64_t storage = compat::relation_storage(table->rel);
    if (!found) {
        list->refs = nullptr;
        list->count = list->capacity = 0;
        list->covered = 0;
    } else if (list->storage != storage) {
        release(list);
    }
    list->storage = storage;
    list->last_use = ++uses;
    if (list->covered < stop) {
        extend(table, list, stop);
        shrink(list);
    }
    return list;
}

void forget_tile_list(TileList *list) { release(list); }

bool first_tile(SealedTable *table, int64_t extent, int layer, TileRef *first)
{
    bool found = false;
    scan_index(table, extent, layer, {0, kOpenStop}, [&](const TileRef &ref) {
        *first = ref;
        found = true;
        return false;
    });
    return found;
}

void foresee_tile(const TileRef &ref, const TileHeader *alike, Buffer buffer)
{
    if (ref.buffer <= 0 || ref.buffer > NBuffers) return;
    const char *page = BufferGetPage(ref.buffer);
    const auto offset = reinterpret_cast<const char *>(alike) - static_cast<const char *>(BufferGetPage(buffer));
    __builtin_prefetch(compat::buffer_descriptor(ref.buffer), 1);
    __builtin_prefetch(page);
    __builtin_prefetch(page + offset - kKeyBytes - SizeofHeapTupleHeader);
    __builtin_prefetch(page + offset);
}

const TileHeader *pin_tile(Relation rel, TileRef *ref, Buffer *buffer, size_t *bytes)
{
    if (BufferIsValid(ref->buffer) && compat::pin_recent(rel, ref->block, ref->buffer)) {
        *buffer = ref->buffer;
    } else {
        if (ref->block >= RelationGetNumberOfBlocks(rel)) {
            *buffer = InvalidBuffer;
            return nullptr;
        }
        *buffer = ref->buffer = ReadBuffer(rel, ref->block);
    }
    Page page = BufferGetPage(*buffer);
    if (ref->offset > PageGetMaxOffsetNumber(page)) return nullptr;
    ItemId item = PageGetItemId(page, ref->offset);
    if (!ItemIdIsNormal(item)) return nullptr;
    auto *header = reinterpret_cast<HeapTupleHeader>(PageGetItem(page, item));
    const size_t length = ItemIdGetLength(item);
    if (length < header->t_hoff + kKeyBytes + kTileHeaderBytes || (header->t_infomask & HEAP_HASNULL)) return nullptr;
    const uint16 mask = header->t_infomask;
    if ((mask & HEAP_XMIN_COMMITTED) == 0 || (mask & HEAP_XMAX_INVALID) == 0) {
        HeapTupleData tuple;
        tuple.t_data = header;
        tuple.t_len = static_cast<uint32>(length);
        tuple.t_tableOid = RelationGetRelid(rel);
        ItemPointerSet(&tuple.t_self, ref->block, ref->offset);
        LockBuffer(*buffer, BUFFER_LOCK_SHARE);
        const bool visible = HeapTupleSatisfiesVisibility(&tuple, GetActiveSnapshot(), *buffer);
        LockBuffer(*buffer, BUFFER_LOCK_UNLOCK);
        if (!visible) return nullptr;
    }
    const auto *tile = reinterpret_cast<const TileHeader *>(reinterpret_cast<const char *>(header) + header->t_hoff + kKeyBytes);
    *bytes = VARSIZE_ANY(tile);
    if (*bytes > length - header->t_hoff - kKeyBytes || *bytes < kTileHeaderBytes || tile->id != ref->id) return nullptr;
    return tile;
}

void define_tile_list_settings()
{
    DefineCustomIntVariable("vectorkv.tile_list_memory", "Sets how much memory a session may use to remember where tiles lie.",
                            "32 bytes a tile; lists that were used longest ago are forgotten first.", &list_memory, 65536, 64,
                            MAX_KILOBYTES, PGC_USERSET, GUC_UNIT_KB, nullptr, nullptr, nullptr);
}

}  // namespace vkv::kv
