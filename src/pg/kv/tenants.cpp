// Tenants in one cache: kv.enable_tenants and what its policies are made of.
//
// A tenant's header rows say which tiles he may see, so what they name must not be his to choose: rows are written by the functions
// of schema kv, and the guards refuse others than those that the function that is running has announced. What tenants share stays
// whole that way, whoever of them goes on with it.

#include <algorithm>
#include <string>

#include "core/error.h"
#include "core/poll.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/announce.h"
#include "pg/kv/call.h"
#include "pg/kv/foreign_code.h"
#include "pg/kv/held_schema.h"
#include "pg/kv/tenants.h"
#include "pg/kv/trust.h"

namespace vkv::kv {

namespace {

// A table as a guard knows it: the types of its first columns. Guards can be put on any table.
struct Guarded {
    Oid types[7];
    int columns;
};
constexpr Guarded kHeader{{INT8OID, INT4OID, INT4OID, INT8OID, INT4OID, INT8ARRAYOID, INT4ARRAYOID}, 7};
constexpr Guarded kSealed{{INT8OID, INT2OID, INT2OID, INT4OID}, 4};
constexpr Guarded kTail{{INT8OID, INT4OID, INT4OID, BYTEAOID}, 4};

bool is_laid_out(TupleDesc desc, const Guarded &table)
{
    if (desc->natts < table.columns) return false;
    for (int i = 0; i < table.columns; ++i)
        if (TupleDescAttr(desc, i)->attisdropped || TupleDescAttr(desc, i)->atttypid != table.types[i]) return false;
    return true;
}

// The columns of a guarded row; has_null: the table refuses it.
struct GuardedRow {
    Datum values[7];
    bool has_null;
};

GuardedRow guarded_row(HeapTuple tuple, TupleDesc desc, const Guarded &table)
{
    GuardedRow row{};
    for (int i = 0; i < table.columns; ++i) {
        bool null;
        row.values[i] = heap_getattr(tuple, i + 1, desc, &null);
        if (null) row.has_null = true;
    }
    return row;
}

bool is_same(Datum a, Datum b)
{
    const struct varlena *x = PG_DETOAST_DATUM(a), *y = PG_DETOAST_DATUM(b);
    return VARSIZE(x) == VARSIZE(y) && memcmp(x, y, VARSIZE(x)) == 0;
}

bool is_empty(Datum array) { return ARR_NDIM(DatumGetArrayTypeP(array)) == 0; }

// Columns seq, length, sealed, epoch, forks, extents, stops.
bool same_place(const GuardedRow &a, const GuardedRow &b)
{
    return DatumGetInt64(a.values[0]) == DatumGetInt64(b.values[0]) && DatumGetInt64(a.values[3]) == DatumGetInt64(b.values[3]) &&
           DatumGetInt32(a.values[4]) == DatumGetInt32(b.values[4]) && is_same(a.values[5], b.values[5]) &&
           is_same(a.values[6], b.values[6]);
}

bool same_lengths(const GuardedRow &row, Datum length, Datum sealed)
{
    return DatumGetInt32(row.values[1]) == DatumGetInt32(length) && DatumGetInt32(row.values[2]) == DatumGetInt32(sealed);
}

// What the running statement writes into a header row; its parameters are in statements.cpp.
bool is_announced_header(const Announced &statement, const GuardedRow &row, const GuardedRow *old)
{
    const Datum *v = statement.values;
    if (DatumGetInt64(v[0]) != DatumGetInt64(row.values[0])) return false;
    if (statement.plan == Plan::header_extend) return old && same_place(row, *old) && same_lengths(row, v[1], v[2]);
    if (statement.plan != Plan::header_update && statement.plan != Plan::header_fork) return false;
    return same_lengths(row, v[1], v[2]) && DatumGetInt64(v[3]) == DatumGetInt64(row.values[3]) && is_same(v[4], row.values[5]) &&
           is_same(v[5], row.values[6]);
}

// A row of one's own without tokens may be made by hand, and what is not of these columns changed.
bool is_harmless_header(const GuardedRow &row, const GuardedRow *old)
{
    if (old) return same_place(row, *old) && same_lengths(row, old->values[1], old->values[2]);
    return same_lengths(row, Int32GetDatum(0), Int32GetDatum(0)) && DatumGetInt32(row.values[4]) == 0 && is_empty(row.values[5]) &&
           is_empty(row.values[6]);
}

bool header_may_be_written(const TriggerData *trigger, TupleDesc desc)
{
    const bool update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
    const GuardedRow row = guarded_row(update ? trigger->tg_newtuple : trigger->tg_trigtuple, desc, kHeader);
    GuardedRow old{};
    if (update) old = guarded_row(trigger->tg_trigtuple, desc, kHeader);
    if (row.has_null || old.has_null) return row.has_null;
    const Announced *statement = announced();
    if (statement && statement->cache->header == RelationGetRelid(trigger->tg_relation) &&
        is_announced_header(*statement, row, update ? &old : nullptr))
        return true;
    return is_harmless_header(row, update ? &old : nullptr);
}

bool tile_may_be_written(const Announced &statement, const GuardedRow &row)
{
    const Datum *v = statement.values;
    return statement.plan == Plan::sealed_insert && DatumGetInt64(v[0]) == DatumGetInt64(row.values[0]) &&
           DatumGetInt16(v[1]) == DatumGetInt16(row.values[1]) && DatumGetInt16(v[2]) == DatumGetInt16(row.values[2]) &&
           DatumGetInt32(v[3]) == DatumGetInt32(row.values[3]);
}

bool tail_may_be_written(const Announced &statement, const GuardedRow &row)
{
    const Datum *v = statement.values;
    const int64_t extent = DatumGetInt64(row.values[0]);
    const int32_t pos = DatumGetInt32(row.values[2]);
    if (statement.plan == Plan::tail_copy)
        return DatumGetInt64(v[1]) == extent && pos >= DatumGetInt32(v[2]) && pos < DatumGetInt32(v[3]);
    return statement.plan == Plan::tail_insert && DatumGetInt64(v[0]) == extent &&
           DatumGetInt32(v[1]) == DatumGetInt32(row.values[1]) && DatumGetInt32(v[2]) == pos;
}

// The row that a guard is asked about; raises where it is no guard.
const TriggerData *guarding(FunctionCallInfo fcinfo, const char *function)
{
    if (!CALLED_AS_TRIGGER(fcinfo)) throw Error(Errc::wrong_state, message("%s is a trigger function", function));
    const auto *trigger = reinterpret_cast<const TriggerData *>(fcinfo->context);
    if (!TRIGGER_FIRED_BEFORE(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
        TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
        throw Error(Errc::wrong_state, message("%s guards BEFORE INSERT OR UPDATE, FOR EACH ROW", function));
    return trigger;
}

[[noreturn]] void no_table_of_a_cache(Relation rel, const char *function)
{
    throw Error(Errc::wrong_object_type, message("table \"%s\" is none that %s guards", RelationGetRelationName(rel), function),
                "kv.enable_tenants makes these triggers.");
}

// The owner of the table may write what he likes, as a restore does.
bool is_owner(Relation rel) { return has_privs_of_role(GetUserId(), rel->rd_rel->relowner); }

}  // namespace

// kv.reaches(extents, stops, extent, pos): whether a sequence with this header reaches a tile.
SQL_FUNCTION(kv_reaches)
{
    const ArrayType *extents = PG_GETARG_ARRAYTYPE_P(0), *stops = PG_GETARG_ARRAYTYPE_P(1);
    if (ARR_NDIM(extents) != 1 || ARR_NDIM(stops) != 1 || ARR_HASNULL(extents) || ARR_HASNULL(stops)) PG_RETURN_BOOL(false);
    const auto *names = reinterpret_cast<const int64_t *>(ARR_DATA_PTR(extents));
    const auto *ends = reinterpret_cast<const int32_t *>(ARR_DATA_PTR(stops));
    const auto n = static_cast<size_t>(std::min(ARR_DIMS(extents)[0], ARR_DIMS(stops)[0]));
    size_t at = n;
    by_pieces(n, piece_of(sizeof(int64_t)), look_for_interrupts, [&](size_t first, size_t count) {
        if (at < n) return;
        const int64_t *found = std::find(names + first, names + first + count, PG_GETARG_INT64(2));
        if (found < names + first + count) at = static_cast<size_t>(found - names);
    });
    PG_RETURN_BOOL(at < n && PG_GETARG_INT32(3) < ends[at]);
}

// BEFORE INSERT OR UPDATE, on the table of headers.
SQL_FUNCTION(kv_guard_header)
{
    const TriggerData *trigger = guarding(fcinfo, "kv.guard_header");
    Relation rel = trigger->tg_relation;
    if (!is_laid_out(RelationGetDescr(rel), kHeader)) no_table_of_a_cache(rel, "kv.guard_header");
    if (!header_may_be_written(trigger, RelationGetDescr(rel)) && !is_owner(rel))
        ereport(
            ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
            errmsg("columns seq to stops of table \"%s\" are written by the functions of schema kv", RelationGetRelationName(rel)));
    return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple : trigger->tg_trigtuple);
}

// BEFORE INSERT OR UPDATE, on the tables of sealed tiles and of the tail.
SQL_FUNCTION(kv_guard_rows)
{
    const TriggerData *trigger = guarding(fcinfo, "kv.guard_rows");
    Relation rel = trigger->tg_relation;
    const bool sealed = is_laid_out(RelationGetDescr(rel), kSealed);
    if (!sealed && !is_laid_out(RelationGetDescr(rel), kTail)) no_table_of_a_cache(rel, "kv.guard_rows");
    const Announced *statement = announced();
    bool allowed = false;
    if (statement && TRIGGER_FIRED_BY_INSERT(trigger->tg_event)) {
        const GuardedRow row = guarded_row(trigger->tg_trigtuple, RelationGetDescr(rel), sealed ? kSealed : kTail);
        const Oid table = sealed ? statement->cache->sealed : statement->cache->tail;
        allowed = table == RelationGetRelid(rel) && !row.has_null &&
                  (sealed ? tile_may_be_written(*statement, row) : tail_may_be_written(*statement, row));
    }
    if (!allowed && !is_owner(rel))
        ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                errmsg("rows of table \"%s\" are written by the functions of schema kv", RelationGetRelationName(rel)));
    return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple : trigger->tg_trigtuple);
}

// ---- what somebody with TRIGGER can undo ------------------------------------------------------------------------------------

namespace {

bool has_policy(Relation rel, const char *name)
{
    if (!rel->rd_rsdesc) return false;
    ListCell *cell;
    foreach (cell, rel->rd_rsdesc->policies)
        if (strcmp(static_cast<RowSecurityPolicy *>(lfirst(cell))->policy_name, name) == 0) return true;
    return false;
}

// A trigger of schema kv's own; whoever else could add to the schema could run what he likes anyway.
Oid trigger_function(const char *name)
{
    return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(name), PointerGetDatum(buildoidvector(nullptr, 0)),
                           ObjectIdGetDatum(get_namespace_oid("kv", false)));
}

// Fires for each row that is inserted, and for each update of the guarded columns, which are the first.
bool is_whole_guard(const Trigger *trigger, Oid function, int columns)
{
    constexpr int16 kWhen = TRIGGER_TYPE_ROW | TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE;
    if (trigger->tgfoid != function || trigger->tgtype != kWhen || trigger->tgqual) return false;
    if (trigger->tgenabled != TRIGGER_FIRES_ON_ORIGIN && trigger->tgenabled != TRIGGER_FIRES_ALWAYS) return false;
    for (int16 column = 1; trigger->tgnattr > 0 && column <= columns; ++column)
        if (std::find(trigger->tgattr, trigger->tgattr + trigger->tgnattr, column) == trigger->tgattr + trigger->tgnattr)
            return false;
    return true;
}

// Whoever holds TRIGGER but the owner.
void warn_of_trigger(Oid table)
{
    HeapTuple row = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
    if (!HeapTupleIsValid(row)) return;
    bool null;
    const Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(row))->relowner;
    const Datum granted = SysCacheGetAttr(RELOID, row, Anum_pg_class_relacl, &null);
    const Acl *acl = null ? nullptr : DatumGetAclPCopy(granted);
    ReleaseSysCache(row);
    const char *name = get_rel_name(table);
    for (int i = 0; acl && i < ACL_NUM(acl); ++i) {
        const AclItem &item = ACL_DAT(acl)[i];
        if (!(ACLITEM_GET_PRIVS(item) & ACL_TRIGGER) || item.ai_grantee == owner) continue;
        const bool everybody = item.ai_grantee == ACL_ID_PUBLIC;
        const char *role = everybody ? "PUBLIC" : GetUserNameFromId(item.ai_grantee, true);
        if (!role) continue;
        ereport(
            WARNING, errmsg("%s holds TRIGGER on table \"%s\"", everybody ? "everybody" : psprintf("role \"%s\"", role), name),
            errdetail("Who holds it can replace the triggers that keep tenants apart, and see what others have in the cache."),
            errhint("REVOKE TRIGGER ON %s FROM %s.", quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)), name),
                    everybody ? role : quote_identifier(role)));
    }
}

}  // namespace

void refuse_lost_guard(Relation rel)
{
    const bool header = has_policy(rel, "tenant");
    if ((!header && !has_policy(rel, "tenant_adds")) || is_owner(rel)) return;
    const char *name = header ? "guard_header" : "guard_rows";
    const Oid function = trigger_function(name);
    const TriggerDesc *triggers = rel->trigdesc;
    for (int i = 0; triggers && i < triggers->numtriggers; ++i)
        if (is_whole_guard(&triggers->triggers[i], function, header ? kHeader.columns : 4)) return;
    ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
            errmsg("table \"%s\" has tenants, and its trigger \"%s\" is not as kv.enable_tenants makes it",
                   RelationGetRelationName(rel), name),
            errdetail("Without it, tenants see and change what others have in the cache."),
            errhint("The owner of the table revokes TRIGGER from all others, and calls kv.enable_tenants once more with the same "
                    "arguments."));
}

namespace {

void execute(const char *sql)
{
    const int status = SPI_execute(sql, false, 0);
    if (status < 0) elog(ERROR, "\"%s\" failed: %s", sql, SPI_result_code_string(status));
}

// Tiles are seen where a visible header reaches them, tail rows where it is their own; both are added to sequences of one's own
// only. Nobody needs the right to delete tiles. {o} is the column that says whose a sequence is, {w} who asks.
constexpr const char *kRecipe[] = {
    "ALTER TABLE {h} ADD COLUMN IF NOT EXISTS {o} pg_catalog.text NOT NULL DEFAULT current_user::pg_catalog.text",
    "ALTER TABLE {h} ALTER COLUMN {o} SET DEFAULT ({w})::pg_catalog.text",
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
    "CREATE TRIGGER guard_header BEFORE INSERT OR UPDATE OF seq, length, sealed, epoch, forks, extents, stops ON {h} FOR EACH ROW "
    "EXECUTE FUNCTION kv.guard_header()",
    "CREATE TRIGGER guard_rows BEFORE INSERT OR UPDATE ON {s} FOR EACH ROW EXECUTE FUNCTION kv.guard_rows()",
    "CREATE TRIGGER guard_rows BEFORE INSERT OR UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION kv.guard_rows()",
};

// What the recipe makes anew each time: an earlier build of the library, or a call with other arguments, made others by these
// names.
struct Made {
    char table;
    bool policy;  // else a trigger
    const char *name;
};
constexpr Made kMade[] = {{'h', true, "tenant"},        {'s', true, "tenant_sees"}, {'s', true, "tenant_adds"},
                          {'t', true, "tenant_sees"},   {'t', true, "tenant_adds"}, {'t', true, "tenant_deletes"},
                          {'h', false, "guard_header"}, {'s', false, "guard_rows"}, {'t', false, "guard_rows"}};

void drop_earlier(const Cache *c)
{
    for (const Made &made : kMade) {
        const Oid table = made.table == 'h' ? c->header : made.table == 's' ? c->sealed : c->tail;
        const char *table_sql = made.table == 'h' ? c->header_sql : made.table == 's' ? c->sealed_sql : c->tail_sql;
        const Oid found = made.policy ? get_relation_policy_oid(table, made.name, true) : get_trigger_oid(table, made.name, true);
        if (OidIsValid(found)) execute(psprintf("DROP %s %s ON %s", made.policy ? "POLICY" : "TRIGGER", made.name, table_sql));
    }
}

// Policies look for the rows of an owner; an index that begins with the column serves.
void make_index(const Cache *c, const char *column)
{
    execute(
        psprintf("SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid "
                 "AND a.attnum OPERATOR(pg_catalog.=) i.indkey[0] WHERE i.indrelid OPERATOR(pg_catalog.=) %u::pg_catalog.oid "
                 "AND a.attname OPERATOR(pg_catalog.=) %s::pg_catalog.name AND i.indpred IS NULL",
                 c->header, quote_literal_cstr(column)));
    if (SPI_processed == 0) execute(psprintf("CREATE INDEX ON %s (%s)", c->header_sql, quote_identifier(column)));
}

// What tells sequences apart, by the policy that is there; null: there is none.
const char *tenant_rule(const Cache *c)
{
    execute(
        psprintf("SELECT pg_catalog.pg_get_expr(polqual, polrelid) FROM pg_catalog.pg_policy "
                 "WHERE polrelid OPERATOR(pg_catalog.=) %u::pg_catalog.oid AND polname OPERATOR(pg_catalog.=) 'tenant'",
                 c->header));
    return SPI_processed == 0 ? nullptr : SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

// Arguments that were forgotten tear down what stood.
void warn_of_other_rule(const Cache *c, const char *before)
{
    const char *now = tenant_rule(c);
    if (!before || !now || strcmp(before, now) == 0) return;
    ereport(WARNING, errmsg("tenants of cache \"%s\" are told apart by another rule than before", c->name),
            errdetail("Before: %s. Now: %s.", before, now),
            errhint("If that was not meant, call kv.enable_tenants with the column and the expression of before."));
}

// As the statements will lock them, so that nothing comes to the tables after the look at what is there, and by the names that they
// have then. Whoever may not change them locks nobody out.
void lock_whole(const Cache *c)
{
    for (Oid table : {c->header, c->sealed, c->tail}) {
        if (!compat::owns_relation(table, GetUserId())) aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(table));
        LockRelationOid(table, AccessExclusiveLock);
    }
    for (Oid table : {c->header, c->sealed, c->tail}) hold_schema(get_rel_namespace(table));
}

}  // namespace

// Once more, it brings what an earlier build has made up to date.
SQL_FUNCTION(kv_enable_tenants)
{
    const char *const names[] = {"cache", "owner_column", "tenant"};
    require_arguments(fcinfo, names, 3);
    SPI_connect();
    lock_whole(cache_of(PG_GETARG_OID(0)));
    Cache *c = cache_of(PG_GETARG_OID(0));  // by the names that the tables keep now
    refuse_foreign_code(c);  // checks, generated columns and types of the owner, which a new column rewrites the table by
    const char *column = text_to_cstring(PG_GETARG_TEXT_PP(1));
    const char *tenant = text_to_cstring(PG_GETARG_TEXT_PP(2));
    const char *rule = tenant_rule(c);
    drop_earlier(c);
    for (const char *statement : kRecipe) execute(filled(c, statement, {{'o', quote_identifier(column)}, {'w', tenant}}));
    make_index(c, column);
    warn_of_other_rule(c, rule);
    for (Oid table : {c->header, c->sealed, c->tail}) warn_of_trigger(table);
    SPI_finish();
    PG_RETURN_VOID();
}

}  // namespace vkv::kv
