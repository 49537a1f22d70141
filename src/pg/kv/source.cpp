// Visiting the sealed tiles of a layer: in place where the caller may read the table, else through the planner.

#include "pg/kv/source.h"

#include <algorithm>

#include "pg/boundary/boundary.h"
#include "pg/boundary/fault.h"
#include "pg/boundary/pg.h"
#include "pg/kv/bound_tables.h"
#include "pg/kv/function_watch.h"
#include "pg/kv/owner_code.h"
#include "pg/kv/span_tiles.h"

namespace vkv::kv {

namespace {

constexpr uint32_t kAhead = 3;                     // tiles: the next one is pinned already
constexpr int32_t kMostTokens = kMaxTileData / 4;  // of a tile: a token takes more than 4 bytes in any codec

struct Visit {
    Cache *cache;
    const Sequence *sequence;
    int layer;
    TileVisitor visit;
    void *argument;
};

// Of the tiles of an extent, those that hold positions of the span.
enum class Reach { before, inside };
Reach reaches(int32_t pos, int32_t tokens, const Span &span)
{
    const bool before = span.from > span.begin && static_cast<int64_t>(pos) + tokens <= span.from;
    return before ? Reach::before : Reach::inside;
}

void visit_direct(const Visit &v, SealedTable *table, const Span &span, Progress *progress)
{
    SpanTiles tiles(v.cache, v.sequence, v.layer, table, span);
    progress->begin(span.extent, span.from, span.to, span.from > span.begin);
    uint32_t i = 0;
    bool renewed = false;
    // The next tile, until there is none. A new list is gone through from its beginning, but for what was visited.
    auto following = [&] {
        SpanTiles::Pinned pinned;
        while (i < tiles.count()) {
            const TileRef &ref = tiles.ref(i);
            if (reaches(ref.pos, ref.tokens, span) == Reach::before || (renewed && progress->past(ref))) {
                ++i;
            } else if (tiles.pin(i, &pinned)) {
                ++i;
                break;
            } else {
                i = 0;
                renewed = true;
            }
        }
        return pinned;
    };
    uint32_t visited = 0;
    for (SpanTiles::Pinned now = following(); now.tile;) {
        tiles.foresee(i + kAhead - 1, now);
        progress->step(now.ref.head, now.ref.pos, now.ref.tokens);
        const SpanTiles::Pinned next = following();
        v.visit(v.argument, tiles.view(now), span.to, next.tile);
        ReleaseBuffer(now.buffer);
        now = next;
        if ((++visited & 63) == 0) CHECK_FOR_INTERRUPTS();
    }
    progress->end();
}

Portal open_planned(Cache *c, Datum *values)
{
    refuse_owner_code(c);
    SPIPlanPtr plan = plan_of(c, Plan::sealed_read);
    bind_tables(c, text_of(plan));
    const bool watched = watch_functions(c);
    fault_point();
    Portal portal = SPI_cursor_open(nullptr, plan, values, nullptr, true);
    if (watched) unwatch_functions();
    unbind_tables();
    return portal;
}

void fetch_planned(Cache *c, Portal portal)
{
    constexpr long kFetch = 32;
    const bool watched = watch_functions(c);
    fault_point();
    SPI_cursor_fetch(portal, true, kFetch);
    if (watched) unwatch_functions();
}

void visit_planned(const Visit &v, const Span &span, Progress *progress)
{
    const int32_t least = span.from > span.begin ? std::max(span.begin, span.from - kMostTokens) : INT32_MIN;
    Datum values[] = {Int64GetDatum(span.extent), Int16GetDatum(static_cast<int16>(v.layer)), Int32GetDatum(span.to),
                      Int32GetDatum(least)};
    Portal portal = open_planned(v.cache, values);
    progress->begin(span.extent, span.from, span.to, span.from > span.begin);
    for (;;) {
        fetch_planned(v.cache, portal);
        const uint64_t rows = SPI_processed;
        check_result(v.cache, Plan::sealed_read);
        if (rows == 0) break;
        for (uint64_t i = 0; i < rows; ++i) {
            HeapTuple row = SPI_tuptable->vals[i];
            TupleDesc desc = SPI_tuptable->tupdesc;
            bool null;
            const int head = DatumGetInt16(SPI_getbinval(row, desc, 2, &null));
            const int32_t pos = DatumGetInt32(SPI_getbinval(row, desc, 3, &null));
            const TileKey key{span.extent, v.layer, head, pos};
            Datum value = SPI_getbinval(row, desc, 4, &null);
            if (null) damaged_tile(v.cache, v.sequence, key, "is null");
            const TileHeader *tile = datum_tile(value);
            TileView view = checked_tile(v.cache, v.sequence, key, tile, VARSIZE(tile));
            if (reaches(pos, view.tokens, span) == Reach::before) continue;
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

void visit_sealed_part(Cache *c, const Sequence *s, int layer, const Range &range, TileVisitor visit, void *argument)
{
    if (range.from >= range.to) return;
    Visit v{c, s, layer, visit, argument};
    Progress progress(c, s, layer);
    SealedTable table;
    const bool direct = open_sealed(c, &table);
    for_spans(s, range.from, range.to, [&](const Span &span) {
        CHECK_FOR_INTERRUPTS();
        if (direct)
            visit_direct(v, &table, span, &progress);
        else
            visit_planned(v, span, &progress);
    });
    if (direct) close_direct(&table);
}

}  // namespace vkv::kv
