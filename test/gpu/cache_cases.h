// What tests of the helper's slots and page tables share.
#pragma once
#include <vector>

#include "gpu/page_tables.h"
#include "gpu/tile_cache.h"

namespace vkv::gpu {

inline constexpr TileKind kKind{64, 64, 1, 0};

// A private tile, filled and not in use.
inline uint32_t add(TileCache *cache, uint64_t id)
{
    const uint32_t slot = cache->take_private(id, kKind);
    if (slot == kNoSlot) return slot;
    cache->filled(slot, 100, 0);
    cache->unpin(slot);
    return slot;
}

struct Tables {
    TileCache cache{64};
    PageTables tables{&cache};

    // Entries of ten tokens of one head over [from, to), ids by position and `version`.
    static std::vector<offload::Entry> entries(int32_t from, int32_t to, uint64_t version = 0)
    {
        std::vector<offload::Entry> out;
        for (int32_t p = from / 10 * 10; p < to; p += 10) out.push_back({version * 1000 + static_cast<uint64_t>(p) + 1, p, 10, 0});
        return out;
    }
    PageTables::Found find(int32_t from, int32_t to, int32_t entries_from, uint64_t version = 0, bool settle = false)
    {
        offload::Span span{};
        span.extent = 5;
        span.from = from;
        span.to = to;
        span.entries_from = entries_from;
        const std::vector<offload::Entry> brought =
            entries_from < to ? entries(entries_from, to, version) : std::vector<offload::Entry>{};
        return tables.find(span, brought, kKind, settle);
    }
    // Fills every page of the table.
    void fill(Table *table)
    {
        cache.pin(table);
        for (uint32_t i = 0; i < table->heads[0].slots.size(); i++)
            if (table->heads[0].slots[i] == kNoSlot) cache.filled(cache.take_page(table, 0, i), 100, 2);
        cache.unpin(table);
    }
};

}  // namespace vkv::gpu
