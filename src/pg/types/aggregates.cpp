// avg of vector and halfvec. The state is a double precision[]: the count, then the sum of each dimension; {0} at the start.
// It is an ordinary SQL array, so a user can pass anything in its place: it is checked on every call.

#include <cmath>

#include "core/error.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/types/dense.h"

namespace vkv {
namespace {

struct State {
    ArrayType *array;
    float8 *values;  // [1 + dim]
    int dim;
};

State state_argument(FunctionCallInfo fcinfo, int i, const char *caller)
{
    ArrayType *array = PG_GETARG_ARRAYTYPE_P(i);
    bool valid = ARR_NDIM(array) == 1 && ARR_DIMS(array)[0] >= 1 && !ARR_HASNULL(array) && ARR_ELEMTYPE(array) == FLOAT8OID;
    if (!valid)
        throw Error(Errc::invalid_parameter, message("%s: expected state array", caller),
                    "A state is a double precision[] of one dimension without nulls: a count, then a sum for each dimension.");
    return {array, reinterpret_cast<float8 *>(ARR_DATA_PTR(array)), ARR_DIMS(array)[0] - 1};
}

State make_state(int dim)
{
    size_t size = ARR_OVERHEAD_NONULLS(1) + sizeof(float8) * static_cast<size_t>(dim + 1);
    auto *array = static_cast<ArrayType *>(palloc0(size));
    SET_VARSIZE(array, size);
    array->ndim = 1;
    array->dataoffset = 0;
    array->elemtype = FLOAT8OID;
    ARR_DIMS(array)[0] = dim + 1;
    ARR_LBOUND(array)[0] = 1;
    return {array, reinterpret_cast<float8 *>(ARR_DATA_PTR(array)), dim};
}

float8 checked_sum(float8 a, float8 b)
{
    float8 sum = a + b;
    if (std::isinf(sum)) throw_overflow();
    return sum;
}

// In an aggregate the old state is ours to change; elsewhere it may be a constant of the query.
template <typename Traits>
Datum accumulate(FunctionCallInfo fcinfo, const char *caller)
{
    State state = state_argument(fcinfo, 0, caller);
    const auto *v = argument<typename Traits::Struct>(fcinfo, 1);
    if (state.dim != 0) check_expected_dim(state.dim, v->dim);
    bool in_place = state.dim != 0 && AggCheckCallContext(fcinfo, nullptr) != 0;
    State result = in_place ? state : make_state(v->dim);
    result.values[0] = state.values[0] + 1.0;
    for (int i = 0; i < v->dim; ++i) {
        float8 x = static_cast<float8>(Traits::widen(v->values()[i]));
        result.values[i + 1] = state.dim == 0 ? x : checked_sum(state.values[i + 1], x);
    }
    return PointerGetDatum(result.array);
}

Datum combine(FunctionCallInfo fcinfo)
{
    State a = state_argument(fcinfo, 0, "vector_combine"), b = state_argument(fcinfo, 1, "vector_combine");
    int dim = a.dim != 0 ? a.dim : b.dim;
    if (dim != 0) check_dense_dim(dim, kVectorName);
    if (a.dim != 0 && b.dim != 0) check_expected_dim(a.dim, b.dim);
    State result = make_state(dim);
    result.values[0] = a.values[0] + b.values[0];
    for (int i = 1; i <= dim; ++i) {
        if (a.dim == 0) {
            result.values[i] = b.values[i];
        } else if (b.dim == 0) {
            result.values[i] = a.values[i];
        } else {
            result.values[i] = checked_sum(a.values[i], b.values[i]);
        }
    }
    return PointerGetDatum(result.array);
}

// The average of nothing is null.
template <typename Traits>
Datum average(FunctionCallInfo fcinfo, const char *caller)
{
    State state = state_argument(fcinfo, 0, caller);
    float8 count = state.values[0];
    if (count == 0.0) PG_RETURN_NULL();
    check_dense_dim(state.dim, Traits::kName);
    auto *result = Traits::make(state.dim);
    for (int i = 0; i < state.dim; ++i) {
        result->values()[i] = to_element<Traits>(static_cast<float>(state.values[i + 1] / count));
    }
    return PointerGetDatum(result);
}

}  // namespace

SQL_FUNCTION(vector_accum) { return accumulate<VectorTraits>(fcinfo, "vector_accum"); }

SQL_FUNCTION(halfvec_accum) { return accumulate<HalfvecTraits>(fcinfo, "halfvec_accum"); }

// also of halfvec: the states are the same
SQL_FUNCTION(vector_combine) { return combine(fcinfo); }

SQL_FUNCTION(vector_avg) { return average<VectorTraits>(fcinfo, "vector_avg"); }

SQL_FUNCTION(halfvec_avg) { return average<HalfvecTraits>(fcinfo, "halfvec_avg"); }

}  // namespace vkv
