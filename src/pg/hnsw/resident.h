// Pages of an index read where they lie in shared buffers, without pin or lock: what a search does a thousand times.
//
// A pin and a share lock cost several times what scoring a code costs. A backend remembers which buffer held a block, and reads the
// page in place by this protocol, which is written here and nowhere else:
//
//   look       the buffer's tag names the block; (barrier) the buffer is valid and hot: its usage count is the highest there is
//   use        (barrier) what is wanted is copied or computed
//   look again (barrier) at the header of the buffer that was read, not of one that is found anew: it still names the block; and
//              little time has passed
//   else       all of it is thrown away and done again with the page pinned and its content locked in share mode
//
// Why what was used was the block's page. A buffer that gets another block has its tag changed first, with the valid bit taken
// away, and is valid again only when the new page is in it. So a tag that was seen before a valid header names what the buffer
// holds, and one that is seen unchanged afterwards has not been changed meanwhile - or was changed twice: to another block and back
// (A, B, A). To take the buffer from A, the clock sweep must come by once for each step of its usage count and once more: it goes
// round BM_MAX_USAGE_COUNT times, which is that often NBuffers steps, each of them an atomic addition to one and the same counter
// and two atomic changes of a header. None of that is done in less than 16 ticks of the processor's clock. So the whole of look,
// use and look again must be over within 16 NBuffers ticks (87 us at 3 GHz and 128 MB; a batch takes 4), a fifth of what even the
// first change would need. Only a superuser who evicts single buffers by hand is quicker. With less than 2,048 buffers that time
// would be too short for a batch, and all pages are pinned. A backend's own buffers (temporary tables) are exchanged by nobody
// else.
//
// What a reader may still see is a page in the middle of a change under somebody's exclusive lock:
//   - a node's code never changes while a link leads to it, and a list of links is whole words, old or new;
//   - a slot that vacuum freed and an insertion took again scores as what it is now or as garbage, which only misplaces a
//     candidate;
//   - replay makes a page valid, under its lock, before anything is in it. So during recovery the first look also wants a page
//     that is not locked exclusively: such a page is whole, and changes from one state to the next from then on.
// So every value read this way is a hint, checked against its bounds; what looks unused or broken is read again under a share lock
// before anything is said or left out; and everything that leaves a scan is read again under one (scan.cpp).
//
// Pages that are not hot are pinned when they are used, as PostgreSQL does with all pages: so the clock sweep sees what is in use,
// and the index's pages stay as long as others do that are used as much.
#pragma once

#include "pg/hnsw/pages.h"
#include "pg/hnsw/ticks.h"

namespace vkv::hnsw {

class Resident {
public:
    // This backend's memory of where the index's blocks are. Lives in TopMemoryContext; a few indexes are remembered at a time,
    // within vectorkv.page_map_memory.
    static Resident *of(Relation rel);

    // A page that is read in place.
    struct Look {
        const char *page;
        BufferDesc *buffer;
    };
    // The first look; false: the page can be had by locked() only.
    bool look(Relation rel, BlockNumber block, Look *at)
    {
        const Buffer b = map_[block & mask_];
        if (b == InvalidBuffer) return false;
        BufferDesc *buffer = compat::buffer_descriptor(b);
        if (!compat::buffer_names(buffer, rel, block)) return false;
        pg_read_barrier();
        if (!compat::buffer_hot(buffer)) return false;
        if (replaying_) {
            pg_read_barrier();
            if (compat::content_locked_exclusively(buffer)) return false;
        }
        *at = {BufferGetPage(b), buffer};
        ++hits_;
        if (__builtin_expect(looks_to_eviction != 0, 0)) evict_for_test(rel, block, *at);
        pg_read_barrier();
        return true;
    }
    // The second look.
    static bool same(Relation rel, BlockNumber block, const Look &at)
    {
        pg_read_barrier();
        return compat::buffer_names(at.buffer, rel, block) && compat::buffer_valid(at.buffer);
    }
    // The time that a look and its second look lie apart: begin() before the first of them, in_time() after the last. in_time() is
    // the next begin().
    void begin() { since_ = ticks(); }
    bool in_time()
    {
        const uint64_t before = since_;
        since_ = ticks();
        return since_ - before <= limit_;
    }

    // The whole protocol for one page: use(page) sees the page of a block of nodes, or null if there is none. It may be called
    // several times: what it saw last is what counts. True if that was under a lock.
    template <class Use>
    bool read(Relation rel, BlockNumber block, Use &&use)
    {
        for (int tries = 0; tries < 2; ++tries) {  // begin() may be long ago at the first
            Look at;
            if (!look(rel, block, &at)) break;
            use(at.page);
            if (same(rel, block, at) && in_time()) return false;
        }
        locked(rel, block, use);
        return true;
    }
    // Under a pin and a share lock. Nothing of the index may be locked by the caller.
    template <class Use>
    void locked(Relation rel, BlockNumber block, Use &&use)
    {
        if (!block_exists(rel, block)) return use(nullptr);
        ReadPage page(rel, block);
        use(admit(rel, block, page) ? page.page() : nullptr);
    }
    // Where the page probably is, for prefetching only; or null.
    const char *guess(BlockNumber block) const
    {
        const Buffer b = map_[block & mask_];
        return b == InvalidBuffer ? nullptr : static_cast<const char *>(BufferGetPage(b));
    }
    // Page accesses since the last call, for EXPLAIN (BUFFERS) and pg_statio_*.
    void report_hits(Relation rel);

    // For tests: after so many looks a page is evicted between look and use. Set by vectorkv.evict_after.
    static constinit int looks_to_eviction;

private:
    bool admit(Relation rel, BlockNumber block, const ReadPage &page);
    void remember(BlockNumber block, Buffer buffer);
    void make_room(BlockNumber block);
    void forget();
    static void evict_for_test(Relation rel, BlockNumber block, const Look &at);

    compat::Storage storage_;
    Oid relid_;
    bool replaying_;
    uint64_t limit_, since_;  // ticks
    // The buffer of block b is probably map_[b & mask_]; its tag says whether it is. Never null.
    Buffer *map_;
    BlockNumber mask_;
    uint64_t hits_;
    uint64_t last_use_;
};

}  // namespace vkv::hnsw
