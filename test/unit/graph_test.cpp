// The graph of a build, on real embeddings (test/data) against brute force: recall per codec and number of threads, duplicates,
// nodes that nothing leads to, memory that spills, and every way to end early. Its parts: graph_parts_test.cpp.
#include "core/graph/memory_graph.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>

#include "graph_rows.h"

namespace vkv::graph {
namespace {

// Floors of recall@10; a graph of fewer rows (sanitizers) finds more.
constexpr double kRecall40 = 0.960, kRecall100 = 0.985;
constexpr double kThreadsCost = 0.010;  // how much recall several threads may cost
constexpr double kSparseRecall = 0.90;

Rows random_rows(size_t n, uint32_t dim, unsigned seed)
{
    std::mt19937 random(seed);
    std::normal_distribution<float> value;
    std::vector<float> values(n * dim);
    for (float &v : values) v = value(random);
    return make_rows(Scalar::f32, dim, std::move(values));
}

class Recall : public testing::TestWithParam<std::tuple<CodecId, unsigned>> {};

TEST_P(Recall, IsAboveItsFloor)
{
    const auto [codec, threads] = GetParam();
    const Rows rows = real_rows("minilm_sample.f16", Scalar::f32, kRows);
    const Rows queries = real_rows("minilm_queries.f16", Scalar::f32, kQueries);
    for (Metric metric : {Metric::l2, Metric::ip, Metric::cosine}) {
        const Built b = make_graph(codec, metric, rows, {});
        ASSERT_EQ(b.graph->size(), rows.size());
        uint64_t last = 0;
        ASSERT_TRUE(b.graph->link_all(threads, [&](uint64_t done) {
            EXPECT_GE(done, last);
            last = done;
            return false;
        }));
        EXPECT_EQ(last, rows.size());
        b.graph->reach_all();
        EXPECT_EQ(reachable(*b.graph).size(), rows.size());
        EXPECT_EQ(bad_lists(*b.graph), 0u);
        const auto truth = exact_neighbours(rows, queries, metric);
        const double at40 = recall(b, rows, queries, metric, 40, truth), at100 = recall(b, rows, queries, metric, 100, truth);
        const double less = threads > 1 ? kThreadsCost : 0;
        EXPECT_GE(at40, kRecall40 - less) << label(codec, metric, rows.scalar);
        EXPECT_GE(at100, kRecall100 - less) << label(codec, metric, rows.scalar);
        RecordProperty("recall40_metric" + std::to_string(static_cast<int>(metric)), std::to_string(at40));
    }
}

INSTANTIATE_TEST_SUITE_P(Graph, Recall, testing::Combine(testing::Values(CodecId::none, CodecId::lvq8), testing::Values(1u, 4u)),
                         [](const auto &info) {
                             return std::string(codec_name(std::get<0>(info.param))) + "_threads" +
                                    std::to_string(std::get<1>(info.param));
                         });

// Nodes that a search for their own vector does not meet.
size_t lost_to_search(const Built &b, const Rows &rows, size_t width)
{
    size_t lost = 0;
    SearchState s;
    for (size_t i = 0; i < rows.size(); ++i) {
        const auto &found = found_for(b, rows.view(i), width, s);
        lost += std::none_of(found.begin(), found.end(), [&](const Pool::Entry &e) { return b.graph->tid(e.id) == i; });
    }
    return lost;
}

// A thread that meets a node half linked by another goes on from there: it must not end there. Where it did, two builds in five had
// up to 30 nodes that no search met, whatever its width.
TEST(MemoryGraph, ThreadsLoseNoNode)
{
    const Rows rows = real_rows("minilm_sample.f16", Scalar::f32, kRows);
    for (uint64_t seed = 1; seed <= 6; ++seed) {
        const Built b = make_graph(CodecId::lvq8, Metric::cosine, rows, {.seed = seed});
        ASSERT_TRUE(b.graph->link_all(seed <= 2 ? 2 : 8, never));
        b.graph->reach_all();
        EXPECT_EQ(lost_to_search(b, rows, 100), 0u) << "seed " << seed;
    }
}

TEST(MemoryGraph, OneThreadBuildsTheSameAgain)
{
    const Rows rows = real_rows("minilm_sample.f16", Scalar::f32, kRows / 2);
    const Built a = make_graph(CodecId::lvq8, Metric::l2, rows, {}), b = make_graph(CodecId::lvq8, Metric::l2, rows, {});
    a.graph->link_all(1, never);
    b.graph->link_all(1, never);
    EXPECT_EQ(all_links(*a.graph), all_links(*b.graph));
    const Built other = make_graph(CodecId::lvq8, Metric::l2, rows, {.seed = 1});
    other.graph->link_all(1, never);
    EXPECT_NE(all_links(*a.graph), all_links(*other.graph));
}

// A budget too small for a chunk: everything lies in what spill gives, and nothing else changes.
TEST(MemoryGraph, SpilledMemoryHoldsTheSameGraph)
{
    const Rows rows = real_rows("minilm_sample.f16", Scalar::f32, kRows / 2);
    const Built roomy = make_graph(CodecId::lvq8, Metric::cosine, rows, {.payload_bytes = 100});
    std::vector<std::unique_ptr<char, decltype(&std::free)>> given;
    const auto spill = [&](size_t bytes) -> void * {
        given.emplace_back(static_cast<char *>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)), &std::free);
        return std::memset(given.back().get(), 0, bytes);
    };
    for (size_t budget : {size_t{1}, Arena::kLeastChunk}) {
        const Built tight = make_graph(CodecId::lvq8, Metric::cosine, rows, {.payload_bytes = 100}, budget, spill);
        EXPECT_TRUE(tight.arena->spilled());
        EXPECT_FALSE(roomy.arena->spilled());
        EXPECT_LE(tight.arena->used(), roomy.arena->used());  // of smaller chunks
        roomy.graph->link_all(1, never);
        tight.graph->link_all(1, never);
        if (budget == 1) {
            EXPECT_EQ(all_links(*tight.graph), all_links(*roomy.graph));
        }
        std::memset(tight.graph->payload(7), 0xAB, 100);
        EXPECT_EQ(tight.graph->payload(8)[0], 0);
        EXPECT_EQ(std::memcmp(tight.graph->code(8), roomy.graph->code(8), tight.graph->code_size(8)), 0);
        tight.graph->reach_all();
        EXPECT_EQ(reachable(*tight.graph).size(), rows.size());
    }
    EXPECT_GT(given.size(), 2u);
}

TEST(MemoryGraph, EqualVectorsShareANode)
{
    const Rows rows = random_rows(50, 8, 5);
    const auto codec = make_codec(CodecId::none, Scalar::f32, Metric::l2, 8, {});
    Arena arena(SIZE_MAX, {});
    MemoryGraph graph(*codec, {}, arena);
    for (uint64_t tid = 0; tid < 5000; ++tid) {
        const size_t row = tid % 50;
        const auto [id, duplicate] = graph.add(rows.view(row), row % 7, tid);  // many share a hash without being equal
        EXPECT_EQ(id, row);
        EXPECT_EQ(duplicate, tid >= 50);
    }
    EXPECT_EQ(graph.size(), 50u);
    std::map<uint32_t, std::vector<uint64_t>> tids;
    for (uint32_t id = 0; id < graph.size(); ++id) tids[id].push_back(graph.tid(id));
    for (const auto &[id, tid] : graph.more_tids()) tids[id].push_back(tid);
    for (const auto &[id, list] : tids) {
        ASSERT_EQ(list.size(), 100u);
        for (size_t i = 0; i < list.size(); ++i) EXPECT_EQ(list[i], i * 50 + id);  // in order of arrival
    }
    // The same bytes under another hash are taken for another vector.
    EXPECT_FALSE(graph.add(rows.view(0), 12345, 1).duplicate);
    ASSERT_TRUE(graph.link_all(2, never));
    graph.reach_all();
    EXPECT_EQ(reachable(graph).size(), 51u);
}

// Few links and tight groups of points: pruning cuts some off.
TEST(MemoryGraph, ReachAllLeavesNothingUnreachable)
{
    for (unsigned seed = 1; seed <= 3; ++seed) {
        const Rows centres = random_rows(20, 4, seed), spread = random_rows(kRows, 4, seed + 100);
        std::vector<float> values;
        for (size_t i = 0; i < spread.size(); ++i)
            for (uint32_t j = 0; j < 4; ++j) values.push_back(10 * centres.row(i % 20)[j] + 0.01f * spread.row(i)[j]);
        const Rows rows = make_rows(Scalar::f32, 4, std::move(values));
        const Built b = make_graph(CodecId::none, Metric::l2, rows, {.m = 2, .ef_construction = 4});
        b.graph->link_all(1, never);
        const size_t before = reachable(*b.graph).size();
        ASSERT_LT(before, rows.size()) << "the case has no unreachable nodes";
        const uint32_t lost = b.graph->reach_all();
        EXPECT_GT(lost, 0u);
        EXPECT_LE(lost, rows.size() - before);  // attaching one may bring others
        EXPECT_EQ(reachable(*b.graph).size(), rows.size());
        EXPECT_EQ(bad_lists(*b.graph), 0u);
        EXPECT_EQ(b.graph->reach_all(), 0u);
    }
}

TEST(MemoryGraph, OrderIsAPermutation)
{
    const Rows rows = real_rows("minilm_sample.f16", Scalar::f32, kRows / 2);
    const Built b = make_graph(CodecId::lvq8, Metric::l2, rows, {});
    b.graph->link_all(2, never);
    for (int round = 0; round < 2; ++round) {
        std::vector<uint32_t> order = b.graph->order();
        ASSERT_EQ(order.size(), rows.size());
        EXPECT_EQ(order.front(), b.graph->entry());
        std::vector<size_t> place(rows.size());
        for (size_t i = 0; i < order.size(); ++i) place[order[i]] = i;
        // Neighbours lie nearer to each other than two nodes do by chance (a third of all).
        double apart = 0, links = 0;
        std::vector<uint32_t> list(b.graph->max_links(0));
        for (uint32_t id = 0; id < rows.size(); ++id) {
            const uint32_t n = b.graph->links(id, 0, list.data());
            for (uint32_t i = 0; i < n; ++i)
                apart += std::fabs(static_cast<double>(place[id]) - static_cast<double>(place[list[i]]));
            links += n;
        }
        EXPECT_LT(apart / links, 0.3 * static_cast<double>(rows.size()));
        std::sort(order.begin(), order.end());
        for (uint32_t id = 0; id < order.size(); ++id) ASSERT_EQ(order[id], id);
        b.graph->reach_all();
    }
}

TEST(MemoryGraph, EmptyAndSmall)
{
    const Rows rows = random_rows(3, 8, 9);
    const auto codec = make_codec(CodecId::none, Scalar::f32, Metric::l2, 8, {});
    for (size_t n = 0; n <= 3; ++n) {
        Arena arena(SIZE_MAX, {});
        MemoryGraph graph(*codec, {}, arena);
        for (size_t i = 0; i < n; ++i) graph.add(rows.view(i), i, i);
        EXPECT_TRUE(graph.link_all(4, never));
        EXPECT_EQ(graph.reach_all(), 0u);
        EXPECT_EQ(graph.order().size(), n);
        EXPECT_EQ(graph.entry() == kNoNode, n == 0);
        std::vector<uint32_t> list(graph.max_links(0));
        for (uint32_t id = 0; id < n; ++id) EXPECT_EQ(graph.links(id, 0, list.data()), n - 1);
    }
}

TEST(MemoryGraph, LevelsAreGeometric)
{
    for (uint32_t m : {2u, 16u, 100u}) {
        LevelGenerator levels(m, 7), again(m, 7);
        std::vector<double> at_least(kMaxLevel + 2);
        constexpr int kDraws = 200000;
        for (int i = 0; i < kDraws; ++i) {
            const int level = levels.next();
            ASSERT_EQ(level, again.next());
            ASSERT_GE(level, 0);
            ASSERT_LE(level, kMaxLevel);
            for (int l = 0; l <= level; ++l) ++at_least[static_cast<size_t>(l)];
        }
        EXPECT_NEAR(at_least[1] / kDraws, 1.0 / m, 0.1 / m);
        EXPECT_NEAR(at_least[2] / kDraws, 1.0 / m / m, 0.5 / m / m + 1e-5);
    }
}

// ---- searching ------------------------------------------------------------------------------------------------------------------

TEST(Search, TombstonesLeadOnButAreNoAnswer)
{
    const Rows rows = real_rows("minilm_sample.f16", Scalar::f32, kRows),
               queries = real_rows("minilm_queries.f16", Scalar::f32, 50);
    const Built b = make_graph(CodecId::none, Metric::l2, rows, {});
    b.graph->link_all(2, never);
    b.graph->reach_all();
    std::vector<bool> dead(rows.size());
    for (size_t i = 0; i < dead.size(); ++i) dead[i] = i % 10 != 3;  // nine of ten
    size_t hits = 0;
    SearchState s;
    for (size_t q = 0; q < queries.size(); ++q) {
        const auto scorer = b.codec->query(queries.view(q));
        QueryView view{*b.graph, *scorer, &dead};
        search(view, *b.graph, 40, s);
        std::vector<double> distance(rows.size(), DBL_MAX);
        for (size_t i = 3; i < rows.size(); i += 10) distance[i] = exact_distance(Metric::l2, queries.view(q), rows.view(i));
        std::vector<size_t> answer;
        for (const Pool::Entry &e : s.pool.entries()) {
            EXPECT_EQ(e.counts, !dead[e.id]);
            if (e.counts && answer.size() < kK) answer.push_back(e.id);
        }
        EXPECT_EQ(s.pool.counting(), 40u);
        hits += common(nearest(distance, kK), answer);
    }
    EXPECT_GE(static_cast<double>(hits) / static_cast<double>(queries.size() * kK), 0.98);
}

TEST(Search, WhatFallsOutOfThePoolIsKept)
{
    const Rows rows = real_rows("minilm_sample.f16", Scalar::f32, kRows),
               queries = real_rows("minilm_queries.f16", Scalar::f32, 20);
    const Built b = make_graph(CodecId::lvq8, Metric::cosine, rows, {});
    b.graph->link_all(2, never);
    SearchState s;
    s.keep_dropped = true;
    for (size_t q = 0; q < queries.size(); ++q) {
        EXPECT_EQ(found_for(b, queries.view(q), 20, s).size(), 20u);
        std::set<uint32_t> met;
        for (const Pool::Entry &e : s.pool.entries()) EXPECT_TRUE(met.insert(e.id).second);
        for (const Candidate &c : s.dropped) {
            EXPECT_TRUE(met.insert(c.id).second);
            EXPECT_GE(c.distance, s.pool.bound());
        }
        EXPECT_EQ(met.size(), s.visited.size());
    }
    // A stop ends the search at once.
    const auto scorer = b.codec->query(queries.view(0));
    QueryView view{*b.graph, *scorer};
    const uint32_t at = b.graph->entry();
    enter(view, s, &at, 1, 20);
    search_layer(view, s, 0, [] { return true; });
    EXPECT_EQ(s.pool.entries().size(), 1u);
}

TEST(Search, AWiderProbeCostsMore)
{
    const Rows rows = real_rows("minilm_sample.f16", Scalar::f32, kRows);
    const Built b = make_graph(CodecId::lvq8, Metric::l2, rows, {});
    b.graph->link_all(2, never);
    uint64_t narrow = 0, wide = 0;
    for (uint32_t id = 0; id < 50; ++id) {
        narrow += b.graph->probe(id, 10);
        wide += b.graph->probe(id, 200);
    }
    EXPECT_GT(narrow, 50u * 10);
    EXPECT_GT(wide, 2 * narrow);
    EXPECT_LE(wide, 50 * (rows.size() + 200));
}

// ---- sparse: codes of different sizes
// ----------------------------------------------------------------------------------------------

struct SparseRows {
    uint32_t dim = 1000;
    std::vector<std::vector<int32_t>> indices;
    std::vector<std::vector<float>> values;
    VectorView view(size_t i) const
    {
        return {Scalar::sparse, dim, values[i].data(), indices[i].data(), static_cast<uint32_t>(indices[i].size())};
    }
};

SparseRows sparse_rows(size_t n, unsigned seed)
{
    SparseRows rows;
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> value(0.1f, 1);
    for (size_t i = 0; i < n; ++i) {
        std::set<int32_t> at;
        const size_t nnz = 1 + random() % 40;
        while (at.size() < nnz) at.insert(static_cast<int32_t>(std::min(random() % 1000, random() % 1000)));
        rows.indices.emplace_back(at.begin(), at.end());
        rows.values.emplace_back();
        for (size_t j = 0; j < nnz; ++j) rows.values.back().push_back(value(random));
    }
    return rows;
}

TEST(MemoryGraph, SparseVectors)
{
    const SparseRows rows = sparse_rows(kRows / 2, 1), queries = sparse_rows(50, 2);
    const auto codec = make_codec(CodecId::none, Scalar::sparse, Metric::ip, rows.dim, {});
    Arena arena(SIZE_MAX, {});
    MemoryGraph graph(*codec, {}, arena);
    for (size_t i = 0; i < rows.indices.size(); ++i) {
        ASSERT_EQ(graph.add(rows.view(i), i, i).id, i);
        EXPECT_EQ(graph.code_size(static_cast<uint32_t>(i)), codec->code_size(rows.view(i)));
    }
    EXPECT_TRUE(graph.add(rows.view(17), 17, 99).duplicate);
    graph.link_all(2, never);
    EXPECT_TRUE(graph.link_answers(4, never));
    graph.reach_all();
    EXPECT_EQ(reachable(graph).size(), rows.indices.size());
    EXPECT_EQ(bad_lists(graph), 0u);
    size_t hits = 0;
    SearchState s;
    for (size_t q = 0; q < 50; ++q) {
        const auto scorer = codec->query(queries.view(q));
        QueryView view{graph, *scorer};
        search(view, graph, 100, s);
        std::vector<double> distance;
        for (size_t i = 0; i < rows.indices.size(); ++i)
            distance.push_back(exact_distance(Metric::ip, queries.view(q), rows.view(i)));
        std::vector<size_t> answer;
        for (size_t i = 0; i < kK; ++i) answer.push_back(s.pool.entries()[i].id);
        hits += common(nearest(distance, kK), answer);
    }
    EXPECT_GE(static_cast<double>(hits) / (50 * kK), kSparseRecall);
}

}  // namespace
}  // namespace vkv::graph
