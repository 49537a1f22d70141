// The rows of kv.caches as a backend remembers them. What is remembered is looked at again when a table of the cache changes: a
// rename makes new statements. A schema that is renamed changes no table. Of a cache that was dropped, in whatever session, nothing
// stays.

#include "pg/kv/cache.h"

#include <algorithm>
#include <string>
#include <vector>

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/tail_changes.h"

namespace vkv::kv {

namespace {

HTAB *caches = nullptr;
Cache *left = nullptr;  // no entry leads to these any more, but a call further up may hold them until the transaction ends
bool in_doubt = false;  // a header table changed, and may be gone
uint64_t heard = 0;     // changes of any table or schema

struct Entry {
    Oid header;
    Cache *cache;
};

void note_change(Cache *c, Oid relid)
{
    if (relid != InvalidOid && relid != c->header && relid != c->sealed && relid != c->tail) return;
    c->stale = true;
    ++c->changes;
    if (relid == InvalidOid || relid == c->header) c->in_doubt = in_doubt = true;
}

void hear(Datum, Oid relid)
{
    ++heard;
    HASH_SEQ_STATUS scan;
    hash_seq_init(&scan, caches);
    while (auto *entry = static_cast<Entry *>(hash_seq_search(&scan))) note_change(entry->cache, relid);
    for (Cache *c = left; c; c = c->next_left) note_change(c, relid);
}

void note_schema(Cache *c, uint32 hash)
{
    const uint32 *s = c->schemas;
    if (hash == 0 || hash == s[0] || hash == s[1] || hash == s[2]) note_change(c, c->sealed);
}

void hear_schema(Datum, int, uint32 hash)
{
    ++heard;
    HASH_SEQ_STATUS scan;
    hash_seq_init(&scan, caches);
    while (auto *entry = static_cast<Entry *>(hash_seq_search(&scan))) note_schema(entry->cache, hash);
    for (Cache *c = left; c; c = c->next_left) note_schema(c, hash);
}

void leave(Entry *entry)
{
    entry->cache->next_left = left;
    left = entry->cache;
    hash_search(caches, &entry->header, HASH_REMOVE, nullptr);
}

// Looks for each once after a change: a session with many caches does not look for all of them again and again.
void leave_dropped()
{
    if (!in_doubt) return;
    in_doubt = false;
    HASH_SEQ_STATUS scan;
    hash_seq_init(&scan, caches);
    while (auto *entry = static_cast<Entry *>(hash_seq_search(&scan))) {
        if (!entry->cache->in_doubt) continue;
        entry->cache->in_doubt = false;
        if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(entry->header))) leave(entry);
    }
}

void free_left(XactEvent event, void *)
{
    if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PARALLEL_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE) return;
    while (Cache *c = left) {
        left = c->next_left;
        for (SPIPlanPtr plan : c->plans)
            if (plan) SPI_freeplan(plan);
        MemoryContextDelete(GetMemoryChunkContext(c));
    }
}

void start()
{
    HASHCTL control{};
    control.keysize = sizeof(Oid);
    control.entrysize = sizeof(Entry);
    control.hcxt = CacheMemoryContext;
    caches = hash_create("vectorkv caches", 16, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
    CacheRegisterRelcacheCallback(entry<hear>, 0);
    CacheRegisterSyscacheCallback(NAMESPACEOID, entry<hear_schema>, 0);
    RegisterXactCallback(entry<free_left>, nullptr);
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
    const Oid tables[] = {c->header, c->sealed, c->tail};
    for (int i = 0; i < 3; ++i) c->schemas[i] = GetSysCacheHashValue1(NAMESPACEOID, ObjectIdGetDatum(get_rel_namespace(tables[i])));
    c->tile_type =
        GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("tile"), ObjectIdGetDatum(get_namespace_oid("kv", false)));
    MemoryContextSwitchTo(before);
    if (!c->header_sql || !c->sealed_sql || !c->tail_sql)
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("a table of cache \"%s\" was dropped", c->name ? c->name : "?"),
                errhint("Drop the cache with kv.drop_cache."));
    return c;
}

// Told by its columns: each inherits from a parent that has it, and has another row, in another place, after each change.
TailParents parents_of(Oid tail)
{
    TailParents parents{false, 0};
    HeapTuple relation = SearchSysCache1(RELOID, ObjectIdGetDatum(tail));
    const int columns = HeapTupleIsValid(relation) ? reinterpret_cast<Form_pg_class>(GETSTRUCT(relation))->relnatts : 0;
    if (HeapTupleIsValid(relation)) ReleaseSysCache(relation);
    for (int i = 1; i <= columns; ++i) {
        HeapTuple column = SearchSysCache2(ATTNUM, ObjectIdGetDatum(tail), Int16GetDatum(static_cast<int16>(i)));
        if (!HeapTupleIsValid(column)) continue;
        const uint64_t row =
            uint64_t{ItemPointerGetBlockNumber(&column->t_self)} << 16 | ItemPointerGetOffsetNumber(&column->t_self);
        parents.stamp = hash_combine64(hash_combine64(parents.stamp, row), HeapTupleHeaderGetRawXmin(column->t_data));
        if (reinterpret_cast<Form_pg_attribute>(GETSTRUCT(column))->attinhcount > 0) parents.any = true;
        ReleaseSysCache(column);
    }
    return parents;
}

// Rows that were changed through a parent, which may be none any more, are forgotten. Where nothing is known of before, kept rows
// tell by their stamp, and those that a snapshot from before reads are not kept.
void look_for_parents(Cache *c, const Cache *before)
{
    const TailParents parents = parents_of(c->tail);
    if (!before) doubt_snapshots();
    if (before && before->parents.stamp != parents.stamp) note_tail_change();
    c->parents = parents;
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

}  // namespace

Cache *cache_of(Oid header)
{
    if (!caches) start();
    AcceptInvalidationMessages();
    leave_dropped();
    auto *entry = static_cast<Entry *>(hash_search(caches, &header, HASH_FIND, nullptr));
    if (entry && !entry->cache->stale) return entry->cache;
    // What comes while it looks makes it look again the next time.
    const uint64_t before = heard;
    if (entry && same_names(entry->cache)) {
        check_columns(entry->cache);
        look_for_parents(entry->cache, entry->cache);
        entry->cache->stale = heard != before;
        return entry->cache;
    }
    // A renamed cache is loaded anew.
    Cache *loaded = load(header);
    check_columns(loaded);
    loaded->stale = heard != before;
    entry = static_cast<Entry *>(hash_search(caches, &header, HASH_FIND, nullptr));
    look_for_parents(loaded, entry ? entry->cache : nullptr);
    if (entry) leave(entry);
    entry = static_cast<Entry *>(hash_search(caches, &header, HASH_ENTER, nullptr));
    MemoryContextSetParent(GetMemoryChunkContext(loaded), CacheMemoryContext);
    return entry->cache = loaded;
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
