// Packed halves (core/kv/pack_halves.h) as PostgreSQL keeps them: the bytea of a cache's tail. What is made here lies in the
// current memory context.
#pragma once

#include "core/error.h"
#include "core/kv/pack_halves.h"
#include "pg/boundary/pg.h"

namespace vkv::kv {

// Room for a row of that shape, to be filled by pack_into as often as one likes.
bytea *new_packed_row(const RowShape &shape);
void pack_into(const uint16_t *values, const RowShape &shape, bytea *row);

// Points into the datum or a copy. Throws Error(data_corrupted) when it is no packed row. Trivial: it may be passed by a long jump.
PackedRow packed_row(Datum datum);

// Of a SQL function's first argument, with its error once it is damaged: where the caller has written the bytes, as a constant or
// a parameter, they are his mistake (invalid_binary), and no row is damaged.
Error packed_argument_error(FunctionCallInfo fcinfo, const Error &error);
template <typename F>
auto with_packed_argument(FunctionCallInfo fcinfo, F &&use)
{
    try {
        return use(packed_row(PG_GETARG_DATUM(0)));
    } catch (const Error &error) {
        throw packed_argument_error(fcinfo, error);
    }
}

}  // namespace vkv::kv
