// The parts that graphs are made of: the pool of a search, the set of nodes met, the two ways to choose links, memory, threads.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <numeric>
#include <random>
#include <set>
#include <stdexcept>

#include "core/graph/arena.h"
#include "core/graph/candidate.h"
#include "core/graph/link_list.h"
#include "core/graph/select.h"
#include "core/graph/workers.h"

namespace vkv::graph {
namespace {

// ---- pool -----------------------------------------------------------------------------------------------------------------------

struct Dropped {
    std::vector<uint32_t> ids;
    auto operator()()
    {
        return [this](const Pool::Entry &e) { ids.push_back(e.id); };
    }
};

std::vector<uint32_t> ids_of(const Pool &pool)
{
    std::vector<uint32_t> ids;
    for (const Pool::Entry &e : pool.entries()) ids.push_back(e.id);
    return ids;
}

TEST(Pool, KeepsTheNearestInOrder)
{
    Pool pool;
    Dropped dropped;
    pool.reset(3);
    EXPECT_EQ(pool.bound(), std::numeric_limits<float>::infinity());
    for (const Candidate c : {Candidate{5, 1}, Candidate{2, 2}, Candidate{9, 3}}) EXPECT_TRUE(pool.insert(c, true, dropped()));
    EXPECT_TRUE(pool.full());
    EXPECT_EQ(pool.bound(), 9);
    EXPECT_TRUE(pool.insert({9, 4}, true, dropped()));  // as far as the last: a tie, and the one that was there stays
    EXPECT_EQ(ids_of(pool), (std::vector<uint32_t>{2, 1, 3}));
    EXPECT_FALSE(pool.insert({10, 5}, true, dropped()));
    EXPECT_TRUE(dropped.ids.empty());
    EXPECT_TRUE(pool.insert({1, 6}, true, dropped()));
    EXPECT_EQ(dropped.ids, (std::vector<uint32_t>{4, 3}));
    EXPECT_EQ(ids_of(pool), (std::vector<uint32_t>{6, 2, 1}));
    EXPECT_EQ(pool.bound(), 5);
    pool.reset(2);
    EXPECT_TRUE(pool.entries().empty());
    EXPECT_EQ(pool.expand_next(), kNoNode);
}

TEST(Pool, TombstonesUseNoWidth)
{
    Pool pool;
    Dropped dropped;
    pool.reset(2);
    for (uint32_t id = 0; id < 5; ++id) EXPECT_TRUE(pool.insert({static_cast<float>(id), id}, false, dropped()));
    EXPECT_EQ(pool.counting(), 0u);
    EXPECT_FALSE(pool.full());
    EXPECT_TRUE(pool.insert({2.5f, 10}, true, dropped()));
    EXPECT_TRUE(dropped.ids.empty());
    EXPECT_TRUE(pool.insert({1.5f, 11}, true, dropped()));
    // Full: the tombstones behind the last node that counts go.
    EXPECT_EQ(dropped.ids, (std::vector<uint32_t>{4, 3}));
    EXPECT_EQ(ids_of(pool), (std::vector<uint32_t>{0, 1, 11, 2, 10}));
    EXPECT_FALSE(pool.insert({2.6f, 12}, false, dropped()));
    EXPECT_TRUE(pool.insert({0.5f, 13}, false, dropped()));
    EXPECT_EQ(pool.counting(), 2u);
    // A nearer node takes the place of the farthest that counts, and of the tombstone that is then last - unless it was expanded.
    for (int i = 0; i < 5; ++i) pool.expand_next();
    dropped.ids.clear();
    EXPECT_TRUE(pool.insert({0.1f, 14}, true, dropped()));
    EXPECT_EQ(dropped.ids, std::vector<uint32_t>{10});
    EXPECT_EQ(ids_of(pool), (std::vector<uint32_t>{0, 14, 13, 1, 11}));
}

TEST(Pool, ExpandsEachOnceNearestFirst)
{
    Pool pool;
    pool.reset(4);
    const auto ignore = [](const Pool::Entry &) {};
    pool.insert({3, 3}, true, ignore);
    pool.insert({1, 1}, false, ignore);
    EXPECT_EQ(pool.peek_next(), 1u);
    EXPECT_EQ(pool.expand_next(), 1u);  // a tombstone leads on
    EXPECT_EQ(pool.peek_next(), 3u);
    pool.insert({2, 2}, true, ignore);
    pool.insert({0, 0}, true, ignore);
    EXPECT_EQ(pool.expand_next(), 0u);
    EXPECT_EQ(pool.expand_next(), 2u);
    EXPECT_EQ(pool.expand_next(), 3u);
    EXPECT_EQ(pool.peek_next(), kNoNode);
    EXPECT_EQ(pool.expand_next(), kNoNode);
    pool.insert({5, 5}, true, ignore);
    EXPECT_EQ(pool.expand_next(), 5u);
}

// Nodes exactly as far as the last lead on, after the pool, until something nearer makes them too far.
TEST(Pool, TiesAreExpandedButAreNoPartOfIt)
{
    Pool pool;
    Dropped dropped;
    pool.reset(2);
    for (uint32_t id = 0; id < 4; ++id) EXPECT_TRUE(pool.insert({5, id}, id != 3, dropped()));
    EXPECT_FALSE(pool.insert({5, 4}, true, dropped()));  // as many as the pool is wide
    EXPECT_FALSE(pool.insert({6, 5}, true, dropped()));
    EXPECT_EQ(pool.counting(), 2u);
    for (uint32_t id = 0; id < 3; ++id) EXPECT_EQ(pool.expand_next(), id);
    EXPECT_TRUE(pool.insert({4, 6}, true, dropped()));  // another one is as far as the last then
    EXPECT_TRUE(dropped.ids.empty());
    EXPECT_EQ(ids_of(pool), (std::vector<uint32_t>{6, 0}));
    EXPECT_EQ(pool.expand_next(), 6u);
    EXPECT_EQ(pool.expand_next(), 3u);
    EXPECT_EQ(pool.expand_next(), kNoNode);
    EXPECT_TRUE(pool.insert({3, 7}, true, dropped()));
    EXPECT_EQ(dropped.ids, (std::vector<uint32_t>{2, 1, 0}));  // but not the tombstone, which has been expanded
    EXPECT_TRUE(pool.insert({4, 8}, true, dropped()));
    dropped.ids.clear();
    pool.drop_ties(dropped());
    EXPECT_EQ(dropped.ids, std::vector<uint32_t>{8});
    EXPECT_EQ(pool.expand_next(), 7u);
    EXPECT_EQ(pool.expand_next(), kNoNode);
}

// Against a sorted vector, with random nodes.
TEST(Pool, AgreesWithSorting)
{
    std::mt19937 random(1);
    for (size_t width : {1u, 2u, 7u, 40u}) {
        Pool pool;
        Dropped dropped;
        pool.reset(width);
        std::vector<Candidate> all;
        const unsigned values = width == 2 ? 100000 : 20;  // with few ties and with many
        for (uint32_t id = 0; id < 300; ++id) {
            const Candidate c{static_cast<float>(random() % values), id};
            all.push_back(c);
            if (!pool.insert(c, true, dropped())) dropped.ids.push_back(id);
        }
        pool.drop_ties(dropped());
        std::sort(all.begin(), all.end(), [](const Candidate &a, const Candidate &b) { return a.distance < b.distance; });
        ASSERT_EQ(pool.entries().size(), width);
        for (size_t i = 0; i < width; ++i) EXPECT_EQ(pool.entries()[i].distance, all[i].distance);
        std::vector<uint32_t> everyone = ids_of(pool);
        everyone.insert(everyone.end(), dropped.ids.begin(), dropped.ids.end());
        std::sort(everyone.begin(), everyone.end());
        std::vector<uint32_t> expected(300);
        std::iota(expected.begin(), expected.end(), 0);
        EXPECT_EQ(everyone, expected);  // nobody is lost, nobody twice
    }
}

// ---- visited --------------------------------------------------------------------------------------------------------------------

TEST(Visited, GrowsWithWhatItHolds)
{
    Visited visited;
    const size_t small = visited.bytes();
    std::set<uint32_t> truth;
    std::mt19937 random(2);
    for (int i = 0; i < 50000; ++i) {
        const uint32_t id = random() % 40000;
        ASSERT_EQ(visited.insert(id), truth.insert(id).second) << id;
    }
    EXPECT_EQ(visited.size(), truth.size());
    EXPECT_GT(visited.bytes(), small);
    EXPECT_GE(visited.bytes(), 2 * truth.size() * sizeof(uint64_t) / 2);
    visited.clear();
    EXPECT_EQ(visited.size(), 0u);
    EXPECT_TRUE(visited.insert(*truth.begin()));
    EXPECT_FALSE(visited.insert(*truth.begin()));
    EXPECT_TRUE(visited.insert(kNoNode - 1));
}

TEST(Visited, ForgetsWhenItsEpochsAreUsedUp)
{
    Visited visited(UINT32_MAX - 1);
    for (int round = 0; round < 4; ++round) {
        for (uint32_t id = 0; id < 100; ++id) EXPECT_TRUE(visited.insert(id)) << "round " << round;
        for (uint32_t id = 0; id < 100; ++id) EXPECT_FALSE(visited.insert(id)) << "round " << round;
        visited.clear();
    }
}

TEST(Visited, SaysWhatItHolds)
{
    Visited visited(UINT32_MAX - 1);  // what an epoch forgot stays in its slots
    std::mt19937 random(3);
    for (int round = 0; round < 4; ++round) {
        std::set<uint32_t> truth;
        for (int i = 0; i < 3000; ++i) {
            const uint32_t id = random() % 8000 * 997;
            EXPECT_EQ(visited.contains(id), truth.count(id) == 1);
            visited.insert(id);
            truth.insert(id);
            ASSERT_TRUE(visited.contains(id));
        }
        for (uint32_t i = 0; i < 8000; ++i) ASSERT_EQ(visited.contains(i * 997), truth.count(i * 997) == 1) << i;
        std::vector<uint32_t> all;
        visited.for_each([&](uint32_t id) { all.push_back(id); });
        std::sort(all.begin(), all.end());
        EXPECT_EQ(all, std::vector<uint32_t>(truth.begin(), truth.end()));
        visited.clear();
        visited.for_each([](uint32_t id) { ADD_FAILURE() << id; });
        EXPECT_FALSE(visited.contains(*truth.begin()));
        EXPECT_FALSE(visited.contains(0));
        EXPECT_FALSE(visited.contains(kNoNode));
    }
}

// ---- choosing links -------------------------------------------------------------------------------------------------------------

struct Plane {
    std::vector<std::pair<double, double>> points;
    explicit Plane(size_t n, unsigned seed)
    {
        std::mt19937 random(seed);
        std::uniform_real_distribution<double> place(0, 1);
        for (size_t i = 0; i < n; ++i) {
            const double x = place(random);
            points.emplace_back(x, place(random));
        }
    }
    float distance(uint32_t a, uint32_t b) const
    {
        return static_cast<float>(std::hypot(points[a].first - points[b].first, points[a].second - points[b].second));
    }
    void distances(uint32_t a, const uint32_t *ids, size_t n, float *out) const
    {
        for (size_t i = 0; i < n; ++i) out[i] = distance(a, ids[i]);
    }
    // All others as seen from point 0.
    std::vector<Candidate> candidates() const
    {
        std::vector<Candidate> all;
        for (uint32_t id = 1; id < points.size(); ++id) all.push_back({distance(0, id), id});
        std::sort(all.begin(), all.end());
        return all;
    }
    uint32_t admit_to(LinkList &list, Candidate c, size_t max) const
    {
        std::vector<float> to(list.links.size());
        for (size_t i = 0; i < to.size(); ++i) to[i] = distance(c.id, list.links[i].id);
        return admit(list, c, to.data(), max);
    }
    bool is_diverse(std::span<const Candidate> links) const
    {
        for (const Candidate &near : links)
            for (const Candidate &far : links)
                if (near.distance < far.distance && distance(near.id, far.id) < far.distance) return false;
        return true;
    }
};

std::vector<uint32_t> ids_of(std::span<const Candidate> candidates)
{
    std::vector<uint32_t> ids;
    for (const Candidate &c : candidates) ids.push_back(c.id);
    return ids;
}

TEST(SelectNeighbors, KeepsWhatNoKeptOneDominates)
{
    for (unsigned seed = 1; seed <= 20; ++seed) {
        Plane plane(60, seed);
        const std::vector<Candidate> candidates = plane.candidates();
        for (size_t max : {1u, 3u, 8u, 100u}) {
            std::vector<Candidate> kept, turned;  // the definition, word for word
            for (const Candidate &c : candidates) {
                const bool refused = kept.size() == max || std::any_of(kept.begin(), kept.end(), [&](const Candidate &k) {
                                         return plane.distance(c.id, k.id) <= c.distance;
                                     });
                (refused ? turned : kept).push_back(c);
            }
            Selected selected;
            select_neighbors(plane, candidates, max, false, selected);
            EXPECT_EQ(ids_of(selected.kept), ids_of(kept));
            EXPECT_EQ(selected.diverse, kept.size());
            select_neighbors(plane, candidates, max, true, selected);
            EXPECT_EQ(selected.diverse, kept.size());
            ASSERT_EQ(selected.kept.size(), std::min(max, candidates.size()));
            const size_t fillers = selected.kept.size() - kept.size();
            kept.insert(kept.end(), turned.begin(), turned.begin() + static_cast<std::ptrdiff_t>(fillers));
            EXPECT_EQ(ids_of(selected.kept), ids_of(kept));
            EXPECT_EQ(selected.kept.size() + selected.turned.size(), candidates.size());
        }
    }
    Plane plane(5, 1);
    Selected selected;
    select_neighbors(plane, {}, 4, true, selected);
    EXPECT_TRUE(selected.kept.empty());
}

TEST(Admit, NearestFirstIsTheHeuristic)
{
    for (unsigned seed = 1; seed <= 20; ++seed) {
        Plane plane(60, seed);
        const std::vector<Candidate> candidates = plane.candidates();
        Selected selected;
        select_neighbors(plane, candidates, 100, false, selected);
        LinkList list;
        for (const Candidate &c : candidates) EXPECT_EQ(plane.admit_to(list, c, 100), kNoNode);
        EXPECT_EQ(ids_of(std::span(list.links).first(list.diverse)), ids_of(selected.kept));
        EXPECT_EQ(list.links.size(), candidates.size());
    }
}

TEST(Admit, InAnyOrderTheChosenStayDiverse)
{
    for (unsigned seed = 1; seed <= 20; ++seed) {
        Plane plane(80, seed);
        std::vector<Candidate> candidates = plane.candidates();
        std::shuffle(candidates.begin(), candidates.end(), std::mt19937(seed));
        for (size_t max : {1u, 2u, 6u, 16u}) {
            LinkList list;
            std::set<uint32_t> present;
            for (const Candidate &c : candidates) {
                const LinkList before = list;
                const uint32_t lost = plane.admit_to(list, c, max);
                present.insert(c.id);
                EXPECT_EQ(lost != kNoNode, before.links.size() == max);
                if (lost != kNoNode) {
                    ASSERT_EQ(present.erase(lost), 1u);
                }
                const std::vector<uint32_t> now = ids_of(list.links);
                ASSERT_EQ(std::set<uint32_t>(now.begin(), now.end()), present);
                ASSERT_EQ(now.size(), present.size());
                ASSERT_LE(list.diverse, list.links.size());
                ASSERT_TRUE(plane.is_diverse(std::span(list.links).first(list.diverse)));
            }
            // The nearest of all is never a filler and never goes.
            const Candidate nearest = *std::min_element(candidates.begin(), candidates.end());
            const auto chosen = std::span(list.links).first(list.diverse);
            EXPECT_EQ(std::count_if(chosen.begin(), chosen.end(), [&](const Candidate &c) { return c.id == nearest.id; }), 1);
        }
    }
}

TEST(Admit, TheFarthestFillerGoesFirst)
{
    LinkList list;
    list.links = {{1, 1}, {8, 2}, {5, 3}, {3, 4}};
    list.diverse = 2;
    const float far_from_all[] = {20, 20, 20, 20};
    EXPECT_EQ(admit(list, {4, 5}, far_from_all, 4), 3u);  // 8 is chosen and stays
    EXPECT_EQ(list.diverse, 3u);
    EXPECT_EQ(admit(list, {2, 6}, far_from_all, 4), 4u);
    EXPECT_EQ(list.diverse, 4u);
    EXPECT_EQ(admit(list, {6, 7}, far_from_all, 4), 2u);  // no filler left: the farthest of all
    EXPECT_EQ(admit(list, {9, 8}, far_from_all, 4), 8u);  // possibly the newcomer
    const float near_the_first[] = {0.5f, 20, 20, 20};
    EXPECT_EQ(admit(list, {7, 9}, near_the_first, 5), kNoNode);
    EXPECT_EQ(list.diverse, 4u);
    EXPECT_EQ(list.links.back().id, 9u);  // dominated: a filler
}

TEST(SelectNeighbors, ATieCountsAgainstTheCandidate)
{
    struct AllEquallyFar {
        void distances(uint32_t, const uint32_t *, size_t n, float *out) const { std::fill(out, out + n, 1.0f); }
    } metric;
    const std::vector<Candidate> candidates{{1, 1}, {1, 2}, {1, 3}};
    Selected selected;
    select_neighbors(metric, candidates, 3, true, selected);
    EXPECT_EQ(selected.diverse, 1u);
    LinkList list{{{0.5f, 1}}, 1};
    const float as_far = 1;
    EXPECT_EQ(admit(list, {1, 2}, &as_far, 4), kNoNode);
    EXPECT_EQ(list.diverse, 1u);  // the newcomer is a filler
    list = {{{1, 1}}, 1};
    admit(list, {0.5f, 2}, &as_far, 4);
    EXPECT_EQ(list.diverse, 1u);  // and turns what it is as near to into one
    EXPECT_EQ(list.links.front().id, 2u);
}

// ---- arena ----------------------------------------------------------------------------------------------------------------------

bool is_zero(const void *p, size_t bytes)
{
    const auto *b = static_cast<const uint8_t *>(p);
    return std::all_of(b, b + bytes, [](uint8_t x) { return x == 0; });
}

TEST(Arena, GivesAlignedZeroes)
{
    Arena arena(SIZE_MAX, {});
    for (size_t bytes : {1ul, 64ul, 4097ul, Arena::kChunk}) {
        auto *p = static_cast<uint8_t *>(arena.chunk(bytes));
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u);
        EXPECT_TRUE(is_zero(p, bytes));
        std::fill_n(p, bytes, uint8_t{0xFF});
    }
    EXPECT_EQ(arena.used(), 1 + 64 + 4097 + Arena::kChunk);
    std::vector<std::pair<uint8_t *, size_t>> given;
    std::mt19937 random(3);
    for (int i = 0; i < 2000; ++i) {
        const size_t bytes = 1 + random() % (i % 50 == 0 ? Arena::kChunk : 5000);
        auto *p = static_cast<uint8_t *>(arena.allocate(bytes));
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 8, 0u);
        ASSERT_TRUE(is_zero(p, bytes));  // also: overlaps nothing that was written before
        std::fill_n(p, bytes, uint8_t{0xFF});
        given.emplace_back(p, bytes);
        if (i % 50 == 0) {
            given.clear();
        }
    }
    EXPECT_FALSE(arena.spilled());
}

TEST(Arena, FewFitIntoASmallBudget)
{
    Arena arena(1u << 20, [](size_t) -> void * { throw std::runtime_error("no room"); });
    for (int i = 0; i < 100; ++i) arena.allocate(1000);
    arena.chunk(arena.chunk_bytes());
    EXPECT_LE(arena.used(), 256u << 10);
    EXPECT_EQ(Arena(64u << 20, {}).chunk_bytes(), Arena::kChunk);
}

TEST(Arena, SpillsBeyondItsBudget)
{
    std::vector<std::vector<uint64_t>> spilled;
    Arena arena(3 * Arena::kChunk, [&](size_t bytes) -> void * {
        spilled.emplace_back(bytes / 8 + 1);
        return spilled.back().data();
    });
    for (int i = 0; i < 3; ++i) arena.chunk(Arena::kChunk);
    EXPECT_FALSE(arena.spilled());
    const void *p = arena.chunk(Arena::kChunk);
    EXPECT_EQ(p, spilled.at(0).data());
    EXPECT_TRUE(arena.spilled());
    EXPECT_EQ(arena.used(), 4 * Arena::kChunk);
    arena.allocate(100);
    EXPECT_EQ(spilled.size(), 2u);

    Arena failing(0, [](size_t) -> void * { throw std::runtime_error("no room"); });
    EXPECT_THROW(failing.chunk(64), std::runtime_error);
    EXPECT_THROW(failing.allocate(64), std::runtime_error);
}

// ---- workers --------------------------------------------------------------------------------------------------------------------

TEST(Workers, EachRunsOnce)
{
    std::vector<std::atomic<int>> ran(4);
    std::atomic<int> signals_open{0};
    Workers workers(4, [&](unsigned i) {
        ++ran[i];
        sigset_t blocked;
        pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
        for (int signal : {SIGINT, SIGTERM, SIGUSR1, SIGALRM}) signals_open += !sigismember(&blocked, signal);
    });
    workers.join();
    EXPECT_TRUE(workers.done());
    for (auto &times : ran) EXPECT_EQ(times, 1);
    EXPECT_EQ(signals_open, 0);
    sigset_t mine;
    pthread_sigmask(SIG_SETMASK, nullptr, &mine);
    EXPECT_FALSE(sigismember(&mine, SIGINT));
}

TEST(Workers, TheFirstExceptionStopsAllAndComesBack)
{
    Workers *self = nullptr;
    std::atomic<bool> ready{false};
    std::atomic<int> stopped{0};
    Workers workers(3, [&](unsigned i) {
        while (!ready) std::this_thread::yield();
        if (i == 1) throw std::runtime_error("worker 1");
        while (!self->stopping()) std::this_thread::yield();
        ++stopped;
        throw std::logic_error("a later one");
    });
    self = &workers;
    ready = true;
    try {
        workers.join();
        FAIL();
    } catch (const std::runtime_error &e) {
        EXPECT_STREQ(e.what(), "worker 1");
    }
    EXPECT_EQ(stopped, 2);
    EXPECT_NO_THROW(workers.join());  // thrown once
}

TEST(Workers, TheDestructorStopsAndWaits)
{
    std::atomic<int> ended{0};
    {
        Workers *self = nullptr;
        std::atomic<bool> ready{false};
        Workers workers(2, [&](unsigned) {
            while (!ready) std::this_thread::yield();
            while (!self->stopping()) std::this_thread::yield();
            ++ended;
        });
        self = &workers;
        ready = true;
    }
    EXPECT_EQ(ended, 2);
}

}  // namespace
}  // namespace vkv::graph
