// Tiles that no sequence names any more: freed at once where that is cheap and the caller may, else by kv.collect. Both delete as
// the caller, with a statement like any other.

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/call.h"
#include "pg/kv/change.h"
#include "pg/kv/foreign_code.h"
#include "pg/kv/naming.h"

namespace vkv::kv {

namespace {

bool may_delete_all(Oid table)
{
    return pg_class_aclcheck(table, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
           pg_class_aclcheck(table, GetUserId(), ACL_DELETE) == ACLCHECK_OK &&
           check_enable_rls(table, InvalidOid, true) != RLS_ENABLED;
}

}  // namespace

void free_tiles(Cache *c, const Sequence *before)
{
    DirectTable headers;
    if (before->sealed == 0 || !may_delete_all(c->sealed) || !open_headers(c, &headers)) return;
    push_newest_snapshot();
    HTAB *reaches = reaches_of_sequence(headers, before);
    for (int i = 0; i < before->spans && (i ? before->stops[i - 1] : 0) < before->sealed; ++i) {
        CHECK_FOR_INTERRUPTS();
        const int64_t extent = before->extents[i];
        const int32_t reach = reaches ? reach_in(reaches, extent) : reach_of(headers, extent, before->stops[i]);
        if (reach >= before->stops[i]) continue;
        Datum range[] = {Int64GetDatum(extent), Int32GetDatum(reach)};
        run_plan(c, Plan::sealed_delete, range);
    }
    if (reaches) hash_destroy(reaches);
    PopActiveSnapshot();
    close_direct(&headers);
}

namespace {

struct Collection {
    Cache *cache;
    HTAB *reaches;
    int64_t most;  // tiles to delete, at least 1
    bool dry;
    int64_t tiles;
};

// Deletes or counts the tiles of an extent from a position on. What the snapshot does not show stays: its header row may be newer
// than the look at them, too.
void collect_extent(Collection *work, int64_t extent, int32_t from)
{
    Datum values[] = {Int64GetDatum(extent), Int32GetDatum(from), Int64GetDatum(work->most - work->tiles)};
    if (work->dry) {
        run_plan_seeing(work->cache, Plan::sealed_count, values);
        bool null;
        work->tiles += DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
        SPI_freetuptable(SPI_tuptable);
        return;
    }
    const Plan plan = work->most == INT64_MAX ? Plan::sealed_delete : Plan::sealed_delete_some;
    work->tiles += static_cast<int64_t>(run_plan_seeing(work->cache, plan, values));
}

// use(extent) of every extent in a table, in order.
template <typename F>
void for_extents(Cache *c, Plan next, F &&use)
{
    for (int64_t from = INT64_MIN;;) {
        Datum values[] = {Int64GetDatum(from)};
        if (run_plan_seeing(c, next, values) == 0) return;
        bool null;
        const int64_t extent = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
        SPI_freetuptable(SPI_tuptable);
        if (!use(extent) || extent == INT64_MAX) return;
        from = extent + 1;
        CHECK_FOR_INTERRUPTS();
    }
}

void collect(Collection *work)
{
    for_extents(work->cache, Plan::sealed_next, [work](int64_t extent) {
        const int32_t reach = reach_in(work->reaches, extent);
        if (reach < kOpenStop) collect_extent(work, extent, reach);
        return work->tiles < work->most;
    });
    // Of a header row that was deleted by hand.
    if (work->dry) return;
    for_extents(work->cache, Plan::tail_next, [work](int64_t extent) {
        Datum range[] = {Int64GetDatum(extent), Int32GetDatum(0), Int32GetDatum(kOpenStop)};
        if (reach_in(work->reaches, extent) < kOpenStop) run_plan_seeing(work->cache, Plan::tail_delete, range);
        return true;
    });
}

// Whoever collects must see all of it: what a policy hides looks like what nobody refers to, or is not found.
void check_rights(Oid table, bool change)
{
    const AclMode needed = change ? ACL_SELECT | ACL_DELETE : ACL_SELECT;
    if (pg_class_aclmask(table, GetUserId(), needed, ACLMASK_ALL) != needed)
        aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(table));
    if (check_enable_rls(table, InvalidOid, true) != RLS_ENABLED) return;
    ereport(
        ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
        errmsg("row security of table \"%s\" applies to role \"%s\"", get_rel_name(table), GetUserNameFromId(GetUserId(), false)),
        errhint("kv.collect is called by the owner of the cache, or a role that row security does not bind."));
}

}  // namespace

SQL_FUNCTION(kv_collect)
{
    if (PG_ARGISNULL(0)) throw Error(Errc::null_not_allowed, "cache must not be null");
    Collection work{};
    work.most = PG_ARGISNULL(1) ? INT64_MAX : PG_GETARG_INT64(1);
    work.dry = !PG_ARGISNULL(2) && PG_GETARG_BOOL(2);
    if (work.most < 1)
        throw Error(Errc::invalid_parameter, message("max_tiles must be positive, is %lld", static_cast<long long>(work.most)));
    begin_change();
    Cache *c = work.cache = cache_of(PG_GETARG_OID(0));
    if (!work.dry) refuse_foreign_code(c);
    check_rights(c->header, false);
    check_rights(c->sealed, !work.dry);
    if (!work.dry) check_rights(c->tail, true);
    DirectTable headers;
    if (!open_headers(c, &headers))
        ereport(ERROR, errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("table \"%s\" is not as kv.create_cache made it", c->name),
                errdetail("Row versions can be told apart in a heap without child tables and rules only."));
    push_newest_snapshot();
    work.reaches = reaches_of(c, headers);
    collect(&work);
    PopActiveSnapshot();
    close_direct(&headers);
    end_change();
    PG_RETURN_INT64(work.tiles);
}

}  // namespace vkv::kv
