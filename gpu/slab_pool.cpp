// Runs of slabs, given and taken back.
#include "gpu/slab_pool.h"

#include <algorithm>
#include <stdexcept>

namespace vkv::gpu {

SlabPool::SlabPool(uint32_t slabs, uint32_t reserved)
    : slabs_(slabs),
      reserved_(reserved),
      most_in_runs_((slabs - reserved) / 4 * 3),
      most_singles_(std::max((slabs - reserved) / 2, 1u)),
      top_(slabs),
      taken_((slabs + 63) / 64)
{
}

void SlabPool::mark(uint32_t slab, bool on)
{
    if (slab < reserved_ || slab >= slabs_ || taken(slab) == on) throw std::logic_error("a slab was given or taken twice");
    taken_[slab / 64] ^= uint64_t{1} << (slab % 64);
}

uint32_t SlabPool::take_run(uint32_t count)
{
    if (count == 0 || count > most_in_runs_ - std::min(in_runs_, most_in_runs_)) return kNoSlab;
    uint32_t first = reserved_;
    for (uint32_t s = reserved_; s < slabs_; s++) {
        if (s % 64 == 0 && taken_[s / 64] == UINT64_MAX) {
            s += 63;
            first = s + 1;
        } else if (taken(s)) {
            first = s + 1;
        } else if (s + 1 - first == count) {
            for (uint32_t i = first; i <= s; i++) mark(i, true);
            in_runs_ += count;
            return first;
        }
    }
    return kNoSlab;
}

uint32_t SlabPool::take_one()
{
    if (singles_ >= most_singles_) return kNoSlab;
    while (top_ > reserved_) {
        const uint32_t s = top_ - 1;
        if (s % 64 == 63 && taken_[s / 64] == UINT64_MAX && s >= reserved_ + 64) {
            top_ -= 64;
            continue;
        }
        top_ = s;
        if (taken(s)) continue;
        mark(s, true);
        singles_++;
        return s;
    }
    return kNoSlab;
}

void SlabPool::give_run(uint32_t first, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) mark(first + i, false);
    in_runs_ -= count;
    top_ = std::max(top_, first + count);
}

void SlabPool::give_one(uint32_t slab)
{
    mark(slab, false);
    singles_--;
    top_ = std::max(top_, slab + 1);
}

}  // namespace vkv::gpu
