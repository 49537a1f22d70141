// The rows of kv.caches as a backend remembers them, and the statements that work on a cache's tables.
//
// Statements go through the planner under the caller's identity, so that privileges and row security hold. What is remembered is
// looked at again when a table of the cache changes: a rename makes new statements.

#include "pg/kv/cache.h"

#include <algorithm>
#include <string>
#include <vector>

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"

namespace vkv::kv {

namespace {

HTAB *caches = nullptr;

struct Entry {
    Oid header;
    Cache *cache;
};

void forget(Datum, Oid relid)
{
    HASH_SEQ_STATUS scan;
    hash_seq_init(&scan, caches);
    while (auto *entry = static_cast<Entry *>(hash_seq_search(&scan))) {
        Cache *c = entry->cache;
        if (c && (relid == InvalidOid || relid == c->header || relid == c->sealed || relid == c->tail)) c->stale = true;
    }
}

void start()
{
    HASHCTL control{};
    control.keysize = sizeof(Oid);
    control.entrysize = sizeof(Entry);
    control.hcxt = CacheMemoryContext;
    caches = hash_create("vectorkv caches", 16, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    CacheRegisterRelcacheCallback(entry<forget>, 0);
}

char *qualified(Oid relid)
{
    char *name = get_rel_name(relid);
    if (!name) return nullptr;
    return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), name);
}

[[noreturn]] void no_cache(Oid header)
{
    const char *name = get_rel_name(header);
    if (!name) ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation with OID %u does not exist", header));
    ereport(ERROR, errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("relation \"%s\" is not a KV cache", name),
            errhint("kv.create_cache makes caches; kv.caches lists them."));
}

const char *kept_text(HeapTuple row, TupleDesc desc, int column)
{
    char *text = SPI_getvalue(row, desc, column);
    return text ? MemoryContextStrdup(CurrentMemoryContext, text) : nullptr;
}

bool is_column(HeapTuple row, TupleDesc desc, int column, Datum *value)
{
    bool null;
    *value = SPI_getbinval(row, desc, column, &null);
    return !null;
}

// The rotation of keys that are stored before it.
const Rope *make_rope(MemoryContext context, HeapTuple row, TupleDesc desc, const Cache *c)
{
    Datum theta, dims, list;
    const char *pairing = SPI_getvalue(row, desc, 19);
    std::vector<double> frequencies;
    if (is_column(row, desc, 20, &list)) {
        Datum *values;
        int n;
        deconstruct_array(DatumGetArrayTypeP(list), FLOAT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &values, nullptr, &n);
        for (int i = 0; i < n; ++i) frequencies.push_back(DatumGetFloat8(values[i]));
    } else if (is_column(row, desc, 17, &theta)) {
        frequencies =
            Rope::usual_frequencies(DatumGetFloat8(theta), is_column(row, desc, 18, &dims) ? DatumGetInt32(dims) : c->dim_k);
    }
    if (frequencies.empty()) return nullptr;
    const bool interleaved = pairing && strcmp(pairing, "interleaved") == 0;
    return own<Rope>(context, frequencies, c->dim_k, interleaved ? Pairing::interleaved : Pairing::half);
}

// As the catalogs are looked at: as they are now, not as they were when the statement began.
void select_cache(const char *sql, Oid header)
{
    Oid types[] = {OIDOID};
    Datum values[] = {ObjectIdGetDatum(header)};
    PushCopiedSnapshot(GetCatalogSnapshot(header));
    SPI_execute_with_args(sql, 1, types, values, nullptr, true, 1);
    PopActiveSnapshot();
    if (SPI_processed == 0) no_cache(header);
}

Cache *load(Oid header)
{
    select_cache(
        "SELECT sealed::pg_catalog.oid, tail::pg_catalog.oid, tiles::pg_catalog.oid, layers, q_heads, kv_heads, "
        "head_dim, value_dim, values_in_keys, codec, tail_logged, tail_tokens, sink_tokens, row_slots, model, "
        "revision, rope_theta, rope_dims, rope_pairing, rope_frequencies, keys FROM kv.caches "
        "WHERE cache OPERATOR(pg_catalog.=) $1",
        header);
    HeapTuple row = SPI_tuptable->vals[0];
    TupleDesc desc = SPI_tuptable->tupdesc;
    MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "vectorkv cache", ALLOCSET_SMALL_SIZES);
    MemoryContext before = MemoryContextSwitchTo(context);
    auto *c = static_cast<Cache *>(palloc0(sizeof(Cache)));
    auto number = [&](int column) {
        bool null;
        return DatumGetInt32(SPI_getbinval(row, desc, column, &null));
    };
    auto oid = [&](int column) { return static_cast<Oid>(number(column)); };
    auto yes = [&](int column) {
        bool null;
        return DatumGetBool(SPI_getbinval(row, desc, column, &null));
    };
    c->header = header;
    c->sealed = oid(1);
    c->tail = oid(2);
    c->tiles = oid(3);
    c->layers = number(4);
    c->q_heads = number(5);
    c->kv_heads = number(6);
    c->dim_k = number(7);
    c->dim_v = number(8);
    c->values_in_keys = yes(9);
    c->codec = codec_named(SPI_getvalue(row, desc, 10));
    c->tail_logged = yes(11);
    c->tail_tokens = number(12);
    c->sink_tokens = number(13);
    c->row_slots = number(14);
    c->model = kept_text(row, desc, 15);
    c->revision = kept_text(row, desc, 16);
    c->before_rope = strcmp(SPI_getvalue(row, desc, 21), "before_rope") == 0;
    c->rope = make_rope(context, row, desc, c);
    c->name = get_rel_name(header);
    c->header_sql = qualified(header);
    c->sealed_sql = qualified(c->sealed);
    c->tail_sql = qualified(c->tail);
    c->tile_type =
        GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("tile"), ObjectIdGetDatum(get_namespace_oid("kv", false)));
    MemoryContextSwitchTo(before);
    if (!c->header_sql || !c->sealed_sql || !c->tail_sql)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("a table of cache \"%s\" was dropped", c->name ? c->name : "?"),
                errhint("Drop the cache with kv.drop_cache."));
    return c;
}

// Do the remembered names still name the cache's tables?
bool same_names(const Cache *c)
{
    auto same = [](Oid relid, const char *name) {
        const char *now = qualified(relid);
        return now && strcmp(now, name) == 0;
    };
    return same(c->header, c->header_sql) && same(c->sealed, c->sealed_sql) && same(c->tail, c->tail_sql);
}

// In a text, {h}, {s} and {t} are the tables of headers, sealed tiles and tail. Parameters and columns of the result, a letter
// each: 8 bigint, 4 integer, 2 smallint, E bigint[], I integer[], T tile, B bytea. Whoever calls chooses the search path: operators
// and functions name their schema, in short as EQ, LT, LE and GE; ORDER BY and GROUP BY go by the default classes of types.
struct Statement {
    const char *text, *parameters, *results;
};

#define EQ " OPERATOR(pg_catalog.=) "
#define LT " OPERATOR(pg_catalog.<) "
#define LE " OPERATOR(pg_catalog.<=) "
#define GE " OPERATOR(pg_catalog.>=) "
#define VKV_OWN "(SELECT seq, length, sealed, extents[pg_catalog.array_upper(extents, 1)] AS extent FROM {h}) o"
#define VKV_HEADER "SELECT seq, length, sealed, epoch, extents, stops FROM {h} WHERE seq" EQ
#define VKV_CHUNKS "extent" EQ "$1 AND chunk" GE "$4 AND chunk" LE "$5 AND pos" GE "$2 AND pos" LT "$3"
constexpr Statement kStatements[kPlans] = {
    /* header_read */ {VKV_HEADER "ANY ($1)", "E", "8448EI"},
    /* header_lock */ {VKV_HEADER "$1 FOR NO KEY UPDATE", "8", "8448EI"},
    /* header_insert */ {"INSERT INTO {h} (seq) VALUES ($1) ON CONFLICT DO NOTHING", "8", ""},
    /* header_extend */
    {"UPDATE {h} SET length = $2, sealed = $3 WHERE seq" EQ "$1 AND length" EQ "$4 AND sealed" EQ "$5 AND epoch" EQ "$6", "844448",
     ""},
    /* header_update */
    {"UPDATE {h} SET length = $2, sealed = $3, epoch = $4, extents = $5, stops = $6 WHERE seq" EQ "$1", "8448EI", ""},
    /* header_fork */
    {"INSERT INTO {h} (seq, length, sealed, epoch, extents, stops) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
     "8448EI", ""},
    /* header_delete */ {"DELETE FROM {h} WHERE seq" EQ "$1", "8", ""},
    /* sealed_insert */ {"INSERT INTO {s} (extent, layer, head, pos, tile) VALUES ($1, $2, $3, $4, $5)", "8224T", ""},
    /* sealed_read */
    {"SELECT layer, head, pos, tile FROM {s} WHERE extent" EQ "$1 AND layer" EQ "$2 AND pos" LT "$3 AND pos" GE
     "$4 ORDER BY pos, head",
     "8244", "224T"},
    /* sealed_delete */ {"DELETE FROM {s} WHERE extent" EQ "$1 AND pos" GE "$2", "84", ""},
    /* sealed_delete_some */
    {"DELETE FROM {s} WHERE ctid" EQ "ANY (ARRAY(SELECT ctid FROM {s} WHERE extent" EQ "$1 AND pos" GE "$2 LIMIT $3))", "848", ""},
    /* sealed_count */ {"SELECT pg_catalog.count(*) FROM {s} WHERE extent" EQ "$1 AND pos" GE "$2", "84", "8"},
    /* sealed_next */ {"SELECT extent FROM {s} WHERE extent" GE "$1 ORDER BY extent LIMIT 1", "8", "8"},
    /* tile_before */
    {"SELECT pos, tile FROM {s} WHERE extent" EQ "$1 AND layer" EQ "0 AND pos" LT "$2 ORDER BY pos DESC, head DESC LIMIT 1", "84",
     "4T"},
    /* tile_at */
    {"SELECT head, tile FROM {s} WHERE extent" EQ "$1 AND layer" EQ "$2 AND pos" EQ "$3 ORDER BY head", "824", "2T"},
    /* tail_insert */ {"INSERT INTO {t} (extent, chunk, pos, kv) VALUES ($1, $2, $3, $4)", "844B", ""},
    /* tail_read */ {"SELECT chunk, pos, kv FROM {t} WHERE " VKV_CHUNKS " ORDER BY chunk, pos", "84444", "44B"},
    /* tail_exists */ {"SELECT 1 FROM {t} WHERE extent" EQ "$1 AND chunk" EQ "0 AND pos" EQ "$2", "84", "4"},
    /* tail_count */ {"SELECT pg_catalog.count(*) FROM {t} WHERE " VKV_CHUNKS, "84444", "8"},
    /* tail_delete */ {"DELETE FROM {t} WHERE extent" EQ "$1 AND pos" GE "$2 AND pos" LT "$3", "844", ""},
    /* tail_copy */
    {"INSERT INTO {t} (extent, chunk, pos, kv) SELECT $2, chunk, pos, kv FROM {t} WHERE extent" EQ "$1 AND pos" GE "$3 AND pos" LT
     "$4",
     "8844", ""},
    /* tail_next */ {"SELECT extent FROM {t} WHERE extent" GE "$1 ORDER BY extent LIMIT 1", "8", "8"},
    /* stray_tiles */
    {"SELECT extent, layer, head, pg_catalog.min(pos) FROM {s} WHERE layer" LT "0 OR layer" GE "$1 OR head" LT "0 OR head" GE
     "$2 OR pos" LT "0 GROUP BY 1, 2, 3",
     "44", "8224"},
    /* tiles_ahead */
    {"SELECT o.seq, s.layer, s.head, pg_catalog.min(s.pos) FROM {s} s JOIN " VKV_OWN " ON o.extent" EQ "s.extent WHERE s.pos" GE
     "o.sealed GROUP BY 1, 2, 3",
     "", "8224"},
    /* stray_tail */
    {"SELECT o.seq, t.chunk, pg_catalog.min(t.pos) FROM {t} t JOIN " VKV_OWN " ON o.extent" EQ "t.extent WHERE t.pos" LT
     "o.sealed OR t.pos" GE "o.length OR t.chunk" LT "0 OR t.chunk" GE "$1 GROUP BY 1, 2",
     "4", "844"},
};
#undef EQ
#undef LT
#undef LE
#undef GE
#undef VKV_CHUNKS
#undef VKV_HEADER
#undef VKV_OWN

char *statement_text(const Cache *c, const char *text)
{
    StringInfoData sql;
    initStringInfo(&sql);
    for (const char *at = text; *at; ++at) {
        if (*at != '{') {
            appendStringInfoChar(&sql, *at);
            continue;
        }
        appendStringInfoString(&sql, at[1] == 'h' ? c->header_sql : at[1] == 's' ? c->sealed_sql : c->tail_sql);
        at += 2;
    }
    return sql.data;
}

Oid type_of(const Cache *c, char letter)
{
    switch (letter) {
        case '8':
            return INT8OID;
        case '4':
            return INT4OID;
        case '2':
            return INT2OID;
        case 'E':
            return INT8ARRAYOID;
        case 'I':
            return INT4ARRAYOID;
        case 'T':
            return c->tile_type;
        default:
            return BYTEAOID;
    }
}

[[noreturn]] void other_type(const Cache *c, const char *column, Oid found, Oid wanted)
{
    ereport(ERROR, errcode(ERRCODE_WRONG_OBJECT_TYPE),
            OidIsValid(found)
                ? errmsg("column \"%s\" of cache \"%s\" has type %s, should have %s", column, c->name, format_type_be(found),
                         format_type_be(wanted))
                : errmsg("column \"%s\" of cache \"%s\" is missing, should have type %s", column, c->name, format_type_be(wanted)),
            errhint("The tables of a cache keep the columns that kv.create_cache gave them: ALTER TABLE changes them back."));
}

// The columns that statements name have the types that kv.create_cache gave them.
void check_columns(const Cache *c)
{
    struct Column {
        const char *name;
        char type;
    };
    constexpr Column kHeader[] = {{"seq", '8'}, {"length", '4'}, {"sealed", '4'}, {"epoch", '8'}, {"extents", 'E'}, {"stops", 'I'}};
    constexpr Column kSealed[] = {{"extent", '8'}, {"layer", '2'}, {"head", '2'}, {"pos", '4'}, {"tile", 'T'}};
    constexpr Column kTail[] = {{"extent", '8'}, {"chunk", '4'}, {"pos", '4'}, {"kv", 'B'}};
    auto check = [c](Oid table, const auto &columns) {
        for (const Column &column : columns) {
            const AttrNumber number = get_attnum(table, column.name);
            const Oid found = number == InvalidAttrNumber ? InvalidOid : get_atttype(table, number);
            if (found != type_of(c, column.type)) other_type(c, column.name, found, type_of(c, column.type));
        }
    };
    check(c->header, kHeader);
    check(c->sealed, kSealed);
    check(c->tail, kTail);
}

}  // namespace

Cache *cache_of(Oid header)
{
    if (!caches) start();
    bool found;
    auto *entry = static_cast<Entry *>(hash_search(caches, &header, HASH_ENTER, &found));
    if (!found) entry->cache = nullptr;
    if (entry->cache && entry->cache->stale) {
        // A renamed cache is loaded anew; what a caller further up holds of the old one stays.
        if (same_names(entry->cache)) {
            check_columns(entry->cache);
            entry->cache->stale = false;
        } else {
            entry->cache = nullptr;
        }
    }
    if (!entry->cache) {
        Cache *loaded = load(header);
        check_columns(loaded);
        MemoryContextSetParent(GetMemoryChunkContext(loaded), CacheMemoryContext);
        entry = static_cast<Entry *>(hash_search(caches, &header, HASH_ENTER, &found));
        entry->cache = loaded;
    }
    return entry->cache;
}

CacheTables tables_of(Oid header)
{
    select_cache(
        "SELECT sealed::pg_catalog.oid, tail::pg_catalog.oid, tiles::pg_catalog.oid FROM kv.caches "
        "WHERE cache OPERATOR(pg_catalog.=) $1",
        header);
    bool null;
    auto oid = [&](int column) {
        return DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, &null));
    };
    return {oid(1), oid(2), oid(3)};
}

SPIPlanPtr plan_of(Cache *c, Plan plan)
{
    SPIPlanPtr &kept = c->plans[static_cast<int>(plan)];
    if (kept) return kept;
    const Statement &statement = kStatements[static_cast<int>(plan)];
    char *text = statement_text(c, statement.text);
    Oid types[8];
    int count = 0;
    for (const char *letter = statement.parameters; *letter; ++letter) types[count++] = type_of(c, *letter);
    SPIPlanPtr made = SPI_prepare(text, count, types);
    if (!made) elog(ERROR, "could not prepare \"%s\": %s", text, SPI_result_code_string(SPI_result));
    SPI_keepplan(made);
    return kept = made;
}

// A table may have changed since cache_of looked: what is read is believed by its own description only.
void check_result(const Cache *c, Plan plan)
{
    const char *types = kStatements[static_cast<int>(plan)].results;
    const int count = static_cast<int>(strlen(types));
    if (count == 0) return;
    if (!SPI_tuptable || SPI_tuptable->tupdesc->natts != count)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("a statement on cache \"%s\" gave other columns than it asked for", c->name),
                errhint("Rules on the tables of a cache must not change what is selected."));
    for (int i = 0; i < count; ++i) {
        const Form_pg_attribute column = TupleDescAttr(SPI_tuptable->tupdesc, i);
        const Oid wanted = type_of(c, types[i]);
        if (column->atttypid != wanted) other_type(c, NameStr(column->attname), column->atttypid, wanted);
    }
}

void check_model(const Cache *c, const char *model, const char *revision)
{
    auto check = [c](const char *what, const char *given, const char *kept) {
        if (!given || (kept && strcmp(given, kept) == 0)) return;
        if (!kept)
            ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("cache \"%s\" does not say which %s it is of", c->name, what),
                    errhint("Name it when the cache is created."));
        ereport(ERROR, errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                errmsg("cache \"%s\" is of %s \"%s\", not \"%s\"", c->name, what, kept, given));
    };
    check("model", model, c->model);
    check("revision", revision, c->revision);
}

int row_slots_for(int slots, int kv_heads, int slot_values)
{
    int most = std::min(slots, kTailRowBytes / (2 * slot_values));
    return most >= kv_heads ? most / kv_heads * kv_heads : most;
}

}  // namespace vkv::kv
