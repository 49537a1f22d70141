// Which slabs of the arena are taken. Areas are runs from the bottom, slabs for staging come from the top, so that one does not cut
// the other to pieces; neither may take everything, so that a new client finds an area while others stage and the other way round.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace vkv::gpu {

inline constexpr uint32_t kNoSlab = UINT32_MAX;

class SlabPool {
public:
    SlabPool(uint32_t slabs, uint32_t reserved);  // the first `reserved` slabs are never given

    uint32_t take_run(uint32_t count);  // the first of them, or kNoSlab
    uint32_t take_one();
    void give_run(uint32_t first, uint32_t count);
    void give_one(uint32_t slab);

    uint32_t used() const { return in_runs_ + singles_; }
    uint32_t most_in_runs() const { return most_in_runs_; }  // what one area can have when there is no other
    uint32_t free_singles() const { return std::min(most_singles_ - singles_, slabs_ - reserved_ - used()); }

private:
    bool taken(uint32_t slab) const { return taken_[slab / 64] >> (slab % 64) & 1; }
    void mark(uint32_t slab, bool on);

    uint32_t slabs_, reserved_, in_runs_ = 0, singles_ = 0, most_in_runs_, most_singles_;
    uint32_t top_;  // no slab at or above it is free
    std::vector<uint64_t> taken_;
};

}  // namespace vkv::gpu
