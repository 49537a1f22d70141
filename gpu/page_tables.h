// Which tiles an extent's positions are made of, layer by layer: what later requests need not name again. A table covers one run of
// positions; its pages are the cache's slots.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "core/offload/protocol.h"
#include "gpu/tile_cache.h"

namespace vkv::gpu {

struct TableKey {
    uint64_t space = 0, extent = 0;
    uint32_t layer = 0;
    bool operator==(const TableKey &) const = default;
};

struct Table {
    struct Head {
        std::vector<offload::Entry> entries;
        std::vector<uint32_t> slots;  // [entries]: kNoSlot, kReserved, or a slot, with kFilling while it has no contents yet
        std::vector<uint16_t> bytes;  // [entries], of the tiles that were here once

        // Entries that hold any of [from, to).
        struct Range {
            uint32_t begin, end;
        };
        Range range(int32_t from, int32_t to) const;
    };
    TableKey key;
    TileKind kind;
    std::vector<Head> heads;
    uint32_t pins = 0;
    uint64_t used = 0;
    uint32_t held = 0;                          // slots, those that are filled among them
    uint32_t missing = 0;                       // entries that have no filled slot
    uint32_t codecs = 0;                        // bit set of what it ever held
    uint32_t idle_at = UINT32_MAX;              // the cache's: where it stands among those that could give a slot away
    uint32_t search_head = 0, search_from = 0;  // and where its slots were looked through to

    int32_t begin() const;    // of what all heads cover
    int32_t covered() const;  // end of it
};

class PageTables {
public:
    explicit PageTables(TileCache *cache) : cache_(cache) {}

    struct Found {
        Table *table = nullptr;  // covers the span
        int32_t wants = -1;      // or: entries are wanted from this position on
        // Neither: the span cannot be part of a table at present and must be treated as private.
    };
    // Takes what the span brought along. `settle`: the span has been asked several times; nothing but the whole span is wanted
    // then.
    Found find(const offload::Span &span, std::span<const offload::Entry> brought, const TileKind &kind, bool settle);

    void drop_emptied();  // tables that hold nothing and are not in use
    size_t size() const { return tables_.size(); }
    size_t entries() const { return entries_; }

private:
    struct Hash {
        size_t operator()(const TableKey &k) const;
    };
    enum class Fit { together, apart, contradiction };
    using Entries = std::vector<std::vector<offload::Entry>>;  // [heads]
    static Fit fit(const Table &table, const Entries &entries);
    void extend(Table *table, const Entries &entries);
    void extend_head(Table *table, uint32_t head, const std::vector<offload::Entry> &entries);
    Table *make(const TableKey &key, const TileKind &kind, const Entries &entries);
    void drop(Table *table);
    void shed(const Table *keep);

    TileCache *cache_;
    std::unordered_map<TableKey, std::unique_ptr<Table>, Hash> tables_;
    size_t entries_ = 0;
};

}  // namespace vkv::gpu
