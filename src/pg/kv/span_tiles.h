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
    // The same, raising.
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
    uint32_t count() const;
    const TileRef &ref(uint32_t i) const { return list_->refs[i]; }
    // The first tile that begins at `pos` or behind it.
    uint32_t find(int32_t pos) const;

    struct Pinned {
        const TileHeader *tile = nullptr;
        Buffer buffer = InvalidBuffer;
        size_t bytes = 0;
    };
    // Raises data_corrupted when there is no such row any more.
    Pinned pin(uint32_t i);
    TileView view(uint32_t i, const Pinned &pinned) const;
    // Prefetches what pin(i) reads, if there is a tile i.
    void foresee(uint32_t i, const Pinned &alike) const
    {
        if (i < list_->count) foresee_tile(list_->refs[i], alike.tile, alike.buffer);
    }
    TileKey key(uint32_t i) const { return {span_.extent, layer_, list_->refs[i].head, list_->refs[i].pos}; }

private:
    void rescan();

    Cache *cache_;
    const Sequence *sequence_;
    int layer_;
    SealedTable *table_;
    Span span_;
    TileList *list_;
};

}  // namespace vkv::kv
