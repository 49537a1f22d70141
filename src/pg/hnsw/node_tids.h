// The heap tuples of a node: the first four in the node, more in a chain of items. Chains grow at their head.
#pragma once

#include <algorithm>
#include <vector>

#include "pg/hnsw/index.h"

namespace vkv::hnsw {

// Adds a tid to the node if it still is a live node of this very vector, and one that can be found: whether a pending node ever
// will be is up to its own insertion.
bool add_tid(const Index &index, uint32_t node, uint64_t hash, const std::vector<uint8_t> &code, const ItemPointerData &tid);

// Reads a node's tids by pieces, from before the newest to the oldest, with at most one page locked at a time. The chain may change
// in between: what is there from the beginning to the end is read once, what comes or goes meanwhile once or not at all.
class TidReader {
public:
    TidReader() = default;
    // The header has been read under a lock, or is a copy of what was.
    TidReader(uint32_t node, const NodeHeader *header) : node_(node), hash_(header->hash), next_(header->more_tids) {}
    bool more() const { return is_item(next_); }
    // Appends the tids of one item; false at the end. Where the item lies is in *at.
    bool read(const Index &index, std::vector<ItemPointerData> *out, ItemPointerData *at = nullptr);

private:
    bool find_again(const Index &index);

    uint32_t node_ = kNoNode;
    uint64_t hash_ = 0;
    ItemPointerData next_ = no_item();
    uint32_t below_ = UINT32_MAX;  // items with smaller numbers have not been read
};

// The tids in the node itself.
inline void inline_tids(const NodeHeader *header, std::vector<ItemPointerData> *out)
{
    out->insert(out->end(), header->tids, header->tids + std::min<int>(header->tid_count, kInlineTids));
}

// For vacuum, which alone removes anything. Takes tids out of one item of a node's chain, and an item that runs empty out of the
// chain. gone is sorted (pack_tid). *previous is the item before it in the chain, for what was read with one reader: no_item() for
// its first.
void remove_from_item(const Index &index, uint32_t node, const ItemPointerData &at, const std::vector<uint64_t> &gone,
                      ItemPointerData *previous);
// Is the item part of the node's chain?
bool in_chain(const Index &index, uint32_t node, const ItemPointerData &item);

}  // namespace vkv::hnsw
