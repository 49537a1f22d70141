// Arguments and results of SQL functions of schema kv. Frames here hold trivial locals only; faults of the values are thrown as
// Error. The functions for results may be called while objects with destructors are alive.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/poll.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/values.h"

namespace vkv::kv {

inline TensorView tensor_argument(FunctionCallInfo fcinfo, int i) { return view_of(datum_tensor(PG_GETARG_DATUM(i))); }
inline TileView tile_argument(FunctionCallInfo fcinfo, int i) { return view_of(datum_tile(PG_GETARG_DATUM(i))); }
inline StateView state_argument(FunctionCallInfo fcinfo, int i) { return view_of(datum_state(PG_GETARG_DATUM(i))); }
inline const char *text_argument(FunctionCallInfo fcinfo, int i) { return text_to_cstring(PG_GETARG_TEXT_PP(i)); }

// An integer[] of at most as many elements as a tensor has dimensions: a shape or indices.
struct IntList {
    int n = 0;
    int32_t values[kMaxTensorDims] = {};
};
// what: "shape", "indices", for messages.
IntList int_list_argument(FunctionCallInfo fcinfo, int i, const char *what);
// Refuses negative numbers, dimensions beyond those of a tensor are refused before.
void shape_of(const IntList &list, uint32_t *shape);

TensorHeader *make_tensor_like(const TensorView &view, Dtype dtype);  // same shape

// The argument of a receive function from its cursor to its end, which counts as read.
std::span<const uint8_t> rest_of_message(FunctionCallInfo fcinfo);

// The values of a tensor as halves, copied to the current memory context. Throws Error that names the tensor and the place of a
// value that is NaN, infinite (data_exception) or beyond the range of a half (numeric_overflow).
const uint16_t *finite_halves(const TensorView &tensor, const char *name);
// The same as floats, whatever they are.
const float *floats_of(const TensorView &tensor);

// A row of the function's OUT parameters.
Datum make_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls);

bytea *new_bytea(size_t bytes);               // throws Error(limit_exceeded) beyond PostgreSQL's limit
Datum copy_cstring(const std::string &text);  // likewise

inline void copy_data(void *to, const void *from, size_t n) { copy_bytes(to, from, n, look_for_interrupts); }

// The index of the first element that is NaN, infinite or beyond the range of a half, or the number of elements.
size_t first_not_finite(const TensorView &tensor);

}  // namespace vkv::kv
