// kv.adopt_cache: tables that a dump, or a copy, has brought here become a cache again. They are looked at before they are
// believed: whose they are, how they are laid out, and whether tiles and tail are of the geometry that is claimed.

#include <algorithm>

#include "core/error.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/bound_tables.h"
#include "pg/kv/call.h"
#include "pg/kv/direct.h"
#include "pg/kv/function_watch.h"
#include "pg/kv/held_schema.h"
#include "pg/kv/owner_code.h"
#include "pg/kv/packed_row.h"
#include "pg/kv/request.h"

namespace vkv::kv {

namespace {

struct Column {
    const char *name;
    Oid type;  // InvalidOid: kv.tile
};

struct Table {
    const char *suffix;
    Column columns[8];
    int count;
    AttrNumber keys[4];
    int key_count;
};

constexpr Table kTables[] = {
    {"",
     {{"seq", INT8OID},
      {"length", INT4OID},
      {"sealed", INT4OID},
      {"epoch", INT8OID},
      {"forks", INT4OID},
      {"extents", INT8ARRAYOID},
      {"stops", INT4ARRAYOID}},
     7,
     {1},
     1},
    {"_sealed",
     {{"extent", INT8OID}, {"layer", INT2OID}, {"head", INT2OID}, {"pos", INT4OID}, {"tile", InvalidOid}},
     5,
     {1, 2, 4, 3},
     4},
    {"_tail", {{"extent", INT8OID}, {"chunk", INT4OID}, {"pos", INT4OID}, {"kv", BYTEAOID}}, 4, {1, 2, 3}, 3}};

Oid tile_type()
{
    return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("tile"),
                           ObjectIdGetDatum(get_namespace_oid("kv", false)));
}

[[noreturn]] void not_laid_out(const char *name, const char *what)
{
    throw Error(Errc::wrong_object_type, message("table \"%s\" is not one of a KV cache: %s", name, what),
                "kv.adopt_cache takes the tables that kv.create_cache made, as a dump restores them.");
}

void check_owner(const Request &r, const char *name, Oid relid, Oid owner)
{
    HeapTuple row = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
    if (!HeapTupleIsValid(row)) ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("table \"%s\" was dropped", name));
    const Oid relowner = reinterpret_cast<Form_pg_class>(GETSTRUCT(row))->relowner;
    ReleaseSysCache(row);
    if (!compat::owns_relation(relid, GetUserId())) aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, name);
    if (relowner != owner)
        ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("table \"%s\" has another owner than \"%s\"", name, r.name));
}

// A table that the caller owns, as the header's owner does, and that stays as it is until the transaction ends. Whoever does not
// own it locks nobody out.
Oid owned_table(const Request &r, const char *suffix, Oid owner)
{
    const Oid relid = relation_named(r, suffix);
    const char *name = psprintf("%s%s", r.name, suffix);
    if (!OidIsValid(relid))
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("table \"%s.%s\" does not exist", r.schema, name),
                errhint("A cache is dumped with all of its tables: pg_dump -t '%s' -t '%s*'.", quote_identifier(r.name),
                        quote_identifier(psprintf("%s_", r.name))));
    check_owner(r, name, relid, owner);
    LockRelationOid(relid, ShareRowExclusiveLock);
    // What was renamed before the lock was had is another table than the one of that name.
    if (relation_named(r, suffix) != relid)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("table \"%s\" was renamed or dropped meanwhile", name),
                errhint("Call kv.adopt_cache again."));
    check_owner(r, name, relid, owner);
    return relid;
}

void check_layout(const char *name, Oid relid, const Table &table)
{
    Oid types[8];
    for (int i = 0; i < table.count; ++i) types[i] = OidIsValid(table.columns[i].type) ? table.columns[i].type : tile_type();
    DirectTable opened;
    if (!open_unasked(relid, {types, table.count, table.keys, table.key_count}, &opened))
        not_laid_out(name, "its columns, its primary key or its kind differ");
    TupleDesc desc = RelationGetDescr(opened.rel);
    for (int i = 0; i < table.count; ++i) {
        const Form_pg_attribute column = TupleDescAttr(desc, i);
        if (strcmp(NameStr(column->attname), table.columns[i].name) != 0 || !column->attnotnull || column->attgenerated)
            not_laid_out(name, message("column %d should be %s, not null", i + 1, table.columns[i].name).c_str());
    }
    const char persistence = opened.rel->rd_rel->relpersistence;
    if (persistence == RELPERSISTENCE_TEMP) not_laid_out(name, "it is temporary");
    if (persistence == RELPERSISTENCE_UNLOGGED && strcmp(table.suffix, "_tail") != 0) not_laid_out(name, "it is unlogged");
    close_direct(&opened);
}

[[noreturn]] void other_geometry(const Request &r, const std::string &what)
{
    throw Error(Errc::invalid_parameter, message("the tables of \"%s\" hold tokens of another geometry: %s", r.name, what.c_str()));
}

int64_t number(uint64_t row, int column, bool *null)
{
    Datum value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, null);
    return SPI_gettypeid(SPI_tuptable->tupdesc, column) == INT2OID ? DatumGetInt16(value) : DatumGetInt32(value);
}

// Least and largest of a column are 0 and most - 1, unless there is nothing.
void check_range(const Request &r, const char *suffix, const char *column, int most)
{
    execute("SELECT pg_catalog.min(%s), pg_catalog.max(%s) FROM ONLY %s", column, column, quoted(r, suffix));
    bool null;
    const int64_t least = number(0, 1, &null), largest = number(0, 2, &null);
    if (null) return;
    if (least != 0 || largest != most - 1)
        other_geometry(r, message("%s%s has %s %lld to %lld, not 0 to %d", r.name, suffix, column, static_cast<long long>(least),
                                  static_cast<long long>(largest), most - 1));
}

void check_tiles(const Request &r)
{
    check_range(r, "_sealed", "layer", r.layers);
    check_range(r, "_sealed", "head", r.kv_heads);
    execute("SELECT layer, head, pos, tile FROM ONLY %s WHERE extent OPERATOR(pg_catalog.=) (SELECT extent FROM ONLY %s LIMIT 1)",
            quoted(r, "_sealed"), quoted(r, "_sealed"));
    for (uint64_t i = 0; i < SPI_processed; ++i) {
        CHECK_FOR_INTERRUPTS();
        bool null;
        const TileView tile = view_of(datum_tile(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 4, &null)));
        if (tile.heads != r.kv_heads || tile.dim_k != r.head_dim || tile.dim_v != r.value_dim || tile.flags != r.flags())
            other_geometry(r, message("a tile has %d heads, keys of %d dimensions%s and values of %d%s", tile.heads, tile.dim_k,
                                      (tile.flags & kKeysBeforeRope) ? " before RoPE" : "", tile.dim_v,
                                      (tile.flags & kValuesInKeys) ? " in the keys" : ""));
        if (tile.head != number(i, 2, &null) || tile.first != number(i, 3, &null))
            other_geometry(r, "a tile does not belong where it lies");
    }
}

void check_tail(const Request &r)
{
    const int slots = r.layers * r.kv_heads, chunks = (slots + r.row_slots - 1) / r.row_slots;
    check_range(r, "_tail", "chunk", chunks);
    execute("SELECT chunk, kv FROM ONLY %s LIMIT 1000", quoted(r, "_tail"));
    const int width = r.head_dim + (r.values_in_keys ? 0 : r.value_dim);
    for (uint64_t i = 0; i < SPI_processed; ++i) {
        bool null;
        const int chunk = static_cast<int>(number(i, 1, &null));
        const PackedRow row = packed_row(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, &null));
        const int wanted = std::min(r.row_slots, slots - chunk * r.row_slots);
        if (row.shape().slots != wanted || row.shape().width != width)
            other_geometry(r, message("a row of the tail has %d heads of %d values, not %d of %d", row.shape().slots,
                                      row.shape().width, wanted, width));
    }
}

void check_view(const Request &r, Oid owner)
{
    const Oid view = relation_named(r, "_tile");
    if (!OidIsValid(view)) return;
    if (get_rel_relkind(view) != RELKIND_VIEW) not_laid_out(psprintf("%s_tile", r.name), "it is no view");
    owned_table(r, "_tile", owner);
}

}  // namespace

SQL_FUNCTION(kv_adopt_cache)
{
    if (PG_ARGISNULL(0)) throw Error(Errc::null_not_allowed, "cache must not be null");
    SPI_connect();
    Request r{};
    r.adopted = true;
    const Oid header = PG_GETARG_OID(0);
    HeapTuple row = SearchSysCache1(RELOID, ObjectIdGetDatum(header));
    if (!HeapTupleIsValid(row))
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation with OID %u does not exist", header));
    const Form_pg_class form = reinterpret_cast<Form_pg_class>(GETSTRUCT(row));
    const Oid owner = form->relowner;
    r.name = pstrdup(NameStr(form->relname));
    r.namespace_oid = form->relnamespace;
    ReleaseSysCache(row);
    r.schema = get_namespace_name(r.namespace_oid);
    execute("SELECT FROM kv.caches WHERE cache OPERATOR(pg_catalog.=) %u::pg_catalog.oid", header);
    if (SPI_processed > 0) throw Error(Errc::duplicate_object, message("\"%s\" is a KV cache already", r.name));
    for (const Table &table : kTables)
        check_layout(psprintf("%s%s", r.name, table.suffix), owned_table(r, table.suffix, owner), table);
    if (relation_named(r, "") != header)
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("table \"%s\" was renamed meanwhile", r.name),
                errhint("Call kv.adopt_cache again."));
    const Oid tables[] = {header, relation_named(r, "_sealed"), relation_named(r, "_tail")};
    const bool more = refuse_owner_code(tables);
    const bool watched = watch_functions(more, r.name);
    r.logged = get_rel_persistence(relation_named(r, "_tail")) != RELPERSISTENCE_UNLOGGED;
    read_geometry(fcinfo, &r);
    bind_tables(tables, r.name);
    check_tiles(r);
    check_tail(r);
    unbind_tables();
    check_view(r, owner);
    hold_schema(r.namespace_oid);
    r.schema = get_namespace_name(r.namespace_oid);
    finish_tail(r);
    make_view(r);
    register_cache(fcinfo, r);
    if (watched) unwatch_functions();
    CommandCounterIncrement();  // what calls follow in the same statement find it
    SPI_finish();
    PG_RETURN_OID(header);
}

}  // namespace vkv::kv
