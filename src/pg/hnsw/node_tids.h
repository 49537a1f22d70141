// The heap tuples of a node: the first four in the node, more in a chain of items. Chains grow at their head.
#pragma once

#include <vector>

#include "pg/hnsw/index.h"

namespace vkv::hnsw {

// Adds a tid to the node if it still is a live node of this very vector.
bool add_tid(const Index &index, uint32_t node, uint64_t hash, const std::vector<uint8_t> &code, const ItemPointerData &tid);
// All tids behind the node's header (which the caller has read under a lock), appended to *out.
void collect_tids(Relation rel, const NodeHeader *node, std::vector<ItemPointerData> *out);

}  // namespace vkv::hnsw
