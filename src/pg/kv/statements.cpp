// The statements that work on a cache's tables. They go through the planner under the caller's identity, so that privileges and row
// security hold.

#include "pg/kv/statements.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/cache.h"

namespace vkv::kv {

namespace {

// Parameters and columns of the result, a letter each: 8 bigint, 4 integer, 2 smallint, E bigint[], I integer[], T tile, B bytea.
// Texts are for filled. Whoever calls chooses the search path: operators and functions name their schema, in short as EQ, LT, LE
// and GE; ORDER BY and GROUP BY go by the default classes of types. Tables that inherit from them are none of a cache, and may be
// of others: ONLY.
struct Statement {
    const char *text, *parameters, *results;
};

#define EQ " OPERATOR(pg_catalog.=) "
#define LT " OPERATOR(pg_catalog.<) "
#define LE " OPERATOR(pg_catalog.<=) "
#define GE " OPERATOR(pg_catalog.>=) "
#define VKV_OWN "(SELECT seq, length, sealed, extents[pg_catalog.array_upper(extents, 1)] AS extent FROM ONLY {h}) o"
#define VKV_HEADER "SELECT seq, length, sealed, epoch, extents, stops FROM ONLY {h} WHERE seq" EQ
#define VKV_CHUNKS "extent" EQ "$1 AND chunk" GE "$4 AND chunk" LE "$5 AND pos" GE "$2 AND pos" LT "$3"
constexpr Statement kStatements[kPlans] = {
    /* header_read */ {VKV_HEADER "ANY ($1)", "E", "8448EI"},
    /* header_lock */ {VKV_HEADER "$1 FOR NO KEY UPDATE", "8", "8448EI"},
    /* header_insert */ {"INSERT INTO {h} (seq) VALUES ($1) ON CONFLICT DO NOTHING", "8", ""},
    /* header_extend */
    {"UPDATE ONLY {h} SET length = $2, sealed = $3 WHERE seq" EQ "$1 AND length" EQ "$4 AND sealed" EQ "$5 AND epoch" EQ "$6",
     "844448", ""},
    /* header_update */
    {"UPDATE ONLY {h} SET length = $2, sealed = $3, epoch = $4, extents = $5, stops = $6 WHERE seq" EQ "$1", "8448EI", ""},
    /* header_fork */
    {"INSERT INTO {h} (seq, length, sealed, epoch, extents, stops) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
     "8448EI", ""},
    /* header_delete */ {"DELETE FROM ONLY {h} WHERE seq" EQ "$1", "8", ""},
    /* sealed_insert */ {"INSERT INTO {s} (extent, layer, head, pos, tile) VALUES ($1, $2, $3, $4, $5)", "8224T", ""},
    /* sealed_read */
    {"SELECT layer, head, pos, tile FROM ONLY {s} WHERE extent" EQ "$1 AND layer" EQ "$2 AND pos" LT "$3 AND pos" GE
     "$4 ORDER BY pos, head",
     "8244", "224T"},
    /* sealed_delete */ {"DELETE FROM ONLY {s} WHERE extent" EQ "$1 AND pos" GE "$2", "84", ""},
    /* sealed_delete_some */
    {"DELETE FROM ONLY {s} WHERE ctid" EQ "ANY (ARRAY(SELECT ctid FROM ONLY {s} WHERE extent" EQ "$1 AND pos" GE "$2 LIMIT $3))",
     "848", ""},
    /* sealed_count */ {"SELECT pg_catalog.count(*) FROM ONLY {s} WHERE extent" EQ "$1 AND pos" GE "$2", "84", "8"},
    /* sealed_next */ {"SELECT extent FROM ONLY {s} WHERE extent" GE "$1 ORDER BY extent LIMIT 1", "8", "8"},
    /* tile_before */
    {"SELECT pos, tile FROM ONLY {s} WHERE extent" EQ "$1 AND layer" EQ "0 AND pos" LT "$2 ORDER BY pos DESC, head DESC LIMIT 1",
     "84", "4T"},
    /* tile_at */
    {"SELECT head, tile FROM ONLY {s} WHERE extent" EQ "$1 AND layer" EQ "$2 AND pos" EQ "$3 ORDER BY head", "824", "2T"},
    /* tail_insert */ {"INSERT INTO {t} (extent, chunk, pos, kv) VALUES ($1, $2, $3, $4)", "844B", ""},
    /* tail_read */ {"SELECT chunk, pos, kv FROM ONLY {t} WHERE " VKV_CHUNKS " ORDER BY chunk, pos", "84444", "44B"},
    /* tail_exists */ {"SELECT 1 FROM ONLY {t} WHERE extent" EQ "$1 AND chunk" EQ "0 AND pos" EQ "$2", "84", "4"},
    /* tail_count */ {"SELECT pg_catalog.count(*) FROM ONLY {t} WHERE " VKV_CHUNKS, "84444", "8"},
    /* tail_delete */ {"DELETE FROM ONLY {t} WHERE extent" EQ "$1 AND pos" GE "$2 AND pos" LT "$3", "844", ""},
    /* tail_copy */
    {"INSERT INTO {t} (extent, chunk, pos, kv) SELECT $2, chunk, pos, kv FROM ONLY {t} WHERE extent" EQ "$1 AND pos" GE
     "$3 AND pos" LT "$4",
     "8844", ""},
    /* tail_next */ {"SELECT extent FROM ONLY {t} WHERE extent" GE "$1 ORDER BY extent LIMIT 1", "8", "8"},
    /* stray_tiles */
    {"SELECT extent, layer, head, pg_catalog.min(pos) FROM ONLY {s} WHERE layer" LT "0 OR layer" GE "$1 OR head" LT "0 OR head" GE
     "$2 OR pos" LT "0 GROUP BY 1, 2, 3",
     "44", "8224"},
    /* tiles_ahead */
    {"SELECT o.seq, s.layer, s.head, pg_catalog.min(s.pos) FROM ONLY {s} s JOIN " VKV_OWN " ON o.extent" EQ
     "s.extent WHERE s.pos" GE "o.sealed GROUP BY 1, 2, 3",
     "", "8224"},
    /* stray_tail */
    {"SELECT o.seq, t.chunk, pg_catalog.min(t.pos) FROM ONLY {t} t JOIN " VKV_OWN " ON o.extent" EQ "t.extent WHERE t.pos" LT
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

Oid type_of(Oid tile_type, char letter)
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
            return tile_type;
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

const char *filling(const Cache *c, char letter, std::initializer_list<Filling> more)
{
    if (letter == 'h') return c->header_sql;
    if (letter == 's') return c->sealed_sql;
    if (letter == 't') return c->tail_sql;
    for (const Filling &other : more)
        if (other.letter == letter) return other.text;
    elog(ERROR, "nothing fills {%c} of a statement on a cache", letter);
}

}  // namespace

char *filled(const Cache *c, const char *text, std::initializer_list<Filling> more)
{
    StringInfoData sql;
    initStringInfo(&sql);
    for (const char *at = text; *at; ++at) {
        if (*at != '{') {
            appendStringInfoChar(&sql, *at);
            continue;
        }
        appendStringInfoString(&sql, filling(c, at[1], more));
        at += 2;
    }
    return sql.data;
}

bool has_columns(const Oid tables[3], Oid tile_type, OtherColumn *other)
{
    struct Column {
        const char *name;
        char type;
    };
    constexpr Column kHeader[] = {{"seq", '8'}, {"length", '4'}, {"sealed", '4'}, {"epoch", '8'}, {"extents", 'E'}, {"stops", 'I'}};
    constexpr Column kSealed[] = {{"extent", '8'}, {"layer", '2'}, {"head", '2'}, {"pos", '4'}, {"tile", 'T'}};
    constexpr Column kTail[] = {{"extent", '8'}, {"chunk", '4'}, {"pos", '4'}, {"kv", 'B'}};
    auto has = [&](Oid table, const auto &columns) {
        for (const Column &column : columns) {
            const AttrNumber number = get_attnum(table, column.name);
            const Oid found = number == InvalidAttrNumber ? InvalidOid : get_atttype(table, number);
            *other = {column.name, found, type_of(tile_type, column.type)};
            if (found != other->wanted) return false;
        }
        return true;
    };
    return has(tables[0], kHeader) && has(tables[1], kSealed) && has(tables[2], kTail);
}

void check_columns(const Cache *c)
{
    const Oid tables[] = {c->header, c->sealed, c->tail};
    OtherColumn other;
    if (!has_columns(tables, c->tile_type, &other)) other_type(c, other.name, other.found, other.wanted);
}

SPIPlanPtr plan_of(Cache *c, Plan plan)
{
    SPIPlanPtr &kept = c->plans[static_cast<int>(plan)];
    if (kept) return kept;
    const Statement &statement = kStatements[static_cast<int>(plan)];
    char *text = filled(c, statement.text);
    Oid types[8];
    int count = 0;
    for (const char *letter = statement.parameters; *letter; ++letter) types[count++] = type_of(c->tile_type, *letter);
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
        const Oid wanted = type_of(c->tile_type, types[i]);
        if (column->atttypid != wanted) other_type(c, NameStr(column->attname), column->atttypid, wanted);
    }
}

}  // namespace vkv::kv
