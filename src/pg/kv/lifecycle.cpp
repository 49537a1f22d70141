// kv.length, kv.truncate, kv.fork and kv.drop_sequence: what happens to whole sequences. Sequences exchange extents; no tile is
// ever changed, and none copied but for its first tokens, where a sequence parts from another within it.

#include <algorithm>

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/call.h"
#include "pg/kv/change.h"
#include "pg/kv/cut.h"
#include "pg/kv/foreign_code.h"
#include "pg/kv/naming.h"

namespace vkv::kv {

namespace {

void check_length(const Cache *c, const Sequence *s, int32_t length)
{
    if (length < 0) throw Error(Errc::invalid_parameter, message("length must not be negative, is %d", length));
    if (length > s->length)
        throw Error(Errc::invalid_parameter, message("sequence %lld of cache \"%s\" has %d tokens, not %d",
                                                     static_cast<long long>(s->seq), c->name, s->length, length));
}

// The newest snapshot that the isolation level allows: what is read under it fits together.
void push_reading_snapshot()
{
    CommandCounterIncrement();
    PushCopiedSnapshot(GetTransactionSnapshot());
    UpdateActiveSnapshotCommandId();
}

void truncate(Cache *c, Sequence *s, int32_t length)
{
    const Sequence before = *s;
    s->epoch = new_id();
    s->length = length;
    const bool sealed = length < s->sealed;
    Datum range[] = {Int64GetDatum(s->own()), Int32GetDatum(sealed ? 0 : length), Int32GetDatum(kOpenStop)};
    if (before.length > s->sealed) run_plan(c, Plan::tail_delete, range);
    if (!sealed) {
        write_sequence(c, s);
        return;
    }
    push_reading_snapshot();
    const Cut cut = find_cut(c, &before, length);
    start_extent(c, s, cut.begin, CurrentMemoryContext);
    s->sealed = length;
    write_sequence(c, s);
    if (cut.needed()) copy_cut(c, &before, cut, s->own());
    PopActiveSnapshot();
    free_tiles(c, &before);
}

[[noreturn]] void changed_meanwhile(const Cache *c, int64_t seq)
{
    ereport(ERROR, errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
            errmsg("could not fork sequence %lld of cache \"%s\": it was cut, recoded or dropped meanwhile",
                   static_cast<long long>(seq), c->name),
            errhint("The transaction might succeed if it is tried again."));
}

// A sequence to fork from, and the fork as it will be. Reads under the active snapshot.
struct Fork {
    Sequence *from;
    Sequence copy;
    Cut cut;
};

void plan_fork(Cache *c, int64_t from, int64_t to, const int32_t *wanted, Fork *fork)
{
    MemoryContext context = CurrentMemoryContext;
    Sequence *s = read_sequence(c, from, context);
    if (!s) no_sequence(c, from);
    s->length = seen_length(c, s);
    const int32_t length = wanted ? *wanted : s->length;
    check_length(c, s, length);
    Sequence copy = *s;
    copy.seq = to;
    copy.length = length;
    copy.sealed = std::min(length, s->sealed);
    copy.epoch = new_id();
    fork->cut = length < s->sealed ? find_cut(c, s, length) : Cut{0, copy.sealed, copy.sealed};
    start_extent(c, &copy, fork->cut.begin, context);
    fork->from = s;
    fork->copy = copy;
}

// Waits for transactions that are about to cut, recode or drop the sequence. False: they did.
bool is_settled(Cache *c, const DirectTable &headers, const Fork &fork)
{
    const Look look = still_names(headers, fork.from->seq, &fork.copy);
    if (look.naming == Naming::sound) return true;
    if (look.naming == Naming::unsure) XactLockTableWait(look.writer, nullptr, nullptr, XLTW_None);
    if (look.naming == Naming::gone && IsolationUsesXactSnapshot()) changed_meanwhile(c, fork.from->seq);
    return false;
}

void insert_fork(Cache *c, const Sequence *copy)
{
    if (insert_sequence(c, copy)) return;
    const Sequence *old = lock_sequence(c, copy->seq, CurrentMemoryContext);
    if (!old || old->length > 0)
        throw Error(Errc::duplicate_object,
                    message("sequence %lld of cache \"%s\" exists", static_cast<long long>(copy->seq), c->name),
                    "kv.drop_sequence removes it.");
    write_sequence(c, copy);
}

void copy_tail(Cache *c, const Sequence *s, const Sequence *copy)
{
    if (copy->length <= s->sealed) return;
    Datum range[] = {Int64GetDatum(s->own()), Int64GetDatum(copy->own()), Int32GetDatum(s->sealed), Int32GetDatum(copy->length)};
    const uint64_t rows = run_plan_seeing(c, Plan::tail_copy, range);
    const uint64_t wanted = static_cast<uint64_t>(copy->length - s->sealed) * static_cast<uint64_t>(c->chunks());
    if (rows != wanted)
        throw Error(Errc::data_corrupted,
                    message("tail of sequence %lld in cache \"%s\" has %llu rows instead of %llu", static_cast<long long>(s->seq),
                            c->name, static_cast<unsigned long long>(rows), static_cast<unsigned long long>(wanted)));
}

// The new sequence names the extents of the old one up to its length, and gets a copy of what it needs of the tail. The old one is
// only read: its row is looked at once more when the new one is written, see naming.h.
int32_t fork(Cache *c, int64_t from, int64_t to, const int32_t *length)
{
    DirectTable headers;
    const bool looked_at = open_headers(c, &headers);
    Fork fork;
    for (;;) {
        push_reading_snapshot();
        plan_fork(c, from, to, length, &fork);
        if (!looked_at || is_settled(c, headers, fork)) break;
        PopActiveSnapshot();
        CHECK_FOR_INTERRUPTS();
    }
    insert_fork(c, &fork.copy);
    if (looked_at) {
        if (still_names(headers, from, &fork.copy).naming != Naming::sound) changed_meanwhile(c, from);
        close_direct(&headers);
    }
    if (fork.cut.needed()) copy_cut(c, fork.from, fork.cut, fork.copy.own());
    copy_tail(c, fork.from, &fork.copy);
    PopActiveSnapshot();
    return fork.copy.length;
}

bool drop(Cache *c, int64_t seq)
{
    const Sequence *s = lock_sequence_if_any(c, seq, CurrentMemoryContext);
    if (!s) return false;
    if (s->length > s->sealed) {
        Datum range[] = {Int64GetDatum(s->own()), Int32GetDatum(0), Int32GetDatum(kOpenStop)};
        run_plan(c, Plan::tail_delete, range);
    }
    Datum row[] = {Int64GetDatum(seq)};
    if (run_plan(c, Plan::header_delete, row) != 1) may_not_be(c, seq, "deleted");
    free_tiles(c, s);
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
    const int32_t length = s ? seen_length(c, s) : -1;
    SPI_finish();
    if (!s) PG_RETURN_NULL();
    PG_RETURN_INT32(length);
}

SQL_FUNCTION(kv_truncate)
{
    begin_change();
    Cache *c = cache_of(PG_GETARG_OID(0));
    refuse_foreign_code(c);
    const int32_t length = PG_GETARG_INT32(2);
    Sequence *s = lock_sequence_or_raise(c, PG_GETARG_INT64(1), CurrentMemoryContext);
    s->length = present_length(c, s);
    check_length(c, s, length);
    if (length < s->length) truncate(c, s, length);
    end_change();
    PG_RETURN_INT32(length);
}

SQL_FUNCTION(kv_fork)
{
    const char *const names[] = {"cache", "from_seq", "to_seq"};
    require_arguments(fcinfo, names, 3);
    const int64_t from = PG_GETARG_INT64(1), to = PG_GETARG_INT64(2);
    if (from == to)
        throw Error(Errc::invalid_parameter, message("sequence %lld cannot be forked to itself", static_cast<long long>(from)));
    begin_change();
    Cache *c = cache_of(PG_GETARG_OID(0));
    refuse_foreign_code(c);
    const int32_t wanted = PG_ARGISNULL(3) ? 0 : PG_GETARG_INT32(3);
    const int32_t length = fork(c, from, to, PG_ARGISNULL(3) ? nullptr : &wanted);
    end_change();
    PG_RETURN_INT32(length);
}

SQL_FUNCTION(kv_drop_sequence)
{
    begin_change();
    Cache *c = cache_of(PG_GETARG_OID(0));
    refuse_foreign_code(c);
    const bool dropped = drop(c, PG_GETARG_INT64(1));
    end_change();
    PG_RETURN_BOOL(dropped);
}

}  // namespace vkv::kv
