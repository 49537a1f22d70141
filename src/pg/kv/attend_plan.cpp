// Which tiles the queries of a call see: all below the causal end, or those of the window and the sinks.

#include "pg/kv/attend_plan.h"

#include <algorithm>

#include "core/kv/sight.h"
#include "core/offload/crossover.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/helper_spans.h"

namespace vkv::kv {

namespace {

struct Visible {
    int32_t sinks, from, to;  // [0, sinks) and [from, to)
};

Visible visible_of(const AttendRequest &r, int32_t stored)
{
    const SightRule rule{stored + r.fresh, r.q_len, r.window, r.causal};
    const Sight oldest = rule.of(0), newest = rule.of(r.q_len - 1);
    const int32_t to = std::min(newest.last, stored);
    const int32_t sinks = r.window > 0 ? std::min(r.sinks, to) : 0;
    return sinks >= oldest.first ? Visible{0, 0, to} : Visible{sinks, oldest.first, to};
}

uint64_t tiles_of(const Cache *c, int32_t tokens)
{
    const int32_t full = tile_capacity(c->shape(c->codec));
    return (static_cast<uint64_t>(tokens / full) + 2) * static_cast<uint64_t>(c->kv_heads);
}

class Planner {
public:
    Planner(const AttendRequest &r, SealedTable *table, uint64_t generation, AttendPlan *plan)
        : r_(r), table_(table), generation_(generation), plan_(plan), shared_(!wrote_header())
    {
    }

    void add(int layer, int sequence)
    {
        const Sequence &s = r_.sequences[sequence];
        HeldTail tail(r_.cache, &s, r_.layer[layer]);
        const int32_t stored = s.sealed + tail.tokens();
        check_total(r_, s, stored);
        plan_->items.push_back({layer, sequence, std::move(tail), stored});
        const Visible visible = visible_of(r_, stored);
        add_sealed(s, 0, std::min(visible.sinks, s.sealed));
        add_sealed(s, visible.from, std::min(visible.to, s.sealed));
        add_tail(s, visible);
    }

private:
    void add_sealed(const Sequence &s, int32_t from, int32_t to)
    {
        for_spans(&s, from, to, [&](const Span &span) {
            const int layer = r_.layer[plan_->items.back().layer];
            const HelperSpan known = pg_call([&] { return helper_span(table_, &s, r_.cache, span.extent, layer, generation_); });
            plan_->spans.push_back({plan_->items.size() - 1, false, span, known.space, shared_ ? known.covered : 0, shared_,
                                    tiles_of(r_.cache, span.to - span.from)});
        });
    }

    // From where the blocks begin that hold what is not sealed.
    void add_tail(const Sequence &s, const Visible &visible)
    {
        const HeldTail &tail = plan_->items.back().tail;
        if (tail.blocks() == 0) return;
        const HeldTail::Block last = tail.block(tail.blocks() - 1);
        const int32_t end = std::min(last.first + last.tokens, visible.to);
        auto take = [&](int32_t from, int32_t to) {
            if (from < to)
                plan_->spans.push_back({plan_->items.size() - 1, true, {s.own(), from, to, from}, 0, 0, false, tail.blocks()});
        };
        take(s.sealed, std::min(visible.sinks, end));
        take(std::max(s.sealed, visible.from), end);
    }

    const AttendRequest &r_;
    SealedTable *table_;
    uint64_t generation_;
    AttendPlan *plan_;
    bool shared_;  // what this transaction has not committed goes into no table
};

}  // namespace

AttendPlan plan_attend(const AttendRequest &r, SealedTable *table, uint64_t generation)
{
    AttendPlan plan;
    plan.items.reserve(static_cast<size_t>(r.layers) * static_cast<size_t>(r.batch));
    Planner planner(r, table, generation, &plan);
    for (int l = 0; l < r.layers; ++l)
        for (int b = 0; b < r.batch; ++b) {
            look_for_interrupts();
            planner.add(l, b);
        }
    return plan;
}

namespace {

constexpr uint64_t kLeastRows = 64;  // of queries that share a head: fewer read tiles as often for less

// How much of a call a request may have.
struct Most {
    uint64_t tiles;
    int32_t tokens;  // of all its spans together
    int positions;
};

Most most_of(const AttendRequest &r, const AttendPlan &plan, uint64_t most_tiles, uint64_t most_products)
{
    const Cache *c = r.cache;
    const uint64_t full = static_cast<uint64_t>(tile_capacity(c->shape(c->codec)));
    const uint64_t most_a_head = std::max<uint64_t>(most_tiles / static_cast<uint64_t>(c->kv_heads), 3) - 2;
    uint64_t tokens = 0;
    for (const PlannedSpan &span : plan.spans) tokens += static_cast<uint64_t>(span.span.to - span.span.from);
    tokens = std::clamp<uint64_t>(std::min(tokens, most_a_head * full), 1, INT32_MAX / 2);
    // Positions first: what is left of the limit for each of them are tokens.
    const uint64_t each = r.heads() * offload::products_of_token(static_cast<uint64_t>(c->dim_k), static_cast<uint64_t>(c->dim_v));
    const auto q_len = static_cast<uint64_t>(r.q_len), group = static_cast<uint64_t>(c->group());
    const uint64_t least = std::min((kLeastRows + group - 1) / group, q_len);
    const uint64_t most_positions = std::clamp<uint64_t>(offload::kMostRows / group, 1, q_len);
    const uint64_t positions = std::clamp(most_products / each / tokens, std::min(least, most_positions), most_positions);
    tokens = std::min(tokens, std::max(most_products / each / positions, full));
    return {most_tiles, static_cast<int32_t>(tokens), static_cast<int>(positions)};
}

std::vector<PlannedSpan> cut_spans(const AttendRequest &r, const AttendPlan &plan, int32_t most_tokens)
{
    std::vector<PlannedSpan> cut;
    for (const PlannedSpan &span : plan.spans) {
        look_for_interrupts();
        for (int32_t from = span.span.from; from < span.span.to; from += std::min(most_tokens, span.span.to - from)) {
            PlannedSpan part = span;
            part.span.from = from;
            part.span.to = from + std::min(most_tokens, span.span.to - from);
            if (!part.in_tail) part.tiles = tiles_of(r.cache, part.span.to - part.span.from);
            cut.push_back(part);
        }
    }
    return cut;
}

}  // namespace

void cut_requests(const AttendRequest &r, AttendPlan *plan, uint64_t most_tiles, uint64_t most_products)
{
    const Most most = most_of(r, *plan, most_tiles, most_products);
    plan->spans = cut_spans(r, *plan, most.tokens);
    plan->requests.clear();
    for (size_t first = 0, end = 0; first < plan->spans.size(); first = end) {
        uint64_t tiles = 0, tokens = 0;
        for (; end < plan->spans.size(); ++end) {
            const PlannedSpan &span = plan->spans[end];
            tiles += span.tiles;
            tokens += static_cast<uint64_t>(span.span.to - span.span.from);
            if (end > first && (tiles > most.tiles || tokens > static_cast<uint64_t>(most.tokens))) break;
        }
        // Of the same tiles one after the other: they are brought once.
        for (int at = 0; at < r.q_len; at += std::min(most.positions, r.q_len - at)) {
            look_for_interrupts();
            plan->requests.push_back({first, end - first, at, std::min(most.positions, r.q_len - at)});
        }
    }
}

}  // namespace vkv::kv
