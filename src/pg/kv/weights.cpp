// kv.weights: how much each stored token weighs for a query. All logits of a layer, then the softmax over them in double precision.

#include <algorithm>
#include <vector>

#include "core/kv/attend.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/arguments.h"
#include "pg/kv/call.h"
#include "pg/kv/halves.h"
#include "pg/kv/source.h"

namespace vkv::kv {

namespace {

struct Look {
    Cache *cache;
    int layer;
    float scale, softcap;
    int32_t window, sinks;
    const float *q;  // [q_heads][dim_k], at most 2^20 times 1024
    size_t heads() const { return static_cast<size_t>(cache->q_heads); }
    size_t group() const { return static_cast<size_t>(cache->group()); }
    size_t dim() const { return static_cast<size_t>(cache->dim_k); }
};

Look read_look(FunctionCallInfo fcinfo)
{
    Look look{};
    look.cache = cache_of(PG_GETARG_OID(0));
    look.layer = PG_GETARG_INT32(2);
    check_layer(look.cache, look.layer);
    const TensorView q = tensor_argument(fcinfo, 3);
    if (q.dims != 2 || q.shape[0] != look.heads() || q.shape[1] != look.dim())
        throw Error(Errc::data_exception,
                    message("q has shape %s, should be [%zu, %zu]", shape_text(q).c_str(), look.heads(), look.dim()));
    const double scale = PG_ARGISNULL(4) ? 1 / std::sqrt(static_cast<double>(look.dim())) : PG_GETARG_FLOAT8(4);
    const double softcap = PG_ARGISNULL(7) ? 0 : PG_GETARG_FLOAT8(7);
    look.window = PG_ARGISNULL(5) ? 0 : PG_GETARG_INT32(5);
    look.sinks = PG_ARGISNULL(6) ? 0 : PG_GETARG_INT32(6);
    if (!std::isfinite(static_cast<float>(scale)))
        throw Error(Errc::invalid_parameter, message("scale must be finite, not %g", scale));
    if (!std::isfinite(static_cast<float>(softcap)) || softcap < 0)
        throw Error(Errc::invalid_parameter, message("softcap must be a positive number or 0, not %g", softcap));
    if (!PG_ARGISNULL(5) && look.window < 1)
        throw Error(Errc::invalid_parameter, message("window must be at least 1, not %d", look.window));
    if (look.sinks < 0) throw Error(Errc::invalid_parameter, message("sinks must be at least 0, not %d", look.sinks));
    look.scale = static_cast<float>(scale);
    look.softcap = static_cast<float>(softcap);
    look.q = floats_of(q);
    return look;
}

// The queries of every KV head, [kv_heads][parts].
std::vector<Queries> *queries_of(const Look &look)
{
    const size_t parts = (look.group() + kMostQueryRows - 1) / kMostQueryRows, heads = static_cast<size_t>(look.cache->kv_heads);
    auto *queries = own<std::vector<Queries>>(CurrentMemoryContext, heads * parts);
    for (size_t i = 0; i < queries->size(); ++i) {
        look_for_interrupts();
        const size_t first = i % parts * kMostQueryRows, row = i / parts * look.group() + first;
        (*queries)[i].set(look.q + row * look.dim(), static_cast<int>(std::min<size_t>(kMostQueryRows, look.group() - first)),
                          look.cache->dim_k, look.scale, look.softcap);
    }
    return queries;
}

// The logits of every query head for every token: [q_heads][total].
const float *all_logits(const Look &look, const Sequence *s, const TailHalves &tail)
{
    Cache *c = look.cache;
    const size_t total = static_cast<size_t>(s->sealed) + static_cast<size_t>(tail.tokens), group = look.group();
    const size_t most = std::min<size_t>(kMostQueryRows, group);
    expect_sealed(c, s, look.layer, {0, s->sealed}, 4.0 * static_cast<double>(look.heads()) * static_cast<double>(total));
    auto *all = static_cast<float *>(MemoryContextAllocHuge(CurrentMemoryContext, look.heads() * total * sizeof(float) + 64));
    auto *some = static_cast<float *>(MemoryContextAllocHuge(CurrentMemoryContext, most * kMaxTileData * sizeof(float)));
    const auto *queries = queries_of(look);
    const size_t parts = queries->size() / static_cast<size_t>(c->kv_heads);
    const auto end = static_cast<int32_t>(total);
    auto *sights = static_cast<Sight *>(palloc(sizeof(Sight) * most));
    for (size_t i = 0; i < most; ++i) sights[i] = {look.window > 0 ? std::max(end - look.window, 0) : 0, end};
    auto take = [&](const TileView &tile, int32_t to) {
        Selection selection;
        selection.to = to;
        selection.sights = sights;
        selection.sinks = look.window > 0 ? look.sinks : 0;
        selection.rope = c->rope;
        const auto h = static_cast<size_t>(tile.head), n = static_cast<size_t>(tile.tokens),
                   first = static_cast<size_t>(tile.first);
        const size_t stop = std::min(static_cast<size_t>(std::max(to, 0)), total);
        if (tile.head < 0 || tile.head >= c->kv_heads || tile.first < 0 || first >= stop)
            throw Error(Errc::data_corrupted, message("a tile of sequence %lld in cache \"%s\" at position %d lies outside of it",
                                                      static_cast<long long>(s->seq), c->name, tile.first));
        const size_t count = std::min(n, stop - first);
        for (size_t part = 0; part < parts; ++part) {
            look_for_interrupts();
            const Queries &rows = (*queries)[h * parts + part];
            logits(rows, tile, selection, some);
            float *out = all + (h * group + part * kMostQueryRows) * total + first;
            for (size_t i = 0; i < static_cast<size_t>(rows.rows()); ++i) std::copy_n(some + i * n, count, out + i * total);
        }
    };
    visit_sealed(c, s, look.layer, take);
    for_halves(c, {tail.k, tail.v, s->sealed, tail.tokens}, take);
    return all;
}

void put_weights(ReturnSetInfo *info, size_t head, const float *logit, size_t total)
{
    constexpr size_t kTokens = 16384;  // between two looks for interrupts
    double most = -INFINITY, sum = 0;
    auto each = [&](auto &&use) {
        by_pieces(total, kTokens, look_for_interrupts, [&](size_t first, size_t n) {
            for (size_t t = first; t < first + n; ++t) use(t);
        });
    };
    each([&](size_t t) { most = std::max(most, static_cast<double>(logit[t])); });
    each([&](size_t t) { sum += std::exp(static_cast<double>(logit[t]) - most); });
    each([&](size_t t) {
        if (std::isinf(logit[t])) return;  // outside the window
        Datum values[] = {Int32GetDatum(static_cast<int32>(t)), Int32GetDatum(static_cast<int32>(head)),
                          Float4GetDatum(static_cast<float>(std::exp(static_cast<double>(logit[t]) - most) / sum))};
        bool nulls[3] = {};
        tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
    });
}

}  // namespace

SQL_FUNCTION(kv_weights)
{
    const char *const names[] = {"cache", "seq", "layer", "q"};
    require_arguments(fcinfo, names, 4);
    compat::init_materialized(fcinfo);
    auto *info = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
    SPI_connect();
    const Look look = read_look(fcinfo);
    const Sequence *s = read_sequence(look.cache, PG_GETARG_INT64(1), CurrentMemoryContext);
    if (!s) no_sequence(look.cache, PG_GETARG_INT64(1));
    const TailHalves tail = read_tail(look.cache, s, look.layer, CurrentMemoryContext);
    const float *all = all_logits(look, s, tail);
    const size_t total = static_cast<size_t>(s->sealed) + static_cast<size_t>(tail.tokens);
    for (size_t head = 0; head < look.heads(); ++head) {
        put_weights(info, head, all + head * total, total);
        CHECK_FOR_INTERRUPTS();
    }
    SPI_finish();
    return 0;
}

}  // namespace vkv::kv
