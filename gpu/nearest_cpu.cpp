// Exact nearest vectors on the CPU device, by the distance kernels of core/simd.
#include "gpu/nearest_cpu.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/simd/kernels.h"

namespace vkv::gpu {

using offload::Metric;
using offload::Neighbor;

namespace {

constexpr size_t kQueriesAtOnce = 8;         // a task's: each vector is loaded once for them
constexpr size_t kBytesAtOnce = 128 * 1024;  // of vectors: they stay in the cache for all queries of a task

float distance(Metric metric, const simd::Kernels &kernels, const float *a, const float *b, size_t dim)
{
    float d = 0;
    switch (metric) {
        case Metric::l2_squared:
            d = kernels.l2_f32(a, b, dim);
            break;
        case Metric::negative_inner_product:
            d = -kernels.ip_f32(a, b, dim);
            break;
        case Metric::l1:
            d = kernels.l1_f32(a, b, dim);
            break;
    }
    return std::isnan(d) ? std::numeric_limits<float>::infinity() : d;  // what cannot be compared is last
}

bool nearer(const Neighbor &a, const Neighbor &b) { return a.distance != b.distance ? a.distance < b.distance : a.row < b.row; }

void offer(std::vector<Neighbor> *best, size_t k, const Neighbor &found)
{
    if (best->size() == k && !nearer(found, best->front())) return;
    if (best->size() == k) {
        std::pop_heap(best->begin(), best->end(), nearer);
        best->pop_back();
    }
    best->push_back(found);
    std::push_heap(best->begin(), best->end(), nearer);
}

}  // namespace

void nearest_by_cpu(const offload::NearestRequest &r, const float *queries, const float *vectors, Neighbor *results,
                    WorkerPool *pool)
{
    const simd::Kernels &kernels = simd::kernels();
    const size_t dim = r.dim, k = r.k;
    const size_t rows_at_once = std::max<size_t>(1, kBytesAtOnce / (dim * sizeof(float)));
    const auto task = [&](size_t number, unsigned) {
        const size_t first = number * kQueriesAtOnce, last = std::min<size_t>(first + kQueriesAtOnce, r.queries);
        std::vector<std::vector<Neighbor>> best(last - first);
        for (size_t block = 0; block < r.rows; block += rows_at_once)
            for (size_t q = first; q < last; q++)
                for (size_t row = block; row < std::min<size_t>(block + rows_at_once, r.rows); row++)
                    offer(&best[q - first], k,
                          {distance(r.metric, kernels, queries + q * dim, vectors + row * dim, dim), static_cast<uint32_t>(row)});
        for (size_t q = first; q < last; q++) {
            std::vector<Neighbor> &found = best[q - first];
            std::sort_heap(found.begin(), found.end(), nearer);
            found.resize(k, {std::numeric_limits<float>::infinity(), UINT32_MAX});
            std::copy(found.begin(), found.end(), results + q * k);
        }
    };
    pool->run((r.queries + kQueriesAtOnce - 1) / kQueriesAtOnce, false, task);
}

}  // namespace vkv::gpu
