// A hash of extents and layers, in the backend's memory; forgotten as a whole when it is full.

#include "pg/kv/helper_spans.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"

namespace vkv::kv {

namespace {

constexpr long kMostNames = 65536;

struct Name {
    TileListKey key;
    compat::Storage storage;
    uint64_t space, generation;
    TileRef first;
    int32_t covered;
};

HTAB *names = nullptr;

HTAB *table_of_names()
{
    if (names && hash_get_num_entries(names) > kMostNames) {
        hash_destroy(names);
        names = nullptr;
    }
    if (!names) {
        HASHCTL control{};
        control.keysize = sizeof(TileListKey);
        control.entrysize = sizeof(Name);
        control.hcxt = TopMemoryContext;
        names = hash_create("vectorkv names of spans", 256, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    }
    return names;
}

uint64_t space_of(const compat::Storage &storage, const TileRef &first)
{
    const uint64_t row = uint64_t{first.block} << 16 | first.offset;
    const uint64_t parts[] = {storage.database, storage.space, storage.file, first.id, row, first.xmin, MyDatabaseId};
    return hash_bytes_extended(reinterpret_cast<const unsigned char *>(parts), sizeof parts, 0);
}

// Whether the remembered row is still what it was.
bool still_there(SealedTable *table, TileRef *ref)
{
    Buffer buffer = InvalidBuffer;
    size_t bytes;
    const bool there = pin_tile(table->rel, ref, &buffer, &bytes) != nullptr;
    if (BufferIsValid(buffer)) ReleaseBuffer(buffer);
    return there;
}

}  // namespace

HelperSpan helper_span(SealedTable *table, const Sequence *s, const Cache *c, int64_t extent, int layer, uint64_t generation)
{
    const TileListKey key{RelationGetRelid(table->rel), layer, extent};
    const compat::Storage storage = compat::relation_storage(table->rel);
    bool found;
    auto *name = static_cast<Name *>(hash_search(table_of_names(), &key, HASH_FIND, &found));
    if (!found || name->storage != storage || !still_there(table, &name->first)) {
        TileRef first;
        if (!first_tile(table, extent, layer, &first))
            damaged_tile(c, s, {extent, layer, 0, 0}, "is missing: the extent has no tile");
        name = static_cast<Name *>(hash_search(table_of_names(), &key, HASH_ENTER, &found));
        name->storage = storage;
        name->first = first;
        name->space = space_of(storage, first);
        name->covered = kUnknown;
        name->generation = generation;
    }
    if (name->generation != generation) {
        name->generation = generation;
        name->covered = kUnknown;
    }
    return {name->space, name->covered};
}

void helper_covers(const SealedTable *table, int64_t extent, int layer, uint64_t generation, int32_t covered)
{
    const TileListKey key{RelationGetRelid(table->rel), layer, extent};
    bool found;
    auto *name = static_cast<Name *>(hash_search(table_of_names(), &key, HASH_FIND, &found));
    if (found && name->generation == generation && name->covered < covered) name->covered = covered;
}

}  // namespace vkv::kv
