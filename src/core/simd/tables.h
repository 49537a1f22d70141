// The kernel tables of the instruction sets, one per file. Only kernels.cpp chooses among them; a table may be used only after
// the processor was asked (simd::supported).
#pragma once
#include "core/simd/kernels.h"

namespace vkv::simd {

#if defined(__x86_64__)
extern const Kernels kAvx2Kernels;    // AVX2, FMA, F16C, POPCNT
extern const Kernels kAvx512Kernels;  // those and AVX-512 F, BW, VL, DQ, VNNI
#elif defined(__aarch64__)
extern const Kernels kNeonKernels;  // Armv8-A baseline
#endif

}  // namespace vkv::simd
