// Tiles in slots: where the planes of one are, and the way of a warp over the tiles of a unit of work.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/kv/tile_layout.h"
#include "core/offload/protocol.h"
#include "gpu/cuda/codes.cuh"
#include "gpu/cuda/plan.h"
#include "gpu/cuda/target.h"

namespace vkv::gpu::cu {

// The planes of a tile in shared memory; as kv::tile_layout and view_tile have them, for dims that are multiples of 32.
struct TileInSlot {
    int32_t first;
    int tokens, v_rows;
    int k_means, v_means;
    const uint8_t *k, *k_high, *v, *v_high, *k_scale, *v_scale;

    template <kv::Codec codec, int dim_v>
    VKV_DEVICE void read(const uint8_t *slot, int dim_k)
    {
        using C = Codes<codec>;
        tokens = *reinterpret_cast<const uint16_t *>(slot + offsetof(kv::TileHeader, tokens));
        first = *reinterpret_cast<const int32_t *>(slot + offsetof(kv::TileHeader, first));
        k_means = slot[offsetof(kv::TileHeader, means_k)];
        v_means = slot[offsetof(kv::TileHeader, means_v)];
        v_rows = (tokens + C::kWord - 1) / C::kWord;
        k = slot + kv::kTileHeaderBytes;
        k_high = k + pad16(dim_k / C::kWord * tokens * 4);
        v = k_high + (C::kHigh ? pad16(dim_k / 32 * tokens * 4) : 0);
        v_high = v + v_rows * dim_v * 4;
        k_scale = v_high + (C::kHigh ? (tokens + 31) / 32 * dim_v * 4 : 0);
        v_scale = k_scale + pad16(2 * rows(C::groups(dim_k), C::kUniform) * tokens);
    }
    // Of K, then of V: all values, then all channels, a byte each.
    template <kv::Codec codec, int dim_v>
    VKV_DEVICE const uint8_t *means() const
    {
        using C = Codes<codec>;
        return v_scale + 2 * rows(C::groups(dim_v), C::kUniform) * tokens;
    }

private:
    static VKV_DEVICE int pad16(int bytes) { return (bytes + 15) & ~15; }
    static VKV_DEVICE int rows(int groups, bool minima) { return minima ? 2 * groups : groups; }
};

// A warp's way: every kWarps-th tile of a unit, from the warp's own. All lanes go the same way.
class TileWalk {
public:
    VKV_DEVICE TileWalk(const AttendUnit &unit, const Segment *first_segment, uint32_t warp)
        : segment_(first_segment),
          index_(unit.first_tile + warp),
          left_(unit.tiles > warp ? (unit.tiles - warp + kWarps - 1) / kWarps : 0)
    {
        find_segment();
    }
    VKV_DEVICE bool ended() const { return left_ == 0; }
    VKV_DEVICE const Segment &segment() const { return *segment_; }
    VKV_DEVICE uint32_t slot_index() const { return segment_->first_slot + index_; }
    VKV_DEVICE void next()
    {
        --left_;
        index_ += kWarps;
        find_segment();
    }

private:
    VKV_DEVICE void find_segment()
    {
        if (left_ == 0) return;
        while (index_ >= segment_->slots) index_ -= (segment_++)->slots;
    }
    const Segment *segment_;
    uint32_t index_;  // in the segment
    uint32_t left_;   // tiles
};

}  // namespace vkv::gpu::cu
