// Triggers on a cache's tables run as whoever changes the tables, and a role with the privilege TRIGGER may make them. So that a
// call on a cache never runs a grantee's code with the rights of the one who calls, it is refused where it would.
#pragma once

#include "pg/kv/cache.h"

namespace vkv::kv {

// Raises insufficient_privilege when a table has a trigger whose functions would run as the caller and belong neither to him nor to
// the table's owner, nor to somebody with the rights of one of them. SECURITY DEFINER functions run as their owner and are welcome.
// The tables stay locked as every change locks them, so that no trigger comes meanwhile.
void refuse_foreign_code(const Cache *cache);

}  // namespace vkv::kv
