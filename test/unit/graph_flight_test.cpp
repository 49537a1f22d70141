// Nodes that are linked at the same moment: who links a pair, and that no pair of a small graph is left out.
#include "core/graph/in_flight.h"

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <random>
#include <thread>

#include "graph_rows.h"

namespace vkv::graph {
namespace {

// Workers take their steps in any order: two nodes whose flights overlap are given to one of the two, once; others to nobody.
TEST(InFlight, GivesEachPairToOneOfTheTwo)
{
    constexpr unsigned kWorkers = 5;
    constexpr uint32_t kNodes = 200;
    for (unsigned seed = 1; seed <= 50; ++seed) {
        std::mt19937 random(seed);
        InFlight in_flight(kWorkers);
        struct Worker {
            uint32_t id = kNoNode;
            bool stands = false;
        } workers[kWorkers];
        std::map<std::pair<uint32_t, uint32_t>, int> together, given;
        std::vector<uint32_t> others;
        uint32_t next = 0, ended = 0;
        while (ended < kNodes) {
            const unsigned w = random() % kWorkers;
            Worker &mine = workers[w];
            if (mine.id == kNoNode) {
                if (next == kNodes) continue;
                mine = {next++, false};
                in_flight.begin(w, mine.id);
                for (const Worker &other : workers)
                    if (other.id != kNoNode && other.id != mine.id) together[{other.id, mine.id}] = 1;
            } else if (!mine.stands) {
                mine.stands = true;
                in_flight.lists_stand(w, &others);
                for (uint32_t other : others) {
                    ++given[std::minmax(mine.id, other)];
                    for (const Worker &flying : workers) EXPECT_TRUE(flying.id != other || flying.stands) << "its lists are empty";
                }
            } else {
                in_flight.end(w);
                mine = {};
                ++ended;
            }
        }
        EXPECT_EQ(given, together) << "seed " << seed;
    }
}

// A codec whose first users wait until so many threads are there: each has taken a node by then.
class Meeting final : public Wrapped {
public:
    Meeting(const Codec &codec, int threads) : Wrapped(codec), missing_(threads) {}
    void distances(const uint8_t *a, const uint8_t *const *codes, size_t n, float *distance) const override
    {
        --missing_;
        while (missing_ > 0) std::this_thread::yield();
        Wrapped::distances(a, codes, n, distance);
    }

private:
    mutable std::atomic<int> missing_;
};

TEST(InFlight, NoPairOfASmallGraphIsLeftOut)
{
    for (unsigned threads : {2u, 3u, 8u})
        for (uint32_t n : {threads + 1, 16u})
            for (uint64_t seed = 1; seed <= 10; ++seed) {
                std::mt19937 random(static_cast<unsigned>(seed));
                std::normal_distribution<float> value;
                std::vector<float> values(n * 8);
                for (float &v : values) v = value(random);
                const Rows rows = make_rows(Scalar::f32, 8, std::move(values));
                const auto exact = make_codec(CodecId::none, Scalar::f32, Metric::l2, 8, {});
                const Meeting codec(*exact, static_cast<int>(threads));
                Arena arena(SIZE_MAX, {});
                MemoryGraph graph(codec, {.m = 100, .ef_construction = 200, .seed = seed},
                                  arena);  // one level: none waits to be the entry
                for (size_t i = 0; i < n; ++i) graph.add(rows.view(i), i, i);
                ASSERT_TRUE(graph.link_all(threads, never));
                EXPECT_EQ(bad_lists(graph), 0u);
                std::vector<uint32_t> list(graph.max_links(0));
                for (uint32_t id = 0; id < n; ++id)
                    EXPECT_EQ(graph.links(id, 0, list.data()), n - 1) << threads << " threads, " << n << " nodes, node " << id;
            }
}

}  // namespace
}  // namespace vkv::graph
