// The helper's books by themselves: slabs and slots.
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <stdexcept>

#include "cache_cases.h"
#include "gpu/slab_pool.h"

namespace vkv::gpu {
namespace {

// ---- slabs -----------------------------------------------------------------------------------------------------------------

TEST(SlabPool, RunsFromTheBottomSinglesFromTheTop)
{
    SlabPool pool(401, 1);
    EXPECT_EQ(pool.take_run(10), 1u);
    EXPECT_EQ(pool.take_run(20), 11u);
    EXPECT_EQ(pool.take_one(), 400u);
    EXPECT_EQ(pool.take_one(), 399u);
    pool.give_run(1, 10);
    EXPECT_EQ(pool.take_run(11), 31u);
    EXPECT_EQ(pool.take_run(10), 1u);
    pool.give_one(400);
    EXPECT_EQ(pool.take_one(), 400u);
    EXPECT_EQ(pool.used(), 43u);
    EXPECT_THROW(pool.give_one(300), std::logic_error);
    EXPECT_THROW(pool.give_run(0, 1), std::logic_error);
}

TEST(SlabPool, NeitherTakesEverything)
{
    SlabPool pool(401, 1);
    EXPECT_EQ(pool.take_run(301), kNoSlab);
    EXPECT_EQ(pool.take_run(300), 1u);
    EXPECT_EQ(pool.take_run(1), kNoSlab);
    for (uint32_t i = 0; i < 100; i++) EXPECT_EQ(pool.take_one(), 400 - i);
    EXPECT_EQ(pool.free_singles(), 0u);
    EXPECT_EQ(pool.take_one(), kNoSlab);
    pool.give_run(1, 300);
    for (uint32_t i = 0; i < 100; i++) EXPECT_NE(pool.take_one(), kNoSlab);
    EXPECT_EQ(pool.take_one(), kNoSlab);
    EXPECT_EQ(pool.take_run(0), kNoSlab);
    EXPECT_NE(pool.take_run(200), kNoSlab);
}

TEST(SlabPool, AnyOrder)
{
    SlabPool pool(700, 3);
    std::vector<uint8_t> taken(700);
    std::vector<std::pair<uint32_t, uint32_t>> runs;
    std::mt19937 random(1);
    for (int i = 0; i < 20000; i++) {
        if (random() % 2 && !runs.empty()) {
            std::swap(runs[random() % runs.size()], runs.back());
            const auto [first, count] = runs.back();
            runs.pop_back();
            for (uint32_t s = first; s < first + std::max(count, 1u); s++) taken[s] = 0;
            count ? pool.give_run(first, count) : pool.give_one(first);
            continue;
        }
        const uint32_t count = random() % 3 ? random() % 70 + 1 : 0;
        const uint32_t first = count ? pool.take_run(count) : pool.take_one();
        if (first == kNoSlab) continue;
        for (uint32_t s = first; s < first + std::max(count, 1u); s++) {
            ASSERT_GE(s, 3u);
            ASSERT_FALSE(std::exchange(taken.at(s), 1)) << s;
        }
        runs.emplace_back(first, count);
    }
    uint32_t used = 0;
    for (const uint8_t t : taken) used += t;
    EXPECT_EQ(pool.used(), used);
}

// ---- slots -----------------------------------------------------------------------------------------------------------------

TEST(TileCache, UsedTilesGetASecondChance)
{
    TileCache cache(10);
    for (uint64_t id = 0; id < 10; id++) add(&cache, id);
    add(&cache, 10);  // everything is as old as everything else: the first goes
    EXPECT_EQ(cache.find(0), kNoSlot);
    for (const uint64_t id : {2u, 5u}) {
        cache.pin(cache.find(id));
        cache.unpin(cache.find(id));
    }
    for (uint64_t id = 11; id < 17; id++) add(&cache, id);
    EXPECT_NE(cache.find(2), kNoSlot);
    EXPECT_NE(cache.find(5), kNoSlot);
    for (const uint64_t id : {1u, 3u, 4u}) EXPECT_EQ(cache.find(id), kNoSlot) << id;
    for (uint64_t id = 17; id < 40; id++) add(&cache, id);
    EXPECT_EQ(cache.find(2), kNoSlot);  // not used again
    EXPECT_EQ(cache.used(), 10u);
    EXPECT_EQ(cache.evictions(), 30u);
}

// The hand does not walk around a cache of many slots to find the one that was not used for longest: it takes the best of those it
// has passed.
TEST(TileCache, TheHandStopsInTime)
{
    TileCache cache(200000);
    for (uint64_t id = 0; id < 200000; id++) add(&cache, id);
    add(&cache, 1000000);
    EXPECT_EQ(cache.find(0), kNoSlot);  // as old as all the others, and the first
    for (uint64_t id = 65537; id < 65540; id++) {
        cache.pin(cache.find(id));
        cache.unpin(cache.find(id));
    }
    add(&cache, 1000001);
    EXPECT_EQ(cache.find(65540), kNoSlot);  // the first from there on that is older than those
    for (const uint64_t id : {1u, 65537u, 65539u, 65541u}) EXPECT_NE(cache.find(id), kNoSlot) << id;
}

// Nor around pinned slots, to find the few that are not: of a private tile, or of a table.
TEST(TileCache, TheHandPassesFewPinnedSlots)
{
    constexpr uint32_t kSlots = 400000, kTable = 10;
    constexpr uint64_t kMost = 65537;
    TileCache cache(kSlots);
    Table table;
    table.heads.resize(2);
    for (Table::Head &head : table.heads) {
        head.slots.resize(kTable, kNoSlot);
        head.bytes.resize(kTable);
    }
    cache.pin(&table);
    for (uint32_t i = 0; i < kTable; i++) cache.filled(cache.take_page(&table, i % 2, i / 2), 100, 0);
    for (uint64_t id = 0; id < kSlots - kTable; id++) {
        add(&cache, id);
        if (id != 200000) cache.pin(cache.find(id));
    }
    cache.pin(cache.find(200000));
    const auto add_pinned = [&](uint64_t id) {
        const uint64_t steps = cache.steps();
        EXPECT_NE(cache.take_private(id, kKind), kNoSlot) << id;
        EXPECT_LE(cache.steps() - steps, kMost) << id;
    };
    EXPECT_EQ(cache.take_private(kSlots, kKind), kNoSlot);
    cache.unpin(cache.find(300000));
    cache.unpin(cache.find(100000));
    add_pinned(kSlots);
    add_pinned(kSlots + 1);
    EXPECT_EQ(cache.find(100000), kNoSlot);
    EXPECT_EQ(cache.find(300000), kNoSlot);
    EXPECT_EQ(cache.take_private(kSlots + 2, kKind), kNoSlot);
    cache.unpin(&table);
    for (uint64_t i = 0; i < kTable; i++) add_pinned(kSlots + 2 + i);
    EXPECT_EQ(table.held, 0u);
    EXPECT_EQ(cache.take_emptied().size(), 1u);
    EXPECT_EQ(cache.take_private(kSlots + 100, kKind), kNoSlot);
}

TEST(TileCache, PinnedTilesStay)
{
    TileCache cache(4);
    for (uint64_t id = 0; id < 4; id++) add(&cache, id);
    for (uint64_t id = 0; id < 3; id++) cache.pin(cache.find(id));
    cache.pin(cache.find(0));
    EXPECT_EQ(cache.available(), 1u);
    for (uint64_t id = 10; id < 20; id++) EXPECT_NE(add(&cache, id), kNoSlot);
    for (uint64_t id = 0; id < 3; id++) EXPECT_NE(cache.find(id), kNoSlot);
    cache.pin(cache.find(19));
    EXPECT_EQ(add(&cache, 20), kNoSlot);
    cache.unpin(cache.find(0));
    EXPECT_EQ(cache.available(), 0u);  // it was pinned twice
    cache.unpin(cache.find(0));
    EXPECT_EQ(cache.available(), 1u);
    EXPECT_NE(add(&cache, 20), kNoSlot);
    EXPECT_EQ(cache.find(0), kNoSlot);
}

TEST(TileCache, KindsAreRemembered)
{
    TileCache cache(4);
    EXPECT_TRUE(cache.is_kind(add(&cache, 1), kKind));
    EXPECT_FALSE(cache.is_kind(cache.find(1), {64, 64, 2, 0}));
    uint16_t dim = 1;
    while (cache.remember({dim, dim, 1, 0})) ASSERT_LT(++dim, 10000);
    EXPECT_TRUE(cache.remember(kKind));
}

}  // namespace
}  // namespace vkv::gpu
