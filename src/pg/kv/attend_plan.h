// A call of kv.attend cut into requests to the helper program: which spans of tiles each item's queries see, and how many fit a
// request.
#pragma once

#include <vector>

#include "core/offload/protocol.h"
#include "pg/kv/attend_request.h"
#include "pg/kv/span_tiles.h"
#include "pg/kv/tail_tiles.h"

namespace vkv::kv {

// An item is one layer of one sequence of the batch.
struct PlannedItem {
    int layer;  // index in AttendRequest::layer
    int sequence;
    HeldTail tail;
    int32_t stored;  // tokens under the snapshot: sealed and tail
};

struct PlannedSpan {
    size_t item;
    bool in_tail;  // whole blocks of the tail; else tiles of span.extent
    Span span;
    uint64_t space;
    int32_t covered;  // what the helper's table is believed to cover
    bool shared;
    uint64_t tiles;  // about
};

// Consecutive spans of `spans`, the items they belong to, and which positions of their queries.
struct PlannedRequest {
    size_t first_span, spans;
    int first_position, positions;
};

struct AttendPlan {
    std::vector<PlannedItem> items;
    std::vector<PlannedSpan> spans;
    std::vector<PlannedRequest> requests;
};

// Reads tails. `generation` is that of the helper whose tables are believed.
AttendPlan plan_attend(const AttendRequest &request, SealedTable *table, uint64_t generation);
// Fills plan->requests so that none has more than about `most_tiles` tiles, or products of queries with what is in them (one span
// of one tile a head and some queries always fit).
void cut_requests(const AttendRequest &request, AttendPlan *plan, uint64_t most_tiles, uint64_t most_products);

}  // namespace vkv::kv
