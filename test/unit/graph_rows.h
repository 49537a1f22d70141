// What the graph tests share: rows in a MemoryGraph, a view of it for any query, exact neighbours, and the shape of a finished
// graph.
#pragma once
#include <algorithm>
#include <memory>
#include <set>
#include <vector>

#include "codec_rows.h"
#include "core/graph/memory_graph.h"
#include "core/graph/search.h"

namespace vkv::graph {

// Sanitizers slow everything down by ten; the cases stay the same on fewer rows.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr size_t kRows = 500, kQueries = 40;
#else
inline constexpr size_t kRows = 4000, kQueries = 200;
#endif
inline constexpr size_t kK = 10;

// A graph with all that it stands on.
struct Built {
    std::vector<uint8_t> model;
    std::unique_ptr<Codec> codec;
    std::unique_ptr<Arena> arena;
    std::unique_ptr<MemoryGraph> graph;
};

inline Built make_graph(CodecId id, Metric metric, const Rows &rows, const BuildParams &params, size_t budget = SIZE_MAX,
                        Arena::Spill spill = {})
{
    Built b;
    auto trainer = make_trainer(id, rows.scalar, metric, rows.dim);
    for (size_t i = 0; i < rows.size(); ++i) trainer->add(rows.view(i));
    b.model = trainer->finish();
    b.codec = make_codec(id, rows.scalar, metric, rows.dim, b.model);
    b.arena = std::make_unique<Arena>(budget, std::move(spill));
    b.graph = std::make_unique<MemoryGraph>(*b.codec, params, *b.arena);
    for (size_t i = 0; i < rows.size(); ++i) b.graph->add(rows.view(i), i, i);
    return b;
}

// A codec that does as another does. Tests override what they want otherwise.
class Wrapped : public Codec {
public:
    explicit Wrapped(const Codec &codec) : codec_(codec) {}
    CodecId id() const override { return codec_.id(); }
    bool exact() const override { return codec_.exact(); }
    size_t code_size() const override { return codec_.code_size(); }
    size_t second_size() const override { return codec_.second_size(); }
    size_t code_size(const VectorView &x) const override { return codec_.code_size(x); }
    void encode(const VectorView &x, uint8_t *code, uint8_t *second) const override { codec_.encode(x, code, second); }
    void distances(const uint8_t *a, const uint8_t *const *codes, size_t n, float *distance) const override
    {
        codec_.distances(a, codes, n, distance);
    }
    std::unique_ptr<Scorer> query(const VectorView &q) const override { return codec_.query(q); }
    std::unique_ptr<Scorer> query_code(const uint8_t *code) const override { return codec_.query_code(code); }
    void decode(const uint8_t *code, const uint8_t *second, float *out) const override { codec_.decode(code, second, out); }

private:
    const Codec &codec_;
};

inline bool never(uint64_t) { return false; }

// A graph as a search sees it, with a vector as the query. Nodes of `dead` lead on but do not count.
struct QueryView {
    const MemoryGraph &graph;
    Scorer &scorer;
    const std::vector<bool> *dead = nullptr;
    std::vector<const uint8_t *> codes{};

    size_t max_links() const { return graph.max_links(0); }
    uint32_t neighbors(uint32_t id, int level, uint32_t *out) const { return graph.links(id, level, out); }
    void prefetch_links(uint32_t) const {}
    void score(const uint32_t *ids, size_t n, float *distance, bool *counts)
    {
        codes.resize(n);
        for (size_t i = 0; i < n; ++i) {
            codes[i] = graph.code(ids[i]);
            counts[i] = !dead || !(*dead)[ids[i]];
        }
        scorer.score(codes.data(), n, distance);
    }
};

template <class View>
void search(View &view, const MemoryGraph &graph, size_t width, SearchState &s)
{
    auto go_on = [] { return false; };
    const uint32_t at = descend(view, s, graph.entry(), graph.level(graph.entry()), 0, go_on);
    enter(view, s, &at, 1, width);
    search_layer(view, s, 0, go_on);
}

// What a search of this width for x finds, nearest first; it lies in s.
inline const auto &found_for(const Built &b, const VectorView &x, size_t width, SearchState &s)
{
    const auto scorer = b.codec->query(x);
    QueryView view{*b.graph, *scorer};
    search(view, *b.graph, width, s);
    return s.pool.entries();
}

inline std::vector<std::vector<size_t>> exact_neighbours(const Rows &rows, const Rows &queries, Metric metric)
{
    std::vector<std::vector<size_t>> all;
    std::vector<double> distance(rows.size());
    for (size_t q = 0; q < queries.size(); ++q) {
        for (size_t i = 0; i < rows.size(); ++i) distance[i] = exact_distance(metric, queries.view(q), rows.view(i));
        all.push_back(nearest(distance, kK));
    }
    return all;
}

// Share of the exact neighbours among the kK best, by exact distance, of a search of this width.
inline double recall(const Built &b, const Rows &rows, const Rows &queries, Metric metric, size_t width,
                     const std::vector<std::vector<size_t>> &truth)
{
    size_t hits = 0;
    SearchState s;
    for (size_t q = 0; q < queries.size(); ++q) {
        std::vector<std::pair<double, size_t>> found;
        for (const Pool::Entry &e : found_for(b, queries.view(q), width, s))
            found.emplace_back(exact_distance(metric, queries.view(q), rows.view(b.graph->tid(e.id))), b.graph->tid(e.id));
        std::sort(found.begin(), found.end());
        found.resize(std::min(found.size(), kK));
        std::vector<size_t> answer;
        for (const auto &[distance, row] : found) answer.push_back(row);
        hits += common(truth[q], answer);
    }
    return static_cast<double>(hits) / static_cast<double>(queries.size() * kK);
}

// Nodes that links of level 0 lead to from the entry.
inline std::set<uint32_t> reachable(const MemoryGraph &graph)
{
    std::set<uint32_t> reached{graph.entry()};
    std::vector<uint32_t> queue{graph.entry()}, links(graph.max_links(0));
    for (size_t head = 0; head < queue.size(); ++head) {
        const uint32_t n = graph.links(queue[head], 0, links.data());
        for (uint32_t i = 0; i < n; ++i)
            if (reached.insert(links[i]).second) queue.push_back(links[i]);
    }
    return reached;
}

inline std::vector<std::vector<uint32_t>> all_links(const MemoryGraph &graph)
{
    std::vector<std::vector<uint32_t>> all;
    for (uint32_t id = 0; id < graph.size(); ++id)
        for (int level = 0; level <= graph.level(id); ++level) {
            std::vector<uint32_t> &list = all.emplace_back(graph.max_links(0));
            list.resize(graph.links(id, level, list.data()));
        }
    return all;
}

// Lists that link to their owner, twice to one node, to no node, or to one that is not on the list's level.
inline size_t bad_lists(const MemoryGraph &graph)
{
    size_t bad = 0;
    std::vector<uint32_t> list(graph.max_links(0));
    for (uint32_t id = 0; id < graph.size(); ++id)
        for (int level = 0; level <= graph.level(id); ++level) {
            const uint32_t n = graph.links(id, level, list.data());
            const std::set<uint32_t> once(list.data(), list.data() + n);
            bad += once.size() != n || once.count(id) > 0 || std::any_of(once.begin(), once.end(), [&](uint32_t to) {
                       return to >= graph.size() || graph.level(to) < level;
                   });
        }
    return bad;
}

}  // namespace vkv::graph
