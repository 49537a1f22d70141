// What gpu/cuda/target.h offers under nvcc, for g++ and clang++: the same names on the emulated device of machine.h.
//
// Each function that a test can take away, or that must be reached by a whole warp or block, knows the line of the kernel that
// calls it, for messages.
#pragma once
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "gpu/emulator/arithmetic.h"
#include "gpu/emulator/machine.h"

#define VKV_DEVICE inline
#define VKV_KERNEL inline

// The line of the caller, as two parameters.
#define VKV_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace vkv::gpu::cu {

using Stream = std::nullptr_t;

VKV_DEVICE uint8_t *shared_memory() { return emulated::current->machine->shared; }

VKV_DEVICE int thread() { return emulated::current->index; }
VKV_DEVICE int block() { return emulated::current->machine->block; }
VKV_DEVICE int block_threads() { return emulated::current->machine->thread_count; }
VKV_DEVICE int blocks() { return emulated::current->machine->blocks; }

VKV_DEVICE void block_barrier(VKV_CALLER)
{
    if (emulated::mutation.hits({file, line})) return;
    emulated::current->machine->block_barrier({file, line});
}
VKV_DEVICE void warp_barrier(VKV_CALLER)
{
    if (emulated::mutation.hits({file, line})) return;
    emulated::current->machine->meet(emulated::Meeting::warp_barrier, {file, line});
}

VKV_DEVICE void copy_async(void *shared, const void *global, VKV_CALLER)
{
    emulated::current->machine->copy_async(shared, global, {file, line});
}
VKV_DEVICE void copy_commit(VKV_CALLER)
{
    if (emulated::mutation.hits({file, line})) return;
    emulated::Thread &thread = *emulated::current;
    thread.groups.push_back(static_cast<uint32_t>(thread.copies.size()));
}
template <int pending>
VKV_DEVICE void copy_wait(VKV_CALLER)
{
    static_assert(pending >= 0);
    const bool hit = emulated::mutation.hits({file, line});
    if (hit && !emulated::mutation.weaker) return;
    emulated::current->machine->copy_wait(hit ? pending + 1 : pending);
}

template <typename T>
VKV_DEVICE T shuffle(T value, int lane, VKV_CALLER)
{
    static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
    emulated::Thread &thread = *emulated::current;
    emulated::Warp &warp = thread.machine->warps[thread.index / emulated::kWarp];
    std::memcpy(&warp.values[warp.phase & 1][thread.index % emulated::kWarp], &value, sizeof value);
    const uint32_t phase = thread.machine->meet(emulated::Meeting::shuffle, {file, line});
    std::memcpy(&value, &warp.values[phase][lane & (emulated::kWarp - 1)], sizeof value);
    return value;
}
template <typename T>
VKV_DEVICE T shuffle_xor(T value, int mask, VKV_CALLER)
{
    return shuffle(value, (thread() ^ mask) & (emulated::kWarp - 1), file, line);
}
VKV_DEVICE bool warp_any(bool value, VKV_CALLER)
{
    emulated::Thread &thread = *emulated::current;
    emulated::Warp &warp = thread.machine->warps[thread.index / emulated::kWarp];
    warp.any[warp.phase & 1] |= value;
    return warp.any[thread.machine->meet(emulated::Meeting::any, {file, line})];
}

VKV_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], VKV_CALLER)
{
    emulated::Thread &thread = *emulated::current;
    emulated::Warp &warp = thread.machine->warps[thread.index / emulated::kWarp];
    warp.fragments[thread.index % emulated::kWarp] = {d, a, b};
    thread.machine->meet(emulated::Meeting::mma, {file, line});
}

VKV_DEVICE uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector) { return emulated::byte_permute(a, b, selector); }
VKV_DEVICE float half_to_float(uint16_t h) { return emulated::half_to_float(h); }
VKV_DEVICE uint16_t float_to_half(float f) { return emulated::float_to_half(f); }
VKV_DEVICE uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c) { return emulated::half2_fma(a, b, c); }
VKV_DEVICE uint32_t half2_sub(uint32_t a, uint32_t b) { return emulated::half2_sub(a, b); }
VKV_DEVICE float exp2_fast(float x) { return std::exp2(x); }
VKV_DEVICE float tanh_exact(float x) { return std::tanh(x); }

template <typename Kernel, typename Arguments>
void launch(Kernel *kernel, int blocks, int threads, size_t shared_bytes, Stream, const Arguments &arguments)
{
    static_assert(std::is_trivially_copyable_v<Arguments>);
    struct Call {
        Kernel *kernel;
        const Arguments *arguments;
    } call{kernel, &arguments};
    const auto body = [](const void *of) {
        const auto *call = static_cast<const Call *>(of);
        call->kernel(*call->arguments);
    };
    emulated::run_grid({body, &call, blocks, threads, shared_bytes});
}

}  // namespace vkv::gpu::cu

#undef VKV_CALLER
