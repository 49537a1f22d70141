// Panels for what every processor of the architecture has (SSE2, NEON): 2 vectors of 4 rows by 6 queries; and the choice.
#include "core/nearest/panel.h"

namespace vkv::nearest {
namespace {

constexpr size_t kLanes = 4, kVectors = 2;
constexpr int kQueries = 6;

#include "core/nearest/panel_body.inl"

inline uint32_t bits_not_above(Vec value, Vec limit)
{
    // A lane is -1 or 0. Read through memory: with checks of shifts and bounds, g++ 12 reads a subscript of a vector wrongly.
    const IVec compared = value > limit;
    int32_t above[kLanes];
    __builtin_memcpy(above, &compared, sizeof above);
    uint32_t bits = 0;
    for (size_t i = 0; i < kLanes; i++) bits |= static_cast<uint32_t>(above[i] + 1) << i;
    return bits;
}

constexpr PanelKernels kBaselinePanels = {.dot = panel<Dot>, .l2 = panel<L2>, .l1 = panel<L1>};

}  // namespace

// Four dimensions of four rows at a time, in registers: what is written stays within one cache line a dimension.
void interleave(const float *const rows[kPanelRows], size_t dim, float *out)
{
    const size_t whole = dim / kLanes * kLanes;
    for (size_t d = 0; d < whole; d += kLanes)
        for (size_t i = 0; i < kPanelRows; i += kLanes) {
            const Vec a = load(rows[i] + d), b = load(rows[i + 1] + d), c = load(rows[i + 2] + d), e = load(rows[i + 3] + d);
            const Vec ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
            const Vec ce_low = __builtin_shufflevector(c, e, 0, 4, 1, 5), ce_high = __builtin_shufflevector(c, e, 2, 6, 3, 7);
            const Vec columns[kLanes] = {
                __builtin_shufflevector(ab_low, ce_low, 0, 1, 4, 5), __builtin_shufflevector(ab_low, ce_low, 2, 3, 6, 7),
                __builtin_shufflevector(ab_high, ce_high, 0, 1, 4, 5), __builtin_shufflevector(ab_high, ce_high, 2, 3, 6, 7)};
            for (size_t j = 0; j < kLanes; ++j) __builtin_memcpy(out + (d + j) * kPanelRows + i, &columns[j], sizeof(Vec));
        }
    for (size_t d = whole; d < dim; ++d)
        for (size_t i = 0; i < kPanelRows; ++i) out[d * kPanelRows + i] = rows[i][d];
}

const PanelKernels &panel_kernels(simd::Level level)
{
#if defined(__x86_64__)
    if (level == simd::Level::avx512) return kAvx512Panels;
    if (level == simd::Level::avx2) return kAvx2Panels;
#endif
    static_cast<void>(level);
    return kBaselinePanels;
}

}  // namespace vkv::nearest
