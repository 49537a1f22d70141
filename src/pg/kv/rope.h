// The rotary position embedding as SQL has it: rows of the type kv.rope, and arrays of frequencies. What kv.create_cache keeps of a
// cache and what kv.attention is told of tiles that belong to none pass the same checks.
#pragma once

#include "core/kv/rope.h"
#include "pg/boundary/pg.h"

namespace vkv::kv {

// Frequencies where the array holds them.
struct FrequencyList {
    const double *values;
    int n;
};
// Throws Error unless it is one-dimensional and all of it is finite; name: "rope_frequencies", for messages. Raises nothing.
FrequencyList frequency_list(ArrayType *array, const char *name);

// The fields of a kv.rope, plain, in the current memory context; null where the field is null. Raises.
struct RopeRow {
    ArrayType *frequencies;
    const char *pairing;
};
RopeRow rope_row(const varlena *datum);

// Throws Error that names what is wrong with the row. Raises nothing.
Rope rope_of(const RopeRow &row);

// A kv.rope argument: it may be toasted, but the same bytes are the same value. Raises.
const varlena *rope_argument(FunctionCallInfo fcinfo, int i);

}  // namespace vkv::kv
