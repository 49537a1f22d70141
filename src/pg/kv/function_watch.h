// While statements on the tables of another are planned and run for who is more than their owner, functions are watched.
//
// What the owner can make of a table with no lock that a reader or writer waits for (statistics, an index that is built
// CONCURRENTLY) may come after the look at the tables (owner_code.h), as may other tables under their names, in a schema that is
// renamed: wherever PostgreSQL looks into its catalogs it hears of changes, and what it plans or writes into next it has read anew.
// So each function that is not built in is asked about where PostgreSQL looks it up, before it is called or inlined.
#pragma once

#include "pg/kv/cache.h"

namespace vkv::kv {

// For a caller of whom refuse_owner_code has just found that he is more than the owner, else false. Until unwatch_functions, or an
// error, what an expression calls must be built in, or of this extension, and a function that is called otherwise (of a trigger, of
// a type, of an index) must belong to somebody with the rights of the caller, or be written in C, which superusers alone do: else
// insufficient_privilege is raised. What such a trigger calls is not watched, nor what runs as somebody else.
[[nodiscard]] bool watch_functions(const Cache *cache);
[[nodiscard]] bool watch_functions(bool more, const char *cache_name);  // of what is no cache yet
void unwatch_functions();

}  // namespace vkv::kv
