// The rotation of the rotated codecs (core/kv/rotation.h) for rows in shared memory, by all threads of a block or of a warp.
#pragma once
#include <cmath>
#include <cstdint>

#include "gpu/cuda/codes.cuh"
#include "gpu/cuda/plan.h"
#include "gpu/cuda/target.h"

namespace vkv::gpu::cu {

// Where the rows as they are lie in prepared queries: plan.h's plain_rows_at for kernels.
VKV_DEVICE uint32_t plain_rows_of(uint32_t dim_k) { return 32 * dim_k + static_cast<uint32_t>(sizeof(PreparedRows)); }

// A bit for each dim of the two sets: 1 is negative.
struct RotationSigns {
    uint64_t bits[2][kMostDim / 64];
};

// Who does it together.
struct BlockTeam {
    VKV_DEVICE static int rank() { return thread(); }
    VKV_DEVICE static int size() { return block_threads(); }
    VKV_DEVICE static void barrier() { block_barrier(); }
};
struct WarpTeam {
    VKV_DEVICE static int rank() { return thread() % kWarp; }
    VKV_DEVICE static int size() { return kWarp; }
    VKV_DEVICE static void barrier() { warp_barrier(); }
};

// Rows [rows][dim]; the caller has a barrier before and after.
struct SharedRows {
    float *x;
    int rows, dim;
};

VKV_DEVICE int hadamard_dims(int dim) { return dim == 96 ? 64 : dim; }  // of the dims that have a kernel

template <typename Team>
VKV_DEVICE void flip_signs(Team, const SharedRows &rows, const uint64_t *bits)
{
    for (int i = Team::rank(); i < rows.rows * rows.dim; i += Team::size()) {
        const int d = i % rows.dim;
        if (bits[d / 64] >> (d % 64) & 1) rows.x[i] = -rows.x[i];
    }
    Team::barrier();
}

// Over dims first .. first + p - 1 of each row.
template <typename Team>
VKV_DEVICE void hadamard(Team, const SharedRows &rows, int first, int p)
{
    for (int half = 1; half < p; half *= 2) {
        const float scale = 2 * half == p ? 1 / sqrtf(static_cast<float>(p)) : 1.0f;
        for (int i = Team::rank(); i < rows.rows * (p / 2); i += Team::size()) {
            const int pair = i % (p / 2);
            float *x = rows.x + i / (p / 2) * rows.dim + first + pair / half * 2 * half + pair % half;
            const float a = x[0], b = x[half];
            x[0] = (a + b) * scale;
            x[half] = (a - b) * scale;
        }
        Team::barrier();
    }
}

template <typename Team>
VKV_DEVICE void rotate_rows(Team team, const SharedRows &rows, const RotationSigns &signs)
{
    const int p = hadamard_dims(rows.dim);
    flip_signs(team, rows, signs.bits[0]);
    hadamard(team, rows, 0, p);
    if (p == rows.dim) return;
    flip_signs(team, rows, signs.bits[1]);
    hadamard(team, rows, rows.dim - p, p);
}

template <typename Team>
VKV_DEVICE void rotate_rows_back(Team team, const SharedRows &rows, const RotationSigns &signs)
{
    const int p = hadamard_dims(rows.dim);
    if (p != rows.dim) {
        hadamard(team, rows, rows.dim - p, p);
        flip_signs(team, rows, signs.bits[1]);
    }
    hadamard(team, rows, 0, p);
    flip_signs(team, rows, signs.bits[0]);
}

}  // namespace vkv::gpu::cu
