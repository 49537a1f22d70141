// What this backend knows of the page tables that the helper program keeps: how to name the tiles of an extent so that the name
// never means two things, and how far the helper's table is believed to reach.
//
// An extent's number is random and what it holds below a stop never changes, but a dump that is read back brings the same numbers
// into another database, or once more into the same table, and what is appended then may differ. So a name is made of the
// database, the file of the table, the content id of the extent's first tile, which a tile gets anew whenever it comes from
// outside, and the place and inserter of its row: INSERT ... SELECT from a copy of the table keeps ids.
#pragma once

#include "pg/kv/span_tiles.h"

namespace vkv::kv {

// A session that is new to an extent, or to a helper, leaves it to the helper to say what it lacks: where others have asked before,
// nothing, and then the index need not be read for a name that is known by its first tile.
inline constexpr int32_t kUnknown = -1;

struct HelperSpan {
    uint64_t space;
    int32_t covered;  // positions that the helper has listed, as far as is known; kUnknown: nobody has asked
};

// Both raise what reading a table raises. The row of the first tile is looked at each time.
HelperSpan helper_span(SealedTable *table, const Sequence *s, const Cache *c, int64_t extent, int layer, uint64_t generation);
// The helper answered a request over positions below `covered`.
void helper_covers(const SealedTable *table, int64_t extent, int layer, uint64_t generation, int32_t covered);

}  // namespace vkv::kv
