// The rotation of the rotated codecs (core/kv/rotation.h) for rows in shared memory, by all threads of a block.
#pragma once
#include <cmath>
#include <cstdint>

#include "gpu/cuda/plan.h"
#include "gpu/cuda/target.h"

namespace vkv::gpu::cu {

// A bit for each dim of the two sets: 1 is negative.
struct RotationSigns {
    uint64_t bits[2][kMostDim / 64];
};

// Rows [rows][dim]; the caller has a barrier before and after.
struct SharedRows {
    float *x;
    int rows, dim;
};

VKV_DEVICE int hadamard_dims(int dim) { return dim == 96 ? 64 : dim; }  // of the dims that have a kernel

VKV_DEVICE void flip_signs(const SharedRows &rows, const uint64_t *bits)
{
    for (int i = thread(); i < rows.rows * rows.dim; i += block_threads()) {
        const int d = i % rows.dim;
        if (bits[d / 64] >> (d % 64) & 1) rows.x[i] = -rows.x[i];
    }
    block_barrier();
}

// Over dims first .. first + p - 1 of each row.
VKV_DEVICE void hadamard(const SharedRows &rows, int first, int p)
{
    for (int half = 1; half < p; half *= 2) {
        const float scale = 2 * half == p ? 1 / sqrtf(static_cast<float>(p)) : 1.0f;
        for (int i = thread(); i < rows.rows * (p / 2); i += block_threads()) {
            const int pair = i % (p / 2);
            float *x = rows.x + i / (p / 2) * rows.dim + first + pair / half * 2 * half + pair % half;
            const float a = x[0], b = x[half];
            x[0] = (a + b) * scale;
            x[half] = (a - b) * scale;
        }
        block_barrier();
    }
}

VKV_DEVICE void rotate_rows(const SharedRows &rows, const RotationSigns &signs)
{
    const int p = hadamard_dims(rows.dim);
    flip_signs(rows, signs.bits[0]);
    hadamard(rows, 0, p);
    if (p == rows.dim) return;
    flip_signs(rows, signs.bits[1]);
    hadamard(rows, rows.dim - p, p);
}

VKV_DEVICE void rotate_rows_back(const SharedRows &rows, const RotationSigns &signs)
{
    const int p = hadamard_dims(rows.dim);
    if (p != rows.dim) {
        hadamard(rows, rows.dim - p, p);
        flip_signs(rows, signs.bits[1]);
    }
    hadamard(rows, 0, p);
    flip_signs(rows, signs.bits[0]);
}

}  // namespace vkv::gpu::cu
