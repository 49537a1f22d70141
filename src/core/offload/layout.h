// Where the parts of a request lie in its area, from the counts of what it holds. The entries come last, so that more of them move
// nothing else.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/offload/protocol.h"

namespace vkv::offload {

constexpr uint64_t aligned(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Floats of the state of a KV head: m [rows], l [rows], o [rows][dim_v].
constexpr uint64_t state_floats(uint64_t rows, uint64_t dim_v) { return rows * (2 + dim_v); }

struct AttendLayout {
    uint64_t items_at, spans_at, needs_at, queries_at, states_at, entries_at, bytes;
};

// Of a request whose counts, geometry and RequestHeader::needs_room are filled in.
constexpr AttendLayout attend_layout(const AttendRequest &r)
{
    AttendLayout at{};
    const uint64_t heads = uint64_t{r.items} * r.kv_heads;
    at.items_at = aligned(sizeof(AttendRequest));
    at.spans_at = aligned(at.items_at + uint64_t{r.items} * sizeof(Item));
    at.needs_at = aligned(at.spans_at + uint64_t{r.spans} * sizeof(Span));
    at.queries_at = aligned(at.needs_at + uint64_t{r.header.needs_room} * sizeof(Need));
    at.states_at = aligned(at.queries_at + heads * r.rows * r.dim_k * sizeof(float));
    at.entries_at = aligned(at.states_at + heads * state_floats(r.rows, r.dim_v) * sizeof(float));
    at.bytes = aligned(at.entries_at + uint64_t{r.entries} * sizeof(Entry));
    return at;
}

}  // namespace vkv::offload
