// A request is copied out of its area once and checked before anything of it is used.
#include "gpu/request.h"

#include <algorithm>
#include <bit>
#include <climits>
#include <cmath>
#include <cstring>

#include "core/kv/attend.h"
#include "core/kv/tile.h"

namespace vkv::gpu {

using namespace offload;

namespace {

constexpr uint64_t kMostSpanHeads = 1u << 24;  // spans times heads: what checking a request may cost at most

[[noreturn]] void malformed(const char *what, uint64_t value)
{
    throw Failure(FailureCode::malformed, std::string("request is malformed: ") + what + " " + std::to_string(value));
}

void require(bool holds, const char *what, uint64_t value)
{
    if (!holds) malformed(what, value);
}

// `count` things of `each` bytes at `at`.
void require_part(uint64_t at, uint64_t count, uint64_t each, uint64_t bytes, const char *what)
{
    if (at % kAlignment || at < sizeof(RequestHeader) || at > bytes || (each && count > (bytes - at) / each)) malformed(what, at);
}

template <class T>
void copy_out(const uint8_t *area, uint64_t at, uint32_t count, std::vector<T> *out)
{
    out->resize(count);
    if (count) std::memcpy(out->data(), area + at, count * sizeof(T));
}

// Places are aligned, so rows are read where they lie; what a client writes there meanwhile harms its answer alone.
bool all_fit(const AttendRequest &r, const uint8_t *area, uint64_t floats)
{
    const auto *q = reinterpret_cast<const float *>(area + r.queries_at);
    for (const float *end = q + floats; q < end; q += r.dim_k)
        if (!kv::query_fits(q, static_cast<int>(r.dim_k), r.scale)) return false;
    return true;
}

void check_geometry(const AttendRequest &r)
{
    require(r.kv_heads >= 1 && r.kv_heads <= kv::kMaxKvHeads, "key-value heads", r.kv_heads);
    require(r.rows >= 1 && r.rows <= kMostRows, "rows", r.rows);
    require(r.q_len >= 1 && r.rows % r.q_len == 0, "query positions", r.q_len);
    require(r.dim_k >= 1 && r.dim_k <= kv::kMaxHeadDim, "key dimension", r.dim_k);
    require(r.dim_v >= 1 && r.dim_v <= kv::kMaxHeadDim, "value dimension", r.dim_v);
    require((r.tile_flags & ~uint32_t{kv::kValuesInKeys | kv::kKeysBeforeRope}) == 0, "tile flags", r.tile_flags);
    require(!(r.tile_flags & kv::kValuesInKeys) || r.dim_v <= r.dim_k, "values in keys with value dimension", r.dim_v);
    require(std::isfinite(r.scale), "scale is not finite, bits", std::bit_cast<uint32_t>(r.scale));
    require(std::isfinite(r.softcap) && r.softcap >= 0, "soft cap, bits", std::bit_cast<uint32_t>(r.softcap));
    require(r.window >= 0, "window", static_cast<uint32_t>(r.window));
    require(r.sinks >= 0, "sinks", static_cast<uint32_t>(r.sinks));
    if (r.tile_flags & kv::kKeysBeforeRope)
        throw Failure(FailureCode::not_supported,
                      "keys that are stored before their rotary embedding: requests do not carry angles");
}

void check_places(const AttendRequest &r)
{
    const uint64_t bytes = r.header.bytes;
    require_part(r.items_at, r.items, sizeof(Item), bytes, "place of items");
    require_part(r.spans_at, r.spans, sizeof(Span), bytes, "place of spans");
    require_part(r.entries_at, r.entries, sizeof(Entry), bytes, "place of entries");
    require_part(r.header.needs_at, r.header.needs_room, sizeof(Need), bytes, "place of needs");
    require(r.header.needs_room >= std::max(r.spans, 1u), "room for needs", r.header.needs_room);
    require_part(r.queries_at, r.items, uint64_t{r.kv_heads} * r.rows * r.dim_k * sizeof(float), bytes, "place of queries");
    require_part(r.states_at, r.items, uint64_t{r.kv_heads} * r.rows * (2 + r.dim_v) * sizeof(float), bytes, "place of states");
    if (uint64_t{r.spans} * r.kv_heads > kMostSpanHeads)
        throw Failure(FailureCode::too_large,
                      std::to_string(r.spans) + " spans of " + std::to_string(r.kv_heads) + " heads are too many for one request");
}

// Entries are in order, and those of each head lie end to end.
class Coverage {
public:
    explicit Coverage(uint32_t heads) : next_(heads) {}

    void check(const Span &span, const Entry *entries)
    {
        std::fill(next_.begin(), next_.end(), -1);
        for (uint32_t i = 0; i < span.entries; i++) {
            const Entry &e = entries[i];
            require(e.head < next_.size(), "head of an entry", e.head);
            require(e.first >= 0 && e.tokens > 0 && int64_t{e.first} + e.tokens <= INT32_MAX, "position of an entry",
                    static_cast<uint32_t>(e.first));
            if (i > 0)
                require(entries[i - 1].first < e.first || (entries[i - 1].first == e.first && entries[i - 1].head < e.head),
                        "order of entries at", static_cast<uint32_t>(e.first));
            int32_t &next = next_[e.head];
            if (next < 0)
                require(e.first <= span.entries_from && e.first + e.tokens > span.entries_from, "entries begin at",
                        static_cast<uint32_t>(e.first));
            else
                require(e.first == next, "entries leave a gap before", static_cast<uint32_t>(e.first));
            next = e.first + e.tokens;
        }
        if (span.entries_from >= span.to) {
            require(span.entries == 0, "entries behind the end of a span", span.entries);
            return;
        }
        for (const int32_t next : next_) require(next >= span.to, "entries end at", static_cast<uint32_t>(next));
    }

private:
    std::vector<int32_t> next_;
};

void check_spans(const AttendParts &parts)
{
    for (const Item &item : parts.items) {
        require(item.total >= 0, "tokens of an item", static_cast<uint32_t>(item.total));
        require(item.first_span <= parts.spans.size() && item.spans <= parts.spans.size() - item.first_span, "spans of an item",
                item.first_span);
    }
    Coverage coverage(parts.head.kv_heads);
    for (const Span &span : parts.spans) {
        require((span.flags & ~uint32_t{kShared}) == 0, "flags of a span", span.flags);
        require(span.from >= 0 && span.to > span.from, "span begins at", static_cast<uint32_t>(span.from));
        require(span.entries_from >= 0 && ((span.flags & kShared) || span.entries_from <= span.from), "entries of a span begin at",
                static_cast<uint32_t>(span.entries_from));
        require(span.first_entry <= parts.entries.size() && span.entries <= parts.entries.size() - span.first_entry,
                "entries of a span", span.first_entry);
        coverage.check(span, parts.entries.data() + span.first_entry);
    }
}

}  // namespace

Geometry AttendParts::geometry() const
{
    Geometry g;
    g.rows = head.rows;
    g.q_len = head.q_len;
    g.dim_k = head.dim_k;
    g.dim_v = head.dim_v;
    g.tile_flags = head.tile_flags;
    g.scale = head.scale;
    g.softcap = head.softcap;
    g.causal = head.causal != 0;
    g.window = head.window;
    g.sinks = head.sinks;
    return g;
}

RequestHeader read_header(const uint8_t *area, uint64_t area_bytes, uint64_t bytes)
{
    RequestHeader header;
    require(bytes >= sizeof header && bytes <= area_bytes, "size in bytes", bytes);
    std::memcpy(&header, area, sizeof header);
    require(header.version == kVersion, "version", header.version);
    require(header.bytes == bytes, "size in its header", header.bytes);
    require(header.kind == Kind::attend || header.kind == Kind::nearest, "kind", static_cast<uint32_t>(header.kind));
    return header;
}

void read_attend(const uint8_t *area, const RequestHeader &header, AttendParts *out)
{
    require(header.bytes >= sizeof(AttendRequest), "size in bytes", header.bytes);
    AttendRequest &r = out->head;
    std::memcpy(&r, area, sizeof r);
    r.header = header;
    check_geometry(r);
    check_places(r);
    copy_out(area, r.items_at, r.items, &out->items);
    copy_out(area, r.spans_at, r.spans, &out->spans);
    copy_out(area, r.entries_at, r.entries, &out->entries);
    check_spans(*out);
    const uint64_t floats = uint64_t{r.items} * r.kv_heads * out->query_floats();
    require(all_fit(r, area, floats), "queries are not finite or too large, among numbers", floats);
}

NearestRequest read_nearest(const uint8_t *area, const RequestHeader &header)
{
    NearestRequest r;
    require(header.bytes >= sizeof r, "size in bytes", header.bytes);
    std::memcpy(&r, area, sizeof r);
    r.header = header;
    require(r.metric == Metric::l2_squared || r.metric == Metric::negative_inner_product || r.metric == Metric::l1, "metric",
            static_cast<uint32_t>(r.metric));
    require(r.dim >= 1 && r.dim <= 65536, "dimension", r.dim);
    require(r.queries >= 1 && r.k >= 1, "queries", r.queries);
    require_part(r.queries_at, r.queries, uint64_t{r.dim} * sizeof(float), header.bytes, "place of queries");
    require_part(r.vectors_at, r.rows, uint64_t{r.dim} * sizeof(float), header.bytes, "place of vectors");
    require_part(r.results_at, r.queries, uint64_t{r.k} * sizeof(Neighbor), header.bytes, "place of results");
    return r;
}

}  // namespace vkv::gpu
