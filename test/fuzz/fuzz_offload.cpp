// Requests as the helper program reads them from memory that a client may fill with anything. An even first byte: the rest is the
// request's area. An odd one: a good request, of a shape that the next bytes choose, in which the rest overwrites places. What is
// accepted lies within the area in all its parts, and page tables that take it cover what they say.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/offload/layout.h"
#include "gpu/page_tables.h"
#include "gpu/request.h"

namespace {

using namespace vkv::offload;
using namespace vkv::gpu;

void require(bool holds)
{
    if (!holds) std::abort();
}

// Of exactly the size that is asked for, so that the address sanitizer sees any access past the end.
class Buffer {
public:
    explicit Buffer(size_t bytes) : data_(static_cast<uint8_t *>(std::aligned_alloc(64, (bytes + 63) / 64 * 64))), bytes_(bytes)
    {
        std::memset(data_, 0, bytes);
    }
    ~Buffer() { std::free(data_); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    uint8_t *data() { return data_; }
    size_t size() const { return bytes_; }

private:
    uint8_t *data_;
    size_t bytes_;
};

// Reads all of it, as a device would.
void touch(const uint8_t *part, uint64_t bytes)
{
    volatile uint8_t sum = 0;
    for (uint64_t i = 0; i < bytes; i++) sum = static_cast<uint8_t>(sum + part[i]);
}

void check_tables(const AttendParts &parts)
{
    if (parts.head.kv_heads > 64) return;
    TileCache cache(16);
    PageTables tables(&cache);
    const TileKind kind{static_cast<uint16_t>(parts.head.dim_k), static_cast<uint16_t>(parts.head.dim_v),
                        static_cast<uint16_t>(parts.head.kv_heads), 0};
    for (const Span &span : parts.spans) {
        const PageTables::Found found = tables.find(span, {parts.entries.data() + span.first_entry, span.entries}, kind, false);
        if (!found.table) continue;
        require(found.table->begin() <= span.from && found.table->covered() >= span.to);
        for (const Table::Head &head : found.table->heads) {
            const auto [begin, end] = head.range(span.from, span.to);
            require(begin < end && head.entries[begin].first <= span.from);
            for (uint32_t i = begin + 1; i < end; i++)
                require(head.entries[i].first == head.entries[i - 1].first + head.entries[i - 1].tokens);
            require(head.entries[end - 1].first + head.entries[end - 1].tokens >= span.to);
        }
    }
}

void read(uint8_t *area, size_t size)
{
    if (size < sizeof(RequestHeader)) return;
    uint64_t bytes;
    std::memcpy(&bytes, area + offsetof(RequestHeader, bytes), sizeof bytes);
    const RequestHeader header = read_header(area, size, bytes);
    if (header.kind == Kind::nearest) {
        const NearestRequest r = read_nearest(area, header);
        touch(area + r.queries_at, uint64_t{r.queries} * r.dim * 4);
        touch(area + r.vectors_at, uint64_t{r.rows} * r.dim * 4);
        touch(area + r.results_at, uint64_t{r.queries} * r.k * sizeof(Neighbor));
        return;
    }
    AttendParts parts;
    read_attend(area, header, &parts);
    const uint64_t heads = uint64_t{parts.head.items} * parts.head.kv_heads;
    touch(area + parts.head.queries_at, heads * parts.query_floats() * sizeof(float));
    touch(area + parts.head.states_at, heads * parts.state_floats() * sizeof(float));
    touch(area + header.needs_at, uint64_t{header.needs_room} * sizeof(Need));
    for (const Item &item : parts.items)
        for (uint32_t s = item.first_span; s < item.first_span + item.spans; s++)
            require(parts.spans.at(s).from < parts.spans[s].to);
    check_tables(parts);
}

// Two spans of one extent and as many heads as the bytes say.
size_t write_good(const uint8_t *choice, AttendRequest *r, std::vector<Span> *spans, std::vector<Entry> *entries)
{
    r->header.version = kVersion;
    r->header.kind = Kind::attend;
    r->header.needs_room = 8;
    r->kv_heads = 1 + choice[0] % 4u;
    r->rows = r->q_len = 1 + choice[1] % 3u;
    r->dim_k = r->dim_v = 1 + choice[2] % 16u;
    r->items = 1;
    r->spans = 2;
    int32_t at = choice[3];
    for (uint32_t s = 0; s < 2; s++) {
        Span span{};
        span.flags = choice[4] >> s & 1;
        span.from = span.entries_from = at;
        span.first_entry = static_cast<uint32_t>(entries->size());
        for (int tile = 0; tile < 1 + choice[5] % 5; tile++, at += 7)
            for (uint32_t h = 0; h < r->kv_heads; h++) entries->push_back({entries->size() + 1, at, 7, static_cast<uint16_t>(h)});
        span.to = at - choice[6] % 7;
        span.entries = static_cast<uint32_t>(entries->size()) - span.first_entry;
        if (choice[6] & 128) at -= 7;  // the next span begins inside
        spans->push_back(span);
    }
    r->entries = static_cast<uint32_t>(entries->size());
    const AttendLayout layout = attend_layout(*r);
    r->header.bytes = layout.bytes;
    r->header.needs_at = layout.needs_at;
    r->items_at = layout.items_at;
    r->spans_at = layout.spans_at;
    r->entries_at = layout.entries_at;
    r->queries_at = layout.queries_at;
    r->states_at = layout.states_at;
    return layout.bytes;
}

void fuzz_overwritten(const uint8_t *data, size_t size)
{
    constexpr size_t kChoices = 7;
    if (size < kChoices) return;
    AttendRequest r{};
    std::vector<Span> spans;
    std::vector<Entry> entries;
    Buffer area(write_good(data, &r, &spans, &entries));
    const Item item{0, 2, 1000, 0};
    std::memcpy(area.data(), &r, sizeof r);
    std::memcpy(area.data() + r.items_at, &item, sizeof item);
    std::memcpy(area.data() + r.spans_at, spans.data(), spans.size() * sizeof(Span));
    std::memcpy(area.data() + r.entries_at, entries.data(), entries.size() * sizeof(Entry));
    // Places: two bytes each of where, one of what.
    for (size_t i = kChoices; i + 3 <= size; i += 3) area.data()[(data[i] | data[i + 1] << 8) % area.size()] = data[i + 2];
    read(area.data(), area.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    try {
        if (data[0] % 2) {
            fuzz_overwritten(data + 1, size - 1);
        } else {
            Buffer area(size - 1);
            std::memcpy(area.data(), data + 1, size - 1);
            read(area.data(), area.size());
        }
    } catch (const Failure &failure) {
        require(failure.what()[0] != 0);
    }
    return 0;
}
