// The nearest of vectors by the search of core/nearest, on the CPU device's threads.
#pragma once
#include "core/offload/protocol.h"
#include "gpu/worker_pool.h"

namespace vkv::gpu {

void nearest_by_cpu(const offload::NearestRequest &request, const float *queries, const float *vectors, offload::Neighbor *results,
                    WorkerPool *pool);

}  // namespace vkv::gpu
