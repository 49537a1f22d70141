// The prepared statements of a cache, and what they rely on.
#pragma once

#include <initializer_list>

#include "pg/boundary/pg.h"

namespace vkv::kv {

struct Cache;

// The prepared statements of a cache; their texts are in statements.cpp.
enum class Plan : int {
    header_read,
    header_lock,
    header_insert,
    header_extend,
    header_update,
    header_fork,
    header_delete,
    sealed_insert,
    sealed_read,
    sealed_delete,
    sealed_delete_some,
    sealed_count,
    sealed_next,
    tile_before,
    tile_at,
    tail_insert,
    tail_read,
    tail_exists,
    tail_count,
    tail_delete,
    tail_copy,
    tail_next,
    stray_tiles,
    tiles_ahead,
    stray_tail,
};
inline constexpr int kPlans = static_cast<int>(Plan::stray_tail) + 1;

// A text in which {h}, {s} and {t} are the tables of headers, sealed tiles and tail, and letters of `more` what it says.
struct Filling {
    char letter;
    const char *text;
};
char *filled(const Cache *cache, const char *text, std::initializer_list<Filling> more = {});

// The statement, prepared on first use.
SPIPlanPtr plan_of(Cache *cache, Plan plan);
// Raises unless SPI_tuptable has the columns, by type, that the statement asks for; run_plan does it.
void check_result(const Cache *cache, Plan plan);

// Have header, sealed tiles and tail the columns that statements name, of the types that kv.create_cache gave them? Else the first
// that is another.
struct OtherColumn {
    const char *name;
    Oid found, wanted;  // InvalidOid: there is none
};
bool has_columns(const Oid tables[3], Oid tile_type, OtherColumn *other);
// Raises unless the columns that statements name have the types that kv.create_cache gave them.
void check_columns(const Cache *cache);

}  // namespace vkv::kv
