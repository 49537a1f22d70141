// Queries in the form that kernels of attention want them in: rotated where the codec is, every row scaled by a power of two so
// that its largest element is near the upper end of halves, as sums of two halves, in the order of a warp's lanes.
#pragma once
#include <cmath>
#include <cstdint>

#include "gpu/cuda/rotate.cuh"
#include "gpu/cuda/tile_work.cuh"

namespace vkv::gpu::cu {

struct PrepareArguments {
    const PrepareUnit *units;
    const HeadWork *heads;
    const Geometry *geometries;
    uint8_t *prepared;
    RotationSigns signs;
};

inline constexpr uint32_t kPrepareThreads = 128;
inline constexpr uint32_t kPrepareSharedBytes = kRowTile * (kMostDim + 1) * 4;  // rows, then a power of two for each

// For each row the power of two that brings its largest element to [2^13, 2^14).
VKV_DEVICE void row_powers(const SharedRows &rows, float *powers)
{
    const int lane = thread() % kWarp;
    for (int row = thread() / kWarp; row < rows.rows; row += block_threads() / kWarp) {
        float most = 0;
        for (int d = lane; d < rows.dim; d += kWarp) most = fmaxf(most, fabsf(rows.x[row * rows.dim + d]));
        for (int mask = 1; mask < kWarp; mask *= 2) most = fmaxf(most, shuffle_xor(most, mask));
        int exponent = 0;
        if (most > 0) frexpf(most, &exponent);
        exponent = 14 - exponent > 126 ? 126 : 14 - exponent < -126 ? -126 : 14 - exponent;
        if (lane == 0) powers[row] = ldexpf(1.0f, most > 0 ? exponent : 0);
    }
}

template <kv::Codec codec>
VKV_DEVICE void write_fragments(const SharedRows &rows, const float *powers, FourWords *out)
{
    using C = Codes<codec>;
    for (int i = thread(); i < rows.dim / 16 * kWarp; i += block_threads()) {
        const int lane = i % kWarp, step = i / kWarp, row = lane / 4;
        uint32_t parts[2][2];
        for (int reg = 0; reg < 2; ++reg) {
            float q[2];
            const int unit_reg = step % C::kSteps * 2 + reg;
            for (int half = 0; half < 2; ++half)
                q[half] = rows.x[row * rows.dim + C::dim_of(step / C::kSteps, lane % 4, unit_reg, half)] * powers[row] *
                          (C::sixteenth(unit_reg) ? 0.0625f : 1.0f);
            const uint32_t high = floats_to_half2(q[0], q[1]);
            parts[reg][0] = high;
            parts[reg][1] = floats_to_half2(q[0] - half_to_float(static_cast<uint16_t>(high)),
                                            q[1] - half_to_float(static_cast<uint16_t>(high >> 16)));
        }
        out[i] = {parts[0][0], parts[0][1], parts[1][0], parts[1][1]};
    }
}

VKV_DEVICE void write_fragments_for(uint32_t codec, const SharedRows &rows, const float *powers, FourWords *out)
{
    switch (static_cast<kv::Codec>(codec)) {
        case kv::Codec::f16:
            return write_fragments<kv::Codec::f16>(rows, powers, out);
        case kv::Codec::int8:
            return write_fragments<kv::Codec::int8>(rows, powers, out);
        case kv::Codec::uniform4:
            return write_fragments<kv::Codec::uniform4>(rows, powers, out);
        case kv::Codec::uniform3:
        case kv::Codec::uniform2:  // three bits are two and one: the same order
            return write_fragments<kv::Codec::uniform2>(rows, powers, out);
        case kv::Codec::rotated4:
            return write_fragments<kv::Codec::rotated4>(rows, powers, out);
        case kv::Codec::rotated3:
        case kv::Codec::rotated2:
            return write_fragments<kv::Codec::rotated2>(rows, powers, out);
    }
}

VKV_DEVICE void write_rows(const SharedRows &rows, const float *powers, const Geometry &geometry, float factor, PreparedRows *out)
{
    constexpr float kLog2e = 1.44269504f;
    if (thread() < rows.rows) {
        const float to_logit = geometry.softcap > 0 ? 1 / geometry.softcap : kLog2e;
        const float by = fabsf(geometry.scale) * to_logit * factor / powers[thread()];
        out->factor[thread()] = fmaxf(by, 1.17549435e-38f);  // hidden scores are -inf and stay so
        out->units[thread()] = powers[thread()] / factor;
    }
    constexpr int kGroups = kMostDim / 64;
    for (int i = thread(); i < rows.rows * kGroups; i += block_threads()) {
        const int row = i / kGroups, first = i % kGroups * 64;
        float sum = 0;
        for (int d = first; d < first + 64 && d < rows.dim; ++d) sum += rows.x[row * rows.dim + d];
        out->sums[row][i % kGroups] = sum * powers[row] / factor;
    }
}

// Over PrepareUnits: a template so that it may stand in several programs.
template <int = 0>
VKV_KERNEL void prepare(const VKV_IN_PLACE PrepareArguments arguments)
{
    const PrepareUnit unit = arguments.units[block()];
    const HeadWork &head = arguments.heads[unit.head];
    const Geometry &geometry = arguments.geometries[head.geometry];
    const SharedRows rows{reinterpret_cast<float *>(shared_memory()), kRowTile, static_cast<int>(geometry.dim_k)};
    float *powers = rows.x + kRowTile * kMostDim;
    const auto codec = static_cast<kv::Codec>(unit.codec);
    const bool rotated = codec >= kv::Codec::rotated4;
    const float sign = geometry.scale < 0 ? -1.0f : geometry.scale == 0 ? 0.0f : 1.0f;  // the factor is positive
    uint8_t *out = arguments.prepared + unit.prepared_at;
    auto *const plain = reinterpret_cast<float *>(out + plain_rows_of(geometry.dim_k));
    for (int i = thread(); i < rows.rows * rows.dim; i += block_threads()) {
        const bool there = unit.first_row + static_cast<uint32_t>(i / rows.dim) < geometry.rows;
        rows.x[i] = there ? sign * head.queries[unit.first_row * geometry.dim_k + static_cast<uint32_t>(i)] : 0.0f;
        plain[i] = rows.x[i];
    }
    block_barrier();
    if (rotated) rotate_rows(BlockTeam(), rows, arguments.signs);
    row_powers(rows, powers);
    block_barrier();
    write_fragments_for(unit.codec, rows, powers, reinterpret_cast<FourWords *>(out));
    write_rows(rows, powers, geometry, factor_of(codec), reinterpret_cast<PreparedRows *>(out + 32 * geometry.dim_k));
}

}  // namespace vkv::gpu::cu
