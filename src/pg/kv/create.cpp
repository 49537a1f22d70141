// kv.create_cache and kv.drop_cache: ordinary tables of the caller, and a row in kv.caches.

#include <algorithm>

#include "pg/boundary/boundary.h"
#include "pg/boundary/fault.h"
#include "pg/boundary/pg.h"
#include "pg/kv/call.h"
#include "pg/kv/held_schema.h"
#include "pg/kv/request.h"

namespace vkv::kv {

void execute(const char *format, ...)
{
    StringInfoData sql;
    initStringInfo(&sql);
    for (;;) {
        va_list args;
        va_start(args, format);
        const int needed = appendStringInfoVA(&sql, format, args);
        va_end(args);
        if (needed == 0) break;
        enlargeStringInfo(&sql, needed);
    }
    fault_point();
    const int status = SPI_execute(sql.data, false, 0);
    if (status < 0) elog(ERROR, "\"%s\" failed: %s", sql.data, SPI_result_code_string(status));
}

const char *quoted(const Request &r, const char *suffix)
{
    return quote_qualified_identifier(r.schema, psprintf("%s%s", r.name, suffix));
}

namespace {

// What is in the way may be left of a cache whose table was dropped by hand.
void expect_room(const Request &r)
{
    for (const char *suffix : {"", "_sealed", "_tail", "_tile"}) {
        const Oid relid = relation_named(r, suffix);
        if (!OidIsValid(relid)) continue;
        execute(
            "SELECT cache::pg_catalog.oid FROM kv.caches WHERE %u::pg_catalog.oid OPERATOR(pg_catalog.=) ANY (ARRAY[sealed, tail, "
            "tiles]::pg_catalog.oid[]) "
            "AND NOT EXISTS (SELECT FROM pg_catalog.pg_class r WHERE r.oid OPERATOR(pg_catalog.=) cache)",
            relid);
        bool null = true;
        const Oid left = SPI_processed == 0
                             ? InvalidOid
                             : DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &null));
        ereport(ERROR, errcode(ERRCODE_DUPLICATE_TABLE), errmsg("relation \"%s%s\" already exists", r.name, suffix),
                null ? 0 : errhint("It is left of a cache whose table was dropped: SELECT kv.drop_cache(%u) removes it.", left));
    }
}

// What the commands name is what is looked up by the schema's number, before and after.
void hold_name(Request *r)
{
    const AclResult may = compat::may_create_in(r->namespace_oid, GetUserId());
    if (may != ACLCHECK_OK) aclcheck_error(may, OBJECT_SCHEMA, r->schema);
    hold_schema(r->namespace_oid);
    r->schema = get_namespace_name(r->namespace_oid);
}

void make_tables(const Request &r)
{
    expect_room(r);
    const char *header = quoted(r, ""), *sealed = quoted(r, "_sealed"), *tail = quoted(r, "_tail");
    execute(
        "CREATE TABLE %s (seq bigint PRIMARY KEY, length int NOT NULL DEFAULT 0, sealed int NOT NULL DEFAULT 0, "
        "epoch bigint NOT NULL DEFAULT kv.new_id(), forks int NOT NULL DEFAULT 0, extents bigint[] NOT NULL DEFAULT '{}', "
        "stops int[] NOT NULL DEFAULT '{}') WITH (fillfactor = 70)",
        header);
    execute("CREATE INDEX ON %s USING gin (extents) WITH (fastupdate = off)",
            header);  // who frees tiles would read the pending list
    execute(
        "CREATE TABLE %s (extent bigint NOT NULL, layer smallint NOT NULL, head smallint NOT NULL, pos int NOT NULL, "
        "tile kv.tile NOT NULL, PRIMARY KEY (extent, layer, pos, head)) WITH (autovacuum_freeze_min_age = 0)",
        sealed);
    execute(
        "CREATE %s TABLE %s (extent bigint NOT NULL, chunk int NOT NULL, pos int NOT NULL, kv pg_catalog.bytea NOT NULL, "
        "PRIMARY KEY (extent, chunk, pos))",
        r.logged ? "" : "UNLOGGED", tail);
    finish_tail(r);
    make_view(r);
    execute("COMMENT ON TABLE %s IS 'sequences of a KV cache; written by the functions of schema kv'", header);
}

}  // namespace

void finish_tail(const Request &r)
{
    const char *tail = quoted(r, "_tail");
    execute("ALTER TABLE %s ALTER COLUMN kv SET STORAGE PLAIN", tail);
    execute(
        "CREATE OR REPLACE TRIGGER forget_tails BEFORE UPDATE OR DELETE ON %s FOR EACH STATEMENT EXECUTE FUNCTION "
        "kv.forget_tails()",
        tail);
    execute("ALTER TABLE %s ENABLE ALWAYS TRIGGER forget_tails", tail);
}

// Operators name their schema: who makes the view may have a search path that others fill, and a view keeps what it found there. So
// written they all bind alike, from the left.
void make_view(const Request &r)
{
#define OP(sign) " OPERATOR(pg_catalog." sign ") "
    const char *header = quoted(r, ""), *sealed = quoted(r, "_sealed"), *tail = quoted(r, "_tail");
    const char *slot = psprintf("(l.layer" OP("*") "%d" OP("+") "g.head)", r.kv_heads);
    execute(
        "CREATE %s VIEW %s WITH (security_invoker = true) AS "
        "SELECT h.seq, s.layer, s.head, s.pos, kv.clip(s.tile, e.stop) AS tile FROM %s h CROSS JOIN LATERAL "
        "ROWS FROM (pg_catalog.unnest(h.extents), pg_catalog.unnest(h.stops)) AS e (extent, stop) "
        "JOIN %s s ON s.extent" OP("=") "e.extent AND s.pos" OP("<") "e.stop UNION ALL "
        "SELECT h.seq, l.layer::smallint, g.head::smallint, t.pos, "
        "kv.token_tile(t.kv, %s" OP("-") "(t.chunk" OP("*") "%d), t.pos, g.head, %d, %d, %d, %d) FROM %s h "
        "JOIN %s t ON t.extent" OP("=") "h.extents[pg_catalog.cardinality(h.extents)] AND t.pos" OP(">=") "h.sealed "
        "AND t.pos" OP("<") "h.length "
        "CROSS JOIN pg_catalog.generate_series(0, %d) AS l (layer) CROSS JOIN pg_catalog.generate_series(0, %d) AS g (head) "
        "WHERE t.chunk" OP("=") "(%s" OP("/") "%d)",
        r.adopted ? "OR REPLACE" : "", quoted(r, "_tile"), header, sealed, slot, r.row_slots, r.kv_heads, r.head_dim, r.flags(),
        r.value_dim, header, tail, r.layers - 1, r.kv_heads - 1, slot, r.row_slots);
#undef OP
}

Oid relation_named(const Request &r, const char *suffix)
{
    return get_relname_relid(psprintf("%s%s", r.name, suffix), r.namespace_oid);
}

namespace {

// The owner of kv.caches, who is the owner of the extension.
Oid catalog_owner()
{
    Oid relid = get_relname_relid("caches", get_namespace_oid("kv", false));
    HeapTuple row = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
    if (!HeapTupleIsValid(row)) ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("table kv.caches does not exist"));
    Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(row))->relowner;
    ReleaseSysCache(row);
    return owner;
}

}  // namespace

void register_cache(FunctionCallInfo fcinfo, const Request &r)
{
    struct Column {
        Oid type;
        Datum value;
        bool null;
    };
    auto given = [&](Oid type, int argument) {
        return Column{type, PG_ARGISNULL(argument) ? 0 : PG_GETARG_DATUM(argument), PG_ARGISNULL(argument)};
    };
    auto number = [](int value) { return Column{INT4OID, Int32GetDatum(value), false}; };
    auto relation = [&](const char *suffix) { return Column{REGCLASSOID, ObjectIdGetDatum(relation_named(r, suffix)), false}; };
    const bool rope = !PG_ARGISNULL(kArgRopeTheta) || !PG_ARGISNULL(kArgRopeFrequencies);
    Column pairing = given(TEXTOID, kArgRopePairing);
    pairing.null = !rope;
    const Column columns[] = {relation(""),
                              relation("_sealed"),
                              relation("_tail"),
                              relation("_tile"),
                              number(r.layers),
                              number(r.q_heads),
                              number(r.kv_heads),
                              number(r.head_dim),
                              number(r.value_dim),
                              {BOOLOID, BoolGetDatum(r.values_in_keys), false},
                              given(TEXTOID, kArgCodec),
                              {BOOLOID, BoolGetDatum(r.logged), false},
                              number(r.tail_tokens),
                              number(r.sink_tokens),
                              number(r.row_slots),
                              given(TEXTOID, kArgModel),
                              given(TEXTOID, kArgRevision),
                              given(TEXTOID, kArgKeys),
                              given(FLOAT8OID, kArgRopeTheta),
                              given(INT4OID, kArgRopeDims),
                              pairing,
                              given(FLOAT8ARRAYOID, kArgRopeFrequencies)};
    constexpr int kColumns = sizeof(columns) / sizeof(columns[0]);
    Oid types[kColumns];
    Datum values[kColumns];
    char nulls[kColumns + 1] = {};
    for (int i = 0; i < kColumns; ++i) {
        types[i] = columns[i].type;
        values[i] = columns[i].value;
        nulls[i] = columns[i].null ? 'n' : ' ';
    }
    Oid user;
    int flags;
    GetUserIdAndSecContext(&user, &flags);
    SetUserIdAndSecContext(catalog_owner(), flags | SECURITY_LOCAL_USERID_CHANGE);
    // Of caches whose tables were dropped. Rows that somebody else is about to delete are not waited for.
    execute(
        "DELETE FROM kv.caches WHERE cache OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT c.cache FROM kv.caches c WHERE NOT EXISTS "
        "(SELECT FROM pg_catalog.pg_class r WHERE r.oid OPERATOR(pg_catalog.=) ANY (ARRAY[c.cache, c.sealed, c.tail, "
        "c.tiles]::pg_catalog.oid[])) FOR UPDATE OF c SKIP LOCKED))");
    SPI_execute_with_args(
        "INSERT INTO kv.caches VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, "
        "$18, $19, $20, $21, $22)",
        kColumns, types, values, nulls, false, 0);
    if (SPI_processed != 1)  // the trigger of kv.caches said why
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE), errmsg("\"%s\" is not registered as a KV cache", r.name));
    SetUserIdAndSecContext(user, flags);
}

namespace {

void forget_cache(Oid header)
{
    Oid user;
    int flags;
    GetUserIdAndSecContext(&user, &flags);
    SetUserIdAndSecContext(catalog_owner(), flags | SECURITY_LOCAL_USERID_CHANGE);
    execute("DELETE FROM kv.caches WHERE cache OPERATOR(pg_catalog.=) %u::pg_catalog.oid", header);
    SetUserIdAndSecContext(user, flags);
}

void lock_to_drop(Oid relid)
{
    const char *name = get_rel_name(relid);
    if (!name) return;
    if (!compat::owns_relation(relid, GetUserId()) && !compat::owns_schema(get_rel_namespace(relid), GetUserId()))
        aclcheck_error(ACLCHECK_NOT_OWNER, get_rel_relkind(relid) == RELKIND_VIEW ? OBJECT_VIEW : OBJECT_TABLE, name);
    if (!XactReadOnly) LockRelationOid(relid, AccessExclusiveLock);  // else the command is refused
}

// By the name that it has when it is locked.
void drop(Oid relid)
{
    const char *name = get_rel_name(relid);
    if (!name) return;
    const bool view = get_rel_relkind(relid) == RELKIND_VIEW;
    const Oid schema = get_rel_namespace(relid);
    hold_schema(schema);
    execute("DROP %s %s", view ? "VIEW" : "TABLE", quote_qualified_identifier(get_namespace_name(schema), name));
}

}  // namespace

SQL_FUNCTION(kv_create_cache)
{
    Request r{};
    SPI_connect();
    read_name(fcinfo, &r);
    read_geometry(fcinfo, &r);
    hold_name(&r);
    make_tables(r);
    register_cache(fcinfo, r);
    const Oid header = relation_named(r, "");
    CommandCounterIncrement();  // what calls follow in the same statement find it
    SPI_finish();
    if (r.values_in_keys)
        ereport(NOTICE,
                errmsg("without a scale of their own, queries of this cache are scaled by 1 / sqrt(%d), the dimension of its keys",
                       r.head_dim),
                errhint("Models with multi-head latent attention scale by the dimension that keys have before they are compressed, "
                        "for example 1 / sqrt(192): pass it as scale."));
    PG_RETURN_OID(header);
}

// Works with what is left of a cache, too.
SQL_FUNCTION(kv_drop_cache)
{
    SPI_connect();
    const Oid header = PG_GETARG_OID(0);
    const CacheTables tables = tables_of(header);
    const Oid relids[] = {tables.tiles, tables.tail, tables.sealed, header};
    for (Oid relid : relids) lock_to_drop(relid);
    for (Oid relid : relids) drop(relid);
    forget_cache(header);
    SPI_finish();
    PG_RETURN_VOID();
}

}  // namespace vkv::kv
