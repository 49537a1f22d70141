// What makes the tables of a cache go together, and which rows may come to kv.caches: those whose tables are of one owner and laid
// out as a cache's. A dump names tables; others may bear the names, or the numbers of what was dropped, where it is restored.

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/statements.h"

namespace vkv::kv {

namespace {

constexpr AttrNumber kTilesColumn = 4;

Oid tile_type()
{
    return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("tile"),
                           ObjectIdGetDatum(get_namespace_oid("kv", false)));
}

// Its owner, or InvalidOid when it is not there or of another kind. Tables that go with a session are no cache's.
Oid owner_of_kind(Oid relid, char kind)
{
    HeapTuple row = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
    if (!HeapTupleIsValid(row)) return InvalidOid;
    const Form_pg_class form = reinterpret_cast<Form_pg_class>(GETSTRUCT(row));
    const Oid owner = form->relkind == kind && form->relpersistence != RELPERSISTENCE_TEMP ? form->relowner : InvalidOid;
    ReleaseSysCache(row);
    return owner;
}

// Why they are no cache's; null: they are.
const char *fault_of(const Oid tables[3])
{
    static constexpr const char *kParts[] = {"the table that it is named by", "its table of tiles", "its tail"};
    for (int i = 0; i < 3; ++i)
        if (!OidIsValid(tables[i]) || !get_rel_name(tables[i])) return psprintf("%s is not there", kParts[i]);
    const Oid owner = owner_of_kind(tables[0], RELKIND_RELATION);
    for (int i = 0; i < 3; ++i) {
        const Oid its = owner_of_kind(tables[i], RELKIND_RELATION);
        if (!OidIsValid(its)) return psprintf("\"%s\" is no ordinary table", get_rel_name(tables[i]));
        if (its != owner)
            return psprintf("table \"%s\" has another owner than \"%s\"", get_rel_name(tables[i]), get_rel_name(tables[0]));
    }
    OtherColumn other;
    if (!has_columns(tables, tile_type(), &other))
        return psprintf("its tables lack a column \"%s\" of type %s", other.name, format_type_be(other.wanted));
    return nullptr;
}

bool is_tied(Oid part, Oid header)
{
    ScanKeyData keys[2];
    ScanKeyInit(&keys[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(RelationRelationId));
    ScanKeyInit(&keys[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(part));
    Relation depend = table_open(DependRelationId, AccessShareLock);
    SysScanDesc scan = systable_beginscan(depend, DependDependerIndexId, true, nullptr, 2, keys);
    bool found = false;
    while (HeapTuple row = systable_getnext(scan)) {
        const auto *entry = reinterpret_cast<const FormData_pg_depend *>(GETSTRUCT(row));
        found = found || (entry->objsubid == 0 && entry->refclassid == RelationRelationId && entry->refobjid == header &&
                          entry->refobjsubid == 0 && entry->deptype == DEPENDENCY_AUTO);
    }
    systable_endscan(scan);
    table_close(depend, AccessShareLock);
    return found;
}

// Returns whether one was not tied.
bool tie(const Oid tables[3])
{
    bool any = false;
    for (int i = 1; i < 3; ++i) {
        if (is_tied(tables[i], tables[0])) continue;
        const ObjectAddress header{RelationRelationId, tables[0], 0}, part{RelationRelationId, tables[i], 0};
        recordDependencyOn(&part, &header, DEPENDENCY_AUTO);
        any = true;
    }
    return any;
}

// Who has a lock on a table keeps it from being dropped.
bool tie_locked(const Oid tables[3])
{
    if ((is_tied(tables[1], tables[0]) && is_tied(tables[2], tables[0])) || fault_of(tables)) return false;
    for (int i = 0; i < 3; ++i)
        if (!ConditionalLockRelationOid(tables[i], AccessShareLock)) return false;
    return !fault_of(tables) && tie(tables);
}

bool is_registered(Relation caches, Oid header)
{
    ScanKeyData key;
    ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(header));
    SysScanDesc scan = systable_beginscan(caches, InvalidOid, false, nullptr, 1, &key);
    const bool found = HeapTupleIsValid(systable_getnext(scan));
    systable_endscan(scan);
    return found;
}

bool is_number(const char *name) { return *name != '\0' && strspn(name, "0123456789") == strlen(name); }

Oid oid_of(HeapTuple row, TupleDesc desc, AttrNumber column)
{
    bool null;
    const Datum value = heap_getattr(row, column, desc, &null);
    return null ? InvalidOid : DatumGetObjectId(value);
}

}  // namespace

// The input of kv.relation. A number is what some relation had where the dump was made.
SQL_FUNCTION(kv_relation_in)
{
    const char *name = PG_GETARG_CSTRING(0);
    if (strcmp(name, "-") == 0) PG_RETURN_OID(InvalidOid);
    Oid found = InvalidOid;
    if (!is_number(name)) found = RangeVarGetRelid(makeRangeVarFromNameList(compat::qualified_name(name)), NoLock, true);
    if (!OidIsValid(found))
        ereport(WARNING, errcode(ERRCODE_UNDEFINED_TABLE),
                is_number(name) ? errmsg("a KV cache names relation %s by its number, which another may have here", name)
                                : errmsg("relation \"%s\" does not exist", name));
    PG_RETURN_OID(found);
}

// On every new row of kv.caches, also one that a dump brings.
SQL_FUNCTION(kv_tie_tables)
{
    if (!CALLED_AS_TRIGGER(fcinfo))
        ereport(ERROR, errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED), errmsg("kv.tie_tables is a trigger"));
    const auto *trigger = reinterpret_cast<const TriggerData *>(fcinfo->context);
    TupleDesc desc = RelationGetDescr(trigger->tg_relation);
    bool caches = desc->natts >= kTilesColumn;
    for (int i = 0; caches && i < kTilesColumn; ++i) {
        const Form_pg_attribute column = TupleDescAttr(desc, i);
        caches = column->attlen == sizeof(Oid) && column->attbyval && IsBinaryCoercible(column->atttypid, OIDOID);
    }
    if (!caches || !TRIGGER_FIRED_BY_INSERT(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event))
        ereport(ERROR, errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED), errmsg("kv.tie_tables is a trigger of kv.caches"));
    HeapTuple row = trigger->tg_trigtuple;
    const Oid tables[] = {oid_of(row, desc, 1), oid_of(row, desc, 2), oid_of(row, desc, 3)};
    if (const char *fault = fault_of(tables)) {
        const char *name = nullptr;
        for (int i = 0; i < 3 && !name; ++i) name = get_rel_name(tables[i]);
        ereport(WARNING, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                name ? errmsg("the KV cache of table \"%s\" is not registered: %s", name, fault)
                     : errmsg("a KV cache is not registered: %s", fault),
                errhint("Once its tables are there, kv.adopt_cache registers it."));
        return PointerGetDatum(nullptr);
    }
    // A publication of all tables has this one too; the subscriber's cache is the one that was made there.
    if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA && is_registered(trigger->tg_relation, tables[0]))
        return PointerGetDatum(nullptr);
    tie(tables);
    const Oid tiles = oid_of(row, desc, kTilesColumn);
    if (OidIsValid(tiles) && owner_of_kind(tiles, RELKIND_VIEW) != owner_of_kind(tables[0], RELKIND_RELATION)) {
        int column = kTilesColumn;
        Datum none = ObjectIdGetDatum(InvalidOid);
        bool null = false;
        row = heap_modify_tuple_by_cols(row, desc, 1, &column, &none, &null);
    }
    return PointerGetDatum(row);
}

// For caches that pg_upgrade has brought: it copies the rows of kv.caches, and no dependency is in its dump.
SQL_FUNCTION(kv_tie_caches)
{
    SPI_connect();
    if (SPI_execute("SELECT cache::pg_catalog.oid, sealed::pg_catalog.oid, tail::pg_catalog.oid FROM kv.caches", true, 0) !=
        SPI_OK_SELECT)
        elog(ERROR, "could not read kv.caches");
    int64 tied = 0;
    for (uint64 i = 0; i < SPI_processed; ++i) {
        CHECK_FOR_INTERRUPTS();
        TupleDesc desc = SPI_tuptable->tupdesc;
        HeapTuple row = SPI_tuptable->vals[i];
        const Oid tables[] = {oid_of(row, desc, 1), oid_of(row, desc, 2), oid_of(row, desc, 3)};
        if (get_rel_name(tables[0]) && compat::owns_relation(tables[0], GetUserId())) tied += tie_locked(tables) ? 1 : 0;
    }
    SPI_finish();
    PG_RETURN_INT64(tied);
}

}  // namespace vkv::kv
