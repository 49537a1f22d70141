// How many blocks of attention a device runs at once.
#pragma once
#include <algorithm>
#include <cstdint>

#include "gpu/cuda/attend_kernels.h"
#include "gpu/cuda/cuda_memory.h"
#include "gpu/device.h"

namespace vkv::gpu::cu {

inline constexpr uint32_t kKernelDims[] = {64, 96, 128, 256};

class Occupancy {
public:
    // Of the current device. A block needs more than the 48 KiB of shared memory that any kernel may have: it is allowed them.
    explicit Occupancy(int processors)
    {
        for (size_t i = 0; i < std::size(kKernelDims); ++i) {
            int least = 0;
            for (int codec = 0; codec < kv::kCodecs; ++codec) {
                AttendKernel *const kernel = attend_kernel(static_cast<kv::Codec>(codec), kKernelDims[i]);
                const uint32_t bytes = attend_shared_bytes(kMostDim);
                check(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(bytes)),
                      "shared memory of attention");
                check(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributePreferredSharedMemoryCarveout,
                                           cudaSharedmemCarveoutMaxShared),
                      "shared memory of attention");
                int blocks = 0;
                check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, static_cast<int>(kBlockThreads), bytes),
                      "occupancy of attention");
                least = codec == 0 ? blocks : std::min(least, blocks);
            }
            blocks_[i] = static_cast<uint32_t>(std::max(least, 1) * processors);
        }
    }
    // The fewest of any kernel that the batch needs.
    uint32_t blocks(const AttendBatch &batch) const
    {
        uint32_t least = UINT32_MAX;
        for (const Geometry &g : batch.geometries)
            for (size_t i = 0; i < std::size(kKernelDims); ++i)
                if (kKernelDims[i] == g.dim_v) least = std::min(least, blocks_[i]);
        return least;
    }

private:
    uint32_t blocks_[std::size(kKernelDims)];
};

}  // namespace vkv::gpu::cu
