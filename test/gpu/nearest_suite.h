// Exact nearest vectors on a device, against float64. The same cases are run by the emulator (kernels_nearest_test.cpp) and on a
// real device (cuda_test.cu).
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "core/offload/protocol.h"

namespace vkv::gpu::suite {

using offload::Metric;
using offload::Neighbor;

struct Search {
    Metric metric = Metric::l2_squared;
    uint32_t dim = 8, queries = 2, rows = 100, k = 5;
    uint64_t most_distances = 1 << 20;  // that the device holds at once, where that can be chosen
    bool whole_numbers = false;         // then there are ties, and distances are exact
};

// Finds the neighbors: results [queries][k].
using RunNearest = std::function<void(const Search &search, const offload::NearestRequest &request, const float *queries,
                                      const float *vectors, Neighbor *results)>;

class Searched {
public:
    Searched(const Search &s, const RunNearest &run) : s_(s)
    {
        std::mt19937 random(s.dim + s.rows);
        std::normal_distribution<float> normal;
        std::uniform_int_distribution<int> whole(-2, 2);
        const auto fill = [&](std::vector<float> *x, size_t count) {
            x->resize(count);
            for (float &f : *x) f = s.whole_numbers ? static_cast<float>(whole(random)) : normal(random);
        };
        fill(&queries_, size_t{s.queries} * s.dim);
        fill(&vectors_, size_t{s.rows} * s.dim);
        offload::NearestRequest r{};
        r.metric = s.metric, r.dim = s.dim, r.queries = s.queries, r.rows = s.rows, r.k = s.k;
        got_.assign(size_t{s.queries} * s.k, Neighbor{NAN, 0});
        run(s, r, queries_.data(), vectors_.data(), got_.data());
    }

    // Empty where distances are right, in order, ties by row, and nothing that was left out is nearer.
    std::string what_is_wrong() const
    {
        for (uint32_t q = 0; q < s_.queries; q++) {
            std::vector<std::pair<double, uint32_t>> all;
            for (uint32_t row = 0; row < s_.rows; row++) all.emplace_back(distance(q, row), row);
            std::sort(all.begin(), all.end());
            for (uint32_t i = 0; i < s_.k; i++)
                if (!right(q, i, all))
                    return "metric " + std::to_string(static_cast<int>(s_.metric)) + " dim " + std::to_string(s_.dim) + " rows " +
                           std::to_string(s_.rows) + " k " + std::to_string(s_.k) + ": query " + std::to_string(q) + " place " +
                           std::to_string(i);
        }
        return "";
    }

private:
    double distance(uint32_t query, uint32_t row) const
    {
        double sum = 0;
        for (uint32_t d = 0; d < s_.dim; d++) {
            const auto a = static_cast<double>(queries_[query * s_.dim + d]),
                       b = static_cast<double>(vectors_[size_t{row} * s_.dim + d]);
            sum += s_.metric == Metric::l1 ? std::fabs(a - b) : s_.metric == Metric::l2_squared ? (a - b) * (a - b) : -a * b;
        }
        return sum;
    }

    bool right(uint32_t q, uint32_t i, const std::vector<std::pair<double, uint32_t>> &all) const
    {
        const Neighbor &n = got_[q * s_.k + i];
        if (i >= s_.rows) return n.row == UINT32_MAX && n.distance == std::numeric_limits<float>::infinity();
        if (n.row >= s_.rows) return false;
        const double tolerance = s_.whole_numbers ? 0 : 1e-5 * std::max(1.0, std::fabs(all[i].first));
        const auto found = static_cast<double>(n.distance);
        return std::fabs(found - all[i].first) <= tolerance && std::fabs(distance(q, n.row) - found) <= tolerance &&
               (!s_.whole_numbers || n.row == all[i].second);
    }

    Search s_;
    std::vector<float> queries_, vectors_;
    std::vector<Neighbor> got_;
};

inline std::vector<Search> every_search()
{
    std::vector<Search> all;
    for (const Metric metric : {Metric::l2_squared, Metric::negative_inner_product, Metric::l1})
        for (const auto &[dim, queries, rows] :
             {std::tuple{1u, 1u, 1u}, {16u, 3u, 64u}, {17u, 65u, 65u}, {100u, 2u, 1025u}, {33u, 70u, 130u}})
            for (const bool whole : {false, true}) all.push_back({metric, dim, queries, rows, std::min(rows, 9u), 1 << 20, whole});
    all.push_back({Metric::l2_squared, 2, 2, 2500, 600, 1 << 20, true});  // ties
    all.push_back({Metric::l1, 5, 3, 5000, 40, 1, true});                 // several blocks of rows
    all.push_back({Metric::l2_squared, 3, 2100, 50, 4, 1, true});         // several blocks of queries
    for (const uint32_t k : {1u, 2u, 1023u, 1024u}) all.push_back({Metric::negative_inner_product, 4, 2, 3000, k, 4096, true});
    all.push_back({Metric::l2_squared, 4, 2, 3, 10, 1 << 20, true});  // fewer rows than asked for
    all.push_back({Metric::l2_squared, 4, 2, 0, 3, 1 << 20, true});   // none
    return all;
}

}  // namespace vkv::gpu::suite
