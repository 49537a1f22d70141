// kv.append and kv.seal: tokens into the tail, full tiles out of it.
//
// One writer a sequence: the header row is locked first. New tokens become rows of the tail, except those that a full tile takes at
// once; tiles take what lies wholly behind the newest tail_tokens. Everything is one transaction's work.

#include <string>

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/call.h"
#include "pg/kv/sealing.h"
#include "pg/kv/statistics.h"

namespace vkv::kv {

namespace {

struct Append {
    Cache *cache;
    int64_t seq;
    TensorView k, v;
    bool has_position;
    int32_t position;
};

void check_tensor(const Cache *c, const char *what, const TensorView &t, int dim)
{
    const uint32_t layers = static_cast<uint32_t>(c->layers), heads = static_cast<uint32_t>(c->kv_heads);
    if (t.dims == 4 && t.shape[0] == layers && t.shape[1] == heads && t.shape[3] == static_cast<uint32_t>(dim)) {
        const size_t bad = first_not_finite_f16(t.dtype, t.data, t.elements());
        if (bad == t.elements()) return;
        char text[300];
        const size_t d = t.shape[3], n = t.shape[2];
        const float value = element(t.dtype, t.data, bad);
        snprintf(text, sizeof text, "%s holds %g at layer %zu, head %zu, token %zu, dimension %zu", what,
                 static_cast<double>(value), bad / d / n / heads, bad / d / n % heads, bad / d % n, bad % d);
        const bool large = std::isfinite(value);
        throw Error(large ? Errc::numeric_overflow : Errc::data_exception, text,
                    large ? "Caches hold half-precision numbers: magnitudes up to 65504." : "Caches hold finite numbers only.");
    }
    char text[300];
    snprintf(text, sizeof text, "%s has shape %s, cache \"%s\" takes [%d, %d, tokens, %d]", what, shape_text(t).c_str(), c->name,
             c->layers, c->kv_heads, dim);
    throw Error(Errc::data_exception, text, {}, "The dimensions are layers, kv_heads, tokens, head_dim.");
}

// The locked header of a sequence; made if there is none.
Sequence *open_sequence(Cache *c, int64_t seq)
{
    MemoryContext context = CurrentMemoryContext;
    for (int attempt = 0; attempt < 3; ++attempt) {
        if (Sequence *s = lock_sequence(c, seq, context)) return s;
        Datum values[] = {Int64GetDatum(seq)};
        run_plan(c, Plan::header_insert, values);
    }
    ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
            errmsg("sequence %lld of cache \"%s\" exists, but may not be written", static_cast<long long>(seq), c->name),
            errhint("A row security policy hides it, or another transaction dropped it meanwhile."));
}

// Moves what may be sealed out of tail and new tokens; returns the position up to which tokens are in tiles now.
int32_t seal(Cache *c, Sequence *s, Tokens *tokens, int32_t stop, bool all)
{
    TilePlan *plans;
    const int count = plan_tiles(c, c->codec, s->sealed, stop, all, &plans);
    if (count == 0) return s->sealed;
    const int32_t sealed = plans[count - 1].pos + plans[count - 1].tokens;
    tokens->tail = read_whole_tail(c, s, std::min(sealed, s->length), CurrentMemoryContext);
    write_tiles(c, s->own(), *tokens, plans, count);
    if (s->length > s->sealed) {
        Datum values[] = {Int64GetDatum(s->own()), Int32GetDatum(s->sealed), Int32GetDatum(std::min(sealed, s->length))};
        run_plan(c, Plan::tail_delete, values);
    }
    return sealed;
}

int32_t append(const Append &a)
{
    Cache *c = a.cache;
    const uint32_t count = a.k.shape[2];
    Sequence *s = open_sequence(c, a.seq);
    const int32_t present = present_length(c, s);
    const bool lost = present < s->length;  // other tokens will stand where the lost ones stood
    s->length = present;
    if (lost) s->epoch = new_id();
    if (a.has_position && a.position != s->length) {
        char text[200];
        snprintf(text, sizeof text, "sequence %lld of cache \"%s\" has %d tokens, cannot append at position %d",
                 static_cast<long long>(a.seq), c->name, s->length, a.position);
        throw Error(Errc::wrong_state, text, a.position < s->length ? "kv.truncate removes tokens." : "");
    }
    if (count > static_cast<uint32_t>(INT32_MAX - 1 - s->length)) {
        char text[200];
        snprintf(text, sizeof text, "sequence %lld of cache \"%s\" cannot hold %lld tokens", static_cast<long long>(a.seq), c->name,
                 static_cast<long long>(s->length) + count);
        throw Error(Errc::limit_exceeded, text, "A sequence holds at most 2147483646 tokens.");
    }
    if (count == 0) return s->length;
    const bool fresh = s->spans == 0;
    if (fresh) start_extent(s, 0, CurrentMemoryContext);
    Tokens tokens;
    tokens.first_new = s->length;
    tokens.count_new = static_cast<int32_t>(count);
    tokens.k = a.k;
    tokens.v = a.v;
    const int32_t length = s->length + static_cast<int32_t>(count);
    const int32_t sealed = seal(c, s, &tokens, length - c->exact_tail(), false);
    const int32_t first_tail = std::max(sealed, s->length);
    tokens.tail = TailHalves{s->length, 0, nullptr, nullptr};
    write_tail(c, s->own(), tokens, first_tail, length);
    s->length = length;
    s->sealed = sealed;
    if (fresh || lost)
        write_sequence(c, s);
    else
        write_extent(c, s);
    return length;
}

}  // namespace

SQL_FUNCTION(kv_append)
{
    const char *const names[] = {"cache", "seq", "k"};
    require_arguments(fcinfo, names, 3);
    const StatTimer timer(Operation::append);
    SPI_connect();
    Append a{};
    a.cache = cache_of(PG_GETARG_OID(0));
    a.seq = PG_GETARG_INT64(1);
    a.k = view_of(datum_tensor(PG_GETARG_DATUM(2)));
    a.has_position = !PG_ARGISNULL(4);
    a.position = a.has_position ? PG_GETARG_INT32(4) : 0;
    check_model(a.cache, optional_text(fcinfo, 5), optional_text(fcinfo, 6));
    check_tensor(a.cache, "k", a.k, a.cache->dim_k);
    if (a.cache->values_in_keys) {
        if (!PG_ARGISNULL(3))
            throw Error(Errc::invalid_parameter, "the values of this cache are the first dimensions of its keys",
                        "Pass NULL for v.");
    } else {
        if (PG_ARGISNULL(3)) throw Error(Errc::null_not_allowed, "v must not be null");
        a.v = view_of(datum_tensor(PG_GETARG_DATUM(3)));
        check_tensor(a.cache, "v", a.v, a.cache->dim_v);
        if (a.v.shape[2] != a.k.shape[2]) {
            char text[200];
            snprintf(text, sizeof text, "k has %u tokens, v has %u", a.k.shape[2], a.v.shape[2]);
            throw Error(Errc::data_exception, text);
        }
    }
    const int32_t length = append(a);
    SPI_finish();
    count_work(Operation::append, {1, a.k.shape[2], 0, a.k.bytes() + a.v.bytes()});
    PG_RETURN_INT32(length);
}

SQL_FUNCTION(kv_seal)
{
    SPI_connect();
    Cache *c = cache_of(PG_GETARG_OID(0));
    Sequence *s = lock_sequence_or_raise(c, PG_GETARG_INT64(1), CurrentMemoryContext);
    s->length = present_length(c, s);
    const int32_t before = s->sealed;
    if (s->length > before) {
        Tokens tokens;
        tokens.first_new = s->length;
        s->sealed = seal(c, s, &tokens, s->length, true);
        write_extent(c, s);
    }
    SPI_finish();
    PG_RETURN_INT32(s->sealed - before);
}

}  // namespace vkv::kv
