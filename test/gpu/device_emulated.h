// The kernels of gpu/cuda on the emulator, as tests start them. Scratch memory, outputs and what lies behind tiles in their slots
// is poisoned with NaN patterns.
#pragma once
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "gpu/cuda/run.h"
#include "kernel_cases.h"

namespace vkv::gpu::cu {

// Bytes at a multiple of 128, poisoned.
class Buffer {
public:
    explicit Buffer(size_t bytes) : memory_(static_cast<uint8_t *>(std::aligned_alloc(128, bytes / 128 * 128 + 256)))
    {
        if (!memory_) throw std::bad_alloc();
        std::memset(memory_.get(), 0xFF, bytes / 128 * 128 + 256);
    }
    uint8_t *data() const { return memory_.get(); }

private:
    struct Free {
        void operator()(uint8_t *p) const { std::free(p); }
    };
    std::unique_ptr<uint8_t, Free> memory_;
};

// Runs the batch as a device would that has room for `blocks` blocks at once.
inline void run_batch(const AttendBatch &batch, const std::vector<uint8_t> &memory, uint32_t blocks)
{
    Plan plan;
    plan.make(batch, blocks);
    const Buffer slots(memory.size()), prepared(plan.prepared_size), partials(plan.partial_size * sizeof(float));
    std::memcpy(slots.data(), memory.data(), memory.size());
    const PlacedBatch at{batch.heads.data(),    batch.geometries.data(),
                         batch.segments.data(), batch.slots.data(),
                         plan.prepares.data(),  plan.units.data(),
                         plan.merges.data(),    slots.data(),
                         prepared.data(),       reinterpret_cast<float *>(partials.data())};
    attend_on(Stream{}, plan, at);
}
inline void run(Work *work, uint32_t blocks) { run_batch(work->batch(), work->memory(), blocks); }

}  // namespace vkv::gpu::cu
