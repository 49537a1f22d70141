// Requests of kv.attend to the helper program, and what the backend does meanwhile.

#include "pg/kv/attend_helper.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "core/kv/attend.h"
#include "core/poll.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/gpu/helper.h"
#include "pg/kv/attend_plan.h"
#include "pg/kv/halves.h"
#include "pg/kv/heads.h"
#include "pg/kv/helper_spans.h"

namespace vkv::kv {

namespace {

// Tiles of one request's spans, for the client.
class Source : public offload::TileSource {
public:
    Source(const AttendRequest &r, const AttendPlan &plan, const PlannedRequest &request, SealedTable *table)
        : r_(r), plan_(plan), request_(request), table_(table)
    {
    }

    void entries(size_t index, int32_t from, std::vector<offload::Entry> *out) override
    {
        const PlannedSpan &span = plan_.spans[request_.first_span + index];
        if (span.in_tail) {
            tail_entries(plan_.items[span.item].tail, span.span, out);
            return;
        }
        const size_t before = out->size();
        while (!list(index, from, out)) out->erase(out->begin() + static_cast<ptrdiff_t>(before), out->end());
    }

    void copy(size_t index, const offload::Entry &wanted, void *slab) override
    {
        const PlannedSpan &span = plan_.spans[request_.first_span + index];
        if (span.in_tail) {
            copy_block(plan_.items[span.item].tail, wanted, slab);
            return;
        }
        SpanTiles *tiles = open(index, span.span.from);
        const TileKey key{span.span.extent, layer(span), wanted.head, wanted.first};
        pg_call([&] {
            SpanTiles::Pinned pinned;
            while (!pinned.tile) {
                const uint32_t i = tiles->find(wanted.first, wanted.head);
                if (i >= tiles->count()) damaged_tile(r_.cache, &sequence(span), key, "is missing");
                tiles->pin(i, &pinned);
            }
            if (pinned.ref.id != wanted.id) damaged_tile(r_.cache, &sequence(span), key, "was exchanged while it was read");
            tiles->view(pinned);
            memcpy(slab, pinned.tile, pinned.bytes);
            ReleaseBuffer(pinned.buffer);
        });
    }

private:
    const Sequence &sequence(const PlannedSpan &span) const { return r_.sequences[plan_.items[span.item].sequence]; }
    int layer(const PlannedSpan &span) const { return r_.layer[plan_.items[span.item].layer]; }

    // Sealed tiles that end behind `from`; false where their list was made anew meanwhile.
    bool list(size_t index, int32_t from, std::vector<offload::Entry> *out)
    {
        const PlannedSpan &span = plan_.spans[request_.first_span + index];
        SpanTiles *tiles = open(index, from);
        const std::unique_ptr<Progress> progress(pg_call([&] { return new Progress(r_.cache, &sequence(span), layer(span)); }));
        progress->begin(span.span.extent, span.span.begin, span.span.to);
        for (uint32_t i = 0; i < tiles->count(); ++i) {
            const TileRef ref = tiles->ref(i);
            progress->step(ref.head, ref.pos, ref.tokens);
            if (ref.pos + ref.tokens <= from) continue;
            const bool there = pg_call([&] {  // and carries the id
                SpanTiles::Pinned pinned;
                if (!tiles->pin(i, &pinned)) return false;
                ReleaseBuffer(pinned.buffer);
                return true;
            });
            if (!there) return false;
            out->push_back({ref.id, ref.pos, static_cast<uint16_t>(ref.tokens), static_cast<uint16_t>(ref.head)});
        }
        progress->end();
        return true;
    }

    // The span's tiles; from position `from` on they are complete.
    SpanTiles *open(size_t index, int32_t from)
    {
        const PlannedSpan &span = plan_.spans[request_.first_span + index];
        from = std::max(from, span.span.begin);
        if (!open_ || open_index_ != index || from < open_from_) {
            const Span wanted{span.span.extent, from, span.span.to, span.span.begin};
            open_.reset();
            open_.reset(pg_call([&] { return new SpanTiles(r_.cache, &sequence(span), layer(span), table_, wanted); }));
            open_index_ = index;
            open_from_ = from;
        }
        return open_.get();
    }

    static void tail_entries(const HeldTail &tail, const Span &span, std::vector<offload::Entry> *out)
    {
        for (size_t i = 0; i < tail.blocks(); ++i) {
            const HeldTail::Block b = tail.block(i);
            if (b.first + b.tokens > span.from && b.first < span.to)
                out->push_back({b.id, b.first, static_cast<uint16_t>(b.tokens), static_cast<uint16_t>(b.head)});
        }
    }

    static void copy_block(const HeldTail &tail, const offload::Entry &wanted, void *slab)
    {
        for (size_t i = 0; i < tail.blocks(); ++i) {
            if (tail.block(i).id != wanted.id) continue;
            tail.copy(i, slab);
            return;
        }
        throw Error(Errc::internal, "the helper asks for a block that the tail does not have");
    }

    const AttendRequest &r_;
    const AttendPlan &plan_;
    const PlannedRequest &request_;
    SealedTable *table_;
    std::unique_ptr<SpanTiles> open_;
    size_t open_index_ = 0;
    int32_t open_from_ = 0;
};

class HelperAttend {
public:
    HelperAttend(const AttendRequest &r, offload::Client *client, SealedTable *table)
        : r_(r),
          client_(client),
          table_(table),
          generation_(helper::generation()),
          plan_(plan_attend(r, table, generation_)),
          heads_(r.cache->kv_heads, r.cache),
          begun_(plan_.items.size())
    {
        const size_t n = plan_.items.size() * item_floats();
        states_.reserve(n);
        by_pieces(n, piece_of(sizeof(float)), look_for_interrupts, [this](size_t at, size_t more) { states_.resize(at + more); });
        each_rows([](const Rows &rows) { std::fill_n(rows.m, rows.count, -std::numeric_limits<float>::infinity()); });
    }

    bool worth_it() const { return !plan_.spans.empty(); }

    void run()
    {
        // More tiles than a request may have are met when tiles hold fewer tokens than the cache's codec says (a sequence that was
        // recoded): smaller requests then.
        for (uint64_t most = std::max(helper::max_tiles(), 1u);; most /= 4) {
            cut_requests(r_, &plan_, most, helper::max_products());
            try {
                for (const PlannedRequest &request : plan_.requests) ask(request);
                break;
            } catch (const offload::Refused &refused) {
                if (refused.code() != offload::FailureCode::too_large || most < 64 || any_answered_) throw;
            }
        }
        for (size_t i = 0; i < plan_.items.size(); ++i) attend_here(i);
    }

    void finish(const AttendResult &result)
    {
        Accumulator sum;
        each_rows([&](const Rows &rows) {
            const size_t row = rows.item * heads() * r_.rows() + rows.head * r_.rows() + rows.first;
            sum.reset(static_cast<int>(rows.count), r_.cache->dim_v);
            sum.merge(rows.m, rows.l, rows.o);
            sum.finish(result.output + row * dim_v(), result.lse ? result.lse + row : nullptr);
        });
    }

    void count(Work *work)
    {
        for (const PlannedItem &item : plan_.items)
            work->tokens += static_cast<uint64_t>(item.stored) + static_cast<uint64_t>(r_.fresh);
        work->tiles += work_.tiles + heads_.work().tiles;
        work->bytes += work_.bytes + heads_.work().bytes;
    }

private:
    // Some rows of one head's state.
    struct Rows {
        size_t item, head, first, count;  // the item of the answer
        float *m, *l, *o;
    };
    template <typename F>
    void each_rows(F &&f)
    {
        for (size_t i = 0; i < plan_.items.size(); ++i)
            for (size_t h = 0; h < heads(); ++h) each_rows(i, h, 0, r_.rows(), f);
    }
    template <typename F>
    void each_rows(size_t i, size_t head, size_t begin, size_t rows, F &&f)
    {
        const size_t item = r_.item(plan_.items[i].layer, plan_.items[i].sequence);
        float *state = &states_[i * item_floats() + head * r_.state_floats()];
        for (size_t first = begin; first < begin + rows; first += kMostQueryRows) {
            look_for_interrupts();
            float *m = state + first, *o = state + 2 * r_.rows() + first * dim_v();
            f(Rows{item, head, first, std::min<size_t>(kMostQueryRows, begin + rows - first), m, m + r_.rows(), o});
        }
    }

    size_t dim_v() const { return static_cast<size_t>(r_.cache->dim_v); }
    size_t heads() const { return static_cast<size_t>(r_.cache->kv_heads); }
    size_t item_floats() const { return heads() * r_.state_floats(); }
    const float *queries(size_t i) const
    {
        const size_t item = r_.item(plan_.items[i].layer, plan_.items[i].sequence);
        return r_.queries + item * query_floats();
    }
    // Rows of a head that a request asks for: those of its positions, once for each query head that shares the head. In one where
    // all are asked for.
    struct Asked {
        size_t blocks, first, rows, step;  // block b begins at row first + b * step
    };
    Asked asked_of(const PlannedRequest &request) const
    {
        if (request.positions == r_.q_len) return {1, 0, r_.rows(), r_.rows()};
        return {static_cast<size_t>(r_.cache->group()), static_cast<size_t>(request.first_position),
                static_cast<size_t>(request.positions), static_cast<size_t>(r_.q_len)};
    }
    size_t query_floats() const { return r_.heads() * static_cast<size_t>(r_.q_len) * static_cast<size_t>(r_.cache->dim_k); }

    void ask(const PlannedRequest &request)
    {
        lay_out(request);
        const Asked asked = asked_of(request);
        const int32_t behind = r_.q_len - request.first_position - request.positions;
        Source source(r_, plan_, request, table_);
        offload::AttendCall call;
        call.kv_heads = static_cast<uint32_t>(r_.cache->kv_heads);
        call.rows = static_cast<uint32_t>(asked.blocks * asked.rows);
        call.q_len = static_cast<uint32_t>(request.positions);
        call.dim_k = static_cast<uint32_t>(r_.cache->dim_k);
        call.dim_v = static_cast<uint32_t>(r_.cache->dim_v);
        call.tile_flags = r_.cache->flags();
        call.scale = r_.scale;
        call.softcap = r_.softcap;
        call.causal = r_.causal;
        // Positions count from the end (core/kv/sight.h): the sequence ends earlier for those that are causal, see lay_out. The
        // others see all of it, so that their windows reach further back.
        call.window = r_.causal || r_.window == 0 ? r_.window : std::min(r_.window, INT32_MAX - behind) + behind;
        call.sinks = r_.window > 0 ? r_.sinks : 0;
        call.items = items_;
        call.spans = spans_;
        call.believed = believed_;
        call.deadline_us = helper::deadline_us();
        call.fault = helper::test_fault();
        call.write_queries = [&](float *q) {
            const size_t dim = static_cast<size_t>(r_.cache->dim_k), floats = asked.rows * dim;
            for (size_t i : asked_)
                for (size_t block = 0; block < heads() * asked.blocks; ++block, q += floats)
                    copy_bytes(q, queries(i) + (asked.first + block * asked.step) * dim, floats * sizeof(float),
                               look_for_interrupts);
        };
        call.meanwhile = [this] {
            for (size_t i : asked_) attend_here(i);
        };
        using Clock = std::chrono::steady_clock;
        const auto begun = Clock::now();
        const float *answer = client_->attend(call, &source);
        const auto waited = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begun);
        helper::count_answer(client_->figures(), static_cast<uint64_t>(waited.count()));
        take(asked, answer);
        work_.tiles += client_->figures().tiles;
        work_.bytes += client_->figures().tile_bytes;
        any_answered_ = true;
        believe(request);
    }

    // Items, spans and what the helper is believed to know, as the protocol wants them.
    void lay_out(const PlannedRequest &request)
    {
        const int32_t behind = r_.causal ? r_.q_len - request.first_position - request.positions : 0;
        asked_.clear();
        items_.clear();
        spans_.clear();
        believed_.clear();
        for (size_t i = request.first_span; i < request.first_span + request.spans; ++i) {
            const PlannedSpan &span = plan_.spans[i];
            const PlannedItem &item = plan_.items[span.item];
            if (asked_.empty() || asked_.back() != span.item) {
                asked_.push_back(span.item);
                items_.push_back({static_cast<uint32_t>(spans_.size()), 0, std::max(item.stored + r_.fresh - behind, 0), 0});
            }
            ++items_.back().spans;
            offload::Span wire{};
            wire.space = span.space;
            wire.extent = static_cast<uint64_t>(span.span.extent);
            wire.layer = static_cast<uint32_t>(r_.layer[item.layer]);
            wire.flags = span.shared ? uint32_t{offload::kShared} : 0;
            wire.from = span.span.from;
            wire.to = span.span.to;
            spans_.push_back(wire);
            const int32_t covered = span.covered == kUnknown ? span.span.to : std::min(span.covered, span.span.to);
            believed_.push_back(span.shared ? covered : span.span.from);
        }
    }

    void take(const Asked &asked, const float *answer)
    {
        const size_t n = asked.blocks * asked.rows;
        for (size_t i : asked_)
            for (size_t h = 0; h < heads(); ++h, answer += n * (2 + dim_v()))
                for (size_t block = 0; block < asked.blocks; ++block) {
                    const size_t begin = asked.first + block * asked.step;
                    each_rows(i, h, begin, asked.rows, [&](const Rows &rows) {
                        const size_t at = block * asked.rows + rows.first - begin;
                        const float *m = answer + at, *o = answer + 2 * n + at * dim_v();
                        merge_states(static_cast<int>(rows.count), r_.cache->dim_v, rows.m, rows.l, rows.o, m, m + n, o);
                    });
                }
    }

    void believe(const PlannedRequest &request)
    {
        for (size_t i = request.first_span; i < request.first_span + request.spans; ++i) {
            const PlannedSpan &span = plan_.spans[i];
            if (span.shared)
                helper_covers(table_, span.span.extent, r_.layer[plan_.items[span.item].layer], generation_, span.span.to);
        }
    }

    // The tail's newest tokens and those that are not stored, once an item. The client calls it while the helper works: interrupts
    // are all that is asked of PostgreSQL.
    void attend_here(size_t i)
    {
        const PlannedItem &item = plan_.items[i];
        if (begun_[i]) return;
        begun_[i] = true;
        if (!item.tail.has_rest() && r_.fresh == 0) return;
        const Sequence &s = r_.sequences[item.sequence];
        const size_t at = r_.item(item.layer, item.sequence);
        for (size_t row = 0; row < r_.rows(); row += kMostQueryRows) {
            look_for_interrupts();
            heads_.begin(r_, {row, std::min<size_t>(kMostQueryRows, r_.rows() - row)}, queries(i), item.stored);
            heads_.begin_at(s.sealed);
            item.tail.visit_rest([](void *heads, const TileView &tile) { static_cast<Heads *>(heads)->add_kept(tile); }, &heads_);
            add_fresh(r_, at, item.stored, &heads_);
            heads_.merge_into(r_, &states_[i * item_floats()]);
        }
    }

    const AttendRequest &r_;
    offload::Client *client_;
    SealedTable *table_;
    uint64_t generation_;
    AttendPlan plan_;
    Heads heads_;
    std::vector<bool> begun_;
    std::vector<float> states_;  // [items][kv_heads] of {m, l, o}
    std::vector<size_t> asked_;  // items of the request
    std::vector<offload::Item> items_;
    std::vector<offload::Span> spans_;
    std::vector<int32_t> believed_;
    Work work_{};
    bool any_answered_ = false;
};

uint64_t bytes_to_read(const AttendRequest &r)
{
    const Cache *c = r.cache;
    const int full = tile_capacity(c->shape(c->codec));
    const double token = static_cast<double>(tile_bytes(c->shape(c->codec), full)) * c->kv_heads / full;
    double bytes = 0;
    for (int b = 0; b < r.batch; ++b) {
        const double sealed = r.sequences[b].sealed, seen = static_cast<double>(r.window) + r.q_len + r.sinks;
        bytes += token * (r.window > 0 ? std::min(sealed, seen) : sealed);
    }
    return static_cast<uint64_t>(bytes * r.layers);
}

bool queries_fit(const AttendRequest &r)
{
    const size_t rows = static_cast<size_t>(r.layers) * static_cast<size_t>(r.batch) * r.heads() * static_cast<size_t>(r.q_len);
    const auto dim = static_cast<size_t>(r.cache->dim_k);
    bool fit = true;
    by_pieces(rows, piece_of(dim * sizeof(float)), look_for_interrupts, [&](size_t first, size_t count) {
        for (size_t row = first; fit && row < first + count; ++row)
            fit = query_fits(r.queries + row * dim, r.cache->dim_k, r.scale);
    });
    return fit;
}

bool may_read_some(Oid table)
{
    return pg_class_aclcheck(table, GetUserId(), ACL_SELECT) == ACLCHECK_OK ||
           pg_attribute_aclcheck_all(table, GetUserId(), ACL_SELECT, ACLMASK_ANY) == ACLCHECK_OK;
}

}  // namespace

bool attend_by_helper(const AttendRequest &r, const AttendResult &result, Work *work)
{
    if (helper::use() == helper::Use::off) return false;
    const char *why = nullptr;
    offload::Client *client = helper::client_for({bytes_to_read(r), 0}, &why);
    if (!client || !queries_fit(r)) return false;  // the CPU's code says which is not finite or too large
    SealedTable table;
    bool direct = look_at_tail(r.cache, {}, nullptr).direct;
    if (direct) direct = open_sealed(r.cache, &table);
    if (!direct || r.cache->before_rope) {
        if (direct) close_direct(&table);
        // Who may read nothing is told so by the CPU's code, under require too.
        if (!may_read_some(r.cache->sealed) || !may_read_some(r.cache->tail)) return false;
        helper::refused({offload::FailureCode::not_supported,
                         r.cache->before_rope ? "keys before their rotary embedding are attended to by the CPU"
                                              : "rows that are read through the planner (row security, column privileges, "
                                                "serializable transactions) are attended to by the CPU"});
        return false;
    }
    const bool done = helper::answered([&] {
        HelperAttend attend(r, client, &table);
        if (!attend.worth_it()) return false;
        attend.run();
        attend.finish(result);
        attend.count(work);
        return true;
    });
    close_direct(&table);
    return done;
}

}  // namespace vkv::kv
