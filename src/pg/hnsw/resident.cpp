// The slow half of reading pages in place: remembering where blocks are, and looking at pages under locks.

#include "pg/hnsw/resident.h"

#include <algorithm>
#include <bit>

#include "pg/hnsw/hnsw.h"

namespace vkv::hnsw {

namespace {

constexpr int kRemembered = 16;
constexpr int kFewBuffers = 2048;  // with less of them, the time that a page may be read in place is too short
constinit Resident *residents[kRemembered] = {};
constinit uint64_t use_clock = 0;
constinit Buffer nothing[1] = {InvalidBuffer};
constinit size_t remembered_bytes = 0;

}  // namespace

constinit int Resident::looks_to_eviction = 0;

Resident *Resident::of(Relation rel)
{
    const compat::Storage storage = compat::relation_storage(rel);
    Resident *r = nullptr;
    int victim = 0;
    for (int i = 0; i < kRemembered && !r; ++i) {
        Resident *candidate = residents[i];
        if (candidate && candidate->relid_ == RelationGetRelid(rel) && candidate->storage_ == storage) r = candidate;
        if (!residents[victim]) continue;
        if (!candidate || candidate->last_use_ < residents[victim]->last_use_) victim = i;
    }
    if (!r) {
        if (!residents[victim]) {
            residents[victim] =
                pg_call([] { return static_cast<Resident *>(MemoryContextAllocZero(TopMemoryContext, sizeof(Resident))); });
            residents[victim]->map_ = nothing;
        }
        r = residents[victim];
        r->forget();
        r->storage_ = storage;
        r->relid_ = RelationGetRelid(rel);
        r->hits_ = 0;
        r->limit_ = RelationUsesLocalBuffers(rel) ? UINT64_MAX : ticks_of(static_cast<uint64_t>(NBuffers));
    }
    r->last_use_ = ++use_clock;
    r->replaying_ = RecoveryInProgress();
    r->begin();
    return r;
}

void Resident::forget()
{
    if (map_ != nothing) {
        remembered_bytes -= (static_cast<size_t>(mask_) + 1) * sizeof(Buffer);
        pfree(map_);
    }
    map_ = nothing;
    mask_ = 0;
}

// An entry for every block up to this one, if memory allows; blocks share entries otherwise.
void Resident::make_room(BlockNumber block)
{
    const size_t budget = static_cast<size_t>(settings.page_map_memory) * 1024;
    const size_t wanted = std::bit_ceil(std::max<size_t>(64, static_cast<size_t>(block) + 1));
    const size_t entries = std::min(wanted, std::bit_floor(budget / sizeof(Buffer)));
    const size_t have = map_ == nothing ? 0 : static_cast<size_t>(mask_) + 1;
    if (entries <= have) return;
    // What was used least goes first.
    const size_t more = entries * sizeof(Buffer);
    while (remembered_bytes - have * sizeof(Buffer) + more > budget) {
        Resident *oldest = nullptr;
        for (Resident *r : residents)
            if (r && r != this && r->map_ != nothing && (!oldest || r->last_use_ < oldest->last_use_)) oldest = r;
        if (!oldest) break;
        oldest->forget();
    }
    auto *map = pg_call([&] {
        return static_cast<Buffer *>(MemoryContextAllocExtended(TopMemoryContext, more, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO));
    });
    std::copy_n(map_, have, map);
    forget();
    map_ = map;
    mask_ = static_cast<BlockNumber>(entries - 1);
    remembered_bytes += more;
}

void Resident::remember(BlockNumber block, Buffer buffer)
{
    if (NBuffers < kFewBuffers && limit_ != UINT64_MAX) return;
    if (block > mask_ || map_ == nothing) make_room(block);
    if (map_ != nothing) map_[block & mask_] = buffer;
}

// Whether the page, which is locked, is one of nodes. It is remembered then: a page's kind never changes.
bool Resident::admit(Relation rel, BlockNumber block, const ReadPage &page)
{
    if (page.blank()) return false;  // it was being added when the server went down
    if (page.opaque()->page_id == kPageId && page.opaque()->kind != static_cast<uint8_t>(PageKind::nodes)) return false;
    check_page(rel, block, page.page(), PageKind::nodes);
    remember(block, page.buffer());
    return true;
}

void Resident::report_hits(Relation rel)
{
    if (RelationUsesLocalBuffers(rel))
        pgBufferUsage.local_blks_hit += static_cast<int64>(hits_);
    else
        pgBufferUsage.shared_blks_hit += static_cast<int64>(hits_);
    compat::count_hits(rel, static_cast<int64>(hits_));
    hits_ = 0;
}

// Reads the index's table, which has to be larger than shared buffers, until the sweep has taken the page's buffer.
void Resident::evict_for_test(Relation rel, BlockNumber block, const Look &at)
{
    if (--looks_to_eviction > 0) return;
    looks_to_eviction = settings.evict_after;
    pg_call([&] {
        Relation heap = table_open(rel->rd_index->indrelid, AccessShareLock);
        const BlockNumber blocks = RelationGetNumberOfBlocks(heap);
        for (int64 i = 0; i < int64{40} * NBuffers && compat::buffer_names(at.buffer, rel, block); ++i)
            ReleaseBuffer(ReadBuffer(heap, static_cast<BlockNumber>(i % blocks)));
        table_close(heap, AccessShareLock);
    });
}

}  // namespace vkv::hnsw
