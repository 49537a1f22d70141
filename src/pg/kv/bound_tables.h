// While a statement on a cache is planned, the names in it lead to the tables of the cache.
//
// A call looks at tables by their OIDs (owner_code.h), locks them, and reads their columns; its statements name them. Whoever may
// rename tables or their schema can put others under these names in between: other tokens, and code that nobody has looked at.
#pragma once

#include "pg/kv/cache.h"

namespace vkv::kv {

// Until unbind_tables, or an error, a statement of this text (by address; null: any of the caller's that is not within a trigger)
// may work on no other tables: else object_not_in_prerequisite_state is raised before anything is planned. What row security and
// rules add to it is theirs. A statement that is not planned again is the one that was.
void bind_tables(const Cache *cache, const char *text);
void bind_tables(const Oid (&tables)[3], const char *cache_name);  // of what is no cache yet
void unbind_tables();

const char *text_of(SPIPlanPtr plan);

}  // namespace vkv::kv
