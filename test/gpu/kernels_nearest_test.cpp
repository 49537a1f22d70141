// The kernels of exact nearest vectors, run by the emulator: the cases of nearest_suite.h.
#include <gtest/gtest.h>

#include "device_emulated.h"
#include "gpu/cuda/nearest.cuh"
#include "nearest_suite.h"

namespace vkv::gpu::cu {
namespace {

void run_nearest(const suite::Search &s, const offload::NearestRequest &r, const float *queries, const float *vectors,
                 offload::Neighbor *results)
{
    const NearestBlocks blocks(r, s.most_distances);
    const Buffer distances(blocks.distances() * sizeof(float)), best(size_t{blocks.queries} * s.k * sizeof(uint64_t));
    NearestArguments all{};
    all.queries = queries, all.vectors = vectors, all.results = results;
    all.distances = reinterpret_cast<float *>(distances.data()), all.best = reinterpret_cast<uint64_t *>(best.data());
    nearest_on(Stream{}, r, blocks, all);
}

TEST(KernelsNearest, EverySearch)
{
    for (const suite::Search &search : suite::every_search()) EXPECT_EQ(suite::Searched(search, run_nearest).what_is_wrong(), "");
}

TEST(KernelsNearest, KeysOrderAsDistancesDo)
{
    const float inf = std::numeric_limits<float>::infinity();
    const float ascending[] = {-inf, -3e38f, -1, -1e-45f, 0, 1e-45f, 1, 3e38f, inf};
    for (size_t i = 1; i < std::size(ascending); i++) {
        EXPECT_LT(key_of(ascending[i - 1], UINT32_MAX - 1), key_of(ascending[i], 0));
        EXPECT_EQ(neighbor_of(key_of(ascending[i], 7)).distance, ascending[i]);
        EXPECT_EQ(neighbor_of(key_of(ascending[i], 7)).row, 7u);
    }
    EXPECT_EQ(key_of(-0.0f, 1), key_of(0.0f, 1));
    EXPECT_EQ(key_of(NAN, 1), key_of(inf, 1));
    EXPECT_LT(key_of(NAN, UINT32_MAX - 1), kNoKey);
}

}  // namespace
}  // namespace vkv::gpu::cu
