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

// Every head of the layer from position 0 to s->sealed, without a gap; raises data_corrupted that names the key of a tile that is
// missing or damaged. Needs an SPI connection and an active snapshot.
void visit_sealed(Cache *cache, const Sequence *s, int layer, TileVisitor visit, void *argument);

// visit(tile, to) or visit(tile, to, next)
template <typename F>
void visit_sealed(Cache *cache, const Sequence *s, int layer, F &&visit)
{
    using Body = std::remove_reference_t<F>;
    visit_sealed(
        cache, s, layer,
        [](void *argument, const TileView &tile, int32_t to, [[maybe_unused]] const void *next) {
            if constexpr (std::is_invocable_v<Body &, const TileView &, int32_t, const void *>)
                (*static_cast<Body *>(argument))(tile, to, next);
            else
                (*static_cast<Body *>(argument))(tile, to);
        },
        static_cast<void *>(&visit));
}

struct Range {
    int32_t from, to;
};

// The tail's halves of a layer: k [heads][tokens][dim_k], v [heads][tokens][dim_v] for positions s->sealed .. s->sealed + tokens
// - 1.
struct TailHalves {
    int32_t first, tokens;
    uint16_t *k, *v;  // v is null when values are in the keys
};

// Tokens are fewer than the header says only when an unlogged tail was lost.
TailHalves read_tail(Cache *cache, const Sequence *s, int layer, MemoryContext context);
TailHalves read_tail_part(Cache *cache, const Sequence *s, int layer, const Range &range, MemoryContext context);
// May this caller read the tail without the planner?
bool tail_read_directly(const Cache *cache);

// All layers at once, for sealing: [layers * heads][tokens][dim].
TailHalves read_whole_tail(Cache *cache, const Sequence *s, int32_t stop, MemoryContext context);

}  // namespace vkv::kv
