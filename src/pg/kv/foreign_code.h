// Triggers on a cache's tables run as whoever changes the tables, and a role with the privilege TRIGGER may make them. So that a
// call on a cache never runs the code of one with the rights of another, it is refused where it would.
#pragma once

#include "pg/kv/cache.h"

namespace vkv::kv {

// Raises insufficient_privilege when a table has a trigger whose function belongs neither to the caller nor to the table's owner,
// nor to somebody with the rights of one of them, or that somebody else may have made, or whose condition does more than to
// compare; when a table above or below it is somebody else's; and where refuse_owner_code does. The tables stay locked as every
// change locks them, so that no trigger comes meanwhile.
void refuse_foreign_code(Cache *cache);

}  // namespace vkv::kv
