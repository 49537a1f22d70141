// Which positions the rows of queries of one sequence see: causal order, a sliding window and attention sinks.
#pragma once
#include <algorithm>
#include <cstdint>

#include "core/kv/attend.h"

namespace vkv::kv {

// Query position i of q_len is token total - q_len + i, the last ones of a sequence of `total` tokens. Causal: it sees itself and
// what is before it; window > 0: only the last `window` of these, and the first `sinks` tokens.
struct SightRule {
    int32_t total = 0, q_len = 1, window = 0;
    bool causal = true;
    Sight of(int i) const
    {
        const int32_t position = total - q_len + i;
        return {window > 0 ? std::max(position + 1 - window, 0) : 0, causal ? std::max(position + 1, 0) : total};
    }
};

}  // namespace vkv::kv
