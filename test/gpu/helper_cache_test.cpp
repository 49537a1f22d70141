// The helper's books by themselves: slabs, slots and page tables.
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <stdexcept>

#include "gpu/page_tables.h"
#include "gpu/slab_pool.h"
#include "gpu/tile_cache.h"

namespace vkv::gpu {
namespace {

using offload::Entry;
using offload::Span;

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

constexpr TileKind kKind{64, 64, 1, 0};

uint32_t add(TileCache *cache, uint64_t id)
{
    const uint32_t slot = cache->take_private(id, kKind);
    if (slot == kNoSlot) return slot;
    cache->filled(slot, 100, 0);
    cache->unpin(slot);
    return slot;
}

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

// ---- page tables -------------------------------------------------------------------------------------------------------------

struct Tables {
    TileCache cache{64};
    PageTables tables{&cache};

    // Entries of ten tokens of one head over [from, to), ids by position and `version`.
    static std::vector<Entry> entries(int32_t from, int32_t to, uint64_t version = 0)
    {
        std::vector<Entry> out;
        for (int32_t p = from / 10 * 10; p < to; p += 10) out.push_back({version * 1000 + static_cast<uint64_t>(p) + 1, p, 10, 0});
        return out;
    }
    PageTables::Found find(int32_t from, int32_t to, int32_t entries_from, uint64_t version = 0, bool settle = false)
    {
        Span span{};
        span.extent = 5;
        span.from = from;
        span.to = to;
        span.entries_from = entries_from;
        const std::vector<Entry> brought = entries_from < to ? entries(entries_from, to, version) : std::vector<Entry>{};
        return tables.find(span, brought, kKind, settle);
    }
    // Fills every page of the table.
    void fill(Table *table)
    {
        cache.pin(table);
        for (uint32_t i = 0; i < table->heads[0].slots.size(); i++)
            if (table->heads[0].slots[i] == kNoSlot) cache.filled(cache.take_page(table, 0, i), 100, 2);
        cache.unpin(table);
    }
};

TEST(PageTables, GrowAtBothEnds)
{
    Tables t;
    EXPECT_EQ(t.find(100, 200, 200).wants, 100);  // nothing known
    Table *table = t.find(105, 200, 105).table;
    ASSERT_TRUE(table);
    EXPECT_EQ(table->begin(), 100);
    EXPECT_EQ(table->covered(), 200);
    t.fill(table);
    EXPECT_EQ(table->missing, 0u);
    EXPECT_EQ(table->codecs, 4u);
    EXPECT_EQ(t.find(105, 250, 250).wants, 200);
    EXPECT_EQ(t.find(105, 250, 200).table, table);
    EXPECT_EQ(table->missing, 5u);
    EXPECT_EQ(t.find(105, 290, 230).table, table);  // overlaps
    EXPECT_EQ(table->covered(), 290);
    EXPECT_EQ(t.find(50, 100, 100).wants, 50);
    EXPECT_EQ(t.find(50, 120, 50).table, table);
    EXPECT_EQ(table->begin(), 50);
    EXPECT_EQ(table->missing, 14u);
    // Pages kept their slots, and the slots their pages.
    t.fill(table);
    for (uint32_t i = 0; i < table->heads[0].slots.size(); i++) {
        const uint32_t slot = table->heads[0].slots[i];
        EXPECT_EQ(t.cache[slot].table, table);
        EXPECT_EQ(t.cache[slot].id, i);
        EXPECT_EQ(table->heads[0].entries[i].first, 50 + 10 * static_cast<int32_t>(i));
    }
    EXPECT_EQ(t.tables.entries(), 24u);
}

TEST(PageTables, Gaps)
{
    Tables t;
    Table *table = t.find(0, 50, 0).table;
    EXPECT_EQ(t.find(100, 150, 100).wants, 50);                // what lies between is asked for
    EXPECT_EQ(t.find(100, 150, 100, 0, true).table, nullptr);  // or the span goes alone
    EXPECT_EQ(t.find(100, 150, 100, 0, true).wants, -1);
    EXPECT_EQ(t.find(100, 150, 50).table, table);
    Tables u;
    Table *behind = u.find(100, 150, 100).table;
    u.fill(behind);
    u.cache.pin(behind);
    const PageTables::Found before = u.find(0, 20, 0);  // a gap before a table that is in use
    EXPECT_EQ(before.table, nullptr);
    EXPECT_EQ(before.wants, -1);
    u.cache.unpin(behind);
    Table *fresh = u.find(0, 20, 0).table;
    ASSERT_TRUE(fresh);
    EXPECT_EQ(fresh->covered(), 20);
    EXPECT_EQ(u.cache.used(), 0u);
    EXPECT_EQ(u.tables.size(), 1u);
}

TEST(PageTables, Contradictions)
{
    Tables t;
    Table *table = t.find(0, 50, 0).table;
    t.fill(table);
    EXPECT_EQ(t.find(0, 60, 40, 1).wants, 0);  // other ids: everything is asked for
    t.cache.pin(table);
    EXPECT_EQ(t.find(0, 60, 0, 1).table, nullptr);
    EXPECT_EQ(t.find(0, 50, 50).table, table);
    t.cache.unpin(table);
    table = t.find(0, 60, 0, 1).table;
    ASSERT_TRUE(table);
    EXPECT_EQ(table->heads[0].entries[0].id, 1001u);
    EXPECT_EQ(t.cache.used(), 0u);
}

TEST(PageTables, TablesWithoutTilesGo)
{
    Tables t;
    Table *table = t.find(0, 50, 0).table;
    t.fill(table);
    t.tables.drop_emptied();
    EXPECT_EQ(t.tables.size(), 1u);
    for (uint64_t id = 0; id < 128; id++) add(&t.cache, 100000 + id);  // evicts all of it
    t.tables.drop_emptied();
    EXPECT_EQ(t.tables.size(), 0u);
    EXPECT_EQ(t.tables.entries(), 0u);
    EXPECT_EQ(t.find(0, 50, 50).wants, 0);
}

TEST(PageTables, ATableIsPinnedAsAWhole)
{
    Tables t;
    Table *table = t.find(0, 320, 0).table;  // half of the cache
    t.fill(table);
    t.cache.pin(table);
    t.cache.pin(table);
    EXPECT_EQ(t.cache.pinned(), 32u);
    for (uint64_t id = 0; id < 200; id++) add(&t.cache, 100000 + id);
    EXPECT_EQ(table->held, 32u);
    t.cache.unpin(table);
    EXPECT_EQ(t.cache.pinned(), 32u);
    t.cache.unpin(table);
    EXPECT_EQ(t.cache.pinned(), 0u);
    for (uint64_t id = 0; id < 200; id++) add(&t.cache, 200000 + id);
    EXPECT_EQ(table->held, 0u);
    EXPECT_EQ(table->missing, 32u);
    EXPECT_THROW(t.cache.unpin(table), std::logic_error);
}

// Entries that nobody has tiles for do not grow without end.
TEST(PageTables, ShedEntries)
{
    Tables t;
    for (uint64_t extent = 0; extent < 300; extent++) {
        Span span{};
        span.extent = extent;
        span.to = 100000;
        const std::vector<Entry> brought = Tables::entries(0, 100000);
        ASSERT_TRUE(t.tables.find(span, brought, kKind, false).table);
    }
    EXPECT_LE(t.tables.entries(), size_t{1} << 20);
    EXPECT_GE(t.tables.size(), 80u);
}

TEST(PageTables, Ranges)
{
    Table::Head head;
    head.entries = Tables::entries(100, 200);
    const auto range = [&](int32_t from, int32_t to) {
        const auto [begin, end] = head.range(from, to);
        return std::pair(begin, end);
    };
    EXPECT_EQ(range(100, 200), std::pair(0u, 10u));
    EXPECT_EQ(range(109, 111), std::pair(0u, 2u));
    EXPECT_EQ(range(110, 111), std::pair(1u, 2u));
    EXPECT_EQ(range(110, 120), std::pair(1u, 2u));
    EXPECT_EQ(range(119, 120), std::pair(1u, 2u));
    EXPECT_EQ(range(0, 100), std::pair(0u, 0u));
    EXPECT_EQ(range(0, 101), std::pair(0u, 1u));
    EXPECT_EQ(range(200, 300), std::pair(10u, 10u));
    EXPECT_EQ(range(199, 300), std::pair(9u, 10u));
}

}  // namespace
}  // namespace vkv::gpu
