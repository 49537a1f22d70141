// What a search is over: a column of a relation, and how its rows may be read.
#pragma once

#include "core/value.h"
#include "pg/boundary/pg.h"

namespace vkv::nearest {

struct Target {
    Oid relation = InvalidOid;
    AttrNumber column = InvalidAttrNumber;
    Oid type = InvalidOid;        // of the column; of a domain, what it is over
    Scalar scalar = Scalar::f32;  // f32: vector, f16: halfvec
    // The table is scanned here: it is a plain one, the user may read the column and ctid, and no policy hides rows of it.
    // Otherwise the planner reads it, as the user.
    bool direct = false;
    bool shows_tables = true;  // the planner can name the table of a row
};

// Opens, locks and closes the relation (the lock stays). Raises what SELECT would raise; bare PostgreSQL code, trivial locals only.
// vector_type: the type vector, beside which the other types lie.
Target find_target(Oid relation, const char *column, Oid vector_type);

}  // namespace vkv::nearest
