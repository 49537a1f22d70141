// The exact k nearest vectors. Distances of a block of queries to a block of rows are computed in tiles of 64 x 64, sixteen to a
// thread, into scratch memory; then a block of threads for each query keeps the best of what it has seen in order.
//
// Selection works on keys that order as (distance, row) do: the float's bits made ascending above the row. Rows come 1024 at a
// time; only if one of them is nearer than the k-th so far are they sorted and merged, which gets rare soon.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/offload/crossover.h"
#include "core/offload/protocol.h"
#include "gpu/cuda/codes.cuh"
#include "gpu/cuda/target.h"

namespace vkv::gpu::cu {

using offload::kMostNearest;
inline constexpr uint32_t kNearestThreads = 256;
inline constexpr uint32_t kNearestTile = 64;
inline constexpr uint32_t kNearestDims = 16;                  // of a step
inline constexpr uint32_t kNearestStride = kNearestTile + 4;  // of a dim in shared memory: no two rows of a warp in one bank
inline constexpr uint32_t kDistanceSharedBytes = 2 * kNearestDims * kNearestStride * 4;
inline constexpr uint32_t kSelectSharedBytes = 2 * kMostNearest * 8 + 2 * kNearestThreads / kWarp * 4;

struct NearestArguments {
    const float *queries, *vectors;  // [queries][dim], [rows][dim]
    float *distances;                // [queries][rows]
    uint64_t *best;                  // keys [queries][k]
    offload::Neighbor *results;      // [queries][k]; null: not the last block of rows
    uint32_t dim, query_count, row_count, k;
    uint32_t first_row;  // number of vectors[0]; 0 begins
};

// 64 vectors' elements [dim, dim + 16) to shared memory, dim by dim; zeros where there are none.
VKV_DEVICE void load_vectors(float *shared, const float *vectors, uint32_t first, uint32_t count, uint32_t dim, uint32_t dims)
{
    for (uint32_t i = static_cast<uint32_t>(thread()); i < kNearestTile * kNearestDims; i += kNearestThreads) {
        const uint32_t d = i % kNearestDims, row = i / kNearestDims;
        const bool there = first + row < count && dim + d < dims;
        shared[d * kNearestStride + row] = there ? vectors[static_cast<uint64_t>(first + row) * dims + dim + d] : 0.0f;
    }
}

template <offload::Metric metric>
VKV_DEVICE float add_distance(float sum, float a, float b)
{
    if constexpr (metric == offload::Metric::l2_squared) return fmaf(a - b, a - b, sum);
    if constexpr (metric == offload::Metric::l1) return sum + fabsf(a - b);
    return fmaf(-a, b, sum);
}

template <offload::Metric metric>
VKV_KERNEL void VKV_BOUNDS(kNearestThreads, 3) distances(NearestArguments arguments)
{
    const uint32_t tiles = (arguments.row_count + kNearestTile - 1) / kNearestTile;
    const uint32_t first_query = static_cast<uint32_t>(block()) / tiles * kNearestTile;
    const uint32_t first_row = static_cast<uint32_t>(block()) % tiles * kNearestTile;
    auto *const queries = reinterpret_cast<float *>(shared_memory());
    float *const rows = queries + kNearestDims * kNearestStride;
    const auto x = static_cast<uint32_t>(thread()) % 16 * 4, y = static_cast<uint32_t>(thread()) / 16 * 4;  // rows, queries
    float sums[4][4] = {};
    for (uint32_t dim = 0; dim < arguments.dim; dim += kNearestDims) {
        load_vectors(queries, arguments.queries, first_query, arguments.query_count, dim, arguments.dim);
        load_vectors(rows, arguments.vectors, first_row, arguments.row_count, dim, arguments.dim);
        block_barrier();
        for (uint32_t d = 0; d < kNearestDims; ++d) {
            float q[4], v[4];
            for (int i = 0; i < 4; ++i) q[i] = queries[d * kNearestStride + y + static_cast<uint32_t>(i)];
            for (int i = 0; i < 4; ++i) v[i] = rows[d * kNearestStride + x + static_cast<uint32_t>(i)];
            for (int i = 0; i < 4; ++i)
                for (int j = 0; j < 4; ++j) sums[i][j] = add_distance<metric>(sums[i][j], q[i], v[j]);
        }
        block_barrier();
    }
    for (uint32_t i = 0; i < 4; ++i)
        for (uint32_t j = 0; j < 4; ++j)
            if (first_query + y + i < arguments.query_count && first_row + x + j < arguments.row_count)
                arguments.distances[static_cast<uint64_t>(first_query + y + i) * arguments.row_count + first_row + x + j] =
                    sums[i][j];
}

// ---- selection ------------------------------------------------------------------------------------------------------------

inline constexpr uint64_t kNoKey = ~uint64_t{0};

VKV_DEVICE uint32_t bits_of_float(float x)
{
    union {
        float f;
        uint32_t bits;
    } both{x};
    return both.bits;
}
VKV_DEVICE float float_of_bits(uint32_t bits)
{
    union {
        uint32_t bits;
        float f;
    } both{bits};
    return both.f;
}

VKV_DEVICE uint64_t key_of(float distance, uint32_t row)
{
    if (!(distance == distance)) distance = INFINITY;      // what cannot be compared is last
    const uint32_t bits = bits_of_float(distance + 0.0f);  // one zero
    const uint32_t ascending = bits ^ (bits >> 31 ? 0xFFFFFFFFu : 0x80000000u);
    return static_cast<uint64_t>(ascending) << 32 | row;
}

VKV_DEVICE offload::Neighbor neighbor_of(uint64_t key)
{
    if (key == kNoKey) return {INFINITY, UINT32_MAX};
    const auto ascending = static_cast<uint32_t>(key >> 32);
    return {float_of_bits(ascending ^ (ascending >> 31 ? 0x80000000u : 0xFFFFFFFFu)), static_cast<uint32_t>(key)};
}

// One stage of a bitonic network over 1024 keys: pairs at `distance`, ascending where bit `run` of the place is 0.
VKV_DEVICE void bitonic_stage(uint64_t *keys, uint32_t distance, uint32_t run, bool descending)
{
    for (uint32_t i = static_cast<uint32_t>(thread()); i < kMostNearest / 2; i += kNearestThreads) {
        const uint32_t low = i / distance * 2 * distance + i % distance;
        const bool down = ((low & run) != 0) != descending;
        const uint64_t a = keys[low], b = keys[low + distance];
        if ((a > b) != down) {
            keys[low] = b;
            keys[low + distance] = a;
        }
    }
    block_barrier();
}

// 1024 new keys (descending when sorted) into the 1024 best (ascending).
VKV_DEVICE void merge_keys(uint64_t *best, uint64_t *found)
{
    for (uint32_t run = 2; run <= kMostNearest; run *= 2)
        for (uint32_t distance = run / 2; distance > 0; distance /= 2) bitonic_stage(found, distance, run, true);
    for (uint32_t i = static_cast<uint32_t>(thread()); i < kMostNearest; i += kNearestThreads)
        if (found[i] < best[i]) best[i] = found[i];
    static_assert(kMostNearest / 2 % kNearestThreads == 0);  // the first stage takes what the same thread has written
    for (uint32_t distance = kMostNearest / 2; distance > 0; distance /= 2) bitonic_stage(best, distance, 2 * kMostNearest, false);
}

template <int = 0>
VKV_KERNEL void VKV_BOUNDS(kNearestThreads, 4) select_nearest(NearestArguments arguments)
{
    constexpr uint32_t kWarpsHere = kNearestThreads / kWarp;
    const auto query = static_cast<uint64_t>(block()), own = static_cast<uint64_t>(thread());
    auto *const best = reinterpret_cast<uint64_t *>(shared_memory());
    uint64_t *const found = best + kMostNearest;
    auto *const flags = reinterpret_cast<uint32_t *>(found + kMostNearest);  // [2][warps]: of this round and the one before
    const float *distances = arguments.distances + query * arguments.row_count;
    for (uint64_t i = own; i < kMostNearest; i += kNearestThreads)
        best[i] = i < arguments.k && arguments.first_row > 0 ? arguments.best[query * arguments.k + i] : kNoKey;
    block_barrier();
    for (uint32_t first = 0, round = 0; first < arguments.row_count; first += kMostNearest, round ^= 1) {
        const uint64_t worst = best[arguments.k - 1];
        uint64_t keys[kMostNearest / kNearestThreads];
        bool any = false;
        for (uint32_t i = 0; i < kMostNearest / kNearestThreads; ++i) {
            const uint32_t row = first + i * kNearestThreads + static_cast<uint32_t>(own);
            keys[i] = row < arguments.row_count ? key_of(distances[row], arguments.first_row + row) : kNoKey;
            any = any || keys[i] < worst;
        }
        any = warp_any(any);
        if (own % kWarp == 0) flags[round * kWarpsHere + own / kWarp] = any;
        block_barrier();
        any = false;
        for (uint32_t i = 0; i < kWarpsHere; ++i) any = any || flags[round * kWarpsHere + i] != 0;
        if (!any) continue;
        for (uint32_t i = 0; i < kMostNearest / kNearestThreads; ++i) found[i * kNearestThreads + own] = keys[i];
        block_barrier();
        merge_keys(best, found);
    }
    for (uint64_t i = own; i < arguments.k; i += kNearestThreads) {
        if (arguments.results)
            arguments.results[query * arguments.k + i] = neighbor_of(best[i]);
        else
            arguments.best[query * arguments.k + i] = best[i];
    }
}

// ---- launches -------------------------------------------------------------------------------------------------------------

// Scratch memory for a request: queries and rows are taken in blocks of these.
struct NearestBlocks {
    uint32_t queries, rows;
    NearestBlocks(const offload::NearestRequest &r, uint64_t most_distances)
    {
        queries = std::min<uint32_t>(r.queries, 2048);
        const uint64_t fit = std::max<uint64_t>(most_distances / queries / kMostNearest, 1) * kMostNearest;
        rows = static_cast<uint32_t>(std::min<uint64_t>(fit, (uint64_t{r.rows} / kMostNearest + 1) * kMostNearest));
    }
    uint64_t distances() const { return uint64_t{queries} * rows; }
};

template <offload::Metric metric>
void nearest_block(Stream stream, const NearestArguments &arguments)
{
    const uint32_t blocks =
        (arguments.query_count + kNearestTile - 1) / kNearestTile * ((arguments.row_count + kNearestTile - 1) / kNearestTile);
    if (blocks > 0)
        launch(distances<metric>, static_cast<int>(blocks), static_cast<int>(kNearestThreads), kDistanceSharedBytes, stream,
               arguments);
    launch(select_nearest<0>, static_cast<int>(arguments.query_count), static_cast<int>(kNearestThreads), kSelectSharedBytes,
           stream, arguments);
}

// Everything in the device's memory; distances: NearestBlocks::distances() floats, best: queries * k keys. k <= kMostNearest.
inline void nearest_on(Stream stream, const offload::NearestRequest &r, const NearestBlocks &blocks, NearestArguments all)
{
    offload::Neighbor *const results = all.results;
    const float *const queries = all.queries, *const vectors = all.vectors;
    all.dim = r.dim;
    all.k = r.k;
    for (uint32_t q = 0; q < r.queries; q += blocks.queries)
        for (uint64_t row = 0; row == 0 || row < r.rows; row += blocks.rows) {
            all.queries = queries + uint64_t{q} * r.dim;
            all.vectors = vectors + row * r.dim;
            all.query_count = std::min(blocks.queries, r.queries - q);
            all.row_count = static_cast<uint32_t>(std::min<uint64_t>(blocks.rows, r.rows - row));
            all.first_row = static_cast<uint32_t>(row);
            all.results = row + blocks.rows < r.rows ? nullptr : results + uint64_t{q} * r.k;
            switch (r.metric) {
                case offload::Metric::l2_squared:
                    nearest_block<offload::Metric::l2_squared>(stream, all);
                    break;
                case offload::Metric::negative_inner_product:
                    nearest_block<offload::Metric::negative_inner_product>(stream, all);
                    break;
                case offload::Metric::l1:
                    nearest_block<offload::Metric::l1>(stream, all);
                    break;
            }
        }
}

}  // namespace vkv::gpu::cu
