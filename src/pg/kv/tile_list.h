// Where the tiles of one layer of an extent lie: a backend's memory of a scan of the index.
#pragma once

#include "pg/kv/cache.h"
#include "pg/kv/direct.h"

namespace vkv::kv {

struct TileRef {
    int32_t pos, tokens;
    uint64_t id;
    BlockNumber block;
    Buffer buffer;  // where the block was last; a guess
    OffsetNumber offset;
    int16_t head;
    TransactionId xmin;  // that of the row, which freezing leaves in it: a copy of the row has another
};
static_assert(sizeof(TileRef) == 32);

struct TileListKey {
    Oid table;
    int32_t layer;
    int64_t extent;
};

struct TileList {
    TileListKey key;
    compat::Storage storage;  // the file of the table when it was scanned
    int32_t covered;          // every tile that starts below is listed
    uint32_t count, capacity;
    TileRef *refs;  // by position, then head
    TileList *older, *newer;
};

using SealedTable = DirectTable;

// As open_direct of direct.h.
bool open_sealed(const Cache *cache, SealedTable *table);

// The list, complete below `stop` under the active snapshot.
TileList *tile_list(SealedTable *table, int64_t extent, int layer, int32_t stop);
void forget_tile_list(TileList *list);
// Of all layers of an extent that the sequence has left.
void forget_extent(const Cache *cache, int64_t extent);

// The tile of an extent with the lowest position and head under the active snapshot; false when there is none.
bool first_tile(SealedTable *table, int64_t extent, int layer, TileRef *first);

// Asks memory for what pin_tile will read of the tile, some tiles ahead: each is a miss, and each waits for the one before. `alike`
// is a tile on a page of its own, as this one will be.
void foresee_tile(const TileRef &ref, const TileHeader *alike, Buffer buffer);

// Pins the page and returns the tile, or null when the row is no more what was remembered.
const TileHeader *pin_tile(Relation rel, TileRef *ref, Buffer *buffer, size_t *bytes);

}  // namespace vkv::kv
