// The sealed tiles of one layer of a sequence, in order of position and head, read where they lie.
//
// A caller who may read the whole table is served without the executor: the backend remembers where the tiles of an extent lie (a
// TileList: content below a stop of an extent never changes, see cache.h), pins each page and reads the tile in place. What is
// remembered is believed only if the row is still the live version that carries the remembered content id. Everyone else (row
// security, column privileges, partitions, another table access method, serializable transactions) is served by the planner.
#pragma once

#include <type_traits>

#include "pg/kv/sequence.h"

namespace vkv::kv {

// `to`: positions from here on do not belong to the sequence, although the tile may hold some. `next`: where the tile of the next
// visit lies, or null.
using TileVisitor = void (*)(void *argument, const TileView &tile, int32_t to, const void *next);

struct Range {
    int32_t from, to;
};

// Every head of the layer at the positions of the range, without a gap (the first tiles may begin before it); raises data_corrupted
// that names the key of a tile that is missing or damaged. Needs an SPI connection and an active snapshot.
void visit_sealed_part(Cache *cache, const Sequence *s, int layer, const Range &range, TileVisitor visit, void *argument);

// visit(tile, to) or visit(tile, to, next)
template <typename F>
void visit_sealed_part(Cache *cache, const Sequence *s, int layer, const Range &range, F &&visit)
{
    using Body = std::remove_reference_t<F>;
    visit_sealed_part(
        cache, s, layer, range,
        [](void *argument, const TileView &tile, int32_t to, [[maybe_unused]] const void *next) {
            if constexpr (std::is_invocable_v<Body &, const TileView &, int32_t, const void *>)
                (*static_cast<Body *>(argument))(tile, to, next);
            else
                (*static_cast<Body *>(argument))(tile, to);
        },
        static_cast<void *>(&visit));
}

// All of them.
template <typename F>
void visit_sealed(Cache *cache, const Sequence *s, int layer, F &&visit)
{
    visit_sealed_part(cache, s, layer, {0, s->sealed}, visit);
}

// What a header says is looked for before as many bytes as this are taken for it.
inline constexpr double kHugeClaim = 256 << 20;

// Raises data_corrupted when a tile of the range is missing, if `bytes` would be taken for what there is.
inline void expect_sealed(Cache *cache, const Sequence *s, int layer, const Range &range, double bytes)
{
    if (bytes > kHugeClaim) visit_sealed_part(cache, s, layer, range, [](const TileView &, int32_t) {});
}

// Where a row of the tail lies and which transaction put it there: while a snapshot sees such a row, no other has both.
struct TailPlace {
    BlockNumber block;
    TransactionId xmin;
    Buffer buffer;  // where the block was; a guess
    OffsetNumber offset;
};

// The tail's halves of a layer: k [heads][tokens][dim_k], v [heads][tokens][dim_v] for positions s->sealed .. s->sealed + tokens
// - 1.
struct TailHalves {
    int32_t first, tokens;
    uint16_t *k, *v;    // v is null when values are in the keys
    TailPlace *places;  // [tokens], of the layer's first rows; null when the planner has read them
};

// Tokens are fewer than the header says only when an unlogged tail was lost.
TailHalves read_tail(Cache *cache, const Sequence *s, int layer, MemoryContext context);
TailHalves read_tail_part(Cache *cache, const Sequence *s, int layer, const Range &range, MemoryContext context);
// Of a tail that was read: may the caller read it without the planner, and is the row that was at `last` (null: none) in this
// storage still there for the active snapshot? May what was read stay for the next call: does the storage outlast a TRUNCATE, so
// that it names what it holds (one that this transaction has made is emptied in place: other rows come to lie where rows of the
// same transaction lay), and does every change by hand fire the trigger, as those through a parent do not?
struct TailState {
    bool direct, same, stays;
    compat::Storage storage;
};
TailState look_at_tail(const Cache *cache, const compat::Storage &storage, TailPlace *last);

// A tail of many tokens is counted before memory is taken for it, or tiles are planned: the header may say what is not true. Raises
// data_corrupted when rows are missing.
bool tail_is_large(const Cache *cache, int32_t from, int32_t to);
void expect_tail(Cache *cache, const Sequence *s);

// Whether the active snapshot sees this row of the tail, whoever may read it: none means that an unlogged tail was lost.
bool tail_row_is_there(const Cache *cache, int64_t extent, int chunk, int32_t pos);
[[noreturn]] void hidden_tail(const Cache *cache, const Sequence *s);

// All layers at once, for sealing: [layers * heads][tokens][dim].
TailHalves read_whole_tail(Cache *cache, const Sequence *s, int32_t stop, MemoryContext context);

}  // namespace vkv::kv
