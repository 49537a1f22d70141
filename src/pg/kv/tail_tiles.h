// The tail of a layer as tiles of the moment, kept by the backend from call to call: a decode step reads new tokens only.
//
// Tokens at a position of an extent do not change while the epoch of the sequence is the same, except that an append may be rolled
// back (also one that was prepared, by another session) or an older copy loaded, and others put in its place. So of what is kept
// the newest row that the header speaks of is looked at first: it must lie where it was read, of the same transaction and seen by
// the snapshot. Rows before it were there before it, and nobody has changed them by hand since (tail_changes.h). Kept tokens are
// given only to who may read the table as a whole.
#pragma once

#include "pg/kv/source.h"

namespace vkv::kv {

using TailVisitor = void (*)(void *argument, const TileView &tile);
struct TailTiles;

// While one of these holds a tail, it is neither forgotten nor changed. In two parts: whole blocks, each of which is a tile for
// good, with a content id, [blocks][kv_heads] in order of position; and what is newer.
class HeldTail {
public:
    HeldTail(Cache *cache, const Sequence *s, int layer);
    ~HeldTail();
    HeldTail(HeldTail &&) noexcept;
    HeldTail &operator=(HeldTail &&) = delete;
    // That are there: fewer than s->length - s->sealed only when an unlogged tail was lost.
    int32_t tokens() const { return tokens_; }
    // Tiles that together hold positions s->sealed .. s->sealed + tokens - 1 of every head, and may hold some
    // before them, or zeros in their place.
    void visit(TailVisitor visit, void *argument) const;
    size_t blocks() const;
    struct Block {
        uint64_t id;
        int32_t first, tokens;
        int head;
    };
    Block block(size_t i) const;
    void copy(size_t i, void *tile) const;  // at most a page; the varlena word is set, too
    bool has_rest() const;
    void visit_rest(TailVisitor visit, void *argument) const;

private:
    void read(const Sequence *s, int layer, const TailState &state);

    Cache *cache_;
    TailTiles *tail_ = nullptr;
    int32_t tokens_ = 0;
};

}  // namespace vkv::kv
