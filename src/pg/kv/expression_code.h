// What an expression in the catalogs may run. Trees are read as they are stored: whatever plans or folds them, runs them.
#pragma once

#include "pg/boundary/pg.h"

namespace vkv::kv {

// True unless the expression only computes: with built-in immutable functions and operators, some that look at the session, and
// those of schema kv, on types of harmless_type. It may look into the table `readable`, as the policies of kv.enable_tenants do.
bool has_code(Node *expression, Oid readable = InvalidOid);
bool has_code(const char *stored);  // null: no expression

// Base types, which superusers alone make, arrays of them, and built-in ranges. Domains, rows, ranges and enumerations of users
// bring functions of their makers.
bool is_harmless_type(Oid type);

}  // namespace vkv::kv
