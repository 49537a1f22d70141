// Every way in which the linking of a graph can end before it is done: the caller says so, the caller's poll throws, a worker
// throws. Threads must be gone afterwards and what was linked must still be a graph.
#include <gtest/gtest.h>

#include <atomic>
#include <stdexcept>

#include "graph_rows.h"

namespace vkv::graph {
namespace {

// A codec that fails after so many calls.
class Failing final : public Wrapped {
public:
    Failing(const Codec &codec, int64_t calls) : Wrapped(codec), left_(calls) {}
    void distances(const uint8_t *a, const uint8_t *const *codes, size_t n, float *distance) const override
    {
        if (left_.fetch_sub(1) <= 0) throw std::runtime_error("no more distances");
        Wrapped::distances(a, codes, n, distance);
    }

private:
    mutable std::atomic<int64_t> left_;
};

size_t linked(const MemoryGraph &graph)
{
    size_t n = 0;
    std::vector<uint32_t> list(graph.max_links(0));
    for (uint32_t id = 0; id < graph.size(); ++id) n += graph.links(id, 0, list.data()) > 0;
    return n;
}

class EndEarly : public testing::TestWithParam<unsigned> {
protected:
    // Enough work that it is not over at the first poll.
    void SetUp() override
    {
        rows_ = real_rows("minilm_sample.f16", Scalar::f32, kRows);
        built_ = make_graph(CodecId::none, Metric::l2, rows_, {.ef_construction = 200});
    }
    Rows rows_;
    Built built_;
};

TEST_P(EndEarly, PollStops)
{
    MemoryGraph &graph = *built_.graph;
    int polls = 0;
    EXPECT_FALSE(graph.link_all(GetParam(), [&](uint64_t) { return ++polls >= 2; }));
    EXPECT_LT(linked(graph), rows_.size());
    // Half a graph is one: what is missing is attached.
    EXPECT_GT(graph.reach_all(), 0u);
    EXPECT_EQ(reachable(graph).size(), rows_.size());
    EXPECT_EQ(bad_lists(graph), 0u);
    EXPECT_EQ(graph.order().size(), rows_.size());
}

TEST_P(EndEarly, PollThrows)
{
    MemoryGraph &graph = *built_.graph;
    int polls = 0;
    try {
        graph.link_all(GetParam(), [&](uint64_t) -> bool {
            if (++polls == 2) throw std::runtime_error("cancelled");
            return false;
        });
        FAIL();
    } catch (const std::runtime_error &e) {
        EXPECT_STREQ(e.what(), "cancelled");
    }
    EXPECT_EQ(polls, 2);
    EXPECT_LT(linked(graph), rows_.size()) << "the threads went on after the exception";
}

TEST_P(EndEarly, AWorkerThrows)
{
    const Failing codec(*built_.codec, 20000);
    Arena arena(SIZE_MAX, {});
    MemoryGraph graph(codec, {.ef_construction = 200}, arena);
    for (size_t i = 0; i < rows_.size(); ++i) graph.add(rows_.view(i), i, i);
    try {
        graph.link_all(GetParam(), never);
        FAIL();
    } catch (const std::runtime_error &e) {
        EXPECT_STREQ(e.what(), "no more distances");
    }
    EXPECT_LT(linked(graph), rows_.size());
}

// The table of hashes grows in the middle of an add(): nodes that are many are not looked at in silence.
TEST(Adding, PollsWhileTheTableOfHashesGrows)
{
    constexpr uint32_t kMany = 4000;
    const std::unique_ptr<Codec> codec = make_codec(CodecId::none, Scalar::f32, Metric::l2, 1, {});
    Arena arena(SIZE_MAX, {});
    int polls = 0;
    MemoryGraph graph(*codec,
                      {.poll =
                           [&] {
                               if (++polls == 4) throw std::runtime_error("no more");
                           }},
                      arena);
    const auto add_all = [&] {
        for (uint32_t i = 0; i < kMany; ++i) {
            const float value = static_cast<float>(i);
            graph.add({Scalar::f32, 1, &value, nullptr, 0}, i * 0x9E3779B97F4A7C15u, i);
        }
    };
    EXPECT_THROW(add_all(), std::runtime_error);
    EXPECT_LT(graph.size(), kMany);
}

INSTANTIATE_TEST_SUITE_P(Threads, EndEarly, testing::Values(1u, 4u));

}  // namespace
}  // namespace vkv::graph
