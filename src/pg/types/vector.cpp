// SQL functions of vector; the bodies are in dense.h and dense_io.h. A function's C symbol is fixed by the scripts of released
// versions, whatever its SQL name.

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/types/dense.h"
#include "pg/types/dense_io.h"
#include "pg/types/sum_state.h"

namespace vkv {

using Traits = VectorTraits;

SQL_FUNCTION(vector_in) { return dense_in<Traits>(fcinfo); }

SQL_FUNCTION(vector_out) { return dense_out<Traits>(fcinfo); }

SQL_FUNCTION(vector_typmod_in) { return Int32GetDatum(typmod_dimensions(PG_GETARG_DATUM(0), Traits::kName, kMaxDim)); }

SQL_FUNCTION(vector_recv) { return dense_recv<Traits>(fcinfo); }

SQL_FUNCTION(vector_send) { return dense_send<Traits>(fcinfo); }

SQL_FUNCTION(vector) { return dense_check_typmod<Traits>(fcinfo); }

SQL_FUNCTION(array_to_vector) { return dense_from_array<Traits>(fcinfo); }

SQL_FUNCTION(vector_to_float4) { return dense_to_float4<Traits>(fcinfo); }

// distances

SQL_FUNCTION(l2_distance) { return Float8GetDatum(std::sqrt(dense_l2_squared<Traits>(fcinfo))); }

SQL_FUNCTION(vector_l2_squared_distance) { return Float8GetDatum(dense_l2_squared<Traits>(fcinfo)); }

SQL_FUNCTION(inner_product) { return Float8GetDatum(dense_inner_product<Traits>(fcinfo)); }

SQL_FUNCTION(vector_negative_inner_product) { return Float8GetDatum(-dense_inner_product<Traits>(fcinfo)); }

SQL_FUNCTION(cosine_distance) { return Float8GetDatum(dense_cosine<Traits>(fcinfo)); }

SQL_FUNCTION(vector_spherical_distance) { return Float8GetDatum(dense_spherical<Traits>(fcinfo)); }

SQL_FUNCTION(l1_distance) { return Float8GetDatum(dense_l1<Traits>(fcinfo)); }

// one value

SQL_FUNCTION(vector_dims) { return Int32GetDatum(argument<Traits::Struct>(fcinfo, 0)->dim); }

SQL_FUNCTION(vector_norm) { return Float8GetDatum(dense_norm<Traits>(argument<Traits::Struct>(fcinfo, 0))); }

SQL_FUNCTION(l2_normalize) { return dense_normalize<Traits>(fcinfo); }

SQL_FUNCTION(binary_quantize) { return dense_binary_quantize<Traits>(fcinfo); }

SQL_FUNCTION(subvector) { return dense_subvector<Traits>(fcinfo); }

// arithmetic

// also what sum() goes on with
SQL_FUNCTION(vector_add)
{
    MemoryContext aggregate;
    if (AggCheckCallContext(fcinfo, &aggregate) != 0) return add_to_sum<Traits>(fcinfo, aggregate);
    return dense_arithmetic<Traits, false>(fcinfo, [](float a, float b) { return a + b; });
}

SQL_FUNCTION(vector_sub)
{
    return dense_arithmetic<Traits, false>(fcinfo, [](float a, float b) { return a - b; });
}

SQL_FUNCTION(vector_mul)
{
    return dense_arithmetic<Traits, true>(fcinfo, [](float a, float b) { return a * b; });
}

SQL_FUNCTION(vector_concat) { return dense_concat<Traits>(fcinfo); }

// order

SQL_FUNCTION(vector_lt) { return BoolGetDatum(dense_compare_arguments<Traits>(fcinfo) < 0); }

SQL_FUNCTION(vector_le) { return BoolGetDatum(dense_compare_arguments<Traits>(fcinfo) <= 0); }

SQL_FUNCTION(vector_eq) { return BoolGetDatum(dense_compare_arguments<Traits>(fcinfo) == 0); }

SQL_FUNCTION(vector_ne) { return BoolGetDatum(dense_compare_arguments<Traits>(fcinfo) != 0); }

SQL_FUNCTION(vector_ge) { return BoolGetDatum(dense_compare_arguments<Traits>(fcinfo) >= 0); }

SQL_FUNCTION(vector_gt) { return BoolGetDatum(dense_compare_arguments<Traits>(fcinfo) > 0); }

SQL_FUNCTION(vector_cmp) { return Int32GetDatum(dense_compare_arguments<Traits>(fcinfo)); }

}  // namespace vkv
