// Tokens that lie in no tile, as tiles of the moment: what the tail and a caller's new tokens are to attention.
#pragma once

#include <algorithm>

#include "core/kv/halves.h"
#include "pg/boundary/boundary.h"
#include "pg/kv/cache.h"

namespace vkv::kv {

// k [kv_heads][tokens][dim_k], v [kv_heads][tokens][dim_v] or null: positions first .. first + tokens - 1.
struct HalvesAt {
    const uint16_t *k, *v;
    int32_t first, tokens;
};

// use(tile, to) for each head's tokens in turn; a tile is valid during its call. There may be hundreds of megabytes of them.
template <typename F>
void for_halves(const Cache *c, const HalvesAt &halves, F &&use)
{
    constexpr int kTilesBetweenPolls = 64;
    int tiles = 0;
    alignas(64) uint8_t planes[kMaxTileData];
    const TileShape shape = c->shape(Codec::f16);
    const int32_t most = tile_capacity(shape);
    const size_t dk = static_cast<size_t>(c->dim_k), dv = static_cast<size_t>(c->dim_v), n = static_cast<size_t>(halves.tokens);
    for (int head = 0; head < c->kv_heads; ++head) {
        for (int32_t at = 0, count; at < halves.tokens; at += count) {
            count = std::min(most, halves.tokens - at);
            if (++tiles % kTilesBetweenPolls == 0) look_for_interrupts();
            const size_t row = static_cast<size_t>(head) * n + static_cast<size_t>(at);
            use(view_halves(shape, head, halves.first + at, count, {halves.k + row * dk, dk},
                            halves.v ? Rows{halves.v + row * dv, dv} : Rows{}, planes),
                INT32_MAX);
        }
    }
}

}  // namespace vkv::kv
