// Tiles cut short into an extent of their own; see cut.h.

#include "pg/kv/cut.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/sealing.h"
#include "pg/kv/span_tiles.h"

namespace vkv::kv {

namespace {

int64_t extent_before(const Sequence *s, int32_t stop)
{
    int i = 0;
    while (s->stops[i] < stop) ++i;
    return s->extents[i];
}

struct Found {
    const SPITupleTable *rows;
    uint64_t row;
    int32_t pos(int column) const
    {
        bool null;
        return DatumGetInt32(SPI_getbinval(rows->vals[row], rows->tupdesc, column, &null));  // not null: it was compared
    }
    const TileHeader *tile(const Cache *c, const Sequence *s, const TileKey &key, int column) const
    {
        bool null;
        Datum value = SPI_getbinval(rows->vals[row], rows->tupdesc, column, &null);
        if (null) damaged_tile(c, s, key, "is null");
        const TileHeader *tile = datum_tile(value);
        if (VARSIZE(tile) < kTileHeaderBytes) damaged_tile(c, s, key, "is damaged: it is too short");
        return tile;
    }
};

}  // namespace

Cut find_cut(Cache *c, const Sequence *s, int32_t stop)
{
    if (stop <= 0) return {0, 0, 0};
    const int64_t extent = extent_before(s, stop);
    Datum values[] = {Int64GetDatum(extent), Int32GetDatum(stop)};
    const bool any = run_plan(c, Plan::tile_before, values, true) > 0;
    const Found last{SPI_tuptable, 0};
    const int32_t begin = any ? last.pos(1) : stop;
    const int64_t end = any ? int64_t{begin} + last.tile(c, s, {extent, 0, 0, begin}, 2)->tokens : 0;
    SPI_freetuptable(SPI_tuptable);
    if (end < stop) damaged_tile(c, s, {extent, 0, 0, stop - 1}, "is missing, or hidden by row security");
    return {extent, end > stop ? begin : stop, stop};
}

void copy_cut(Cache *c, const Sequence *s, const Cut &cut, int64_t extent)
{
    for (int layer = 0; layer < c->layers; ++layer) {
        Datum values[] = {Int64GetDatum(cut.extent), Int16GetDatum(static_cast<int16>(layer)), Int32GetDatum(cut.begin)};
        const uint64_t rows = run_plan(c, Plan::tile_at, values, true);
        SPITupleTable *tiles = SPI_tuptable;
        if (rows != static_cast<uint64_t>(c->kv_heads))
            damaged_tile(c, s, {cut.extent, layer, static_cast<int>(rows), cut.begin}, "is missing, or hidden by row security");
        for (uint64_t i = 0; i < rows; ++i) {
            const TileKey key{cut.extent, layer, static_cast<int>(i), cut.begin};
            const TileHeader *tile = Found{tiles, i}.tile(c, s, key, 2);
            const TileView view = checked_tile(c, s, key, tile, VARSIZE(tile));
            if (tile_checksum(tile, VARSIZE(tile)) != tile->crc) damaged_tile(c, s, key, "is damaged: its checksum differs");
            const int32_t tokens = cut.stop - cut.begin;
            if (view.tokens <= tokens) damaged_tile(c, s, key, "ends elsewhere than those of other heads and layers");
            const TileShape shape = shape_of(view);
            auto *part = static_cast<TileHeader *>(palloc(tile_bytes(shape, tokens)));
            SET_VARSIZE(part, tile_bytes(shape, tokens));
            clip_tile(view, tokens, part);
            insert_tile(c, extent, layer, view.head, cut.begin, part);
            pfree(part);
        }
        SPI_freetuptable(tiles);
        CHECK_FOR_INTERRUPTS();
    }
}

}  // namespace vkv::kv
