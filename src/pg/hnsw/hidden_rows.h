// Which code an index may run on rows that the user does not see.
#pragma once

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"

namespace vkv::hnsw {

// Scans and insertions look at rows before row security, and the conditions of views, have hidden some. What an index computes
// from such a row may call functions that the user's search path names, and these would see it. So an expression is computed where
// the user may read all rows anyway, or where it calls nothing but built-in functions and those of this extension, which call
// nothing by name. Bare PostgreSQL calls.
bool may_compute_on_any_row(Relation heap, Relation index, List *expressions);

}  // namespace vkv::hnsw
