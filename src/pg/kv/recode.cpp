// kv.recode: the sealed tokens of a sequence in another codec. The new tiles and the tail go to a new extent of the sequence's own;
// sequences that share the old tiles keep them.

#include <algorithm>

#include "core/error.h"
#include "core/kv/halves.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/call.h"
#include "pg/kv/change.h"
#include "pg/kv/foreign_code.h"
#include "pg/kv/sealing.h"
#include "pg/kv/tile_list.h"

namespace vkv::kv {

namespace {

constexpr size_t kMostBytes = 8 << 20;  // of decoded tokens at a time

// Decoded tokens of one layer as halves, [heads][tokens][dim], a range of positions at a time.
class Decoded {
public:
    Decoded(const Cache *c, int32_t most) : cache_(c), most_(most)
    {
        const size_t n = static_cast<size_t>(c->kv_heads) * static_cast<size_t>(most);
        k_ = static_cast<uint16_t *>(MemoryContextAllocHuge(CurrentMemoryContext, 2 * n * static_cast<size_t>(c->dim_k) + 64));
        v_ = static_cast<uint16_t *>(MemoryContextAllocHuge(CurrentMemoryContext, 2 * n * static_cast<size_t>(c->dim_v) + 64));
        const size_t values = static_cast<size_t>(kMaxTileData) * 16;
        rows_k_ = static_cast<float *>(palloc(values * sizeof(float)));
        rows_v_ = static_cast<float *>(palloc(values * sizeof(float)));
    }

    void read(Cache *c, const Sequence *s, int layer, const Range &range)
    {
        range_ = range;
        visit_sealed_part(c, s, layer, range, [this](const TileView &tile, int32_t to) { take(tile, to); });
    }

    Rows keys(int head, int32_t pos) const { return at(k_, head, pos, cache_->dim_k); }
    Rows values(int head, int32_t pos) const { return cache_->values_in_keys ? Rows{} : at(v_, head, pos, cache_->dim_v); }

private:
    void take(const TileView &tile, int32_t to)
    {
        const Range part{std::max(tile.first, range_.from), std::min(tile.first + tile.tokens, to)};
        if (part.from >= part.to || part.to > range_.to || tile.head >= cache_->kv_heads)
            throw Error(Errc::data_corrupted,
                        message("a tile of cache \"%s\" at position %d, head %d lies outside of what was asked for", cache_->name,
                                tile.first, tile.head));
        decode_tile(tile, rows_k_, rows_v_);
        put(rows_k_, k_, tile, cache_->dim_k, part);
        put(rows_v_, v_, tile, cache_->dim_v, part);
    }
    Rows at(uint16_t *all, int head, int32_t pos, int dim) const
    {
        const size_t row = static_cast<size_t>(head) * static_cast<size_t>(most_) + static_cast<size_t>(pos - range_.from);
        return {all + row * static_cast<size_t>(dim), static_cast<size_t>(dim)};
    }
    void put(float *rows, uint16_t *all, const TileView &tile, int dim, const Range &part) const
    {
        const size_t d = static_cast<size_t>(dim), n = static_cast<size_t>(part.to - part.from) * d;
        float *from = rows + static_cast<size_t>(part.from - tile.first) * d;
        clamp_to_halves(from, n);
        to_f16(Dtype::f32, from, const_cast<uint16_t *>(at(all, tile.head, part.from, dim).data), n);
    }

    const Cache *cache_;
    int32_t most_;
    Range range_{};
    uint16_t *k_, *v_;
    float *rows_k_, *rows_v_;
};

// Tokens at a time: whole tiles of any codec fit.
int32_t tokens_at_a_time(const Cache *c, int32_t sealed)
{
    const size_t token = 2 * static_cast<size_t>(c->kv_heads) * static_cast<size_t>(c->dim_k + c->dim_v);
    return std::min(sealed, static_cast<int32_t>(std::max(kMostBytes / token, size_t{kMaxTileData} / 4)));
}

void write_part(Cache *c, int64_t extent, int layer, const Decoded &decoded, const TilePlan &p, TileHeader *tile)
{
    const TileShape shape = c->shape(p.codec);
    for (int head = 0; head < c->kv_heads; ++head) {
        const size_t bytes =
            encode_tile(shape, head, p.pos, p.tokens, decoded.keys(head, p.pos), decoded.values(head, p.pos), tile);
        SET_VARSIZE(tile, bytes);
        insert_tile(c, extent, layer, head, p.pos, tile);
    }
    CHECK_FOR_INTERRUPTS();
}

void recode_layer(Cache *c, const Sequence *old, int64_t extent, int layer, Codec codec)
{
    MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "kv.recode", ALLOCSET_DEFAULT_SIZES);
    MemoryContext before = MemoryContextSwitchTo(scratch);
    const int32_t most = tokens_at_a_time(c, old->sealed);
    expect_sealed(c, old, layer, {0, most}, 2.0 * most * c->kv_heads * (c->dim_k + c->dim_v));
    Decoded decoded(c, most);
    auto *tile = static_cast<TileHeader *>(palloc(BLCKSZ));
    for (int32_t pos = 0; pos < old->sealed;) {
        const int32_t to = pos + std::min(most, old->sealed - pos);
        decoded.read(c, old, layer, {pos, to});
        TilePlan *plans;
        const int count = plan_tiles(c, codec, pos, to, to == old->sealed, &plans);
        for (int i = 0; i < count; ++i) write_part(c, extent, layer, decoded, plans[i], tile);
        pos = plans[count - 1].pos + plans[count - 1].tokens;
        pfree(plans);
    }
    MemoryContextSwitchTo(before);
    MemoryContextDelete(scratch);
}

void recode(Cache *c, const Sequence *s, Codec codec)
{
    Sequence changed = *s;
    changed.epoch = new_id();
    start_extent(c, &changed, 0, CurrentMemoryContext);
    Tokens tail;
    tail.tail = read_whole_tail(c, s, s->length, CurrentMemoryContext);
    tail.first_new = s->length;
    Datum range[] = {Int64GetDatum(s->own()), Int32GetDatum(0), Int32GetDatum(kOpenStop)};
    if (s->length > s->sealed) run_plan(c, Plan::tail_delete, range);
    // Policies may show tiles through the header: the old ones are read as they were seen before it changed.
    CommandCounterIncrement();
    PushCopiedSnapshot(GetTransactionSnapshot());
    UpdateActiveSnapshotCommandId();
    write_sequence(c, &changed);
    begin_writing(c, s->seq);
    for (int layer = 0; layer < c->layers; ++layer) recode_layer(c, s, changed.own(), layer, codec);
    PopActiveSnapshot();
    write_tail(c, changed.own(), tail, s->sealed, s->length);
    end_writing();
    free_tiles(c, s);
    for (int i = 0; i < s->spans; ++i) forget_extent(c, s->extents[i]);
}

}  // namespace

SQL_FUNCTION(kv_recode)
{
    begin_change();
    Cache *c = cache_of(PG_GETARG_OID(0));
    refuse_foreign_code(c);
    const Codec codec = codec_named(text_to_cstring(PG_GETARG_TEXT_PP(2)));
    tile_capacity(c->shape(codec));  // throws when the codec does not serve the cache's geometry
    Sequence *s = lock_sequence_or_raise(c, PG_GETARG_INT64(1), CurrentMemoryContext);
    s->length = present_length(c, s);
    const int32_t sealed = s->sealed;
    if (sealed > 0) recode(c, s, codec);
    end_change();
    PG_RETURN_INT32(sealed);
}

}  // namespace vkv::kv
