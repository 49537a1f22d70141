// Partial states of a row to its state, as kv::Accumulator::state gives it: a block for each row, a thread for every 128th dim.
// Sums over values of rotated codecs are merged apart from the others and turned back.
#pragma once
#include <cmath>
#include <cstdint>

#include "gpu/cuda/rotate.cuh"

namespace vkv::gpu::cu {

struct MergeArguments {
    const MergeUnit *units;
    const HeadWork *heads;
    const Geometry *geometries;
    const float *partials;
    RotationSigns signs;
};

inline constexpr uint32_t kMergeThreads = 128;
inline constexpr uint32_t kMergeSharedBytes = kMostDim * 4;

// Of one row, in a thread: the state of its dims.
struct MergedRow {
    static constexpr int kDims = static_cast<int>(kMostDim / kMergeThreads);
    float m = -INFINITY, l = 0;
    float o[2][kDims] = {};  // [rotated]

    VKV_DEVICE void add(const float *partial, uint32_t row, int dim_v, int rotated)
    {
        const float other = partial[row];
        if (other == -INFINITY) return;
        const float most = fmaxf(m, other), keep = exp2_fast(m - most), take = exp2_fast(other - most);
        m = most;
        l = l * keep + partial[kRowTile + row] * take;
        const float *from = partial + 2 * kRowTile + row * static_cast<uint32_t>(dim_v);
        for (int i = 0; i < kDims; ++i) {
            const int d = thread() + i * static_cast<int>(kMergeThreads);
            o[0][i] *= keep;
            o[1][i] *= keep;
            if (d < dim_v) o[rotated][i] += from[d] * take;
        }
    }
};

template <int = 0>
VKV_KERNEL void merge(const VKV_IN_PLACE MergeArguments arguments)
{
    const MergeUnit unit = arguments.units[block()];
    const HeadWork &head = arguments.heads[unit.head];
    const Geometry &geometry = arguments.geometries[head.geometry];
    const int dim_v = static_cast<int>(geometry.dim_v);
    const uint64_t stride = kRowTile * (2 + geometry.dim_v);
    const float *partial = arguments.partials + unit.partial_at;
    MergedRow row;
    for (uint32_t i = 0; i < unit.plain; ++i, partial += stride) row.add(partial, unit.row % kRowTile, dim_v, 0);
    for (uint32_t i = 0; i < unit.rotated; ++i, partial += stride) row.add(partial, unit.row % kRowTile, dim_v, 1);

    const SharedRows shared{reinterpret_cast<float *>(shared_memory()), 1, dim_v};
    if (unit.rotated > 0) {
        for (int i = 0; i < MergedRow::kDims; ++i) {
            const int d = thread() + i * static_cast<int>(kMergeThreads);
            if (d < dim_v) shared.x[d] = row.o[1][i];
        }
        block_barrier();
        rotate_rows_back(BlockTeam(), shared, arguments.signs);
    }
    // m in powers of e; what its rounding leaves over goes to l and o.
    constexpr float kLn2 = 0.693147182f, kLn2Rest = -1.90465421e-9f;
    const bool empty = row.m == -INFINITY;
    const float m = row.m * kLn2;
    const float by = empty ? 0.0f : 1 + (fmaf(row.m, kLn2, -m) + row.m * kLn2Rest);
    float *state = head.state;
    if (thread() == 0) {
        state[unit.row] = m;
        state[geometry.rows + unit.row] = empty ? 0.0f : row.l * by;
    }
    for (int i = 0; i < MergedRow::kDims; ++i) {
        const int d = thread() + i * static_cast<int>(kMergeThreads);
        if (d >= dim_v) continue;
        const float sum = row.o[0][i] + (unit.rotated > 0 ? shared.x[d] : 0.0f);
        state[2 * geometry.rows + unit.row * geometry.dim_v + static_cast<uint32_t>(d)] = empty ? 0.0f : sum * by;
    }
}

}  // namespace vkv::gpu::cu
