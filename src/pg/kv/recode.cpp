// kv.recode: the sealed tokens of a sequence in another codec. The new tiles and the tail go to a new extent of the sequence's own;
// sequences that share the old tiles keep them.

#include <algorithm>

#include "core/kv/halves.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/call.h"
#include "pg/kv/foreign_code.h"
#include "pg/kv/sealing.h"

namespace vkv::kv {

namespace {

// The decoded tokens of one layer as halves: [heads][tokens][dim] of positions first .. first + tokens - 1.
class Decoded {
public:
    explicit Decoded(const Cache *c, int32_t tokens) : cache_(c), tokens_(tokens)
    {
        const size_t n = static_cast<size_t>(c->kv_heads) * static_cast<size_t>(tokens);
        k_ = static_cast<uint16_t *>(MemoryContextAllocHuge(CurrentMemoryContext, 2 * n * static_cast<size_t>(c->dim_k) + 64));
        v_ = static_cast<uint16_t *>(MemoryContextAllocHuge(CurrentMemoryContext, 2 * n * static_cast<size_t>(c->dim_v) + 64));
        const size_t most = static_cast<size_t>(kMaxTileData) * 16;
        rows_k_ = static_cast<float *>(palloc(most * sizeof(float)));
        rows_v_ = static_cast<float *>(palloc(most * sizeof(float)));
    }

    void take(const TileView &tile, int32_t to)
    {
        const int32_t count = std::min(tile.tokens, to - tile.first);
        decode_tile(tile, rows_k_, rows_v_);
        put(rows_k_, k_, tile, cache_->dim_k, count);
        put(rows_v_, v_, tile, cache_->dim_v, count);
    }

    Rows keys(int head, int32_t pos) const { return at(k_, head, pos, cache_->dim_k); }
    Rows values(int head, int32_t pos) const { return cache_->values_in_keys ? Rows{} : at(v_, head, pos, cache_->dim_v); }

private:
    Rows at(uint16_t *all, int head, int32_t pos, int dim) const
    {
        const size_t row = static_cast<size_t>(head) * static_cast<size_t>(tokens_) + static_cast<size_t>(pos);
        return {all + row * static_cast<size_t>(dim), static_cast<size_t>(dim)};
    }
    void put(float *rows, uint16_t *all, const TileView &tile, int dim, int32_t count) const
    {
        auto *out = const_cast<uint16_t *>(at(all, tile.head, tile.first, dim).data);
        const size_t n = static_cast<size_t>(count) * static_cast<size_t>(dim);
        clamp_to_halves(rows, n);
        to_f16(Dtype::f32, rows, out, n);
    }

    const Cache *cache_;
    int32_t tokens_;
    uint16_t *k_, *v_;
    float *rows_k_, *rows_v_;
};

void recode_layer(Cache *c, const Sequence *old, int64_t extent, int layer, const TilePlan *plans, int count)
{
    MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "kv.recode", ALLOCSET_DEFAULT_SIZES);
    MemoryContext before = MemoryContextSwitchTo(scratch);
    Decoded decoded(c, old->sealed);
    visit_sealed(c, old, layer, [&decoded](const TileView &tile, int32_t to) { decoded.take(tile, to); });
    auto *tile = static_cast<TileHeader *>(palloc(BLCKSZ));
    for (int i = 0; i < count; ++i) {
        const TilePlan &p = plans[i];
        const TileShape shape = c->shape(p.codec);
        for (int head = 0; head < c->kv_heads; ++head) {
            const size_t bytes =
                encode_tile(shape, head, p.pos, p.tokens, decoded.keys(head, p.pos), decoded.values(head, p.pos), tile);
            SET_VARSIZE(tile, bytes);
            insert_tile(c, extent, layer, head, p.pos, tile);
        }
        CHECK_FOR_INTERRUPTS();
    }
    MemoryContextSwitchTo(before);
    MemoryContextDelete(scratch);
}

void recode(Cache *c, const Sequence *s, Codec codec)
{
    TilePlan *plans;
    const int count = plan_tiles(c, codec, 0, s->sealed, true, &plans);
    Sequence changed = *s;
    changed.epoch = new_id();
    start_extent(&changed, 0, CurrentMemoryContext);
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
    for (int layer = 0; layer < c->layers; ++layer) recode_layer(c, s, changed.own(), layer, plans, count);
    PopActiveSnapshot();
    write_tail(c, changed.own(), tail, s->sealed, s->length);
    free_tiles(c, s);
}

}  // namespace

SQL_FUNCTION(kv_recode)
{
    SPI_connect();
    Cache *c = cache_of(PG_GETARG_OID(0));
    refuse_foreign_code(c);
    const Codec codec = codec_named(text_to_cstring(PG_GETARG_TEXT_PP(2)));
    tile_capacity(c->shape(codec));  // throws when the codec does not serve the cache's geometry
    Sequence *s = lock_sequence_or_raise(c, PG_GETARG_INT64(1), CurrentMemoryContext);
    s->length = present_length(c, s);
    const int32_t sealed = s->sealed;
    if (sealed > 0) recode(c, s, codec);
    SPI_finish();
    PG_RETURN_INT32(sealed);
}

}  // namespace vkv::kv
