// A small part of the tests of kernels, quick to compile and to run: what the test by mutation (mutate.py) runs for every barrier
// and wait that it takes away.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "device_emulated.h"
#include "gpu/cuda/nearest.cuh"

namespace vkv::gpu::cu {

AttendKernel *attend_kernel_64(kv::Codec codec)
{
    return codec == kv::Codec::f16        ? attend<kv::Codec::f16, 64>
           : codec == kv::Codec::rotated3 ? attend<kv::Codec::rotated3, 64>
                                          : nullptr;
}
AttendKernel *attend_kernel_96(kv::Codec codec) { return codec == kv::Codec::rotated4 ? attend<kv::Codec::rotated4, 96> : nullptr; }
AttendKernel *attend_kernel_128(kv::Codec) { return nullptr; }
AttendKernel *attend_kernel_256(kv::Codec) { return nullptr; }

namespace {

constexpr double kBudget = 1e-5;

void expect_right(kv::Codec codec, uint32_t dim_v, float bias = 0, int short_tile = 4)
{
    AsksFor asks;
    asks.codecs = {codec};
    asks.bias = bias;
    asks.dim_k = 64, asks.dim_v = dim_v;
    Work work(100, 3);
    const int full = kv::tile_capacity({codec, 0, 64, static_cast<int>(dim_v), 1});
    const TileRun &long_one = work.run(codec, asks, 0, 11 * full + 5);
    const TileRun &short_one = work.run(codec, asks, 0, 9, short_tile);
    work.head(asks, 11 * full + 5, {{&long_one, 0, 11 * full + 5}});
    work.spikes(64);
    work.head(asks, 9, {{&short_one, 0, 9}});
    run(&work, 3);
    EXPECT_LE(work.error(), kBudget) << kv::codec_name(codec) << " dim " << dim_v;
}

TEST(SmallKernels, Halves) { expect_right(kv::Codec::f16, 64); }
TEST(SmallKernels, ThreeBitsRotated) { expect_right(kv::Codec::rotated3, 64); }
TEST(SmallKernels, FourBitsRotatedByTwoHadamards) { expect_right(kv::Codec::rotated4, 96); }
TEST(SmallKernels, MeansOfChannels) { expect_right(kv::Codec::rotated4, 96, 10); }
// A tile that is shorter than the vector of its means: the one is read while the other is written.
TEST(SmallKernels, MeansOfShortTiles) { expect_right(kv::Codec::rotated4, 96, 100, 1); }

// Neighbors by l1, with scratch memory for so many distances.
void expect_nearest(uint32_t k, const std::vector<float> &queries, const std::vector<float> &vectors, uint32_t dim, uint64_t most)
{
    const auto count = static_cast<uint32_t>(queries.size() / dim), rows = static_cast<uint32_t>(vectors.size() / dim);
    offload::NearestRequest r{};
    r.metric = offload::Metric::l1;
    r.dim = dim, r.queries = count, r.rows = rows, r.k = k;
    const NearestBlocks blocks(r, most);
    const Buffer distances(blocks.distances() * sizeof(float)), best(size_t{count} * k * sizeof(uint64_t));
    std::vector<offload::Neighbor> got(size_t{count} * k);
    NearestArguments all{};
    all.queries = queries.data(), all.vectors = vectors.data(), all.results = got.data();
    all.distances = reinterpret_cast<float *>(distances.data()), all.best = reinterpret_cast<uint64_t *>(best.data());
    nearest_on(Stream{}, r, blocks, all);
    for (uint32_t q = 0; q < count; q++) {
        std::vector<std::pair<float, uint32_t>> all_rows;
        for (uint32_t row = 0; row < rows; row++) {
            float sum = 0;
            for (uint32_t d = 0; d < dim; d++) sum += std::fabs(queries[q * dim + d] - vectors[row * dim + d]);
            all_rows.emplace_back(sum, row);
        }
        all_rows.resize(std::max(rows, k), {INFINITY, UINT32_MAX});  // fewer rows than asked for
        std::sort(all_rows.begin(), all_rows.end());
        for (uint32_t i = 0; i < k; i++) {
            EXPECT_EQ(got[q * k + i].distance, all_rows[i].first) << "query " << q << " place " << i;
            EXPECT_EQ(got[q * k + i].row, all_rows[i].second) << "query " << q << " place " << i;
        }
    }
}

TEST(SmallKernels, Nearest)
{
    constexpr uint32_t kQueries = 3, kRows = 3000, kDim = 40;
    std::mt19937 random(5);
    std::uniform_int_distribution<int> whole(-3, 3);
    std::vector<float> queries(kQueries * kDim), vectors(kRows * kDim);
    for (float &x : queries) x = static_cast<float>(whole(random));
    for (float &x : vectors) x = static_cast<float>(whole(random));
    expect_nearest(20, queries, vectors, kDim, 1);
}

// Rounds of selection that find nothing, before some that find one row each.
TEST(SmallKernels, NearestComesLate)
{
    constexpr uint32_t kRound = kMostNearest;
    std::vector<float> vectors(6 * kRound);
    for (size_t i = 0; i < vectors.size(); i++) vectors[i] = 1000 + static_cast<float>(i);
    vectors[3 * kRound + 700] = 3;
    vectors[4 * kRound + 100] = 2;
    vectors[5 * kRound + 900] = 1;
    expect_nearest(3, {0}, vectors, 1, 1 << 20);
}

// The warp that knows the k-th is not the one that has the rows.
TEST(SmallKernels, NearestOfFewRows)
{
    std::vector<float> vectors(20);
    for (size_t i = 0; i < vectors.size(); i++) vectors[i] = static_cast<float>(i);
    expect_nearest(300, std::vector<float>(16, 3), vectors, 1, 1 << 20);
}

}  // namespace
}  // namespace vkv::gpu::cu
