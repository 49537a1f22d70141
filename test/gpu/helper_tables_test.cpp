// The helper's page tables by themselves.
#include <gtest/gtest.h>

#include <stdexcept>
#include <utility>
#include <vector>

#include "cache_cases.h"

namespace vkv::gpu {
namespace {

using offload::Entry;
using offload::Span;

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

// A page may be on its way while the table grows in front of it. Entries that touch continue a table as well as those that overlap.
TEST(PageTables, GrowWhileTilesAreBrought)
{
    Tables t;
    Table *table = t.find(100, 150, 100).table;
    t.cache.pin(table);
    const uint32_t slot = t.cache.take_page(table, 0, 1);
    EXPECT_EQ(t.find(50, 100, 50).table, table);
    EXPECT_EQ(table->heads[0].slots[6], slot | kFilling);
    t.cache.filled(slot, 100, 2);
    EXPECT_EQ(table->heads[0].slots[6], slot);
    EXPECT_EQ(table->heads[0].bytes[6], 100u);
    EXPECT_EQ(table->heads[0].slots[1], kNoSlot);
    EXPECT_EQ(table->missing, 9u);
    t.cache.drop(t.cache.take_page(table, 0, 0));  // never came
    EXPECT_EQ(table->missing, 9u);
    EXPECT_EQ(table->held, 1u);
    EXPECT_EQ(t.cache.pinned(), 1u);
    t.cache.drop(slot);
    EXPECT_EQ(table->missing, 10u);
    EXPECT_EQ(t.cache.pinned(), 0u);
    t.cache.unpin(table);
    EXPECT_EQ(t.cache.used(), 0u);
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
    EXPECT_TRUE(t.cache.take_emptied().empty());  // the one before is no more
    EXPECT_EQ(table->heads[0].entries[0].id, 1001u);
    EXPECT_EQ(t.cache.used(), 0u);
}

// What looks like a continuation and is none: a tile of another length under the same id, tiles that lie across the table's begin,
// tiles of another shape.
TEST(PageTables, OtherTilesAreNoContinuation)
{
    Tables t;
    Table *table = t.find(100, 150, 100).table;
    t.cache.pin(table);
    Span span{};
    span.extent = 5;
    span.from = 100;
    span.to = 160;
    span.entries_from = 140;
    const Entry longer[] = {{141, 140, 20, 0}};
    EXPECT_EQ(t.tables.find(span, longer, kKind, false).wants, 100);
    span.from = span.entries_from = 85;
    span.to = 105;
    const Entry across[] = {{900, 85, 10, 0}, {901, 95, 10, 0}};
    EXPECT_EQ(t.tables.find(span, across, kKind, false).table, nullptr);
    span.from = span.entries_from = 140;
    span.to = 150;
    const Entry same[] = {{141, 140, 10, 0}};
    EXPECT_EQ(t.tables.find(span, same, kKind, false).table, table);
    EXPECT_EQ(t.tables.find(span, same, {32, 32, 1, 0}, false).table, nullptr);
    EXPECT_EQ(table->begin(), 100);
    EXPECT_EQ(table->covered(), 150);
}

// Tables are forgotten when nothing is left of them and nobody is about to fill them.
TEST(PageTables, TablesInUseStayWithoutTiles)
{
    Tables t;
    Table *table = t.find(0, 50, 0).table;
    t.cache.pin(table);
    t.cache.drop(t.cache.take_page(table, 0, 0));
    t.tables.drop_emptied();
    ASSERT_EQ(t.tables.size(), 1u);
    t.cache.unpin(table);  // empty ...
    t.fill(table);         // ... and not any more
    t.tables.drop_emptied();
    ASSERT_EQ(t.tables.size(), 1u);
    EXPECT_EQ(table->held, 5u);
    Tables u;
    Table *never = u.find(0, 50, 0).table;
    u.cache.pin(never);
    u.cache.unpin(never);  // there was no room for its tiles
    u.tables.drop_emptied();
    EXPECT_EQ(u.tables.size(), 0u);
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
struct ManyTables : Tables {
    Table *find(uint64_t extent, bool brings)
    {
        Span span{};
        span.extent = extent;
        span.to = 100000;
        const std::vector<Entry> brought = brings ? entries(0, span.to) : std::vector<Entry>{};
        if (!brings) span.entries_from = span.to;
        return tables.find(span, brought, kKind, false).table;
    }
    static constexpr size_t kMost = size_t{1} << 20;  // entries: of 104 tables
};

TEST(PageTables, ShedEntries)
{
    ManyTables t;
    for (uint64_t extent = 0; extent < 300; extent++) ASSERT_TRUE(t.find(extent, true));
    EXPECT_LE(t.tables.entries(), ManyTables::kMost);
    EXPECT_GE(t.tables.size(), 80u);
}

TEST(PageTables, ShedWhatWasNotUsedForLongest)
{
    ManyTables t;
    std::vector<Table *> tables;
    for (uint64_t extent = 0; extent < 80; extent++) tables.push_back(t.find(extent, true));
    for (uint64_t extent = 0; extent < 70; extent++) t.cache.pin(tables[extent]);
    for (uint64_t id = 0; id < 70; id++) add(&t.cache, id);  // time passes by evictions
    for (uint64_t extent = 70; extent < 80; extent++) {
        t.cache.pin(tables[extent]);
        t.cache.unpin(tables[extent]);
    }
    for (uint64_t extent = 80; extent < 105; extent++) tables.push_back(t.find(extent, true));
    EXPECT_LT(t.tables.size(), 95u);
    for (uint64_t extent = 0; extent < 80; extent++) ASSERT_EQ(t.find(extent, false), tables[extent]) << extent;
    // Everything is in use: the table that is one too many stays all the same, it is about to be used.
    for (uint64_t extent = 80; extent < 105; extent++)
        if (Table *table = t.find(extent, false)) t.cache.pin(table);
    for (uint64_t extent = 70; extent < 80; extent++) t.cache.pin(tables[extent]);
    for (uint64_t extent = 1000; extent < 1100 && t.tables.entries() <= ManyTables::kMost; extent++)
        t.cache.pin(t.find(extent, true));
    ASSERT_GT(t.tables.entries(), ManyTables::kMost);
    const size_t before = t.tables.size();
    EXPECT_EQ(t.find(2000, true)->covered(), 100000);
    EXPECT_EQ(t.tables.size(), before + 1);
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
