// The slow half of reading pages in place: finding a block's buffer, remembering it, and looking at a page when it is met for the
// first time.

#include "pg/hnsw/resident.h"

#include <algorithm>

namespace vkv::hnsw {

namespace {

constexpr int kRemembered = 16;
constinit Resident *residents[kRemembered] = {};
constinit uint64_t use_clock = 0;

}  // namespace

Resident *Resident::of(Relation rel)
{
    const uint64_t storage = compat::relation_storage(rel);
    int victim = 0;
    for (int i = 0; i < kRemembered; ++i) {
        Resident *r = residents[i];
        if (r && r->relid_ == RelationGetRelid(rel) && r->storage_ == storage) {
            r->last_use_ = ++use_clock;
            return r;
        }
        if (!residents[victim]) continue;
        if (!r || r->last_use_ < residents[victim]->last_use_) victim = i;
    }
    if (!residents[victim]) {
        residents[victim] =
            pg_call([] { return static_cast<Resident *>(MemoryContextAllocZero(TopMemoryContext, sizeof(Resident))); });
    }
    Resident *r = residents[victim];
    if (r->map_) pfree(r->map_);
    *r = Resident{};
    r->storage_ = storage;
    r->relid_ = RelationGetRelid(rel);
    r->last_use_ = ++use_clock;
    return r;
}

void Resident::grow(BlockNumber block)
{
    const BlockNumber size = std::max<BlockNumber>(64, std::max<BlockNumber>(block + 1, size_ + size_ / 2));
    pg_call([&] {
        const Size bytes = mul_size(size, sizeof(Buffer));
        Buffer *map = map_ ? static_cast<Buffer *>(repalloc_huge(map_, bytes))
                           : static_cast<Buffer *>(MemoryContextAllocHuge(TopMemoryContext, bytes));
        map_ = map;
    });
    std::fill(map_ + size_, map_ + size, InvalidBuffer);
    size_ = size;
}

Buffer Resident::read(Relation rel, BlockNumber block)
{
    if (block >= blocks_) {
        blocks_ = pg_call([&] { return RelationGetNumberOfBlocks(rel); });
        if (block >= blocks_) return InvalidBuffer;
    }
    if (block >= size_) grow(block);
    Buffer b = pg_call([&] { return ReadBuffer(rel, block); });
    map_[block] = b;
    return b;
}

const char *Resident::load(Relation rel, BlockNumber block)
{
    const Buffer b = read(rel, block);
    if (b == InvalidBuffer) return nullptr;
    const char *page = BufferGetPage(b);
    // A page's kind never changes, so it is enough to look when the page is met. An empty page was being added when the server went
    // down.
    const bool blank = PageIsNew(const_cast<char *>(page));
    if (!blank) {
        try {
            if (opaque_of(page)->page_id == kPageId && opaque_of(page)->kind != static_cast<uint8_t>(PageKind::nodes)) {
                ReleaseBuffer(b);
                map_[block] = InvalidBuffer;
                return nullptr;
            }
            check_page(rel, block, page, PageKind::nodes);
        } catch (...) {
            ReleaseBuffer(b);
            map_[block] = InvalidBuffer;
            throw;
        }
    }
    ReleaseBuffer(b);
    if (blank) {
        map_[block] = InvalidBuffer;
        return nullptr;
    }
    return page;
}

void Resident::report_hits(Relation rel)
{
    if (RelationUsesLocalBuffers(rel))
        pgBufferUsage.local_blks_hit += static_cast<int64>(hits_);
    else
        pgBufferUsage.shared_blks_hit += static_cast<int64>(hits_);
    hits_ = 0;
}

}  // namespace vkv::hnsw
