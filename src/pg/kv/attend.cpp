// kv.attend: batched attention of queries over sequences of a cache, on the CPU or by the helper program (attend_helper.h).
//
// For each layer, sequence and KV head the queries that share the head accumulate one state over sealed tiles (read where they
// lie), the tail and tokens that the caller has not stored yet. Everything is read under the snapshot of the calling statement.

#include <algorithm>
#include <chrono>

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/gpu/helper.h"
#include "pg/kv/arguments.h"
#include "pg/kv/attend_helper.h"
#include "pg/kv/call.h"
#include "pg/kv/halves.h"
#include "pg/kv/heads.h"
#include "pg/kv/source.h"
#include "pg/kv/statistics.h"
#include "pg/kv/tail_tiles.h"

namespace vkv::kv {

namespace {

struct Result {
    TensorHeader *output, *lse;
};

void attend_one(const AttendRequest &r, Heads *heads, int l, int b, float *output, float *lse)
{
    Cache *c = r.cache;
    const Sequence &s = r.sequences[b];
    MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "kv.attend", ALLOCSET_DEFAULT_SIZES);
    MemoryContext before = MemoryContextSwitchTo(scratch);
    // Held until the scratch memory goes, also when an error takes it: policies on the sealed tiles run code that may attend.
    const auto *tail = own<HeldTail>(scratch, c, &s, r.layer[l]);
    const int32_t stored = s.sealed + tail->tokens();
    check_total(r, s, stored);
    const size_t item = r.item(l, b), q_rows = r.heads() * static_cast<size_t>(r.q_len);
    auto add = [heads](const TileView &tile, int32_t to, const void *next) { heads->add(tile, to, next); };
    for (size_t row = 0; row < r.rows(); row += kMostQueryRows) {
        look_for_interrupts();
        const QueryRows rows{row, std::min<size_t>(kMostQueryRows, r.rows() - row)};
        heads->begin(r, rows, r.queries + item * q_rows * static_cast<size_t>(c->dim_k), stored);
        visit_sealed(c, &s, r.layer[l], add);
        if (tail->tokens() > 0) {
            heads->begin_at(s.sealed);
            tail->visit([](void *argument, const TileView &tile) { static_cast<Heads *>(argument)->add_kept(tile); }, heads);
        }
        add_fresh(r, item, stored, heads);
        heads->finish(r, output + item * q_rows * static_cast<size_t>(c->dim_v), lse ? lse + item * q_rows : nullptr);
    }
    heads->work().tokens += static_cast<uint64_t>(stored) + static_cast<uint64_t>(r.fresh);
    MemoryContextSwitchTo(before);
    MemoryContextDelete(scratch);
}

void attend_here(const AttendRequest &r, const AttendResult &result, Work *work)
{
    auto *heads = own<Heads>(CurrentMemoryContext, r.cache->kv_heads, r.cache);
    const auto begun = std::chrono::steady_clock::now();
    for (int l = 0; l < r.layers; ++l)
        for (int b = 0; b < r.batch; ++b) attend_one(r, heads, l, b, result.output, result.lse);
    *work = heads->work();
    const auto taken = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begun);
    helper::count_cpu(work->bytes, static_cast<uint64_t>(taken.count()));
}

// q's dimensions, once the layers and the query positions that were left out are put in.
void read_queries(AttendRequest *r, bool many_layers)
{
    const Cache *c = r->cache;
    const TensorView &q = r->q;
    const int lead = many_layers ? 1 : 0, rest = q.dims - lead;
    bool fits = rest == 3 || rest == 4;
    if (fits) {
        const uint32_t *shape = q.shape + lead;
        fits = (!many_layers || q.shape[0] == static_cast<uint32_t>(r->layers)) && shape[0] == static_cast<uint32_t>(r->batch) &&
               shape[1] == static_cast<uint32_t>(c->q_heads) && shape[rest - 1] == static_cast<uint32_t>(c->dim_k);
        r->q_len = rest == 4 ? static_cast<int>(shape[2]) : 1;
    }
    const std::string layers = many_layers ? message("%d, ", r->layers) : "";
    if (!fits)
        throw Error(Errc::data_exception,
                    message("q has shape %s, should be [%s%d, %d, %d] or [%s%d, %d, q_len, %d]", shape_text(q).c_str(),
                            layers.c_str(), r->batch, c->q_heads, c->dim_k, layers.c_str(), r->batch, c->q_heads, c->dim_k),
                    {},
                    many_layers ? "The dimensions are layers, sequences, q_heads, query positions, head_dim."
                                : "The dimensions are sequences, q_heads, query positions, head_dim.");
}

void check_fresh(const AttendRequest &r, bool many_layers, const char *name, const TensorView &t, int dim)
{
    const int lead = many_layers ? 1 : 0;
    const uint32_t *shape = t.shape + lead;
    if (t.dims == 4 + lead && (!many_layers || t.shape[0] == static_cast<uint32_t>(r.layers)) &&
        shape[0] == static_cast<uint32_t>(r.batch) && shape[1] == static_cast<uint32_t>(r.cache->kv_heads) &&
        shape[3] == static_cast<uint32_t>(dim) && (r.fresh == 0 || shape[2] == static_cast<uint32_t>(r.fresh)))
        return;
    throw Error(Errc::data_exception, message("%s has shape %s, should be [%s%d, %d, tokens, %d]", name, shape_text(t).c_str(),
                                              many_layers ? "layers, " : "", r.batch, r.cache->kv_heads, dim));
}

void read_fresh(FunctionCallInfo fcinfo, AttendRequest *r, bool many_layers, int at)
{
    if (PG_ARGISNULL(at) && PG_ARGISNULL(at + 1)) return;
    if (PG_ARGISNULL(at) || PG_ARGISNULL(at + 1) != r->cache->values_in_keys)
        throw Error(Errc::invalid_parameter,
                    r->cache->values_in_keys ? "this cache takes k without v" : "k and v must be given together");
    const TensorView k = tensor_argument(fcinfo, at);
    check_fresh(*r, many_layers, "k", k, r->cache->dim_k);
    r->fresh = static_cast<int>(k.shape[k.dims - 2]);
    r->k = finite_halves(k, "k");
    if (r->cache->values_in_keys) return;
    const TensorView v = tensor_argument(fcinfo, at + 1);
    check_fresh(*r, many_layers, "v", v, r->cache->dim_v);
    if (static_cast<int>(v.shape[v.dims - 2]) != r->fresh)
        throw Error(Errc::data_exception, message("k has %d tokens, v has %u", r->fresh, v.shape[v.dims - 2]));
    r->v = finite_halves(v, "v");
}

int positive_or(FunctionCallInfo fcinfo, int at, const char *name, int least, int otherwise)
{
    if (PG_ARGISNULL(at)) return otherwise;
    const int value = PG_GETARG_INT32(at);
    if (value < least) throw Error(Errc::invalid_parameter, message("%s must be at least %d, not %d", name, least, value));
    return value;
}

// The arguments from `at` on: scale, causal, window, sinks, softcap.
void read_options(FunctionCallInfo fcinfo, AttendRequest *r, int at)
{
    const double scale = PG_ARGISNULL(at) ? 1 / std::sqrt(static_cast<double>(r->cache->dim_k)) : PG_GETARG_FLOAT8(at);
    r->scale = static_cast<float>(scale);
    if (!std::isfinite(r->scale)) throw Error(Errc::invalid_parameter, message("scale must be finite, not %g", scale));
    r->causal = PG_ARGISNULL(at + 1) || PG_GETARG_BOOL(at + 1);
    r->window = positive_or(fcinfo, at + 2, "window", 1, 0);
    r->sinks = positive_or(fcinfo, at + 3, "sinks", 0, 0);
    const double softcap = PG_ARGISNULL(at + 4) ? 0 : PG_GETARG_FLOAT8(at + 4);
    r->softcap = static_cast<float>(softcap);
    if (!std::isfinite(r->softcap) || softcap < 0)
        throw Error(Errc::invalid_parameter, message("softcap must be a positive number or 0, not %g", softcap));
}

void read_layers(FunctionCallInfo fcinfo, AttendRequest *r, bool many_layers)
{
    if (!many_layers) {
        auto *one = static_cast<int *>(palloc(sizeof(int)));
        *one = PG_GETARG_INT32(2);
        r->layer = one;
        r->layers = 1;
    } else {
        ArrayType *array = PG_GETARG_ARRAYTYPE_P(2);
        if (ARR_NDIM(array) > 1 || ARR_HASNULL(array))
            throw Error(Errc::invalid_parameter, "layers must be one-dimensional and not null");
        r->layers = ARR_NDIM(array) == 0 ? 0 : ARR_DIMS(array)[0];
        r->layer = reinterpret_cast<const int *>(ARR_DATA_PTR(array));
    }
    by_pieces(static_cast<size_t>(r->layers), piece_of(sizeof(int)), look_for_interrupts, [r](size_t first, size_t count) {
        for (size_t i = first; i < first + count; ++i) check_layer(r->cache, r->layer[i]);
    });
}

Result make_result(const AttendRequest &r, bool want_lse)
{
    uint32_t shape[kMaxTensorDims];
    std::copy(r.q.shape, r.q.shape + kMaxTensorDims, shape);
    Result result{};
    if (want_lse) result.lse = make_tensor(Dtype::f32, r.q.dims - 1, shape);
    shape[r.q.dims - 1] = static_cast<uint32_t>(r.cache->dim_v);
    result.output = make_tensor(Dtype::f32, r.q.dims, shape);
    return result;
}

// first: the number of the argument "scale".
Result attend(FunctionCallInfo fcinfo, bool many_layers, int first, bool want_lse)
{
    const char *const names[] = {"cache", "seqs", many_layers ? "layers" : "layer", "q"};
    require_arguments(fcinfo, names, 4);
    const StatTimer timer(Operation::attend);
    MemoryContext context = CurrentMemoryContext;
    SPI_connect();
    AttendRequest r{};
    r.cache = cache_of(PG_GETARG_OID(0));
    check_model(r.cache, optional_text(fcinfo, first + 7), nullptr);
    read_layers(fcinfo, &r, many_layers);
    ArrayType *seqs = PG_GETARG_ARRAYTYPE_P(1);
    r.batch = count_sequences(seqs);
    r.q = tensor_argument(fcinfo, 3);
    read_queries(&r, many_layers);
    read_options(fcinfo, &r, first);
    read_fresh(fcinfo, &r, many_layers, first + 5);
    r.sequences = read_sequences(r.cache, seqs, CurrentMemoryContext);
    r.queries = floats_of(r.q);
    MemoryContext inner = MemoryContextSwitchTo(context);
    const Result result = make_result(r, want_lse);
    MemoryContextSwitchTo(inner);
    const AttendResult out{static_cast<float *>(tensor_data(result.output)),
                           want_lse ? static_cast<float *>(tensor_data(result.lse)) : nullptr};
    Work work{};
    if (r.q_len > 0 && r.batch > 0 && r.layers > 0 && !attend_by_helper(r, out, &work)) attend_here(r, out, &work);
    work.sequences = static_cast<uint64_t>(r.batch);
    SPI_finish();
    count_work(Operation::attend, work);
    return result;
}

Datum attend_lse(FunctionCallInfo fcinfo, bool many_layers)
{
    const bool want_lse = !PG_ARGISNULL(4) && PG_GETARG_BOOL(4);
    const Result result = attend(fcinfo, many_layers, 5, want_lse);
    Datum values[] = {PointerGetDatum(result.output), PointerGetDatum(result.lse)};
    bool nulls[] = {false, !want_lse};
    return make_row(fcinfo, values, nulls);
}

}  // namespace

SQL_FUNCTION(kv_attend) { return PointerGetDatum(attend(fcinfo, false, 4, false).output); }
SQL_FUNCTION(kv_attend_layers) { return PointerGetDatum(attend(fcinfo, true, 4, false).output); }
SQL_FUNCTION(kv_attend_lse) { return attend_lse(fcinfo, false); }
SQL_FUNCTION(kv_attend_layers_lse) { return attend_lse(fcinfo, true); }

}  // namespace vkv::kv
