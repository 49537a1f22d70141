// kv.append and kv.seal: tokens into the tail, full tiles out of it.
//
// One writer a sequence: the header row is changed first, which locks it. New tokens become rows of the tail, except those that a
// full tile takes at once; tiles take what lies wholly behind the newest tail_tokens. Everything is one transaction's work.

#include <string>

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/arguments.h"
#include "pg/kv/call.h"
#include "pg/kv/change.h"
#include "pg/kv/foreign_code.h"
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
        const size_t bad = first_not_finite(t);
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

// Once a session and cache: numbers of bf16 that halves do not hold are not what they were.
void note_rounding(Cache *c, const TensorView &t)
{
    if (c->said_rounding || t.dtype != Dtype::bf16) return;
    size_t inexact = 0;
    by_pieces(t.elements(), piece_of(sizeof(uint64_t)), look_for_interrupts,
              [&](size_t first, size_t count) { inexact += inexact_bf16(static_cast<const uint16_t *>(t.data) + first, count); });
    if (inexact == 0) return;
    c->said_rounding = true;
    ereport(NOTICE, errmsg("%zu of %zu bf16 numbers are rounded in cache \"%s\", which keeps f16", inexact, t.elements(), c->name),
            errdetail("Magnitudes below 2^-17 lose bits, those below 2^-25 become zero; all others are kept exactly."));
}

// The locked header of a sequence; made if there is none.
Sequence *open_sequence(Cache *c, int64_t seq)
{
    MemoryContext context = CurrentMemoryContext;
    for (int attempt = 0; attempt < 3; ++attempt) {
        if (Sequence *s = lock_sequence_if_any(c, seq, context)) return s;
        Datum values[] = {Int64GetDatum(seq)};
        run_plan(c, Plan::header_insert, values);
    }
    ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
            errmsg("sequence %lld of cache \"%s\" exists, but may not be written", static_cast<long long>(seq), c->name),
            errhint("A row security policy hides it: choose another number."));
}

// The tiles that a call writes, and up to where everything is in tiles then.
struct Sealing {
    TilePlan *plans;
    int count;
    int32_t stop;
};

Sealing plan_sealing(const Cache *c, const Sequence *s, int32_t stop, bool all)
{
    Sealing sealing{nullptr, 0, s->sealed};
    sealing.count = plan_tiles(c, c->codec, s->sealed, stop, all, &sealing.plans);
    if (sealing.count > 0) {
        const TilePlan &last = sealing.plans[sealing.count - 1];
        sealing.stop = last.pos + last.tokens;
    }
    return sealing;
}

// Moves what is planned out of the tail, which s describes, and the new tokens.
void write_sealing(Cache *c, const Sequence *s, Tokens *tokens, const Sealing &sealing)
{
    if (sealing.count == 0) return;
    refuse_foreign_code(c);
    const int32_t in_tail = std::min(sealing.stop, s->length);
    tokens->tail = read_whole_tail(c, s, in_tail, CurrentMemoryContext);
    write_tiles(c, s->own(), *tokens, sealing.plans, sealing.count);
    if (s->length == s->sealed) return;
    Datum values[] = {Int64GetDatum(s->own()), Int32GetDatum(s->sealed), Int32GetDatum(in_tail)};
    run_plan(c, Plan::tail_delete, values);
}

// A sequence that a call appends to, locked, and what its header says already: `before` is what it said.
struct Extension {
    const Sequence *before;
    int32_t length;
    Sealing sealing;
};

Extension extension_of(const Append &a, const Sequence *s)
{
    const int32_t length = s->length + static_cast<int32_t>(a.k.shape[2]);
    return {s, length, plan_sealing(a.cache, s, length - a.cache->exact_tail(), false)};
}

bool fits(const Append &a, const Sequence *s)
{
    return (!a.has_position || a.position == s->length) && a.k.shape[2] <= static_cast<uint32_t>(INT32_MAX - 1 - s->length);
}

[[noreturn]] void raise_misfit(const Append &a, const Sequence *s)
{
    char text[200];
    if (a.has_position && a.position != s->length) {
        snprintf(text, sizeof text, "sequence %lld of cache \"%s\" has %d tokens, cannot append at position %d",
                 static_cast<long long>(a.seq), a.cache->name, s->length, a.position);
        throw Error(Errc::wrong_state, text, a.position < s->length ? "kv.truncate removes tokens." : "");
    }
    snprintf(text, sizeof text, "sequence %lld of cache \"%s\" cannot hold %lld tokens", static_cast<long long>(a.seq),
             a.cache->name, static_cast<long long>(s->length) + a.k.shape[2]);
    throw Error(Errc::limit_exceeded, text, "A sequence holds at most 2147483646 tokens.");
}

// Most calls add to a sequence that nobody else writes: changing the row that was seen, if it still is what it was, locks it, and
// spares a lock before that, which is logged, too. False: nothing happened.
bool extend_as_seen(const Append &a, Extension *extension)
{
    Cache *c = a.cache;
    const Sequence *s = peek_sequence(c, a.seq, CurrentMemoryContext);
    if (!s || s->spans == 0 || !fits(a, s) || present_length(c, s) != s->length) return false;
    *extension = extension_of(a, s);
    return extend_sequence(c, s, extension->length, extension->sealing.stop);
}

void extend_locked(const Append &a, Extension *extension)
{
    Cache *c = a.cache;
    Sequence *s = open_sequence(c, a.seq);
    const int32_t present = present_length(c, s);
    const bool lost = present < s->length;  // other tokens will stand where the lost ones stood
    s->length = present;
    if (!fits(a, s)) raise_misfit(a, s);
    const bool fresh = s->spans == 0;
    if (fresh) start_extent(c, s, 0, CurrentMemoryContext);
    if (lost) s->epoch = new_id();
    *extension = extension_of(a, s);
    if (a.k.shape[2] == 0) return;
    if (!fresh && !lost) {
        if (!extend_sequence(c, s, extension->length, extension->sealing.stop)) may_not_be(c, a.seq, "changed");
        return;
    }
    Sequence after = *s;
    after.length = extension->length;
    after.sealed = extension->sealing.stop;
    write_sequence(c, &after);
}

int32_t append(const Append &a)
{
    Cache *c = a.cache;
    Extension extension;
    if (a.k.shape[2] == 0 || !extend_as_seen(a, &extension)) extend_locked(a, &extension);
    if (a.k.shape[2] == 0) return extension.length;
    const Sequence *s = extension.before;
    Tokens tokens;
    tokens.first_new = s->length;
    tokens.count_new = static_cast<int32_t>(a.k.shape[2]);
    tokens.k = a.k;
    tokens.v = a.v;
    begin_writing(c, a.seq);
    write_sealing(c, s, &tokens, extension.sealing);
    tokens.tail = TailHalves{s->length, 0, nullptr, nullptr, nullptr};
    write_tail(c, s->own(), tokens, std::max(extension.sealing.stop, s->length), extension.length);
    end_writing();
    return extension.length;
}

}  // namespace

SQL_FUNCTION(kv_append)
{
    const char *const names[] = {"cache", "seq", "k"};
    require_arguments(fcinfo, names, 3);
    const StatTimer timer(Operation::append);
    begin_change();
    Append a{};
    a.cache = cache_of(PG_GETARG_OID(0));
    refuse_foreign_code(a.cache, Touched::header_and_tail);
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
    note_rounding(a.cache, a.k);
    if (!a.cache->values_in_keys) note_rounding(a.cache, a.v);
    const int32_t length = append(a);
    end_change();
    count_work(Operation::append, {1, a.k.shape[2], 0, a.k.bytes() + a.v.bytes()});
    PG_RETURN_INT32(length);
}

SQL_FUNCTION(kv_seal)
{
    begin_change();
    Cache *c = cache_of(PG_GETARG_OID(0));
    refuse_foreign_code(c);
    Sequence *s = lock_sequence_or_raise(c, PG_GETARG_INT64(1), CurrentMemoryContext);
    const int32_t length = present_length(c, s);
    int32_t count = 0;
    if (length > s->sealed) {
        const Sealing sealing = plan_sealing(c, s, length, true);
        Tokens tokens;
        tokens.first_new = length;
        if (!extend_sequence(c, s, length, sealing.stop)) may_not_be(c, s->seq, "changed");
        begin_writing(c, s->seq);
        write_sealing(c, s, &tokens, sealing);
        end_writing();
        count = sealing.stop - s->sealed;
    }
    end_change();
    PG_RETURN_INT32(count);
}

}  // namespace vkv::kv
