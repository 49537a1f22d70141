// Sequences that part from an extent within a tile.
#pragma once

#include "pg/kv/sequence.h"

namespace vkv::kv {

// The tile of each layer and head that would hold tokens on both sides of `stop`.
struct Cut {
    int64_t extent;
    int32_t begin, stop;  // where it begins; `stop` where tiles end there anyway
    bool needed() const { return begin < stop; }
};

// Under the active snapshot; stop <= s->sealed.
Cut find_cut(Cache *cache, const Sequence *s, int32_t stop);
// Puts the tokens before the stop, with the same codes, into tiles of `extent`. Reads under the active snapshot.
void copy_cut(Cache *cache, const Sequence *s, const Cut &cut, int64_t extent);

}  // namespace vkv::kv
