// Which statement on a cache's tables a function of schema kv is running, and with which values: what guards the rows of tenants
// (kv.guard_header, kv.guard_rows) admits no others.
#pragma once

#include "pg/kv/cache.h"

namespace vkv::kv {

struct Announced {
    const Cache *cache;
    Plan plan;
    const Datum *values;
    int depth = 0;                      // of triggers, around it
    mutable bool began_delete = false;  // its own statement trigger has fired
};

// Around a statement; calls nest through triggers. An error ends it, too.
void announce(const Announced &statement);
void withdraw();
// The innermost one, or null. What runs may be another's statement: in a trigger, or in a policy.
const Announced *announced();
// How many triggers are running.
int trigger_depth();

}  // namespace vkv::kv
