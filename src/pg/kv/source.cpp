// Visiting the sealed tiles of a layer: in place where the caller may read the table, else through the planner.

#include "pg/kv/source.h"

#include <string>

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/tile_list.h"

namespace vkv::kv {

namespace {

struct Key {
    int64_t extent;
    int layer, head;
    int32_t pos;
};

[[noreturn]] void damaged(const Cache *c, const Sequence *s, const Key &key, const char *what)
{
    char text[400];
    snprintf(text, sizeof text, "tile of sequence %lld, layer %d, head %d at position %d in cache \"%s\" %s",
             static_cast<long long>(s->seq), key.layer, key.head, key.pos, c->name, what);
    char detail[100];
    snprintf(detail, sizeof detail, "Its key in the table of sealed tiles is (%lld, %d, %d, %d).",
             static_cast<long long>(key.extent), key.layer, key.pos, key.head);
    throw Error(Errc::data_corrupted, text, {}, detail);
}

// The tile's own words against its key and the cache.
TileView checked_view(const Cache *c, const Sequence *s, const Key &key, const void *bytes, size_t size)
{
    TileView view;
    try {
        view = view_tile(bytes, size);
    } catch (const Error &error) {
        damaged(c, s, key, ("is damaged: " + error.message()).c_str());
    }
    if (view.head != key.head || view.first != key.pos || view.heads != c->kv_heads || view.dim_k != c->dim_k ||
        view.dim_v != c->dim_v || view.flags != c->flags())
        damaged(c, s, key, "does not belong there");
    return view;
}

// That no head has a gap.
class Progress {
public:
    Progress(const Cache *c, const Sequence *s, int layer) : cache_(c), sequence_(s), layer_(layer)
    {
        next_ = static_cast<int32_t *>(palloc0(sizeof(int32_t) * static_cast<size_t>(c->kv_heads)));
    }
    void begin(int64_t extent, int32_t from, int32_t to)
    {
        extent_ = extent;
        to_ = to;
        for (int h = 0; h < cache_->kv_heads; ++h) next_[h] = from;
    }
    // Goes on with the tile if it is the next of its head.
    bool fits(const TileRef &ref)
    {
        if (ref.head < 0 || ref.head >= cache_->kv_heads || ref.pos != next_[ref.head]) return false;
        next_[ref.head] = ref.pos + ref.tokens;
        return true;
    }
    bool complete() const
    {
        for (int h = 0; h < cache_->kv_heads; ++h)
            if (next_[h] < to_) return false;
        return true;
    }
    // The same, raising.
    void step(int head, int32_t pos, int32_t tokens)
    {
        if (head < 0 || head >= cache_->kv_heads) missing(0, next_[0]);
        if (pos != next_[head]) missing(head, next_[head]);
        next_[head] = pos + tokens;
    }
    void end() const
    {
        for (int h = 0; h < cache_->kv_heads; ++h)
            if (next_[h] < to_) missing(h, next_[h]);
    }
    [[noreturn]] void missing(int head, int32_t pos) const
    {
        damaged(cache_, sequence_, {extent_, layer_, head, pos}, "is missing, or hidden by row security");
    }

private:
    const Cache *cache_;
    const Sequence *sequence_;
    int layer_;
    int64_t extent_ = 0;
    int32_t to_ = 0;
    int32_t *next_;
};

struct Visit {
    Cache *cache;
    const Sequence *sequence;
    int layer;
    TileVisitor visit;
    void *argument;
};

struct Span {
    int64_t extent;
    int32_t from, to;
};

class DirectVisit {
public:
    DirectVisit(const Visit &v, SealedTable *table, const Span &span) : v_(v), table_(table), span_(span)
    {
        list_ = tile_list(table, span.extent, v.layer, span.to);
        // A gap may have been there only when the index was scanned.
        Progress progress(v.cache, v.sequence, v.layer);
        progress.begin(span.extent, span.from, span.to);
        bool whole = true;
        for (uint32_t i = 0; whole && i < list_->count && list_->refs[i].pos < span.to; ++i) whole = progress.fits(list_->refs[i]);
        if (!whole || !progress.complete()) rescan();
    }

    void run(Progress *progress)
    {
        progress->begin(span_.extent, span_.from, span_.to);
        uint32_t end = list_->count;
        while (end > 0 && list_->refs[end - 1].pos >= span_.to) --end;
        Pinned now = end > 0 ? pin(0) : Pinned{};
        for (uint32_t i = 0; i < end; ++i) {
            const TileRef ref = list_->refs[i];
            Pinned next = i + 1 < end ? pin(i + 1) : Pinned{};
            progress->step(ref.head, ref.pos, ref.tokens);
            const Key key{span_.extent, v_.layer, ref.head, ref.pos};
            v_.visit(v_.argument, checked_view(v_.cache, v_.sequence, key, now.tile, now.bytes), span_.to, next.tile);
            ReleaseBuffer(now.buffer);
            now = next;
            if ((i & 63) == 63) CHECK_FOR_INTERRUPTS();
        }
        progress->end();
    }

private:
    void rescan()
    {
        forget_tile_list(list_);
        list_ = tile_list(table_, span_.extent, v_.layer, span_.to);
    }

    struct Pinned {
        const TileHeader *tile = nullptr;
        Buffer buffer = InvalidBuffer;
        size_t bytes = 0;
    };

    Pinned pin(uint32_t i)
    {
        Pinned p;
        p.tile = pin_tile(table_->rel, &list_->refs[i], &p.buffer, &p.bytes);
        if (p.tile) return p;
        if (BufferIsValid(p.buffer)) ReleaseBuffer(p.buffer);
        // The row moved or the list is of a transaction that was rolled back: scan the index again, and what was listed here must
        // be listed again.
        const TileRef was = list_->refs[i];
        rescan();
        const Key key{span_.extent, v_.layer, was.head, was.pos};
        if (i >= list_->count || list_->refs[i].pos != was.pos || list_->refs[i].head != was.head)
            damaged(v_.cache, v_.sequence, key, "is missing");
        p.tile = pin_tile(table_->rel, &list_->refs[i], &p.buffer, &p.bytes);
        if (!p.tile) damaged(v_.cache, v_.sequence, key, "is damaged: its row cannot be read");
        return p;
    }

    const Visit &v_;
    SealedTable *table_;
    Span span_;
    TileList *list_;
};

void visit_planned(const Visit &v, const Span &span, Progress *progress)
{
    constexpr long kFetch = 32;
    Datum values[] = {Int64GetDatum(span.extent), Int16GetDatum(static_cast<int16>(v.layer)), Int32GetDatum(span.to)};
    Portal portal = SPI_cursor_open(nullptr, plan_of(v.cache, Plan::sealed_read), values, nullptr, true);
    progress->begin(span.extent, span.from, span.to);
    for (;;) {
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
            const Key key{span.extent, v.layer, head, pos};
            TileView view = checked_view(v.cache, v.sequence, key, tile, VARSIZE(tile));
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
    const bool direct = open_direct(c, &table);
    for (int i = 0; i < s->spans; ++i) {
        Span span{s->extents[i], i ? s->stops[i - 1] : 0, s->stops[i] < s->sealed ? s->stops[i] : s->sealed};
        if (span.from >= span.to) break;
        if (direct)
            DirectVisit(v, &table, span).run(&progress);
        else
            visit_planned(v, span, &progress);
    }
    if (direct) close_direct(&table);
}

}  // namespace vkv::kv
