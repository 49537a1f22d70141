// Attention over tiles: a block works on a run of the tiles of one row tile (eight rows of queries), each of its warps on every
// fourth of them, with two buffers of a slot each: one is filled while the other is worked on. Warps need each other at the start,
// where the prepared queries arrive, and at the end, to merge.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "gpu/cuda/tile_work.cuh"

namespace vkv::gpu::cu {

struct AttendArguments {
    const AttendUnit *units;
    const HeadWork *heads;
    const Geometry *geometries;
    const Segment *segments;
    const uint32_t *slots;
    const uint8_t *memory;    // slots of 8 KiB
    const uint8_t *prepared;  // queries
    float *partials;
    RotationSigns signs;
};

inline constexpr uint32_t kBlockThreads = kWarps * kWarp;
inline constexpr uint32_t kBuffers = 2;  // of a warp
// A slot, and what the last chunk of a tile may read beyond it.
inline constexpr uint32_t kBufferBytes = static_cast<uint32_t>(offload::kSlabBytes) + 64;
inline constexpr uint32_t kBuffersBytes = kWarps * kBuffers * kBufferBytes;
constexpr uint32_t attend_shared_bytes(uint32_t dim_k) { return kBuffersBytes + plain_rows_at(dim_k); }

// Starts the copy of what a full tile has; the header that says how much of it this one has is in it.
VKV_DEVICE void copy_slot(uint8_t *shared, const uint8_t *slot, int bytes)
{
    VKV_UNROLL
    for (int i = 0; i < static_cast<int>(offload::kSlabBytes) / 16 / kWarp; ++i) {
        const int at = 16 * (i * kWarp + thread() % kWarp);
        if (at < bytes) copy_async(shared + at, slot + at);
    }
}

// Where several codecs or a window leave out tiles, their headers are looked at before they are copied.
struct TileFilter {
    bool on;
    uint8_t codec;
    int32_t window_first, sinks;  // what any row of the geometry sees
    VKV_DEVICE bool passes(const uint8_t *slot) const
    {
        if (!on) return true;
        if (slot[offsetof(kv::TileHeader, codec)] != codec) return false;
        const auto first = *reinterpret_cast<const int32_t *>(slot + offsetof(kv::TileHeader, first));
        const int tokens = *reinterpret_cast<const uint16_t *>(slot + offsetof(kv::TileHeader, tokens));
        return first + tokens > window_first || first < sinks;
    }
};

// A warp's state to memory: m [8], l [8], o [8][dim_v].
template <kv::Codec codec, int dim_v>
VKV_DEVICE void store_sums(WarpSums<codec, dim_v> &sums, float *out)
{
    using C = Codes<codec>;
    const int quad = thread() % 4, row = thread() % kWarp / 4;
    sums.l += shuffle_xor(sums.l, 1);
    sums.l += shuffle_xor(sums.l, 2);
    for (float &least : sums.least)
        if constexpr (C::kUniform) {
            least += shuffle_xor(least, 1);
            least += shuffle_xor(least, 2);
        }
    if (quad == 0) {
        out[row] = sums.m;
        out[kRowTile + row] = sums.l;
    }
    const float by = (C::kScaled ? sums.unit : 1.0f) * C::kFactor / 16384;
    float *o = out + 2 * kRowTile + row * dim_v + 4 * quad;
    VKV_UNROLL
    for (int pair = 0; pair < dim_v / 16; ++pair)
        for (int i = 0; i < 4; ++i)
            o[16 * pair + i] = fmaf(sums.o[pair][i], by, C::kUniform ? sums.least[C::kUniform ? pair / 4 : 0] : 0.0f);
}

// Of the block's warps: states one behind the other in shared memory, each in its warp's buffers.
template <int dim_v>
VKV_DEVICE void merge_warps(const uint8_t *shared, float *out)
{
    constexpr int kStride = static_cast<int>(kBuffers * kBufferBytes) / 4;  // floats
    const auto *states = reinterpret_cast<const float *>(shared);
    for (int i = thread(); i < static_cast<int>(kRowTile) * dim_v; i += kBlockThreads) {
        const int row = i / dim_v;
        float m = -INFINITY, l = 0, o = 0;
        for (int w = 0; w < static_cast<int>(kWarps); ++w) m = fmaxf(m, states[w * kStride + row]);
        const float at = m == -INFINITY ? 0 : m;
        for (int w = 0; w < static_cast<int>(kWarps); ++w) {
            const float by = exp2_fast(states[w * kStride + row] - at);
            l += by * states[w * kStride + kRowTile + row];
            o += by * states[w * kStride + 2 * kRowTile + i];
        }
        out[2 * kRowTile + i] = o;
        if (i % dim_v == 0) {
            out[row] = m;
            out[kRowTile + row] = l;
        }
    }
}

// What a multiprocessor holds: shared memory has room for three blocks from Hopper on, for two before.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
inline constexpr int kMostBlocks = 2;
#else
inline constexpr int kMostBlocks = 3;
#endif

template <kv::Codec codec, int dim_v>
VKV_KERNEL void VKV_BOUNDS(kBlockThreads, dim_v > 128 ? 2 : kMostBlocks) attend(const VKV_IN_PLACE AttendArguments arguments)
{
    const AttendUnit unit = arguments.units[block()];
    const HeadWork &head = arguments.heads[unit.head];
    const Geometry &geometry = arguments.geometries[head.geometry];
    const uint32_t warp = static_cast<uint32_t>(thread()) / kWarp, dim_k = geometry.dim_k;
    uint8_t *const own = shared_memory() + warp * kBuffers * kBufferBytes;
    uint8_t *const prepared = shared_memory() + kBuffersBytes;

    const auto tile_bytes = static_cast<int>(unit.tile_bytes);
    TileFilter filter{unit.several_codecs != 0 || geometry.window > 0, static_cast<uint8_t>(codec), 0, geometry.sinks};
    if (geometry.window > 0)
        filter.window_first = head.total - static_cast<int32_t>(geometry.q_len) + 1 - geometry.window;  // of the first position
    TileWalk walk(unit, arguments.segments + head.first_segment, warp);
    const auto slot_of = [&] { return arguments.memory + offload::kSlabBytes * arguments.slots[walk.slot_index()]; };
    const auto find = [&] {
        while (!walk.ended() && !filter.passes(slot_of())) walk.next();
    };

    const uint32_t prepared_end = plain_rows_of(dim_k);
    for (uint32_t at = 16 * static_cast<uint32_t>(thread()); at < prepared_end; at += 16 * kBlockThreads)
        copy_async(prepared + at, arguments.prepared + unit.prepared_at + at);
    find();
    if (!walk.ended()) copy_slot(own, slot_of(), tile_bytes);
    copy_commit();
    copy_wait<0>();
    block_barrier();

    TileWork<codec, dim_v> work(prepared, static_cast<int>(dim_k), geometry.softcap);
    const RowSight sight = sight_of_row(geometry, head.total, unit.first_row + static_cast<uint32_t>(thread()) % kWarp / 4);
    const auto plain_rows = [&] {
        const uint32_t at = arguments.units[block()].prepared_at + plain_rows_of(dim_k);
        return reinterpret_cast<const float *>(arguments.prepared + at);
    };
    WarpSums<codec, dim_v> sums;
    for (uint32_t buffer = 0; !walk.ended(); buffer ^= 1) {
        const int32_t from = walk.segment().from, to = walk.segment().to;
        walk.next();
        find();
        if (!walk.ended()) copy_slot(own + (buffer ^ 1) * kBufferBytes, slot_of(), tile_bytes);
        copy_commit();
        work.add(own + buffer * kBufferBytes, from, to, sight, plain_rows, arguments.signs, sums);
        copy_wait<0>();
        warp_barrier();  // the other lanes' copies are there, and nobody reads the tile that was worked on
    }
    store_sums<codec, dim_v>(sums, reinterpret_cast<float *>(own));
    block_barrier();
    merge_warps<dim_v>(shared_memory(), arguments.partials + unit.partial_at);
}

}  // namespace vkv::gpu::cu
