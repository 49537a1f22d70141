// A planned batch on its way to the device: its arrays one behind the other in pinned memory, moved by one copy.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "gpu/cuda/cuda_memory.h"
#include "gpu/cuda/run.h"

namespace vkv::gpu::cu {

class Upload {
public:
    // arena_offset: what the device's addresses of the arena have more than ours. The arrays may be used until the next call, which
    // must wait for the stream.
    PlacedBatch place(const AttendBatch &batch, const Plan &plan, const uint8_t *slots, ptrdiff_t arena_offset, cudaStream_t stream)
    {
        heads_ = batch.heads;
        for (HeadWork &head : heads_) {
            head.queries = moved(head.queries, arena_offset);
            head.state = const_cast<float *>(moved(head.state, arena_offset));
        }
        size_t bytes = 0;
        visit(batch, plan, [&](const auto &array) { bytes += room_of(array); });
        uint8_t *const here = pinned_.reserve(bytes), *const there = device_.reserve(bytes);
        const void *at[7];
        size_t done = 0;
        int count = 0;
        visit(batch, plan, [&](const auto &array) {
            if (!array.empty()) std::memcpy(here + done, array.data(), array.size() * sizeof array[0]);
            at[count++] = there + done;
            done += room_of(array);
        });
        if (bytes > 0) check(cudaMemcpyAsync(there, here, bytes, cudaMemcpyHostToDevice, stream), "copy of a batch's plan");
        return {static_cast<const HeadWork *>(at[0]),
                static_cast<const Geometry *>(at[1]),
                static_cast<const Segment *>(at[2]),
                static_cast<const uint32_t *>(at[3]),
                static_cast<const PrepareUnit *>(at[4]),
                static_cast<const AttendUnit *>(at[5]),
                static_cast<const MergeUnit *>(at[6]),
                slots,
                prepared_.reserve(plan.prepared_size),
                reinterpret_cast<float *>(partials_.reserve(plan.partial_size * sizeof(float)))};
    }

private:
    static const float *moved(const float *p, ptrdiff_t by)
    {
        return reinterpret_cast<const float *>(reinterpret_cast<uintptr_t>(p) + static_cast<uintptr_t>(by));
    }
    template <typename T>
    static size_t room_of(const std::vector<T> &array)
    {
        static_assert(std::is_trivially_copyable_v<T>);
        return (array.size() * sizeof(T) + 255) / 256 * 256;
    }
    template <typename Visitor>
    void visit(const AttendBatch &batch, const Plan &plan, const Visitor &visitor) const
    {
        visitor(heads_);
        visitor(batch.geometries);
        visitor(batch.segments);
        visitor(batch.slots);
        visitor(plan.prepares);
        visitor(plan.units);
        visitor(plan.merges);
    }

    std::vector<HeadWork> heads_;
    PinnedMemory pinned_;
    DeviceMemory device_, prepared_, partials_;
};

}  // namespace vkv::gpu::cu
