// Pages of an index read where they lie in shared buffers, without pin or lock: what a search does a thousand times.
//
// A pin and a share lock cost several times what scoring a code costs. A backend remembers which buffer held a block; as long as
// that buffer's tag still names the block, the page can be read in place. Afterwards the tag is looked at again: if the buffer was
// given to another block meanwhile, what was read is thrown away and read again under a pin. What a reader may still see is a page
// in the middle of a change:
//   - a node's code never changes while a link leads to it, and a list of links is whole words, old or new;
//   - a slot that vacuum freed and an insertion took again scores as what it is now or as garbage, which only misplaces a
//   candidate.
// So every value read this way is a hint, checked against its bounds, and everything that leaves a scan is read again under a share
// lock (scan.cpp). Buffers whose usage count has run out are pinned once, so that the clock sweep sees that they are in use.
#pragma once

#include "pg/hnsw/pages.h"

namespace vkv::hnsw {

class Resident {
public:
    // This backend's memory of where the index's blocks are. Lives in TopMemoryContext; a few indexes are remembered at a time.
    static Resident *of(Relation rel);

    // The page of a block that holds nodes; null if there is no such page.
    const char *peek(Relation rel, BlockNumber block)
    {
        if (block < size_ && map_[block] != InvalidBuffer) {
            BufferDesc *desc = compat::buffer_descriptor(map_[block]);
            if (compat::buffer_holds(desc, rel, block) && compat::buffer_usage(desc) > 0) {
                ++hits_;
                return BufferGetPage(map_[block]);
            }
        }
        return load(rel, block);
    }
    // Is what peek() returned for the block still that block?
    bool still(Relation rel, BlockNumber block) const
    {
        return block < size_ && map_[block] != InvalidBuffer &&
               compat::buffer_holds(compat::buffer_descriptor(map_[block]), rel, block);
    }
    // Reads the page into a buffer and keeps it pinned while use(page) runs; use gets null if there is no such page.
    template <class Use>
    void pinned(Relation rel, BlockNumber block, Use &&use)
    {
        Buffer b = read(rel, block);
        use(b == InvalidBuffer ? nullptr : static_cast<const char *>(BufferGetPage(b)));
        if (b != InvalidBuffer) ReleaseBuffer(b);
    }
    // Page accesses since the last call, for EXPLAIN (BUFFERS).
    void report_hits(Relation rel);

private:
    const char *load(Relation rel, BlockNumber block);
    Buffer read(Relation rel, BlockNumber block);
    void grow(BlockNumber block);

    uint64_t storage_;
    Oid relid_;
    BlockNumber blocks_;  // length of the relation when last asked
    BlockNumber size_;
    Buffer *map_;
    uint64_t hits_;
    uint64_t last_use_;
};

}  // namespace vkv::hnsw
