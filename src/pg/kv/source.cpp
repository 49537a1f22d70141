// Visiting the sealed tiles of a layer: in place where the caller may read the table, else through the planner.

#include "pg/kv/source.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/fault.h"
#include "pg/boundary/pg.h"
#include "pg/kv/span_tiles.h"

namespace vkv::kv {

namespace {

constexpr uint32_t kAhead = 3;  // tiles: the next one is pinned already

struct Visit {
    Cache *cache;
    const Sequence *sequence;
    int layer;
    TileVisitor visit;
    void *argument;
};

void visit_direct(const Visit &v, SealedTable *table, const Span &span, Progress *progress)
{
    SpanTiles tiles(v.cache, v.sequence, v.layer, table, span);
    progress->begin(span.extent, span.from, span.to);
    const uint32_t end = tiles.count();
    SpanTiles::Pinned now = end > 0 ? tiles.pin(0) : SpanTiles::Pinned{};
    for (uint32_t i = 0; i < end; ++i) {
        const TileRef ref = tiles.ref(i);
        tiles.foresee(i + kAhead, now);
        SpanTiles::Pinned next = i + 1 < end ? tiles.pin(i + 1) : SpanTiles::Pinned{};
        progress->step(ref.head, ref.pos, ref.tokens);
        v.visit(v.argument, tiles.view(i, now), span.to, next.tile);
        ReleaseBuffer(now.buffer);
        now = next;
        if ((i & 63) == 63) CHECK_FOR_INTERRUPTS();
    }
    progress->end();
}

void visit_planned(const Visit &v, const Span &span, Progress *progress)
{
    constexpr long kFetch = 32;
    Datum values[] = {Int64GetDatum(span.extent), Int16GetDatum(static_cast<int16>(v.layer)), Int32GetDatum(span.to)};
    Portal portal = SPI_cursor_open(nullptr, plan_of(v.cache, Plan::sealed_read), values, nullptr, true);
    progress->begin(span.extent, span.from, span.to);
    for (;;) {
        fault_point();
        SPI_cursor_fetch(portal, true, kFetch);
        const uint64_t rows = SPI_processed;
        if (rows == 0) break;
        for (uint64_t i = 0; i < rows; ++i) {
            HeapTuple row = SPI_tuptable->vals[i];
            TupleDesc desc = SPI_tuptable->tupdesc;
            bool null;
            const int head = DatumGetInt16(SPI_getbinval(row, desc, 2, &null));
            const int32_t pos = DatumGetInt32(SPI_getbinval(row, desc, 3, &null));
            const TileHeader *tile = datum_tile(SPI_getbinval(row, desc, 4, &null));
            const TileKey key{span.extent, v.layer, head, pos};
            TileView view = checked_tile(v.cache, v.sequence, key, tile, VARSIZE(tile));
            progress->step(head, pos, view.tokens);
            v.visit(v.argument, view, span.to, nullptr);
        }
        SPI_freetuptable(SPI_tuptable);
        CHECK_FOR_INTERRUPTS();
    }
    SPI_cursor_close(portal);
    progress->end();
}

}  // namespace

void visit_sealed(Cache *c, const Sequence *s, int layer, TileVisitor visit, void *argument)
{
    if (s->sealed == 0) return;
    Visit v{c, s, layer, visit, argument};
    Progress progress(c, s, layer);
    SealedTable table;
    const bool direct = open_sealed(c, &table);
    for_spans(s, 0, s->sealed, [&](const Span &span) {
        if (direct)
            visit_direct(v, &table, span, &progress);
        else
            visit_planned(v, span, &progress);
    });
    if (direct) close_direct(&table);
}

}  // namespace vkv::kv
