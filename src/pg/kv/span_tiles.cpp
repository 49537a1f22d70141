// Tiles of a span: what the list remembers is checked for gaps, and a row that is no more what was remembered makes a new list.

#include "pg/kv/span_tiles.h"

#include <algorithm>
#include <string>

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"

namespace vkv::kv {

void damaged_tile(const Cache *c, const Sequence *s, const TileKey &key, const char *what)
{
    char text[400];
    snprintf(text, sizeof text, "tile of sequence %lld, layer %d, head %d at position %d in cache \"%s\" %s",
             static_cast<long long>(s->seq), key.layer, key.head, key.pos, c->name, what);
    char detail[100];
    snprintf(detail, sizeof detail, "Its key in the table of sealed tiles is (%lld, %d, %d, %d).",
             static_cast<long long>(key.extent), key.layer, key.pos, key.head);
    throw Error(Errc::data_corrupted, text, {}, detail);
}

TileView checked_tile(const Cache *c, const Sequence *s, const TileKey &key, const void *bytes, size_t size)
{
    TileView view;
    try {
        view = view_tile(bytes, size);
    } catch (const Error &error) {
        damaged_tile(c, s, key, ("is damaged: " + error.message()).c_str());
    }
    if (view.head != key.head || view.first != key.pos || view.heads != c->kv_heads || view.dim_k != c->dim_k ||
        view.dim_v != c->dim_v || view.flags != c->flags() || view.first < 0 || view.first > kOpenStop - view.tokens)
        damaged_tile(c, s, key, "does not belong there");
    return view;
}

Progress::Progress(const Cache *c, const Sequence *s, int layer) : cache_(c), sequence_(s), layer_(layer)
{
    next_ = static_cast<int32_t *>(palloc0(sizeof(int32_t) * static_cast<size_t>(c->kv_heads)));
}

void Progress::begin(int64_t extent, int32_t from, int32_t to, bool inside)
{
    extent_ = extent;
    from_ = from;
    to_ = to;
    inside_ = inside;
    for (int h = 0; h < cache_->kv_heads; ++h) next_[h] = from;
}

bool Progress::fits(const TileRef &ref)
{
    if (ref.head < 0 || ref.head >= cache_->kv_heads || ref.pos != next_[ref.head]) return false;
    next_[ref.head] = ref.pos + ref.tokens;
    return true;
}

bool Progress::complete() const
{
    for (int h = 0; h < cache_->kv_heads; ++h)
        if (next_[h] < to_) return false;
    return true;
}

bool Progress::past(const TileRef &ref) const
{
    return ref.head >= 0 && ref.head < cache_->kv_heads && int64_t{ref.pos} + ref.tokens <= next_[ref.head];
}

void Progress::step(int head, int32_t pos, int32_t tokens)
{
    if (head < 0 || head >= cache_->kv_heads) missing(0, next_[0]);
    if (pos >= to_) damaged_tile(cache_, sequence_, {extent_, layer_, head, pos}, "lies behind what was asked for");
    const bool first = inside_ && next_[head] == from_ && pos < from_ && pos + tokens > from_;
    if (pos != next_[head] && !first) missing(head, next_[head]);
    next_[head] = pos + tokens;
}

void Progress::end() const
{
    for (int h = 0; h < cache_->kv_heads; ++h)
        if (next_[h] < to_) missing(h, next_[h]);
}

void Progress::missing(int head, int32_t pos) const
{
    damaged_tile(cache_, sequence_, {extent_, layer_, head, pos}, "is missing, or hidden by row security");
}

SpanTiles::SpanTiles(Cache *c, const Sequence *s, int layer, SealedTable *table, const Span &span)
    : cache_(c), sequence_(s), layer_(layer), table_(table), span_(span), list_(tile_list(table, span.extent, layer, span.to))
{
    count_them();
    // A gap may have been there only when the index was scanned.
    Progress progress(c, s, layer);
    progress.begin(span.extent, count_ > 0 ? list_->refs[0].pos : span.from, span.to);
    bool whole = count_ == 0 || list_->refs[0].pos <= span.from;
    for (uint32_t i = 0; whole && i < count_; ++i) whole = progress.fits(list_->refs[i]);
    if (!whole || !progress.complete()) rescan();
}

void SpanTiles::count_them()
{
    count_ = list_->count;
    while (count_ > 0 && list_->refs[count_ - 1].pos >= span_.to) --count_;
}

uint32_t SpanTiles::find(int32_t pos, int head) const
{
    const TileRef *begin = list_->refs, *end = begin + count_;
    const TileRef *at = std::lower_bound(begin, end, pos, [](const TileRef &ref, int32_t wanted) { return ref.pos < wanted; });
    while (at < end && at->pos == pos && at->head != head) ++at;
    return at < end && at->pos == pos ? static_cast<uint32_t>(at - begin) : count_;
}

void SpanTiles::rescan()
{
    renewed_ = true;
    forget_tile_list(list_);
    list_ = tile_list(table_, span_.extent, layer_, span_.to);
    count_them();
}

bool SpanTiles::pin(uint32_t i, Pinned *pinned)
{
    if (i >= count_) throw Error(Errc::internal, "tile " + std::to_string(i) + " of " + std::to_string(count_));
    pinned->tile = pin_tile(table_->rel, &list_->refs[i], &pinned->buffer, &pinned->bytes);
    pinned->ref = list_->refs[i];
    if (pinned->tile) return true;
    if (BufferIsValid(pinned->buffer)) ReleaseBuffer(pinned->buffer);
    *pinned = {};
    if (renewed_) damaged_tile(cache_, sequence_, key(list_->refs[i]), "is damaged: its row cannot be read");
    rescan();
    return false;
}

TileView SpanTiles::view(const Pinned &pinned) const
{
    return checked_tile(cache_, sequence_, key(pinned.ref), pinned.tile, pinned.bytes);
}

}  // namespace vkv::kv
