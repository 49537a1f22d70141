// Groups of vectors that are close to each other and far from the rest are found after find_sample(), by searches that begin at the
// entry.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "core/graph/arena.h"
#include "core/graph/memory_graph.h"
#include "core/graph/memory_view.h"
#include "graph_rows.h"

namespace vkv::graph {
namespace {

constexpr uint32_t kGroups = 40, kOfOne = 100, kDim = 16;

// How many vectors a search for them does not find.
uint32_t missed(const MemoryGraph &graph)
{
    uint32_t count = 0;
    SearchState s;
    const auto never = [] { return false; };
    for (uint32_t id = 0; id < graph.size(); ++id) {
        MemoryView view(graph, graph.code(id));
        const uint32_t from[] = {descend(view, s, graph.entry(), graph.level(graph.entry()), 0, never), graph.entry()};
        enter(view, s, from, 2, 40);
        search_layer(view, s, 0, never);
        if (looks_astray(s.pool)) {  // as a scan does
            std::vector<uint32_t> entries;
            descend_widely(view, s, graph.entry(), graph.level(graph.entry()), 0, entries, never);
            entries.insert(entries.end(), {from[0], graph.entry()});
            enter(view, s, entries.data(), entries.size(), 40);
            search_layer(view, s, 0, never);
        }
        bool found = false;
        for (const Pool::Entry &e : s.pool.entries()) found = found || e.id == id;
        count += !found;
    }
    return count;
}

TEST(FindSample, GroupsAreFound)
{
    uint32_t before = 0, after = 0, links = 0;
    for (uint64_t seed = 1; seed <= 20; ++seed) {
        std::mt19937_64 random(seed);
        std::normal_distribution<float> normal;
        std::vector<float> centres(kGroups * kDim);
        for (float &x : centres) x = normal(random);
        const auto codec = make_codec(CodecId::none, Scalar::f32, Metric::l2, kDim, {});
        Arena arena(SIZE_MAX, {});
        BuildParams params;
        params.m = 6;
        params.ef_construction = 24;
        params.seed = seed;
        MemoryGraph graph(*codec, params, arena);
        for (uint32_t i = 0; i < kGroups * kOfOne; ++i) {
            std::vector<float> x(kDim);
            for (uint32_t d = 0; d < kDim; ++d) x[d] = centres[i % kGroups * kDim + d] + 1e-3f * normal(random);
            graph.add({Scalar::f32, kDim, x.data(), nullptr, 0}, i, i);
        }
        graph.link_all(1, [](uint64_t) { return false; });
        graph.reach_all();
        before += missed(graph);
        const uint32_t given = graph.find_sample();
        if (given > 0) graph.reach_all();
        links += given;
        after += missed(graph);
    }
    RecordProperty("missed before", static_cast<int>(before));
    EXPECT_GT(before, 100u) << "the data do not show the fault";
    EXPECT_LT(after * 4, before) << links << " links";
    std::printf("missed %u, then %u, by %u links\n", before, after, links);
}

// Where squares of distances between groups leave the range of float, a search still comes from one to the other.
TEST(Search, GroupsBeyondFloatAreFound)
{
    std::mt19937_64 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> centres(kGroups * kDim), values;
    for (float &x : centres) x = normal(random);
    for (uint32_t i = 0; i < kGroups * kOfOne; ++i)
        for (uint32_t d = 0; d < kDim; ++d) values.push_back(centres[i % kGroups * kDim + d] + 1e-3f * normal(random));
    for (float &x : values) x *= 0x1p66f;
    const Rows rows = make_rows(Scalar::f32, kDim, std::move(values));
    for (const CodecId id : {CodecId::none, CodecId::lvq8}) {
        BuildParams params;
        params.seed = 1;
        const Built built = make_graph(id, Metric::l2, rows, params);
        EXPECT_TRUE(built.graph->link_all(1, graph::never));
        built.graph->reach_all();
        built.graph->find_sample({});
        EXPECT_LE(missed(*built.graph), built.graph->size() / 10) << codec_name(id);
    }
}

}  // namespace
}  // namespace vkv::graph
