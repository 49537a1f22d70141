// Header rows: reading, locking and changing.
//
// Reads for attention run under the snapshot of the calling statement; everything that writes reads with a fresh one, as the
// statements of a volatile function do.

#include "pg/kv/sequence.h"

#include <algorithm>

#include "pg/boundary/boundary.h"
#include "pg/boundary/fault.h"
#include "pg/boundary/pg.h"
#include "pg/kv/announce.h"
#include "pg/kv/bound_tables.h"
#include "pg/kv/change.h"
#include "pg/kv/direct.h"
#include "pg/kv/function_watch.h"
#include "pg/kv/owner_code.h"
#include "pg/kv/source.h"

namespace vkv::kv {

namespace {

TransactionId writer = InvalidTransactionId;  // the last transaction of this backend that wrote a header

[[noreturn]] void broken(const Cache *c, int64_t seq, const char *what)
{
    ereport(ERROR, errcode(ERRCODE_DATA_CORRUPTED),
            errmsg("header of sequence %lld in cache \"%s\" is inconsistent: %s", static_cast<long long>(seq), c->name, what),
            errhint("The columns length, sealed, extents and stops are written by the functions of schema kv only."));
}

const char *excess_text(int64_t named)
{
    return psprintf("it names %lld extents, more than %d", static_cast<long long>(named), kMostExtents);
}

// A bigint[] or integer[] without nulls, in place; null: it is something else.
template <typename T>
const T *array_values(ArrayType *a, Oid type, int *count)
{
    if (ARR_HASNULL(a) || ARR_NDIM(a) > 1 || ARR_ELEMTYPE(a) != type) return nullptr;
    if (ARR_NDIM(a) == 1 && ARR_LBOUND(a)[0] != 1) return nullptr;
    *count = ARR_NDIM(a) == 0 ? 0 : ARR_DIMS(a)[0];
    return reinterpret_cast<const T *>(ARR_DATA_PTR(a));
}

// The same of a column, copied.
template <typename T>
const T *copied_values(Datum array, Oid type, int *count, MemoryContext context)
{
    ArrayType *a = DatumGetArrayTypeP(array);
    const T *from = array_values<T>(a, type, count);
    if (!from) return nullptr;
    auto *values = static_cast<T *>(MemoryContextAlloc(context, sizeof(T) * static_cast<size_t>(*count) + 8));
    memcpy(values, from, sizeof(T) * static_cast<size_t>(*count));
    if (PointerGetDatum(a) != array) pfree(a);
    return values;
}

// The columns of a header row that count.
struct HeaderRow {
    Datum values[6];  // seq, length, sealed, epoch, extents, stops
    bool nulls[6];
};

// What is wrong with the row, or null.
const char *inspect_row(const HeaderRow &row, MemoryContext context, Sequence *s)
{
    const Datum *values = row.values;
    s->seq = DatumGetInt64(values[0]);
    for (bool null : row.nulls)
        if (null) return "a column is null";
    s->length = DatumGetInt32(values[1]);
    s->sealed = DatumGetInt32(values[2]);
    s->epoch = DatumGetInt64(values[3]);
    const int64_t named = std::max(elements_of(values[4], sizeof(int64_t)), elements_of(values[5], sizeof(int32_t)));
    if (named > kMostExtents) return excess_text(named);
    int stops = 0;
    s->extents = copied_values<int64_t>(values[4], INT8OID, &s->spans, context);
    s->stops = copied_values<int32_t>(values[5], INT4OID, &stops, context);
    if (!s->extents || !s->stops || stops != s->spans) return "extents and stops differ";
    if (s->sealed < 0 || s->length < s->sealed) return "more is sealed than there is";
    if (s->length == kOpenStop) return "it is longer than a sequence can be";
    if (s->spans == 0 && s->length > 0) return "there is no extent";
    for (int i = 0; i < s->spans; ++i)
        if (s->stops[i] <= (i ? s->stops[i - 1] : 0)) return "stops do not ascend";
    if (s->spans > 0 && s->stops[s->spans - 1] != kOpenStop) return "the last extent has an end";
    return nullptr;
}

void read_row(const Cache *c, const HeaderRow &row, MemoryContext context, Sequence *s)
{
    if (const char *fault = inspect_row(row, context, s)) broken(c, s->seq, fault);
}

HeaderRow found_row(uint64_t i)
{
    HeaderRow row;
    for (int column = 0; column < 6; ++column)
        row.values[column] = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, column + 1, &row.nulls[column]);
    return row;
}

Sequence *first_row(const Cache *c, MemoryContext context)
{
    if (SPI_processed == 0) return nullptr;
    auto *s = static_cast<Sequence *>(MemoryContextAllocZero(context, sizeof(Sequence)));
    read_row(c, found_row(0), context, s);
    SPI_freetuptable(SPI_tuptable);
    return s;
}

Datum seq_array(int64_t seq)
{
    Datum value = Int64GetDatum(seq);
    return PointerGetDatum(construct_array(&value, 1, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

Datum extents_array(const Sequence *s)
{
    auto *values = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<size_t>(s->spans + 1)));
    for (int i = 0; i < s->spans; ++i) values[i] = Int64GetDatum(s->extents[i]);
    return PointerGetDatum(construct_array(values, s->spans, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

Datum stops_array(const Sequence *s)
{
    auto *values = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<size_t>(s->spans + 1)));
    for (int i = 0; i < s->spans; ++i) values[i] = Int32GetDatum(s->stops[i]);
    return PointerGetDatum(construct_array(values, s->spans, INT4OID, 4, true, TYPALIGN_INT));
}

}  // namespace

void too_many_extents(const Cache *c, int64_t seq, int64_t named) { broken(c, seq, excess_text(named)); }

int64_t elements_of(Datum array, size_t element)
{
    const size_t bytes = toast_raw_datum_size(array), header = ARR_OVERHEAD_NONULLS(1);
    return bytes <= header ? 0 : static_cast<int64_t>((bytes - header) / element);
}

int64_t new_id() { return static_cast<int64_t>(new_tile_id()); }

namespace {

uint64_t run(Cache *c, Plan plan, Datum *values, Snapshot snapshot, bool read_only)
{
    refuse_owner_code(c);
    SPIPlanPtr prepared = plan_of(c, plan);
    bind_tables(c, text_of(prepared));
    const bool watched = watch_functions(c);
    fault_point();
    if (!read_only) announce({c, plan, values});
    const int status = SPI_execute_snapshot(prepared, values, nullptr, snapshot, nullptr, read_only, false, 0);
    if (!read_only) withdraw();
    if (watched) unwatch_functions();
    unbind_tables();
    if (status < 0) elog(ERROR, "a statement on cache \"%s\" failed: %s", c->name, SPI_result_code_string(status));
    check_result(c, plan);
    return SPI_processed;
}

}  // namespace

uint64_t run_plan(Cache *c, Plan plan, Datum *values, bool read_only) { return run(c, plan, values, nullptr, read_only); }

uint64_t run_plan_seeing(Cache *c, Plan plan, Datum *values) { return run(c, plan, values, GetActiveSnapshot(), false); }

namespace {

// The rows of n sequences, by the primary key, up to one that is missing; false: the planner has to be asked.
bool find_direct(const Cache *c, const int64_t *wanted, int n, MemoryContext context, Sequence *result, const int64_t **missing)
{
    constexpr Oid kTypes[] = {INT8OID, INT4OID, INT4OID, INT8OID, INT4OID, INT8ARRAYOID, INT4ARRAYOID};
    constexpr AttrNumber kKeys[] = {1}, kColumns[] = {1, 2, 3, 4, 6, 7};
    DirectTable table;
    if (!open_direct(c->header, {kTypes, 7, kKeys, 1}, &table)) return false;
    DirectScan scan(table, 1);
    *missing = nullptr;
    for (int i = 0; i < n && !*missing; ++i) {
        CHECK_FOR_INTERRUPTS();
        ScanKeyData key;
        ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(wanted[i]));
        scan.start(&key, 1);
        TupleTableSlot *slot = scan.next();
        if (!slot) {
            *missing = &wanted[i];
            continue;
        }
        HeaderRow row;
        for (int column = 0; column < 6; ++column) row.values[column] = slot_getattr(slot, kColumns[column], &row.nulls[column]);
        read_row(c, row, context, &result[i]);
    }
    scan.end();
    close_direct(&table);
    return true;
}

int compare_sequences(const void *a, const void *b)
{
    CHECK_FOR_INTERRUPTS();
    const int64_t x = static_cast<const Sequence *>(a)->seq, y = static_cast<const Sequence *>(b)->seq;
    return x < y ? -1 : x > y;
}

void find_planned(Cache *c, ArrayType *seqs, const int64_t *wanted, int n, MemoryContext context, Sequence *result)
{
    Datum values[] = {PointerGetDatum(seqs)};
    run_plan(c, Plan::header_read, values, true);
    const uint64_t found = SPI_processed;
    auto *rows = static_cast<Sequence *>(MemoryContextAllocHuge(context, sizeof(Sequence) * (found + 1)));
    for (uint64_t i = 0; i < found; ++i) {
        CHECK_FOR_INTERRUPTS();
        read_row(c, found_row(i), context, &rows[i]);
    }
    SPI_freetuptable(SPI_tuptable);
    qsort(rows, found, sizeof(Sequence), entry<compare_sequences>);
    for (int i = 0; i < n; ++i) {
        Sequence key{};
        key.seq = wanted[i];
        const void *row = bsearch(&key, rows, found, sizeof(Sequence), entry<compare_sequences>);
        if (!row) no_sequence(c, wanted[i]);
        result[i] = *static_cast<const Sequence *>(row);
    }
    pfree(rows);
}

// Before the row is changed, whose triggers may read. On a standby the change itself is refused, with its own words.
void note_writer()
{
    if (!RecoveryInProgress()) writer = GetTopTransactionId();
}

}  // namespace

Sequence *read_sequence(Cache *c, int64_t seq, MemoryContext context)
{
    refuse_half_written(c, seq);
    auto *s = static_cast<Sequence *>(MemoryContextAllocZero(context, sizeof(Sequence)));
    const int64_t *missing;
    if (find_direct(c, &seq, 1, context, s, &missing)) return missing ? nullptr : s;
    Datum values[] = {seq_array(seq)};
    run_plan(c, Plan::header_read, values, true);
    return first_row(c, context);
}

int count_sequences(ArrayType *seqs)
{
    int n;
    if (!array_values<int64_t>(seqs, INT8OID, &n))
        ereport(ERROR, errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("sequences must be one-dimensional and not null"));
    return n;
}

Sequence *read_sequences(Cache *c, ArrayType *seqs, MemoryContext context)
{
    const int n = count_sequences(seqs);
    const auto *wanted = reinterpret_cast<const int64_t *>(ARR_DATA_PTR(seqs));
    for (int i = 0; i < n; ++i) {
        CHECK_FOR_INTERRUPTS();
        refuse_half_written(c, wanted[i]);
    }
    const size_t bytes = sizeof(Sequence) * (static_cast<size_t>(n) + 1);
    auto *result = static_cast<Sequence *>(MemoryContextAllocHuge(context, bytes));
    const int64_t *missing;
    if (!find_direct(c, wanted, n, context, result, &missing))
        find_planned(c, seqs, wanted, n, context, result);
    else if (missing)
        no_sequence(c, *missing);
    return result;
}

Sequence *inspect_sequence(Cache *c, int64_t seq, MemoryContext context, const char **fault)
{
    Datum values[] = {seq_array(seq)};
    run_plan(c, Plan::header_read, values, true);
    if (SPI_processed == 0) return nullptr;
    auto *s = static_cast<Sequence *>(MemoryContextAllocZero(context, sizeof(Sequence)));
    *fault = inspect_row(found_row(0), context, s);
    SPI_freetuptable(SPI_tuptable);
    return s;
}

Sequence *peek_sequence(Cache *c, int64_t seq, MemoryContext context)
{
    CommandCounterIncrement();
    PushActiveSnapshot(GetTransactionSnapshot());
    Sequence *s = read_sequence(c, seq, context);
    PopActiveSnapshot();
    return s;
}

Sequence *lock_sequence(Cache *c, int64_t seq, MemoryContext context)
{
    refuse_half_written(c, seq);
    Datum values[] = {Int64GetDatum(seq)};
    run_plan(c, Plan::header_lock, values);
    return first_row(c, context);
}

Sequence *lock_sequence_or_raise(Cache *c, int64_t seq, MemoryContext context)
{
    Sequence *s = lock_sequence_if_any(c, seq, context);
    if (!s) no_sequence(c, seq);
    return s;
}

Sequence *lock_sequence_if_any(Cache *c, int64_t seq, MemoryContext context)
{
    // One that came between the two looks is locked by the next.
    for (int attempt = 0; attempt < 3; ++attempt) {
        if (Sequence *s = lock_sequence(c, seq, context)) return s;
        if (!peek_sequence(c, seq, context)) return nullptr;
    }
    may_not_be(c, seq, "changed");
}

void may_not_be(const Cache *c, int64_t seq, const char *done)
{
    ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
            errmsg("sequence %lld of cache \"%s\" may be read, but not %s", static_cast<long long>(seq), c->name, done),
            errhint("A row security policy shows it to you and keeps you from more; kv.fork makes a sequence of your own."));
}

void no_sequence(const Cache *c, int64_t seq)
{
    ereport(ERROR, errcode(ERRCODE_UNDEFINED_OBJECT),
            errmsg("sequence %lld does not exist in cache \"%s\"", static_cast<long long>(seq), c->name));
}

void start_extent(const Cache *c, Sequence *s, int32_t stop, MemoryContext context)
{
    auto *extents = static_cast<int64_t *>(MemoryContextAlloc(context, sizeof(int64_t) * static_cast<size_t>(s->spans + 1)));
    auto *stops = static_cast<int32_t *>(MemoryContextAlloc(context, sizeof(int32_t) * static_cast<size_t>(s->spans + 1)));
    int n = 0;
    for (int i = 0; i < s->spans && (i ? s->stops[i - 1] : 0) < stop; ++i, ++n) {
        extents[n] = s->extents[i];
        stops[n] = s->stops[i] < stop ? s->stops[i] : stop;
    }
    if (n == kMostExtents)
        ereport(ERROR, errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                errmsg("sequence %lld of cache \"%s\" would name %d extents, more than %d", static_cast<long long>(s->seq), c->name,
                       n + 1, kMostExtents),
                errhint("kv.recode writes the tokens of a sequence anew, into one extent."));
    extents[n] = new_id();
    stops[n] = kOpenStop;
    s->spans = n + 1;
    s->extents = extents;
    s->stops = stops;
}

bool wrote_header() { return TransactionIdIsValid(writer) && writer == GetTopTransactionIdIfAny(); }

bool extend_sequence(Cache *c, const Sequence *s, int32_t length, int32_t sealed)
{
    note_writer();
    Datum values[] = {Int64GetDatum(s->seq),    Int32GetDatum(length),    Int32GetDatum(sealed),
                      Int32GetDatum(s->length), Int32GetDatum(s->sealed), Int64GetDatum(s->epoch)};
    return run_plan(c, Plan::header_extend, values) == 1;
}

namespace {

uint64_t write_row(Cache *c, Plan plan, const Sequence *s)
{
    note_writer();
    Datum values[] = {Int64GetDatum(s->seq),   Int32GetDatum(s->length), Int32GetDatum(s->sealed),
                      Int64GetDatum(s->epoch), extents_array(s),         stops_array(s)};
    return run_plan(c, plan, values);
}

}  // namespace

void write_sequence(Cache *c, const Sequence *s)
{
    if (write_row(c, Plan::header_update, s) != 1) may_not_be(c, s->seq, "changed");
}

bool insert_sequence(Cache *c, const Sequence *s) { return write_row(c, Plan::header_fork, s) == 1; }

int32_t seen_length(Cache *c, const Sequence *s)
{
    if (c->tail_logged || s->length == s->sealed) return s->length;
    if (RecoveryInProgress()) return s->sealed;  // a standby has no unlogged rows
    Datum values[] = {Int64GetDatum(s->own()), Int32GetDatum(s->length - 1)};
    if (run_plan(c, Plan::tail_exists, values, true) > 0) return s->length;
    if (tail_row_is_there(c, s->own(), 0, s->length - 1)) hidden_tail(c, s);
    return s->sealed;
}

int32_t present_length(Cache *c, const Sequence *s)
{
    const bool large = tail_is_large(c, s->sealed, s->length);
    if ((c->tail_logged && !large) || s->length == s->sealed) return s->length;
    CommandCounterIncrement();
    PushActiveSnapshot(GetTransactionSnapshot());
    const int32_t length = seen_length(c, s);
    if (large && length == s->length) expect_tail(c, s);
    PopActiveSnapshot();
    return length;
}

}  // namespace vkv::kv
