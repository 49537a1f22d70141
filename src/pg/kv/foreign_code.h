// Triggers on a cache's tables run as whoever changes the tables, and a role with the privilege TRIGGER may make them. So that a
// call on a cache never runs the code of one with the rights of another, it is refused where it would.
#pragma once

#include "pg/kv/cache.h"

namespace vkv::kv {

// Header and tail are changed for certain; what touches tiles, too, asks once more when it is known to.
enum class Touched { header_and_tail, all };

// Raises insufficient_privilege when a table has a trigger whose function belongs neither to the caller nor to the table's owner,
// nor to somebody with the rights of one of them, or that somebody else may have made, or whose condition does more than to
// compare; when a table above or below it is somebody else's; and where refuse_lost_guard and refuse_owner_code do. What is touched
// stays locked as every change locks it, so that no trigger comes meanwhile. Cheap when nothing has changed since.
void refuse_foreign_code(Cache *cache, Touched touched = Touched::all);

}  // namespace vkv::kv
