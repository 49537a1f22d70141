// Panels for AVX2 and FMA: 2 vectors of rows by 6 queries, 12 of the 16 registers hold sums. Headers are limited to types and
// intrinsics, as in core/simd/kernels_avx2.cpp.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "core/nearest/panel.h"

namespace vkv::nearest {
namespace {

constexpr size_t kLanes = 8, kVectors = 2;
constexpr int kQueries = 6;

#include "core/nearest/panel_body.inl"

inline uint32_t bits_not_above(Vec value, Vec limit)
{
    const __m256 above = _mm256_cmp_ps(reinterpret_cast<__m256>(value), reinterpret_cast<__m256>(limit), _CMP_NGT_UQ);
    return static_cast<uint32_t>(_mm256_movemask_ps(above));
}

}  // namespace

extern constinit const PanelKernels kAvx2Panels = {.dot = panel<Dot>, .l2 = panel<L2>, .l1 = panel<L1>};

}  // namespace vkv::nearest
