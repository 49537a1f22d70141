// Plans of batches: every tile of every row tile is worked on once for each codec, blocks are as many as asked for and not too
// small.
#include <gtest/gtest.h>

#include <bit>
#include <map>
#include <random>
#include <tuple>

#include "gpu/cuda/plan.h"

namespace vkv::gpu::cu {
namespace {

// Heads of given numbers of tiles in a few segments.
AttendBatch batch_of(const std::vector<uint32_t> &tiles, uint32_t rows, uint32_t codecs, uint32_t dim_v = 128)
{
    AttendBatch batch;
    Geometry g;
    g.rows = rows, g.dim_k = 128, g.dim_v = dim_v, g.codecs = codecs;
    batch.geometries.push_back(g);
    for (const uint32_t count : tiles) {
        HeadWork head{};
        head.first_segment = static_cast<uint32_t>(batch.segments.size());
        for (uint32_t left = count; left > 0; head.segments++) {
            const uint32_t n = std::min(left, 37u);
            batch.segments.push_back({static_cast<uint32_t>(batch.slots.size()), n, 0, INT32_MAX});
            batch.slots.insert(batch.slots.end(), n, 0);
            left -= n;
        }
        batch.heads.push_back(head);
    }
    return batch;
}

void expect_complete(const AttendBatch &batch, const std::vector<uint32_t> &tiles, const Plan &plan)
{
    const Geometry &g = batch.geometries[0];
    std::map<std::tuple<uint32_t, uint32_t, kv::Codec>, uint32_t> seen;  // tiles of head, row tile, codec
    std::map<uint64_t, std::tuple<uint32_t, uint32_t, kv::Codec>> at;    // who writes a partial state
    std::map<uint64_t, const PrepareUnit *> prepared;
    for (const PrepareUnit &unit : plan.prepares) prepared[unit.prepared_at] = &unit;
    EXPECT_EQ(prepared.size(), plan.prepares.size());
    for (const AttendLaunch &launch : plan.launches)
        for (uint32_t i = launch.first_unit; i < launch.first_unit + launch.units; i++) {
            const AttendUnit &unit = plan.units[i];
            uint32_t &next = seen[{unit.head, unit.first_row, launch.codec}];
            EXPECT_EQ(unit.first_tile, next);
            EXPECT_GT(unit.tiles, 0u);
            next += unit.tiles;
            EXPECT_TRUE(at.insert({unit.partial_at, {unit.head, unit.first_row, launch.codec}}).second);
            const PrepareUnit *queries = prepared.at(unit.prepared_at);
            EXPECT_EQ(std::tie(queries->head, queries->first_row), std::tie(unit.head, unit.first_row));
            EXPECT_EQ(queries->codec, static_cast<uint32_t>(launch.codec));
            EXPECT_EQ(unit.several_codecs != 0, std::popcount(g.codecs) > 1);
        }
    for (const auto &[key, count] : seen) EXPECT_EQ(count, tiles[std::get<0>(key)]);
    size_t parts = 0, merged = 0;
    for (const uint32_t count : tiles)
        if (count > 0) parts += static_cast<size_t>(std::popcount(g.codecs)) * ((g.rows + kRowTile - 1) / kRowTile);
    EXPECT_EQ(seen.size(), parts);
    EXPECT_EQ(plan.merges.size(), tiles.size() * g.rows);
    for (const MergeUnit &unit : plan.merges)
        for (uint32_t i = 0; i < unit.plain + unit.rotated; i++) {
            const auto &[head, row, codec] = at.at(unit.partial_at + uint64_t{i} * partial_floats(g.dim_v));
            EXPECT_EQ(head, unit.head);
            EXPECT_EQ(row, unit.row / kRowTile * kRowTile);
            EXPECT_EQ(kv::is_rotated(codec), i >= unit.plain);
            merged++;
        }
    EXPECT_EQ(plan.partial_size, at.size() * partial_floats(g.dim_v));
    EXPECT_GE(merged, at.size());
}

TEST(Plan, EveryTileOnce)
{
    std::mt19937 random(3);
    Plan plan;  // used again and again, as a device does
    for (int round = 0; round < 200; round++) {
        std::vector<uint32_t> tiles(1 + random() % 20);
        for (uint32_t &count : tiles) count = random() % 4 == 0 ? 0 : 1 + static_cast<uint32_t>(random() % (round % 2 ? 2000 : 20));
        const uint32_t codecs = 1 + static_cast<uint32_t>(random() % 255), rows = 1 + static_cast<uint32_t>(random() % 40);
        const AttendBatch batch = batch_of(tiles, rows, codecs);
        plan.make(batch, 1 + static_cast<uint32_t>(random() % 400));
        expect_complete(batch, tiles, plan);
    }
}

TEST(Plan, FillsTheDeviceOnce)
{
    Plan plan;
    plan.make(batch_of({3000}, 4, 1), 396);
    EXPECT_GT(plan.units.size(), 300u);
    EXPECT_LE(plan.units.size(), 396u);
    plan.make(batch_of(std::vector<uint32_t>(64, 1000), 4, 1), 396);  // 162 tiles for each of 396 blocks: two waves
    EXPECT_GT(plan.units.size(), 700u);
    EXPECT_LE(plan.units.size(), 792u);
}

TEST(Plan, NoBlockOfAFewTiles)
{
    Plan plan;
    plan.make(batch_of({100}, 4, 1), 396);
    EXPECT_EQ(plan.units.size(), 13u);
    plan.make(batch_of({3, 1}, 4, 1), 396);
    EXPECT_EQ(plan.units.size(), 2u);
}

TEST(Plan, MoreHeadsThanBlocks)
{
    Plan plan;
    plan.make(batch_of(std::vector<uint32_t>(1000, 5), 4, 1), 100);
    EXPECT_EQ(plan.units.size(), 1000u);
}

TEST(Plan, EmptyBatch)
{
    Plan plan;
    plan.make({}, 100);
    EXPECT_TRUE(plan.units.empty() && plan.merges.empty() && plan.launches.empty());
}

}  // namespace
}  // namespace vkv::gpu::cu
