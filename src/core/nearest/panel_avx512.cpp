// Panels for AVX-512: 2 vectors of rows by 12 queries, 24 of the 32 registers hold sums. Headers are limited to types and
// intrinsics, as in core/simd/kernels_avx2.cpp.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "core/nearest/panel.h"

namespace vkv::nearest {
namespace {

constexpr size_t kLanes = 16, kVectors = 2;
constexpr int kQueries = 12;

#include "core/nearest/panel_body.inl"

inline uint32_t bits_not_above(Vec value, Vec limit)
{
    return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(value), reinterpret_cast<__m512>(limit), _CMP_NGT_UQ);
}

}  // namespace

extern constinit const PanelKernels kAvx512Panels = {.dot = panel<Dot>, .l2 = panel<L2>, .l1 = panel<L1>};

}  // namespace vkv::nearest
