// The CPU's attention over one layer of one sequence: what the queries of every KV head have accumulated.
#pragma once

#include <algorithm>
#include <vector>

#include "core/kv/attend.h"
#include "core/kv/sight.h"
#include "pg/boundary/boundary.h"
#include "pg/kv/attend_request.h"
#include "pg/kv/halves.h"
#include "pg/kv/statistics.h"

namespace vkv::kv {

// Rows of queries of each head, so many at a time that they do not take long.
struct QueryRows {
    size_t first, count;
};

// Queries and states of the heads of one layer of one sequence; used again for the next.
class Heads {
public:
    Heads(int heads, const Cache *c) : cache_(c), queries_(static_cast<size_t>(heads)), states_(static_cast<size_t>(heads)) {}

    void begin(const AttendRequest &r, const QueryRows &rows, const float *q, int32_t stored)
    {
        stored_ = stored;
        rows_ = rows;
        const auto dim = static_cast<size_t>(cache_->dim_k);
        const int count = static_cast<int>(rows.count);
        for (size_t h = 0; h < queries_.size(); ++h) {
            queries_[h].set(q + (h * r.rows() + rows.first) * dim, count, cache_->dim_k, r.scale, r.softcap);
            states_[h].reset(count, cache_->dim_v);
        }
        look(r, stored + r.fresh);
    }

    // Looks for interrupts now and then.
    void add(const TileView &tile, int32_t to, const void *next)
    {
        selection_.next = next;
        const int32_t end = std::min(tile.first + tile.tokens, to);
        if (tile.first >= furthest_ || end <= selection_.from || (end <= nearest_first_ && tile.first >= selection_.sinks)) return;
        selection_.to = to;
        const bool whole = end <= nearest_last_ && tile.first >= furthest_first_;
        selection_.sights = whole ? nullptr : sights_.data();
        const auto h = static_cast<size_t>(tile.head);
        states_[h].add(queries_[h], tile, selection_);
        if (rows_.first == 0) {
            ++work_.tiles;
            work_.bytes += tile_bytes(shape_of(tile), tile.tokens);
        }
        added_ += rows_.count;
        if (added_ > kRowsBetweenPolls) {
            added_ = 0;
            look_for_interrupts();
        }
    }

    void finish(const AttendRequest &r, float *output, float *lse) const
    {
        for (size_t h = 0; h < states_.size(); ++h) {
            const size_t row = h * r.rows() + rows_.first;
            states_[h].finish(output + row * static_cast<size_t>(cache_->dim_v), lse ? lse + row : nullptr);
        }
    }

    // Adds what the rows have seen to states [heads] of {m [rows], l [rows], o [rows][dim_v]} of all rows.
    void merge_into(const AttendRequest &r, float *to)
    {
        const size_t count = rows_.count, dim = static_cast<size_t>(cache_->dim_v);
        seen_.resize(count * (2 + dim));
        float *m = seen_.data(), *l = m + count, *o = l + count;
        for (const Accumulator &state : states_) {
            state.state(m, l, o);
            float *first = to + rows_.first;
            merge_states(static_cast<int>(count), cache_->dim_v, first, first + r.rows(), to + 2 * r.rows() + rows_.first * dim, m,
                         l, o);
            to += r.state_floats();
        }
    }

    // Tiles from now on may hold positions before this one, which were seen already.
    void begin_at(int32_t position) { selection_.from = position; }
    // Nor do tiles end where the tokens do that are stored for this snapshot.
    void add_kept(const TileView &tile) { add(tile, stored_, nullptr); }

    Work &work() { return work_; }
    // The bounds of what any row sees, and of what all do.
    void look(const AttendRequest &r, int32_t total)
    {
        selection_ = Selection{};
        selection_.sinks = r.window > 0 ? r.sinks : 0;
        selection_.rope = cache_->rope;
        sights_.resize(rows_.count);
        furthest_ = furthest_first_ = 0;
        nearest_first_ = nearest_last_ = INT32_MAX;
        const SightRule rule{total, r.q_len, r.window, r.causal};
        const auto q_len = static_cast<size_t>(r.q_len), begin = rows_.first % q_len;
        for (size_t i = 0; i < std::min(q_len, rows_.count); ++i) {
            const auto [first, last] = rule.of(static_cast<int>((begin + i) % q_len));
            for (size_t row = i; row < rows_.count; row += q_len) sights_[row] = {first, last};
            furthest_ = std::max(furthest_, last);
            nearest_last_ = std::min(nearest_last_, last);
            furthest_first_ = std::max(furthest_first_, first);
            nearest_first_ = std::min(nearest_first_, first);
        }
    }

private:
    static constexpr size_t kRowsBetweenPolls = 1024;

    const Cache *cache_;
    QueryRows rows_{};
    size_t added_ = 0;  // rows times tiles since the last poll
    std::vector<Queries> queries_;
    std::vector<Accumulator> states_;
    std::vector<float> seen_;  // by the rows of one head
    std::vector<Sight> sights_;
    Selection selection_;
    int32_t stored_ = 0, furthest_ = 0, furthest_first_ = 0, nearest_first_ = 0, nearest_last_ = 0;
    Work work_{};
};

// Tokens of the item that are not stored yet, seen behind `stored` that are.
inline void add_fresh(const AttendRequest &r, size_t item, int32_t stored, Heads *heads)
{
    if (r.fresh == 0) return;
    const Cache *c = r.cache;
    const size_t tokens = item * static_cast<size_t>(c->kv_heads) * static_cast<size_t>(r.fresh);
    const uint16_t *v = r.v ? r.v + tokens * static_cast<size_t>(c->dim_v) : nullptr;
    for_halves(c, {r.k + tokens * static_cast<size_t>(c->dim_k), v, stored, r.fresh},
               [heads](const TileView &tile, int32_t to) { heads->add(tile, to, nullptr); });
}

}  // namespace vkv::kv
