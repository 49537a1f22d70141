// Scores of 32 rows against 12 queries at a time, in registers: one table for each instruction set, chosen with simd's level.
//
// Rows and queries are interleaved by dimension, so that a step reads two vectors of rows and broadcasts the queries; products are
// summed in blocks of kBlock dimensions, which bounds the error of a sum of n terms to about min(n, kBlock) + n / kBlock roundings.
// A score is compared where it lies: only a bit of "near enough to be looked at" leaves the kernel.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/simd/kernels.h"

namespace vkv::nearest {

inline constexpr size_t kPanelRows = 32, kPanelQueries = 12, kBlock = 512;

struct Panel {
    const float *rows;     // [dim][kPanelRows], 64-aligned
    const float *queries;  // [dim][kPanelQueries]
    size_t dim;
    const float *scale, *offset;  // [kPanelRows]
    const float *limits;          // [kPanelQueries]
    uint32_t *found;              // [kPanelQueries]: bit i is set unless sum * scale[i] + offset[i] > limits[query]; NaN sets it
};

struct PanelKernels {
    void (*dot)(const Panel &);  // sum of products
    void (*l2)(const Panel &);   // of squared differences
    void (*l1)(const Panel &);   // of |differences|
};

const PanelKernels &panel_kernels(simd::Level level);

// Rows [kPanelRows][dim] to [dim][kPanelRows].
void interleave(const float *const rows[kPanelRows], size_t dim, float *out);

#if defined(__x86_64__)
extern const PanelKernels kAvx2Panels, kAvx512Panels;  // used only where simd::supported says so
#endif

}  // namespace vkv::nearest
