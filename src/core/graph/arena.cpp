// malloc with huge pages, then whatever the spill source gives.
#include "core/graph/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <new>

namespace vkv::graph {

Arena::Arena(size_t budget, Spill spill)
    : budget_(budget), chunk_bytes_(std::clamp(std::bit_floor(budget / 16), kLeastChunk, kChunk)), spill_(std::move(spill))
{
}

Arena::~Arena()
{
    for (void *p : owned_) std::free(p);
}

void *Arena::chunk(size_t bytes)
{
    if (used_ + bytes > budget_ && spill_) {
        spilled_ = true;
        used_ += bytes;
        return spill_(bytes);
    }
    const size_t align = bytes >= kChunk ? kChunk : 64;
    void *p = nullptr;
    if (posix_memalign(&p, align, bytes) != 0) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (align == kChunk)
        (void)madvise(p, bytes & ~(kChunk - 1), MADV_HUGEPAGE);  // random access over a large graph: fewer TLB misses
#endif
    std::memset(p, 0, bytes);
    owned_.push_back(p);
    used_ += bytes;
    return p;
}

void *Arena::allocate(size_t bytes)
{
    bytes = (bytes + 7) & ~size_t{7};
    if (bytes > chunk_bytes_ / 4) return chunk(bytes);
    if (bytes > open_left_) {
        open_ = static_cast<uint8_t *>(chunk(chunk_bytes_));
        open_left_ = chunk_bytes_;
    }
    void *p = open_;
    open_ += bytes;
    open_left_ -= bytes;
    return p;
}

}  // namespace vkv::graph
