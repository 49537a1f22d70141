// The only CUDA that kernels use. The same kernel source is compiled by nvcc, and by g++ against our emulator (gpu/emulator), which
// runs a block's threads in random order, poisons shared memory and finishes asynchronous copies only when they are waited for.
//
// A kernel is a function template `template <...> __global__ void name(Arguments)`, its arguments one trivially copyable struct.
// Shared memory is dynamic, from shared_memory(). Every barrier, wait and commit is one of the functions here, so that a test can
// take each away in turn and see that something fails.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define VKV_DEVICE __device__ __forceinline__
#define VKV_KERNEL __global__
#define VKV_BOUNDS(threads, blocks) \
    __launch_bounds__(threads, blocks)  // of a block, and blocks that a multiprocessor holds at once
#define VKV_UNROLL _Pragma("unroll")
#define VKV_IN_PLACE __grid_constant__  // of a kernel's arguments: const, and an array in them may be indexed without a copy

namespace vkv::gpu::cu {

using Stream = cudaStream_t;

extern __shared__ __align__(128) uint8_t dynamic_shared_memory[];
VKV_DEVICE uint8_t *shared_memory() { return dynamic_shared_memory; }

VKV_DEVICE int thread() { return static_cast<int>(threadIdx.x); }  // blocks are one-dimensional
VKV_DEVICE int block() { return static_cast<int>(blockIdx.x); }    // so are grids
VKV_DEVICE int block_threads() { return static_cast<int>(blockDim.x); }
VKV_DEVICE int blocks() { return static_cast<int>(gridDim.x); }

VKV_DEVICE void block_barrier() { __syncthreads(); }  // also orders shared memory
VKV_DEVICE void warp_barrier() { __syncwarp(); }

// 16 bytes from global to shared memory, both 16-aligned, finished by copy_wait.
VKV_DEVICE void copy_async(void *shared, const void *global)
{
    const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(global) : "memory");
}
VKV_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }  // closes a group of this thread
// All but the newest `pending` groups of this thread are finished; a barrier makes them visible to the others.
template <int pending>
VKV_DEVICE void copy_wait()
{
    asm volatile("cp.async.wait_group %0;\n" ::"n"(pending) : "memory");
}

template <typename T>
VKV_DEVICE T shuffle_xor(T value, int mask)
{
    return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <typename T>
VKV_DEVICE T shuffle(T value, int lane)
{
    return __shfl_sync(0xffffffffu, value, lane);
}
VKV_DEVICE bool warp_any(bool value) { return __any_sync(0xffffffffu, value) != 0; }

// d [16][8] += a [16][16] b [16][8]: halves in, floats out; fragments as PTX's mma.m16n8k16 has them (row.col).
VKV_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

VKV_DEVICE uint32_t byte_permute(uint32_t a, uint32_t b, uint32_t selector) { return __byte_perm(a, b, selector); }
VKV_DEVICE float half_to_float(uint16_t h) { return __half2float(__ushort_as_half(h)); }
VKV_DEVICE uint16_t float_to_half(float f) { return __half_as_ushort(__float2half_rn(f)); }
// Pairs of halves in a word: a * b + c, a + b, a - b.
VKV_DEVICE uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c)
{
    const __half2 r = __hfma2(*reinterpret_cast<const __half2 *>(&a), *reinterpret_cast<const __half2 *>(&b),
                              *reinterpret_cast<const __half2 *>(&c));
    return *reinterpret_cast<const uint32_t *>(&r);
}
VKV_DEVICE uint32_t half2_sub(uint32_t a, uint32_t b)
{
    const __half2 r = __hsub2(*reinterpret_cast<const __half2 *>(&a), *reinterpret_cast<const __half2 *>(&b));
    return *reinterpret_cast<const uint32_t *>(&r);
}
// a in the low half, b in the high one.
VKV_DEVICE uint32_t floats_to_half2(float a, float b)
{
    const __half2 r = __floats2half2_rn(a, b);
    return *reinterpret_cast<const uint32_t *>(&r);
}
// Two units in the last place; what is below the normal floats is 0.
VKV_DEVICE float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
VKV_DEVICE float tanh_exact(float x) { return tanhf(x); }

template <typename Kernel, typename Arguments>
void launch(Kernel *kernel, int blocks, int threads, size_t shared_bytes, cudaStream_t stream, const Arguments &arguments)
{
    kernel<<<blocks, threads, shared_bytes, stream>>>(arguments);
}

}  // namespace vkv::gpu::cu
#else
#include "gpu/emulator/emulator.h"

#define VKV_BOUNDS(threads, blocks)
#define VKV_UNROLL
#define VKV_IN_PLACE

namespace vkv::gpu::cu {

VKV_DEVICE uint32_t floats_to_half2(float a, float b) { return float_to_half(a) | static_cast<uint32_t>(float_to_half(b)) << 16; }

}  // namespace vkv::gpu::cu
#endif
