// Exact nearest vectors on the CPU device: the search of core/nearest, its panels of queries divided among the threads.
#include "gpu/nearest_cpu.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/nearest/nearest.h"

namespace vkv::gpu {

namespace {

constexpr size_t kRowsAtOnce = 1024;

Metric metric_of(offload::Metric metric)
{
    switch (metric) {
        case offload::Metric::negative_inner_product:
            return Metric::ip;
        case offload::Metric::l1:
            return Metric::l1;
        default:
            return Metric::l2;
    }
}

// results [count][k]; what cannot be compared is last, and infinitely far.
void search_for(const offload::NearestRequest &r, const float *queries, size_t count, const float *vectors,
                offload::Neighbor *results)
{
    nearest::Search search({metric_of(r.metric), Scalar::f32, r.dim, r.k, queries, count});
    nearest::RowId ids[kRowsAtOnce];
    for (size_t row = 0; row < r.rows; row += kRowsAtOnce) {
        const size_t n = std::min(kRowsAtOnce, r.rows - row);
        for (size_t i = 0; i < n; i++) ids[i] = {row + i, 0};
        search.add(vectors + row * r.dim, ids, n);
    }
    constexpr float kFar = std::numeric_limits<float>::infinity();
    for (size_t q = 0; q < count; q++, results += r.k) {
        const std::vector<nearest::Neighbor> found = search.take_compared(q);
        std::fill(results + found.size(), results + r.k, offload::Neighbor{kFar, UINT32_MAX});
        for (size_t i = 0; i < found.size(); i++)
            results[i] = {std::isnan(found[i].distance) ? kFar : static_cast<float>(found[i].distance),
                          static_cast<uint32_t>(found[i].id)};
    }
}

}  // namespace

void nearest_by_cpu(const offload::NearestRequest &r, const float *queries, const float *vectors, offload::Neighbor *results,
                    WorkerPool *pool)
{
    // As few tasks as keep everybody busy: each interleaves the rows for itself.
    const size_t panels = (r.queries + nearest::kPanelQueries - 1) / nearest::kPanelQueries;
    const size_t each = (panels + pool->workers() - 1) / pool->workers() * nearest::kPanelQueries;
    pool->run((r.queries + each - 1) / each, false, [&](size_t number, unsigned) {
        const size_t first = number * each;
        search_for(r, queries + first * r.dim, std::min<size_t>(each, r.queries - first), vectors, results + first * r.k);
    });
}

}  // namespace vkv::gpu
