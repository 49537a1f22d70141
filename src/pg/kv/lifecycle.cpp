// kv.length, kv.truncate, kv.fork and kv.drop_sequence: what happens to whole sequences. No tile is ever copied or changed here;
// sequences exchange extents, and tiles that no sequence reaches are deleted.

#include <algorithm>

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/call.h"
#include "pg/kv/sequence.h"

namespace vkv::kv {

namespace {

void check_length(const Cache *c, const Sequence *s, int32_t length)
{
    if (length < 0) throw Error(Errc::invalid_parameter, message("length must not be negative, is %d", length));
    if (length > s->length)
        throw Error(Errc::invalid_parameter, message("sequence %lld of cache \"%s\" has %d tokens, not %d",
                                                     static_cast<long long>(s->seq), c->name, s->length, length));
}

// Cutting the tail takes the sequence's lock only, cutting tiles those of all that share them.
Sequence *lock_for_truncate(Cache *c, int64_t seq, int32_t length, bool *sharers)
{
    MemoryContext context = CurrentMemoryContext;
    const Sequence *seen = read_sequence(c, seq, context);
    *sharers = seen && length < seen->sealed;
    Sequence *s = *sharers ? lock_with_sharers(c, seq, context) : lock_sequence(c, seq, context);
    if (!s) no_sequence(c, seq);
    return s;
}

void truncate(Cache *c, Sequence *s, int32_t length, bool sharers)
{
    const int32_t old_length = s->length;
    s->epoch = new_id();
    s->length = length;
    if (length >= s->sealed) {
        Datum range[] = {Int64GetDatum(s->own()), Int32GetDatum(length), Int32GetDatum(kOpenStop)};
        if (old_length > s->sealed) run_plan(c, Plan::tail_delete, range);
        write_sequence(c, s);
        return;
    }
    if (!sharers) lock_sharers(c, s);  // what was in the tail has been sealed since it was looked at
    Datum range[] = {Int64GetDatum(s->own()), Int32GetDatum(0), Int32GetDatum(kOpenStop)};
    run_plan(c, Plan::tail_delete, range);
    const int spans = s->spans;
    const int64_t *extents = s->extents;
    s->sealed = length;
    start_extent(s, length, CurrentMemoryContext);
    write_sequence(c, s);
    free_tiles(c, spans, extents);
}

// The new sequence names the extents of the old one up to its length, and gets a copy of what it needs of the tail.
int32_t fork(Cache *c, int64_t from, int64_t to, bool whole, int32_t length)
{
    MemoryContext context = CurrentMemoryContext;
    Sequence *s = lock_sequence_or_raise(c, from, context);
    s->length = present_length(c, s);
    if (whole) length = s->length;
    check_length(c, s, length);
    Datum source[] = {Int64GetDatum(from)}, target[] = {Int64GetDatum(to)};
    if (run_plan(c, Plan::header_fork, source) != 1) no_sequence(c, from);
    const bool made = run_plan(c, Plan::header_insert, target) == 1;
    Sequence *old = made ? nullptr : lock_sequence(c, to, context);
    if (!made && (!old || old->length > 0))
        throw Error(Errc::duplicate_object, message("sequence %lld of cache \"%s\" exists", static_cast<long long>(to), c->name),
                    "kv.drop_sequence removes it.");
    Sequence copy = *s;
    copy.seq = to;
    copy.length = length;
    copy.sealed = std::min(length, s->sealed);
    copy.epoch = new_id();
    start_extent(&copy, copy.sealed, context);
    if (length > s->sealed) {
        Datum range[] = {Int64GetDatum(s->own()), Int64GetDatum(copy.own()), Int32GetDatum(s->sealed), Int32GetDatum(length)};
        const uint64_t rows = run_plan(c, Plan::tail_copy, range);
        const uint64_t wanted = static_cast<uint64_t>(length - s->sealed) * static_cast<uint64_t>(c->chunks());
        if (rows != wanted)
            throw Error(Errc::data_corrupted,
                        message("tail of sequence %lld in cache \"%s\" has %llu rows instead of %llu", static_cast<long long>(from),
                                c->name, static_cast<unsigned long long>(rows), static_cast<unsigned long long>(wanted)));
    }
    write_sequence(c, &copy);
    return length;
}

bool drop(Cache *c, int64_t seq)
{
    Sequence *s = lock_with_sharers(c, seq, CurrentMemoryContext);
    if (!s) return false;
    if (s->spans > 0) {
        Datum range[] = {Int64GetDatum(s->own()), Int32GetDatum(0), Int32GetDatum(kOpenStop)};
        run_plan(c, Plan::tail_delete, range);
    }
    Datum row[] = {Int64GetDatum(seq)};
    if (run_plan(c, Plan::header_delete, row) != 1) no_sequence(c, seq);
    free_tiles(c, s->spans, s->extents);
    return true;
}

}  // namespace

SQL_FUNCTION(kv_new_id) { PG_RETURN_INT64(new_id()); }

SQL_FUNCTION(kv_length)
{
    MemoryContext context = CurrentMemoryContext;
    SPI_connect();
    Cache *c = cache_of(PG_GETARG_OID(0));
    const Sequence *s = read_sequence(c, PG_GETARG_INT64(1), context);
    const int32_t length = s ? present_length(c, s) : -1;
    SPI_finish();
    if (!s) PG_RETURN_NULL();
    PG_RETURN_INT32(length);
}

SQL_FUNCTION(kv_truncate)
{
    SPI_connect();
    Cache *c = cache_of(PG_GETARG_OID(0));
    const int32_t length = PG_GETARG_INT32(2);
    bool sharers;
    Sequence *s = lock_for_truncate(c, PG_GETARG_INT64(1), length, &sharers);
    s->length = present_length(c, s);
    check_length(c, s, length);
    if (length < s->length) truncate(c, s, length, sharers);
    SPI_finish();
    PG_RETURN_INT32(length);
}

SQL_FUNCTION(kv_fork)
{
    const char *const names[] = {"cache", "from_seq", "to_seq"};
    require_arguments(fcinfo, names, 3);
    const int64_t from = PG_GETARG_INT64(1), to = PG_GETARG_INT64(2);
    if (from == to)
        throw Error(Errc::invalid_parameter, message("sequence %lld cannot be forked to itself", static_cast<long long>(from)));
    SPI_connect();
    Cache *c = cache_of(PG_GETARG_OID(0));
    const bool whole = PG_ARGISNULL(3);
    const int32_t length = fork(c, from, to, whole, whole ? 0 : PG_GETARG_INT32(3));
    SPI_finish();
    PG_RETURN_INT32(length);
}

SQL_FUNCTION(kv_drop_sequence)
{
    SPI_connect();
    Cache *c = cache_of(PG_GETARG_OID(0));
    const bool dropped = drop(c, PG_GETARG_INT64(1));
    SPI_finish();
    PG_RETURN_BOOL(dropped);
}

}  // namespace vkv::kv
