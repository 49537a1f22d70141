// The launches of a planned batch, on a device or on the emulator of one: the same code for both.
#pragma once
#include <cstdint>

#include "core/kv/rotation.h"
#include "gpu/cuda/attend_kernels.h"
#include "gpu/cuda/merge.cuh"
#include "gpu/cuda/plan.h"
#include "gpu/cuda/prepare.cuh"

namespace vkv::gpu::cu {

// Where a plan's arrays and the batch's lie for the kernels.
struct PlacedBatch {
    const HeadWork *heads;
    const Geometry *geometries;
    const Segment *segments;
    const uint32_t *slots;
    const PrepareUnit *prepares;
    const AttendUnit *units;
    const MergeUnit *merges;
    const uint8_t *memory;  // slots of 8 KiB, 16-aligned
    uint8_t *prepared;      // Plan::prepared_size bytes, 16-aligned
    float *partials;        // Plan::partial_size floats
};

inline RotationSigns signs_of_rotation()
{
    RotationSigns signs{};
    for (int set = 0; set < 2; ++set)
        for (uint32_t d = 0; d < kMostDim; ++d)
            if (kv::rotation_signs(set)[d]) signs.bits[set][d / 64] |= uint64_t{1} << (d % 64);
    return signs;
}

// Returns how many kernels were launched.
inline uint32_t attend_on(Stream stream, const Plan &plan, const PlacedBatch &at)
{
    const RotationSigns signs = signs_of_rotation();
    uint32_t launches = 0;
    if (!plan.prepares.empty()) {
        launch(prepare<0>, static_cast<int>(plan.prepares.size()), kPrepareThreads, kPrepareSharedBytes, stream,
               PrepareArguments{at.prepares, at.heads, at.geometries, at.prepared, signs});
        ++launches;
    }
    for (const AttendLaunch &l : plan.launches) {
        launch(attend_kernel(l.codec, l.dim_v), static_cast<int>(l.units), static_cast<int>(kBlockThreads),
               attend_shared_bytes(l.most_dim_k), stream,
               AttendArguments{at.units + l.first_unit, at.heads, at.geometries, at.segments, at.slots, at.memory, at.prepared,
                               at.partials, signs});
        ++launches;
    }
    if (!plan.merges.empty()) {
        launch(merge<0>, static_cast<int>(plan.merges.size()), kMergeThreads, kMergeSharedBytes, stream,
               MergeArguments{at.merges, at.heads, at.geometries, at.partials, signs});
        ++launches;
    }
    return launches;
}

}  // namespace vkv::gpu::cu
