// What an expression in the catalogs may run. Trees are read as they are stored: whatever plans or folds them, runs them.
#pragma once

#include "pg/boundary/pg.h"

namespace vkv::kv {

// True unless the expression only computes: with built-in immutable functions and operators, some that look at the session, and
// those of schema kv, on types of harmless_type. It may look into the table `readable`, as the policies of kv.enable_tenants do,
// use sequences of the owner and read settings whose name is written down and has a dot: with the rights of the caller, others give
// away what he alone may see.
bool has_code(Node *expression, Oid owner, Oid readable = InvalidOid);
bool has_code(const char *stored, Oid owner);  // null: no expression

// Base types, which superusers alone make, arrays of them, and built-in ranges. Domains, rows, ranges and enumerations of users
// bring functions of their makers.
bool is_harmless_type(Oid type);

}  // namespace vkv::kv
