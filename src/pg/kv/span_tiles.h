// The tiles of a span of positions of one extent, found through the backend's list of where they lie (tile_list.h) and read in
// place. For callers who may read the whole table.
#pragma once

#include "pg/kv/sequence.h"
#include "pg/kv/tile_list.h"

namespace vkv::kv {

struct Span {
    int64_t extent;
    int32_t from, to;
    int32_t begin;  // where the sequence's part of the extent begins
};

// Calls use(span) for the parts of the sequence's extents that hold positions [from, to), in order.
template <typename F>
void for_spans(const Sequence *s, int32_t from, int32_t to, F &&use)
{
    for (int i = 0; i < s->spans; ++i) {
        const int32_t begin = i ? s->stops[i - 1] : 0, end = s->stops[i];
        const Span span{s->extents[i], begin < from ? from : begin, end < to ? end : to, begin};
        if (span.from < span.to) use(span);
    }
}

struct TileKey {
    int64_t extent;
    int layer, head;
    int32_t pos;
};

// Raises data_corrupted: the tile at this key of a sequence `what`.
[[noreturn]] void damaged_tile(const Cache *c, const Sequence *s, const TileKey &key, const char *what);
// The tile's own words against its key and the cache; raises data_corrupted.
TileView checked_tile(const Cache *c, const Sequence *s, const TileKey &key, const void *bytes, size_t size);

// That no head has a gap.
class Progress {
public:
    Progress(const Cache *c, const Sequence *s, int layer);
    // `inside`: the first tile of a head may begin before `from`.
    void begin(int64_t extent, int32_t from, int32_t to, bool inside = false);
    // Goes on with the tile if it is the next of its head.
    bool fits(const TileRef &ref);
    bool complete() const;
    // Whether all of the tile was gone through already.
    bool past(const TileRef &ref) const;
    // The same as fits, raising.
    void step(int head, int32_t pos, int32_t tokens);
    void end() const;

private:
    [[noreturn]] void missing(int head, int32_t pos) const;

    const Cache *cache_;
    const Sequence *sequence_;
    int layer_;
    int64_t extent_ = 0;
    int32_t from_ = 0, to_ = 0;
    bool inside_ = false;
    int32_t *next_;
};

// One at a time: a list may be forgotten when another is made.
class SpanTiles {
public:
    SpanTiles(Cache *c, const Sequence *s, int layer, SealedTable *table, const Span &span);

    // Of the tiles that begin below span.to; those of the extent before span.from are among them.
    uint32_t count() const { return count_; }
    const TileRef &ref(uint32_t i) const { return list_->refs[i]; }
    // The tile of a head that begins at `pos`; count() when there is none.
    uint32_t find(int32_t pos, int head) const;

    struct Pinned {
        TileRef ref{};
        const TileHeader *tile = nullptr;
        Buffer buffer = InvalidBuffer;
        size_t bytes = 0;
    };
    // False, at most once: the list was of a transaction that was rolled back, or the row moved. There is a new list, where tiles
    // may be others in other places. Raises data_corrupted when the row of a tile in the new list cannot be read.
    bool pin(uint32_t i, Pinned *pinned);
    TileView view(const Pinned &pinned) const;
    // Prefetches what pin(i) reads, if there is a tile i.
    void foresee(uint32_t i, const Pinned &alike) const
    {
        if (i < list_->count) foresee_tile(list_->refs[i], alike.tile, alike.buffer);
    }

private:
    void count_them();
    void rescan();
    TileKey key(const TileRef &ref) const { return {span_.extent, layer_, ref.head, ref.pos}; }

    Cache *cache_;
    const Sequence *sequence_;
    int layer_;
    SealedTable *table_;
    Span span_;
    TileList *list_;
    uint32_t count_;
    bool renewed_ = false;
};

}  // namespace vkv::kv
