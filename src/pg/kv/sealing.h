// Tokens on their way into tiles: where their halves are, which tiles they make, and writing those.
#pragma once

#include "pg/kv/source.h"

namespace vkv::kv {

// The tokens behind the sealed ones: those of the tail, then new ones from the caller.
struct Tokens {
    TailHalves tail{};  // of all slots; tail.tokens may be 0
    int32_t first_new = 0, count_new = 0;
    TensorView k{}, v{};  // [layers, kv_heads, count_new, dim]
};

// Converts and gathers the tokens of one slot.
class TokenReader {
public:
    TokenReader(const Cache *cache, const Tokens &tokens);
    // Halves of positions from .. from + count - 1 of slot layer * kv_heads + head; valid until the next call.
    Rows keys(int slot, int32_t from, int32_t count)
    {
        return rows(tokens_.tail.k, tokens_.k, cache_->dim_k, slot, from, count, k_);
    }
    Rows values(int slot, int32_t from, int32_t count)
    {
        if (cache_->values_in_keys) return {};
        return rows(tokens_.tail.v, tokens_.v, cache_->dim_v, slot, from, count, v_);
    }

private:
    struct Scratch {
        uint16_t *data = nullptr;
        size_t halves = 0;
    };
    Rows rows(const uint16_t *tail, const TensorView &fresh, int dim, int slot, int32_t from, int32_t count, Scratch &scratch);

    const Cache *cache_;
    const Tokens &tokens_;
    Scratch k_, v_;
};

struct TilePlan {
    int32_t pos, tokens;
    Codec codec;
};

// The tiles that cover positions from `from` up to at most `to`: sink tokens as halves, the rest in `codec`. Only full tiles unless
// `all`. Returns how many; *plans is in the current memory context.
int plan_tiles(const Cache *cache, Codec codec, int32_t from, int32_t to, bool all, TilePlan **plans);

// Inserts the tiles of all layers and heads into the sequence's own extent. Needs an SPI connection.
void write_tiles(Cache *cache, int64_t extent, const Tokens &tokens, const TilePlan *plans, int count);
void insert_tile(Cache *cache, int64_t extent, int layer, int head, int32_t pos, const TileHeader *tile);

// Inserts tail rows for positions from .. to - 1.
void write_tail(Cache *cache, int64_t extent, const Tokens &tokens, int32_t from, int32_t to);

}  // namespace vkv::kv
