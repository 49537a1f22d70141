// What the owner of a cache's tables could have made of them, in the eyes of callers who may do what he may not: nothing of it runs
// as they. PostgreSQL folds expressions of indexes and statistics when it plans, also to read.
#pragma once

#include "pg/kv/cache.h"

namespace vkv::kv {

// Raises insufficient_privilege when the caller has more rights than the owner of a table and the table is not as kv.create_cache
// and kv.enable_tenants make it, but for columns, defaults, checks, indexes and foreign keys that run nobody's code. Until the
// transaction ends, the tables stay locked as readers lock them. Cheap when nothing has changed since.
void refuse_owner_code(Cache *cache);

// The same of tables that are no cache yet: headers, sealed tiles, tail. Returns whether the caller is more than an owner.
bool refuse_owner_code(const Oid (&tables)[3]);

}  // namespace vkv::kv
