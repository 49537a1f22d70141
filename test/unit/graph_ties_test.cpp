// Many equal distances: of bits and of small integers. A search must not end at the edge of a plateau, and links must not go to
// nodes that are as near to each other as to their owner.
#include <gtest/gtest.h>

#include <random>

#include "graph_rows.h"

namespace vkv::graph {
namespace {

constexpr size_t kWanted = 20;

struct Bits {
    uint32_t dim;
    std::vector<std::vector<uint8_t>> rows;
    size_t size() const { return rows.size(); }
    VectorView view(size_t i) const { return {Scalar::bit, dim, rows[i].data(), nullptr, 0}; }
};

Bits random_bits(size_t n, uint32_t dim, unsigned seed)
{
    std::mt19937 random(seed);
    Bits bits{dim, {}};
    for (size_t i = 0; i < n; ++i) {
        auto &row = bits.rows.emplace_back((dim + 7) / 8);
        for (uint32_t j = 0; j < dim; ++j) row[j / 8] = static_cast<uint8_t>(row[j / 8] | (random() % 2) << (7 - j % 8));
    }
    return bits;
}

Rows small_integers(size_t n, uint32_t dim, unsigned seed)
{
    std::mt19937 random(seed);
    std::vector<float> values(n * dim);
    for (float &v : values) v = static_cast<float>(random() % 4);
    return make_rows(Scalar::f32, dim, std::move(values));
}

// Of the kWanted nearest, the share that is as near as the last of the exact ones; of graphs with few links, built by one thread.
template <class Set>
double share_found(Metric metric, const Set &rows, const Set &queries, size_t width)
{
    const auto codec = make_codec(CodecId::none, rows.view(0).scalar, metric, rows.dim, {});
    std::vector<double> last, exact(rows.size());
    for (size_t q = 0; q < queries.size(); ++q) {
        for (size_t i = 0; i < rows.size(); ++i) exact[i] = exact_distance(metric, queries.view(q), rows.view(i));
        std::nth_element(exact.begin(), exact.begin() + kWanted - 1, exact.end());
        last.push_back(exact[kWanted - 1]);
    }
    size_t hits = 0;
    constexpr uint64_t kSeeds = 4;
    for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
        Arena arena(SIZE_MAX, {});
        MemoryGraph graph(*codec, {.m = 4, .ef_construction = 8, .seed = seed}, arena);
        for (size_t i = 0; i < rows.size(); ++i) graph.add(rows.view(i), i, i);
        graph.link_all(1, never);
        graph.reach_all();
        SearchState s;
        for (size_t q = 0; q < queries.size(); ++q) {
            const auto scorer = codec->query(queries.view(q));
            QueryView view{graph, *scorer};
            search(view, graph, width, s);
            const auto &found = s.pool.entries();
            for (size_t i = 0; i < std::min(found.size(), kWanted); ++i) hits += found[i].distance <= last[q] + 1e-6;
        }
    }
    return static_cast<double>(hits) / static_cast<double>(kSeeds * queries.size() * kWanted);
}

// Floors lie between what searches found that left ties out (in brackets) and what they find.
TEST(Ties, BitsAreFound)
{
    const size_t n = 2 * kRows;
    const Bits wide = random_bits(n, 52, 1), wide_queries = random_bits(100, 52, 2);
    const Bits narrow = random_bits(n, 20, 1), narrow_queries = random_bits(100, 20, 2);
    EXPECT_GE(share_found(Metric::hamming, wide, wide_queries, 100), 0.62);     // (0.48)
    EXPECT_GE(share_found(Metric::hamming, narrow, narrow_queries, 20), 0.93);  // (0.62)
    EXPECT_GE(share_found(Metric::jaccard, narrow, narrow_queries, 40), 0.72);  // (0.66)
}

TEST(Ties, SmallIntegersAreFound)
{
    const Rows rows = small_integers(2 * kRows, 8, 1), queries = small_integers(100, 8, 2);
    EXPECT_GE(share_found(Metric::l2, rows, queries, 20), 0.98);   // (0.93)
    EXPECT_GE(share_found(Metric::l1, rows, queries, 20), 0.97);   // (0.86)
    EXPECT_GE(share_found(Metric::ip, rows, queries, 100), 0.83);  // (0.67)
}

}  // namespace
}  // namespace vkv::graph
