// kv.check_cache: reads everything a cache holds and reports what does not fit together, one row a problem.

#include <algorithm>
#include <string>

#include "core/error.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/fault.h"
#include "pg/boundary/pg.h"
#include "pg/kv/bound_tables.h"
#include "pg/kv/call.h"
#include "pg/kv/function_watch.h"
#include "pg/kv/owner_code.h"
#include "pg/kv/source.h"

namespace vkv::kv {

namespace {

struct Report {
    ReturnSetInfo *info;
    int64_t seq;
    int layer;

    void put(bool has_seq, int head, int32_t position, const char *problem) const
    {
        Datum values[] = {Int64GetDatum(seq), Int32GetDatum(layer), Int32GetDatum(head), Int32GetDatum(position),
                          CStringGetTextDatum(problem)};
        bool nulls[] = {!has_seq, layer < 0, head < 0, position < 0, false};
        tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
    }
};

// A tile that attention would read, down to its checksum.
void check_tile(const Report &report, const TileView &view)
{
    const auto *header = reinterpret_cast<const TileHeader *>(view.k) - 1;
    if (tile_checksum(header, VARSIZE(header)) != header->crc) report.put(true, view.head, view.first, "checksum differs");
}

// What a check that is given up leaves open (pins, tables) is released with this owner. Destroyed by the transaction's end
// otherwise.
class Owner {
public:
    Owner() : outer_(CurrentResourceOwner), own_(ResourceOwnerCreate(outer_, "kv.check_cache")) { CurrentResourceOwner = own_; }
    void close()
    {
        CurrentResourceOwner = outer_;
        for (auto phase : {RESOURCE_RELEASE_BEFORE_LOCKS, RESOURCE_RELEASE_LOCKS, RESOURCE_RELEASE_AFTER_LOCKS})
            ResourceOwnerRelease(own_, phase, false, false);
        ResourceOwnerDelete(own_);
    }

private:
    ResourceOwner outer_, own_;
};

// In pieces: the header may speak of more tokens than there are.
void check_tail(Cache *c, const Sequence *s, const Report *report, int layer)
{
    constexpr int32_t kPiece = 256;
    for (int32_t from = s->sealed; from < s->length; from += std::min(kPiece, s->length - from)) {
        const TailHalves tail =
            read_tail_part(c, s, layer, {from, from + std::min(kPiece, s->length - from)}, CurrentMemoryContext);
        if (tail.tokens == 0) throw Error(Errc::data_corrupted, message("the tail lacks the tokens from position %d on", from));
        const size_t n = static_cast<size_t>(c->kv_heads) * static_cast<size_t>(tail.tokens);
        const size_t k = n * static_cast<size_t>(c->dim_k), v = tail.v ? n * static_cast<size_t>(c->dim_v) : 0;
        if (first_not_finite_f16(Dtype::f16, tail.k, k) != k || (v && first_not_finite_f16(Dtype::f16, tail.v, v) != v))
            report->put(true, -1, tail.first, "the tail holds a number that is not finite");
        CHECK_FOR_INTERRUPTS();
    }
}

// False, and the text of the fault, when core or this folder found one; errors of PostgreSQL go on.
bool check_layer_of(Cache *c, const Sequence *s, const Report *report, int layer, char *fault, size_t size)
{
    try {
        visit_sealed(c, s, layer, [report](const TileView &tile, int32_t) { check_tile(*report, tile); });
        check_tail(c, s, report, layer);
        return true;
    } catch (const Error &error) {
        snprintf(fault, size, "%s", error.message().c_str());
        return false;
    }
}

void check_layers(Cache *c, const Sequence *s, Report *report)
{
    MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "kv.check_cache", ALLOCSET_DEFAULT_SIZES);
    MemoryContext before = MemoryContextSwitchTo(scratch);
    for (report->layer = 0; report->layer < c->layers; ++report->layer) {
        char fault[500];
        Owner owner;
        const bool sound = check_layer_of(c, s, report, report->layer, fault, sizeof fault);
        owner.close();
        MemoryContextSwitchTo(scratch);
        if (!sound) report->put(true, -1, -1, fault);
        MemoryContextReset(scratch);
        CHECK_FOR_INTERRUPTS();
    }
    MemoryContextSwitchTo(before);
    MemoryContextDelete(scratch);
}

// Whether the unlogged tail is lost; when only its newest rows are, that is a fault.
bool tail_is_lost(Cache *c, const Sequence *s, const Report &report)
{
    if (seen_length(c, s) == s->length) return false;
    if (RecoveryInProgress()) return true;
    Datum values[] = {Int64GetDatum(s->own()), Int32GetDatum(s->sealed), Int32GetDatum(s->length), Int32GetDatum(0),
                      Int32GetDatum(c->chunks() - 1)};
    run_plan(c, Plan::tail_count, values, true);
    bool null;
    const int64_t rows = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    if (rows > 0) report.put(true, -1, s->length - 1, "the tail lacks its newest token, but has others");
    return true;
}

void check_sequence(Cache *c, int64_t seq, Report *report)
{
    MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "kv.check_cache sequence", ALLOCSET_DEFAULT_SIZES);
    MemoryContext before = MemoryContextSwitchTo(scratch);
    report->seq = seq;
    report->layer = -1;
    const char *fault = nullptr;
    Sequence *s = inspect_sequence(c, seq, scratch, &fault);
    if (fault) {
        report->put(true, -1, -1, psprintf("the header is inconsistent: %s", fault));
    } else if (s) {
        if (tail_is_lost(c, s, *report)) s->length = s->sealed;
        check_layers(c, s, report);
    }
    MemoryContextSwitchTo(before);
    MemoryContextDelete(scratch);
}

struct Problem {
    bool has_seq;
    int layer, head;
    int32_t position;
};

// Rows that lie where none may; `read` tells what the columns of a row are.
void check_strays(Cache *c, Report *report, Plan plan, Datum *values, const char *what,
                  Problem (*read)(HeapTuple row, TupleDesc desc, Report *report))
{
    const uint64_t rows = run_plan(c, plan, values, true);
    for (uint64_t i = 0; i < rows; ++i) {
        CHECK_FOR_INTERRUPTS();
        const Problem p = read(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, report);
        report->layer = p.layer;
        report->put(p.has_seq, p.head, p.position, what);
    }
    SPI_freetuptable(SPI_tuptable);
}

int64_t column(HeapTuple row, TupleDesc desc, int i)
{
    bool null;
    Datum value = SPI_getbinval(row, desc, i, &null);
    switch (SPI_gettypeid(desc, i)) {
        case INT8OID:
            return DatumGetInt64(value);
        case INT4OID:
            return DatumGetInt32(value);
        default:
            return DatumGetInt16(value);
    }
}

void check_stray_tiles(Cache *c, Report *report)
{
    Datum bounds[] = {Int32GetDatum(c->layers), Int32GetDatum(c->kv_heads)};
    check_strays(c, report, Plan::stray_tiles, bounds, "a tile lies at a layer, a head or a position that cannot be",
                 [](HeapTuple row, TupleDesc desc, Report *) {
                     return Problem{false, static_cast<int>(column(row, desc, 2)), static_cast<int>(column(row, desc, 3)),
                                    static_cast<int32_t>(column(row, desc, 4))};
                 });
    check_strays(c, report, Plan::tiles_ahead, nullptr, "tiles lie behind what is sealed, from this position on",
                 [](HeapTuple row, TupleDesc desc, Report *r) {
                     r->seq = column(row, desc, 1);
                     return Problem{true, static_cast<int>(column(row, desc, 2)), static_cast<int>(column(row, desc, 3)),
                                    static_cast<int32_t>(column(row, desc, 4))};
                 });
}

void check_stray_tail(Cache *c, Report *report)
{
    Datum chunks[] = {Int32GetDatum(c->chunks())};
    check_strays(c, report, Plan::stray_tail, chunks, "rows of the tail lie outside of it, from this position on",
                 [](HeapTuple row, TupleDesc desc, Report *r) {
                     r->seq = column(row, desc, 1);
                     return Problem{true, -1, -1, static_cast<int32_t>(column(row, desc, 3))};
                 });
}

}  // namespace

SQL_FUNCTION(kv_check_cache)
{
    compat::init_materialized(fcinfo);
    Report report{reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo), 0, -1};
    SPI_connect();
    Cache *c = cache_of(PG_GETARG_OID(0));
    refuse_owner_code(c);
    StringInfoData sql;
    initStringInfo(&sql);
    appendStringInfo(
        &sql, "SELECT coalesce(pg_catalog.array_agg(seq::pg_catalog.int8 ORDER BY seq), '{}') FROM ONLY %s WHERE seq IS NOT NULL",
        c->header_sql);
    bind_tables(c, sql.data);
    const bool watched = watch_functions(c);
    fault_point();
    SPI_execute(sql.data, true, 0);
    if (watched) unwatch_functions();
    unbind_tables();
    bool null;
    ArrayType *seqs = DatumGetArrayTypePCopy(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
    const auto *numbers = reinterpret_cast<const int64 *>(ARR_DATA_PTR(seqs));
    const int count = ARR_NDIM(seqs) == 0 ? 0 : ARR_DIMS(seqs)[0];
    for (int i = 0; i < count; ++i) check_sequence(c, numbers[i], &report);
    const bool tail = c->tail_logged || !RecoveryInProgress();  // a standby has no unlogged rows
    check_stray_tiles(c, &report);
    if (tail) check_stray_tail(c, &report);
    SPI_finish();
    return 0;
}

}  // namespace vkv::kv
