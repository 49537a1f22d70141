// What kv.enable_tenants puts on the tables of a cache to keep tenants apart.
#pragma once

#include "pg/boundary/pg.h"

namespace vkv::kv {

// Raises insufficient_privilege, for others than the owner, where the table has the policies of kv.enable_tenants and its guard is
// not as that makes it: who holds TRIGGER can have replaced it.
void refuse_lost_guard(Relation rel);

}  // namespace vkv::kv
