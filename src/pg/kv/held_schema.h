// Commands on tables name them, and a schema is renamed without a lock on any table in it: whoever may do that gives the names of a
// cache's tables to others.
#pragma once

#include "pg/boundary/pg.h"

namespace vkv::kv {

// Until the transaction ends nobody else renames or drops the schema, and its name leads to it. The caller has made sure that the
// user may change something in it.
void hold_schema(Oid schema);

}  // namespace vkv::kv
