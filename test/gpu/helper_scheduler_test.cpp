// The scheduler alone, on a device whose copies and launches the test lets go one by one: what happens before what is the test's
// choice, so what only storms would meet is met each time.
#include <gtest/gtest.h>

#include "scheduler_cases.h"

namespace vkv::gpu {
namespace {

using offload::FailureCode;
using offload::Verb;

// A token a tile, so that positions count tiles.
const Shape kTokens{kv::Codec::int8, 1, 64, 64, 1};

uint32_t next_ids = 1;
Extent tiles(int count) { return {kTokens, 0, count, 1, next_ids++}; }

constexpr uint64_t kFar = UINT64_MAX / 2;  // a deadline

// Deadlines pass by the clock, which no test can turn. So the requests' own are moved into the past, and a request of somebody else
// whose deadline has passed has the scheduler look at all of them in its next turn.
void let_expire(Desk *desk, const std::vector<Asker *> &late, const Extent &any)
{
    for (Asker *a : late) a->peer.request->header.deadline_us = 1;
    desk->asker().submit({{&any, 0, 0, 1}}, 1);
}

// Two requests hold a table and wait for tiles that a third one brings; a fourth, which finds no room, would make the table longer.
// The third expires, and the fourth gets its slots in the same turn, before the two are looked at again. Now the first of the two
// has no room as long as the second holds the table, with the fourth's tiles in it. The second is behind the first.
TEST(HelperScheduler, WhoComesBackFromWaitingDoesNotHoldWhatTheFirstNeeds)
{
    const Extent table = tiles(8), others = tiles(4);
    Desk desk(8);
    Asker &before = desk.asker(), &third = desk.asker(), &first = desk.asker(), &second = desk.asker(), &fourth = desk.asker();
    before.submit({{&table, 5, 0, 4}});
    ASSERT_TRUE(desk.answered(&before));

    third.submit({{&others, 0, 0, 4}}, kFar);
    first.submit({{&table, 5, 0, 4, 4}, {&others, 0, 0, 4}});
    second.submit({{&table, 5, 0, 4, 4}, {&others, 0, 0, 4}});
    fourth.submit({{&table, 5, 0, 8, 4}});
    desk.turn();
    ASSERT_EQ(third.stage(), Stage::staging);
    ASSERT_EQ(first.stage(), Stage::waiting);
    ASSERT_EQ(second.stage(), Stage::waiting);
    ASSERT_EQ(fourth.stage(), Stage::queued);

    let_expire(&desk, {&third}, others);
    desk.turn();
    ASSERT_FALSE(third.peer.request);
    ASSERT_EQ(fourth.stage(), Stage::staging);
    ASSERT_EQ(first.stage(), Stage::queued);
    ASSERT_EQ(second.stage(), Stage::queued);

    EXPECT_TRUE(desk.answered(&fourth));
    ASSERT_TRUE(desk.answered(&first)) << "it waits for those behind it";
    EXPECT_TRUE(desk.answered(&second));
    EXPECT_EQ(third.bring(), 4u);  // it did not know yet; the slabs go back
    EXPECT_TRUE(desk.at_rest());
}

// A request that is over stays as long as the device copies for it: its slots may not go to others, nor may it.
TEST(HelperScheduler, WhoLeavesWhileItsTilesAreCopied)
{
    const Extent some = tiles(4);
    Desk desk(4);
    Asker &leaves = desk.asker(), &stays = desk.asker();
    desk.device.copies.hold();
    leaves.submit({{&some, 0, 0, 4}}, 0, 1);  // a tile at a time
    for (int i = 0; i < 2; i++) {
        desk.turn();
        ASSERT_EQ(leaves.bring(), 1u);
    }
    desk.turn();
    desk.scheduler().leave(&leaves.peer);
    stays.submit({{&some, 0, 0, 4}});
    desk.turn();
    ASSERT_EQ(stays.stage(), Stage::waiting);
    const uint64_t slabs = desk.counters().slabs_used;
    desk.device.copies.let(1);
    ASSERT_TRUE(desk.until([&] { return desk.counters().slabs_used == slabs - 1; }));
    ASSERT_TRUE(leaves.peer.request);
    EXPECT_EQ(stays.stage(), Stage::waiting);
    desk.device.copies.open();
    EXPECT_TRUE(desk.answered(&stays));
    EXPECT_EQ(stays.brought, 2u);  // what was copied stayed, and is of use
    EXPECT_EQ(leaves.peer.first.slabs, 0u);
    EXPECT_TRUE(desk.at_rest());
}

// It is told at once, but what it says next has to wait.
TEST(HelperScheduler, WhoIsRefusedWhileItsTilesAreCopied)
{
    const Extent some = tiles(4);
    Desk desk(4);
    Asker &a = desk.asker();
    desk.device.copies.hold();
    a.submit({{&some, 0, 0, 4}}, kFar);
    desk.turn();
    EXPECT_FALSE(Scheduler::busy(a.peer));
    ASSERT_EQ(a.bring(), 4u);
    let_expire(&desk, {&a}, some);
    desk.turn();
    EXPECT_EQ(a.refusal(), FailureCode::expired);
    EXPECT_TRUE(Scheduler::busy(a.peer));
    desk.scheduler().leave(&a.peer);
    desk.turn();
    EXPECT_TRUE(a.peer.request);
    desk.device.copies.open();
    EXPECT_TRUE(desk.until([&] { return !a.peer.request; }));
    EXPECT_EQ(desk.counters().dropped, 0u);  // it had its answer
    EXPECT_TRUE(desk.at_rest());
}

TEST(HelperScheduler, NothingIsLentToWhoHasLeft)
{
    const Extent some = tiles(4);
    Desk desk(4);
    Asker &a = desk.asker();
    desk.device.copies.hold();
    a.submit({{&some, 0, 0, 4}}, 0, 1);
    desk.turn();
    ASSERT_EQ(a.bring(), 1u);  // the next could be lent
    const uint64_t slabs = desk.counters().slabs_used;
    desk.scheduler().leave(&a.peer);
    desk.turn();
    EXPECT_EQ(desk.counters().slabs_used, slabs);
    desk.device.copies.open();
    EXPECT_TRUE(desk.until([&] { return !a.peer.request; }));
    EXPECT_TRUE(desk.at_rest());
}

TEST(HelperScheduler, ATileAtATime)
{
    const Extent some = tiles(5);
    Desk desk(8);
    Asker &a = desk.asker();
    a.submit({{&some, 0, 0, 5}}, 0, 1);
    ASSERT_TRUE(desk.answered(&a));
    EXPECT_EQ(a.brought, 5u);
    EXPECT_EQ(a.figures().tiles, 5u);
    EXPECT_EQ(a.figures().hits, 0u);  // as it found the cache, not as it left it
    a.submit({{&some, 0, 0, 5}}, 0, 1);
    ASSERT_TRUE(desk.answered(&a));
    EXPECT_EQ(a.brought, 5u);
    EXPECT_EQ(a.figures().hits, 5u);
}

// Wherever a request waits, it does so to its deadline, and takes nothing along. The next deadline is known all the time.
TEST(HelperScheduler, EveryStageHasItsDeadline)
{
    const Extent here = tiles(2), coming = tiles(4), large = tiles(4);
    Desk desk(8);
    Asker &runs = desk.asker(), &ready = desk.asker(), &entries = desk.asker(), &brings = desk.asker(), &waits = desk.asker(),
          &queued = desk.asker();
    runs.submit({{&here, 0, 0, 2}});
    ASSERT_TRUE(desk.answered(&runs));
    desk.device.launches.hold();
    runs.submit({{&here, 0, 0, 2}}, kFar);
    desk.turn();
    ready.submit({{&here, 0, 0, 2}}, kFar + 1);
    entries.submit({{&large, 5, 0, 4, 4}}, kFar);
    brings.submit({{&coming, 0, 0, 4}}, kFar);
    waits.submit({{&coming, 0, 0, 4}}, kFar);
    queued.submit({{&large, 0, 0, 4}}, kFar);
    desk.turn();
    ASSERT_EQ(runs.stage(), Stage::running);
    ASSERT_EQ(ready.stage(), Stage::ready);
    ASSERT_EQ(entries.stage(), Stage::entries);
    ASSERT_EQ(brings.stage(), Stage::staging);
    ASSERT_EQ(waits.stage(), Stage::waiting);
    ASSERT_EQ(queued.stage(), Stage::queued);
    EXPECT_EQ(desk.scheduler().next_wake_us(), kFar);

    let_expire(&desk, {&entries, &brings, &waits, &queued}, here);
    desk.turn();
    EXPECT_EQ(desk.scheduler().next_wake_us(), kFar + 1);
    EXPECT_EQ(entries.message().verb, Verb::need);
    EXPECT_EQ(brings.bring(), 4u);
    for (Asker *a : {&entries, &brings, &waits, &queued}) {
        EXPECT_FALSE(a->peer.request);
        EXPECT_EQ(a->refusal(), FailureCode::expired);
    }
    EXPECT_EQ(ready.stage(), Stage::ready);
    let_expire(&desk, {&ready}, here);
    desk.turn();
    EXPECT_EQ(ready.refusal(), FailureCode::expired);
    EXPECT_EQ(desk.scheduler().next_wake_us(), UINT64_MAX);
    EXPECT_EQ(runs.stage(), Stage::running);
    EXPECT_EQ(desk.counters().expired, 7u);
    entries.submit({{&large, 5, 0, 4}});  // the answer to the need, of a request that is no more
    EXPECT_FALSE(entries.peer.request);
    desk.device.launches.open();
    EXPECT_TRUE(desk.answered(&runs));
    EXPECT_TRUE(desk.at_rest());
}

// What can never be done is said at once, not when those who are in the way have gone.
TEST(HelperScheduler, TooLargeWhileOthersAreServed)
{
    const Extent some = tiles(2), large = tiles(5);
    Desk desk(4);
    Asker &served = desk.asker(), &asks = desk.asker();
    served.submit({{&some, 0, 0, 2}});
    desk.turn();
    asks.submit({{&large, 0, 0, 5}});
    desk.turn();
    EXPECT_EQ(asks.refusal(), FailureCode::too_large);
    EXPECT_TRUE(desk.answered(&served));
    EXPECT_TRUE(desk.at_rest());
}

// A request that fails at one tile gives up those before it that it would have brought.
TEST(HelperScheduler, AnIdOfAnotherShape)
{
    const Extent some(kTokens, 0, 2, 1, 7), other({kv::Codec::int8, 1, 32, 32, 1}, 0, 2, 1, 7);  // the same ids
    Desk desk(4);
    Asker &a = desk.asker(), &b = desk.asker();
    a.submit({{&some, 0, 1, 2}});
    ASSERT_TRUE(desk.answered(&a));
    b.submit({{&other, 0, 0, 2}});
    desk.turn();
    EXPECT_EQ(b.refusal(), FailureCode::malformed);
    a.submit({{&some, 0, 0, 2}});
    EXPECT_TRUE(desk.answered(&a));
    EXPECT_EQ(a.brought, 2u);
    EXPECT_TRUE(desk.at_rest());
}

// A larger area is for one request. It goes back with the next, which lies in the client's own again.
TEST(HelperScheduler, TheLargeAreaIsForOneRequest)
{
    const Extent some = tiles(2), more = tiles(3);
    Desk desk(8);
    Asker &a = desk.asker();
    const uint64_t before = desk.counters().slabs_used;
    a.take_large_area();
    EXPECT_EQ(desk.counters().slabs_used, before + a.peer.large.slabs);
    a.submit({{&some, 0, 0, 2}});
    EXPECT_TRUE(desk.answered(&a));
    EXPECT_GT(a.peer.large.slabs, 0u);  // the answer lies there
    a.submit({{&more, 0, 0, 3}});
    EXPECT_TRUE(desk.answered(&a));
    EXPECT_EQ(desk.counters().slabs_used, before);
    a.take_large_area();
    desk.scheduler().area(&a.peer, 0);
    EXPECT_EQ(desk.counters().slabs_used, before);
}

// Both areas of a client that leaves are free, and so are the tiles that the helper brought to measure itself, but not those of
// them that somebody else uses.
TEST(HelperScheduler, WhatIsLeftOfThoseWhoLeave)
{
    const Extent some = tiles(2);
    Desk desk(4);
    Asker &own = desk.asker(), &other = desk.asker();
    own.peer.own = true;
    const uint64_t before = desk.counters().slabs_used;
    own.submit({{&some, 0, 0, 2}});
    ASSERT_TRUE(desk.answered(&own));
    own.take_large_area();
    desk.device.launches.hold();
    other.submit({{&some, 0, 1, 2}});
    desk.turn();
    ASSERT_EQ(other.stage(), Stage::running);
    const uint32_t first = own.peer.first.slabs;
    desk.scheduler().leave(&own.peer);
    desk.turn();
    EXPECT_EQ(desk.counters().slabs_used, before - first);
    EXPECT_EQ(desk.counters().slots_used, 1u);
    desk.device.launches.open();
    EXPECT_TRUE(desk.answered(&other));
    EXPECT_TRUE(desk.at_rest());
}

// What is ready runs in order of arrival, but the helper measures itself when nobody else wants to be served.
TEST(HelperScheduler, TheHelpersOwnRequestIsTheLast)
{
    const Extent some = tiles(2);
    Desk desk(8, {2, 0, false});  // a launch for each
    Asker &runs = desk.asker(), &own = desk.asker(), &first = desk.asker(), &second = desk.asker();
    own.peer.own = true;
    runs.submit({{&some, 0, 0, 2}});
    ASSERT_TRUE(desk.answered(&runs));
    desk.device.launches.hold();
    for (Asker *a : {&runs, &own, &first, &second}) {
        a->submit({{&some, 0, 0, 2}});
        desk.turn();
    }
    for (Asker *a : {&runs, &first, &second, &own}) {
        ASSERT_EQ(a->stage(), Stage::running);
        desk.device.launches.let(1);
        ASSERT_TRUE(desk.answered(a));
    }
    desk.device.launches.open();
    EXPECT_TRUE(desk.at_rest());
}

// A device may have kernels for some codecs only: it is told those of all tiles, of tables and of their own.
TEST(HelperScheduler, TheDeviceIsToldTheCodecs)
{
    Shape halves = kTokens;
    halves.codec = kv::Codec::f16;
    const Extent bytes = tiles(2), shared(halves, 0, 2, 1, next_ids++);
    Desk desk(4);
    Asker &a = desk.asker();
    const uint32_t of_bytes = 1u << static_cast<int>(kv::Codec::int8), of_halves = 1u << static_cast<int>(kv::Codec::f16);
    a.submit({{&shared, 5, 0, 2}, {&bytes, 0, 0, 2}});
    ASSERT_TRUE(desk.answered(&a));
    EXPECT_EQ(desk.device.codecs(), of_bytes | of_halves);
    a.submit({{&shared, 5, 0, 2, 2}});
    ASSERT_TRUE(desk.answered(&a));
    EXPECT_EQ(desk.device.codecs(), of_halves);
    a.submit({{&bytes, 0, 0, 2}});
    ASSERT_TRUE(desk.answered(&a));
    EXPECT_EQ(desk.device.codecs(), of_bytes);
}

}  // namespace
}  // namespace vkv::gpu
