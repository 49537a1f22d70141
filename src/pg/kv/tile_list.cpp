// Tile lists: made by an index scan under the caller's snapshot, extended as sequences grow, dropped when they turn out stale.
//
// A remembered row serves a snapshot without the page's lock when its inserter is known to have committed, the snapshot does not
// take him for running (it may be older than the one that the row was found under, and the row another's in place of a tile), and
// nobody has deleted it. Any other row is asked under the lock, as every scan does.

#include "pg/kv/tile_list.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/kept.h"
#include "pg/kv/settings.h"

namespace vkv::kv {

namespace {

constexpr AttrNumber kHead = 3, kPos = 4, kTile = 5;
constexpr AttrNumber kKeys[] = {1, 2, kPos, kHead};
constexpr size_t kEntryBytes = sizeof(TileList) + 32;  // with its share of the hash table
constexpr size_t kKeyBytes = 16;                       // extent, layer, head, pos in front of the tile

struct Positions {
    int32_t from, to;
};

int list_memory = 65536;  // kB
constinit KeptInOrder<TileList> kept;
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
    kept.discount(sizeof(TileRef) * list->capacity);
    list->refs = nullptr;
    list->count = list->capacity = 0;
    list->covered = 0;
}

void remove(TileList *list)
{
    release(list);
    kept.take_out(list);
    kept.discount(kEntryBytes);
    const TileListKey key = list->key;
    hash_search(lists, &key, HASH_REMOVE, nullptr);
}

void add(TileList *list, const TileRef &ref)
{
    if (list->count == list->capacity) {
        uint32_t capacity = list->capacity ? list->capacity * 2 : 64;
        size_t bytes = sizeof(TileRef) * capacity;
        list->refs =
            static_cast<TileRef *>(list->refs ? repalloc_huge(list->refs, bytes) : MemoryContextAllocHuge(list_context, bytes));
        kept.count(sizeof(TileRef) * (capacity - list->capacity));
        list->capacity = capacity;
    }
    list->refs[list->count++] = ref;
}

// Scans the index for the tiles of an extent's layer that begin in [from, to), in order; take(ref) says whether to go on.
template <typename F>
void scan_index(SealedTable *table, int64_t extent, int layer, const Positions &positions, F &&take)
{
    ScanKeyData keys[4];
    ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(extent));
    ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT2EQ, Int16GetDatum(static_cast<int16>(layer)));
    ScanKeyInit(&keys[2], 3, BTGreaterEqualStrategyNumber, F_INT4GE, Int32GetDatum(positions.from));
    ScanKeyInit(&keys[3], 3, BTLessStrategyNumber, F_INT4LT, Int32GetDatum(positions.to));
    DirectScan scan(*table, 4);
    scan.start(keys, 4);
    while (TupleTableSlot *slot = scan.next()) {
        CHECK_FOR_INTERRUPTS();
        bool null, unused;
        const auto *tile = reinterpret_cast<const TileHeader *>(DatumGetPointer(slot_getattr(slot, kTile, &null)));
        const int32_t pos = DatumGetInt32(slot_getattr(slot, kPos, &unused));
        const int16_t head = DatumGetInt16(slot_getattr(slot, kHead, &unused));
        const auto *row = reinterpret_cast<BufferHeapTupleTableSlot *>(slot);
        const bool whole = !null && VARSIZE(tile) >= kTileHeaderBytes;
        if (!take({pos, whole ? tile->tokens : 0, whole ? tile->id : 0, ItemPointerGetBlockNumber(&slot->tts_tid), row->buffer,
                   ItemPointerGetOffsetNumber(&slot->tts_tid), head, HeapTupleHeaderGetRawXmin(row->base.tuple->t_data)}))
            break;
    }
    scan.end();
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

bool open_sealed(const Cache *c, SealedTable *table)
{
    const Oid types[] = {INT8OID, INT2OID, INT2OID, INT4OID, c->tile_type};
    if (!open_direct(c->sealed, {types, 5, kKeys, 4}, table)) return false;
    if (TupleDescAttr(RelationGetDescr(table->rel), kTile - 1)->attstorage == TYPSTORAGE_PLAIN) return true;
    close_direct(table);  // a tile could lie elsewhere than in its row
    return false;
}

TileList *tile_list(SealedTable *table, int64_t extent, int layer, int32_t stop)
{
    if (!lists) start();
    TileListKey key{RelationGetRelid(table->rel), layer, extent};
    bool found;
    auto *list = static_cast<TileList *>(hash_search(lists, &key, HASH_ENTER, &found));
    const compat::Storage storage = compat::relation_storage(table->rel);
    if (!found) {
        list->older = list->newer = nullptr;
        list->refs = nullptr;
        list->count = list->capacity = 0;
        list->covered = 0;
        kept.count(kEntryBytes);
    } else if (list->storage != storage) {
        release(list);
    }
    list->storage = storage;
    kept.use(list);
    if (list->covered < stop) {
        extend(table, list, stop);
        kept.shrink(list_memory, list, remove);
    }
    return list;
}

void forget_tile_list(TileList *list) { release(list); }

void forget_extent(const Cache *c, int64_t extent)
{
    if (!lists) return;
    TileListKey key{c->sealed, 0, extent};
    for (key.layer = 0; key.layer < c->layers; ++key.layer) {
        auto *list = static_cast<TileList *>(hash_search(lists, &key, HASH_FIND, nullptr));
        if (list) remove(list);
    }
}

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

namespace {

// Columns that the owner has added come behind the tile, and may be null.
bool has_tile(HeapTupleHeader header)
{
    if (HeapTupleHeaderGetNatts(header) < kTile) return false;
    for (int i = 0; (header->t_infomask & HEAP_HASNULL) && i < kTile; ++i)
        if (att_isnull(i, header->t_bits)) return false;
    return true;
}

// Whether the row's own hints tell that the snapshot sees it.
bool plainly_visible(HeapTupleHeader header, Snapshot snapshot)
{
    if (!HeapTupleHeaderXminCommitted(header) || (header->t_infomask & HEAP_XMAX_INVALID) == 0) return false;
    const TransactionId xmin = HeapTupleHeaderGetRawXmin(header);
    return TransactionIdPrecedes(xmin, snapshot->xmin) || HeapTupleHeaderXminFrozen(header) ||
           (snapshot->snapshot_type == SNAPSHOT_MVCC && !XidInMVCCSnapshot(xmin, snapshot));
}

}  // namespace

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
    if (length < header->t_hoff + kKeyBytes + kTileHeaderBytes || !has_tile(header)) return nullptr;
    if (!plainly_visible(header, GetActiveSnapshot())) {
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
    if (*bytes > length - header->t_hoff - kKeyBytes || *bytes < kTileHeaderBytes || tile->id != ref->id ||
        HeapTupleHeaderGetRawXmin(header) != ref->xmin)
        return nullptr;
    return tile;
}

void define_tile_list_settings()
{
    DefineCustomIntVariable("vectorkv.tile_list_memory", "Sets how much memory a session may use to remember where tiles lie.",
                            "32 bytes a tile; lists that were used longest ago are forgotten first.", &list_memory, 65536, 64,
                            MAX_KILOBYTES, PGC_USERSET, GUC_UNIT_KB, nullptr, nullptr, nullptr);
}

}  // namespace vkv::kv
