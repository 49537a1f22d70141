// Tenants in one cache: kv.enable_tenants and what its policies are made of.
//
// A tenant's header rows say which tiles he may see, so what they name must not be his to choose: rows are written by the functions
// of schema kv, and kv.guard_header refuses other extents than those that the function that is running has announced.

#include <algorithm>
#include <string>

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/call.h"
#include "pg/kv/sequence.h"

namespace vkv::kv {

namespace {

constexpr int kExtents = 6, kStops = 7;

template <typename T>
bool same_values(Datum array, const T *values, int count)
{
    const ArrayType *a = DatumGetArrayTypeP(array);
    const int n = ARR_NDIM(a) == 0 ? 0 : ARR_DIMS(a)[0];
    return ARR_NDIM(a) <= 1 && !ARR_HASNULL(a) && n == count &&
           memcmp(ARR_DATA_PTR(a), values, sizeof(T) * static_cast<size_t>(n)) == 0;
}

bool is_announced(Datum seq, Datum extents, Datum stops)
{
    const Sequence *s = announced_sequence();
    return s && s->seq == DatumGetInt64(seq) && same_values(extents, s->extents, s->spans) &&
           same_values(stops, s->stops, s->spans);
}

bool is_same(Datum a, Datum b)
{
    const struct varlena *x = PG_DETOAST_DATUM(a), *y = PG_DETOAST_DATUM(b);
    return VARSIZE(x) == VARSIZE(y) && memcmp(x, y, VARSIZE(x)) == 0;
}

// A row of the header table in a trigger, by the columns that count.
struct GuardedRow {
    Datum seq, extents, stops;
    bool null;
};

GuardedRow guarded_row(HeapTuple row, TupleDesc desc)
{
    bool null[3];
    GuardedRow r{heap_getattr(row, 1, desc, &null[0]), heap_getattr(row, kExtents, desc, &null[1]),
                 heap_getattr(row, kStops, desc, &null[2]), false};
    r.null = null[0] || null[1] || null[2];
    return r;
}

bool may_be_written(const TriggerData *trigger)
{
    TupleDesc desc = RelationGetDescr(trigger->tg_relation);
    const bool update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
    const GuardedRow row = guarded_row(update ? trigger->tg_newtuple : trigger->tg_trigtuple, desc);
    if (row.null) return true;  // the table refuses it
    if (is_announced(row.seq, row.extents, row.stops)) return true;
    if (!update) return same_values<int64_t>(row.extents, nullptr, 0) && same_values<int32_t>(row.stops, nullptr, 0);
    const GuardedRow old = guarded_row(trigger->tg_trigtuple, desc);
    return !old.null && is_same(row.extents, old.extents) && is_same(row.stops, old.stops);
}

}  // namespace

// kv.reaches(extents, stops, extent, pos): whether a sequence with this header reaches a tile.
SQL_FUNCTION(kv_reaches)
{
    const ArrayType *extents = PG_GETARG_ARRAYTYPE_P(0), *stops = PG_GETARG_ARRAYTYPE_P(1);
    if (ARR_NDIM(extents) != 1 || ARR_NDIM(stops) != 1 || ARR_HASNULL(extents) || ARR_HASNULL(stops)) PG_RETURN_BOOL(false);
    const auto *names = reinterpret_cast<const int64_t *>(ARR_DATA_PTR(extents));
    const auto *ends = reinterpret_cast<const int32_t *>(ARR_DATA_PTR(stops));
    const int n = std::min(ARR_DIMS(extents)[0], ARR_DIMS(stops)[0]);
    for (int i = 0; i < n; ++i)
        if (names[i] == PG_GETARG_INT64(2)) PG_RETURN_BOOL(PG_GETARG_INT32(3) < ends[i]);
    PG_RETURN_BOOL(false);
}

// BEFORE INSERT OR UPDATE OF extents, stops. The owner of the table may write what he likes, as a restore does.
SQL_FUNCTION(kv_guard_header)
{
    if (!CALLED_AS_TRIGGER(fcinfo)) throw Error(Errc::wrong_state, "kv.guard_header is a trigger function");
    const auto *trigger = reinterpret_cast<const TriggerData *>(fcinfo->context);
    if (!TRIGGER_FIRED_BEFORE(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
        throw Error(Errc::wrong_state, "kv.guard_header guards BEFORE INSERT OR UPDATE, FOR EACH ROW");
    const bool update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
    if (!may_be_written(trigger) && !has_privs_of_role(GetUserId(), trigger->tg_relation->rd_rel->relowner))
        ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                errmsg("columns extents and stops of table \"%s\" are written by the functions of schema kv",
                       RelationGetRelationName(trigger->tg_relation)));
    return PointerGetDatum(update ? trigger->tg_newtuple : trigger->tg_trigtuple);
}

namespace {

void execute(const char *sql)
{
    const int status = SPI_execute(sql, false, 0);
    if (status < 0) elog(ERROR, "\"%s\" failed: %s", sql, SPI_result_code_string(status));
}

// {h}, {s} and {t} are the tables, {o} the column that says whose a sequence is, {w} who asks.
char *filled(const Cache *c, const char *column, const char *tenant, const char *text)
{
    StringInfoData sql;
    initStringInfo(&sql);
    for (const char *at = text; *at; ++at) {
        if (*at != '{') {
            appendStringInfoChar(&sql, *at);
            continue;
        }
        appendStringInfoString(&sql, at[1] == 'h'   ? c->header_sql
                                     : at[1] == 's' ? c->sealed_sql
                                     : at[1] == 't' ? c->tail_sql
                                     : at[1] == 'o' ? column
                                                    : tenant);
        at += 2;
    }
    return sql.data;
}

// Tiles are seen where a visible header reaches them, tail rows where it is their own; both are added to sequences of one's own
// only. Nobody needs the right to delete tiles.
constexpr const char *kRecipe[] = {
    "ALTER TABLE {h} ADD COLUMN IF NOT EXISTS {o} pg_catalog.text NOT NULL DEFAULT current_user::pg_catalog.text",
    "ALTER TABLE {h} ALTER COLUMN {o} SET DEFAULT ({w})::pg_catalog.text",
    "CREATE INDEX ON {h} ({o})",
    "ALTER TABLE {h} ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE {s} ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE {t} ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY tenant ON {h} USING ({o}::pg_catalog.text OPERATOR(pg_catalog.=) ({w})::pg_catalog.text)",
    "CREATE POLICY tenant_sees ON {s} FOR SELECT USING (EXISTS (SELECT FROM {h} h WHERE "
    "h.extents OPERATOR(pg_catalog.@>) ARRAY[extent] AND kv.reaches(h.extents, h.stops, extent, pos)))",
    "CREATE POLICY tenant_adds ON {s} FOR INSERT WITH CHECK (EXISTS (SELECT FROM {h} h WHERE "
    "h.extents OPERATOR(pg_catalog.@>) ARRAY[extent] AND kv.own_extent(h.extents) OPERATOR(pg_catalog.=) extent "
    "AND h.{o}::pg_catalog.text OPERATOR(pg_catalog.=) ({w})::pg_catalog.text))",
    "CREATE POLICY tenant_sees ON {t} FOR SELECT USING (EXISTS (SELECT FROM {h} h WHERE "
    "h.extents OPERATOR(pg_catalog.@>) ARRAY[extent] AND kv.own_extent(h.extents) OPERATOR(pg_catalog.=) extent))",
    "CREATE POLICY tenant_adds ON {t} FOR INSERT WITH CHECK (EXISTS (SELECT FROM {h} h WHERE "
    "h.extents OPERATOR(pg_catalog.@>) ARRAY[extent] AND kv.own_extent(h.extents) OPERATOR(pg_catalog.=) extent "
    "AND h.{o}::pg_catalog.text OPERATOR(pg_catalog.=) ({w})::pg_catalog.text))",
    "CREATE POLICY tenant_deletes ON {t} FOR DELETE USING (EXISTS (SELECT FROM {h} h WHERE "
    "h.extents OPERATOR(pg_catalog.@>) ARRAY[extent] AND kv.own_extent(h.extents) OPERATOR(pg_catalog.=) extent "
    "AND h.{o}::pg_catalog.text OPERATOR(pg_catalog.=) ({w})::pg_catalog.text))",
    "CREATE TRIGGER guard_header BEFORE INSERT OR UPDATE OF extents, stops ON {h} FOR EACH ROW EXECUTE FUNCTION kv.guard_header()",
};

}  // namespace

SQL_FUNCTION(kv_enable_tenants)
{
    const char *const names[] = {"cache", "owner_column", "tenant"};
    require_arguments(fcinfo, names, 3);
    SPI_connect();
    const Cache *c = cache_of(PG_GETARG_OID(0));
    const char *column = quote_identifier(text_to_cstring(PG_GETARG_TEXT_PP(1)));
    const char *tenant = text_to_cstring(PG_GETARG_TEXT_PP(2));
    for (const char *statement : kRecipe) execute(filled(c, column, tenant, statement));
    SPI_finish();
    PG_RETURN_VOID();
}

}  // namespace vkv::kv
