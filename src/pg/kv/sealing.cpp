// Encoding tokens into tiles and tail rows. Layers come one after the other and, in a layer, tiles by position, so that what an
// attention call reads together lies together.

#include "pg/kv/sealing.h"

#include <algorithm>

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/packed_row.h"

namespace vkv::kv {

TokenReader::TokenReader(const Cache *cache, const Tokens &tokens) : cache_(cache), tokens_(tokens) {}

Rows TokenReader::rows(const uint16_t *tail, const TensorView &fresh, int dim, int slot, int32_t from, int32_t count,
                       Scratch &scratch)
{
    const size_t d = static_cast<size_t>(dim), n = static_cast<size_t>(count);
    const int32_t in_tail = std::clamp(tokens_.tail.first + tokens_.tail.tokens - from, 0, count);
    const uint16_t *tail_at = tail ? tail + (static_cast<size_t>(slot) * static_cast<size_t>(tokens_.tail.tokens) +
                                             static_cast<size_t>(from - tokens_.tail.first)) *
                                                d
                                   : nullptr;
    if (in_tail == count) return {tail_at, d};
    const size_t new_at = (static_cast<size_t>(slot) * static_cast<size_t>(tokens_.count_new) +
                           static_cast<size_t>(from + in_tail - tokens_.first_new)) *
                          d;
    const char *data = static_cast<const char *>(fresh.data) + new_at * dtype_bytes(fresh.dtype);
    if (in_tail == 0 && fresh.dtype == Dtype::f16) return {reinterpret_cast<const uint16_t *>(data), d};
    if (scratch.halves < n * d) {
        scratch.data = static_cast<uint16_t *>(palloc(2 * n * d));
        scratch.halves = n * d;
    }
    const size_t old = static_cast<size_t>(in_tail) * d;
    if (in_tail > 0) memcpy(scratch.data, tail_at, 2 * old);
    to_f16(fresh.dtype, data, scratch.data + old, n * d - old);
    return {scratch.data, d};
}

int plan_tiles(const Cache *c, Codec codec, int32_t from, int32_t to, bool all, TilePlan **plans)
{
    const int32_t full = tile_capacity(c->shape(codec)), full_sink = tile_capacity(c->shape(Codec::f16));
    const int32_t sinks = codec == Codec::f16 ? 0 : c->sink_tokens;
    const int64_t most = (static_cast<int64_t>(to) - from) / std::min(full, full_sink) + sinks + 2;
    auto *result = static_cast<TilePlan *>(
        MemoryContextAllocHuge(CurrentMemoryContext, sizeof(TilePlan) * static_cast<size_t>(std::max<int64_t>(most, 1))));
    int count = 0;
    for (int32_t pos = from; pos < to;) {
        const bool sink = pos < sinks;
        const int32_t want = sink ? std::min(full_sink, sinks - pos) : full;
        if (want > to - pos && !all) break;
        const int32_t tokens = std::min(want, to - pos);
        result[count++] = {pos, tokens, sink ? Codec::f16 : codec};
        pos += tokens;
    }
    *plans = result;
    return count;
}

void insert_tile(Cache *c, int64_t extent, int layer, int head, int32_t pos, const TileHeader *tile)
{
    Datum values[] = {Int64GetDatum(extent), Int16GetDatum(static_cast<int16>(layer)), Int16GetDatum(static_cast<int16>(head)),
                      Int32GetDatum(pos), PointerGetDatum(tile)};
    run_plan(c, Plan::sealed_insert, values);
}

void write_tiles(Cache *c, int64_t extent, const Tokens &tokens, const TilePlan *plans, int count)
{
    TokenReader reader(c, tokens);
    auto *tile = static_cast<TileHeader *>(palloc(BLCKSZ));
    for (int layer = 0; layer < c->layers; ++layer) {
        for (int i = 0; i < count; ++i) {
            const TilePlan &p = plans[i];
            const TileShape shape = c->shape(p.codec);
            for (int head = 0; head < c->kv_heads; ++head) {
                const int slot = layer * c->kv_heads + head;
                const size_t bytes = encode_tile(shape, head, p.pos, p.tokens, reader.keys(slot, p.pos, p.tokens),
                                                 reader.values(slot, p.pos, p.tokens), tile);
                SET_VARSIZE(tile, bytes);
                insert_tile(c, extent, layer, head, p.pos, tile);
            }
            CHECK_FOR_INTERRUPTS();
        }
    }
    pfree(tile);
}

void write_tail(Cache *c, int64_t extent, const Tokens &tokens, int32_t from, int32_t to)
{
    TokenReader reader(c, tokens);
    const size_t dk = static_cast<size_t>(c->dim_k), dv = c->values_in_keys ? 0 : static_cast<size_t>(c->dim_v);
    for (int chunk = 0; chunk < c->chunks(); ++chunk) {
        const int begin = chunk * c->row_slots, end = std::min(begin + c->row_slots, c->slots());
        const RowShape shape{end - begin, c->slot_values()};
        auto *halves = static_cast<uint16_t *>(palloc(2 * shape.values()));
        bytea *row = new_packed_row(shape);
        for (int32_t pos = from; pos < to; ++pos) {
            uint16_t *out = halves;
            for (int slot = begin; slot < end; ++slot, out += dk + dv) {
                memcpy(out, reader.keys(slot, pos, 1).data, 2 * dk);
                if (dv) memcpy(out + dk, reader.values(slot, pos, 1).data, 2 * dv);
            }
            pack_into(halves, shape, row);
            Datum values[] = {Int64GetDatum(extent), Int32GetDatum(chunk), Int32GetDatum(pos), PointerGetDatum(row)};
            run_plan(c, Plan::tail_insert, values);
        }
        CHECK_FOR_INTERRUPTS();
        pfree(row);
        pfree(halves);
    }
}

}  // namespace vkv::kv
