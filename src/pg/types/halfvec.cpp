// SQL functions of halfvec; the bodies are in dense.h and dense_io.h. A function's C symbol is fixed by the scripts of released
// versions, whatever its SQL name.

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/types/dense.h"
#include "pg/types/dense_io.h"
#include "pg/types/sum_state.h"

namespace vkv {

using Traits = HalfvecTraits;

SQL_FUNCTION(halfvec_in) { return dense_in<Traits>(fcinfo); }

SQL_FUNCTION(halfvec_out) { return dense_out<Traits>(fcinfo); }

SQL_FUNCTION(halfvec_typmod_in) { return Int32GetDatum(typmod_dimensions(PG_GETARG_DATUM(0), Traits::kName, kMaxDim)); }

SQL_FUNCTION(halfvec_recv) { return dense_recv<Traits>(fcinfo); }

SQL_FUNCTION(halfvec_send) { return dense_send<Traits>(fcinfo); }

SQL_FUNCTION(halfvec) { return dense_check_typmod<Traits>(fcinfo); }

SQL_FUNCTION(array_to_halfvec) { return dense_from_array<Traits>(fcinfo); }

SQL_FUNCTION(halfvec_to_float4) { return dense_to_float4<Traits>(fcinfo); }

// distances

SQL_FUNCTION(halfvec_l2_distance) { return Float8GetDatum(std::sqrt(dense_l2_squared<Traits>(fcinfo))); }

SQL_FUNCTION(halfvec_l2_squared_distance) { return Float8GetDatum(dense_l2_squared<Traits>(fcinfo)); }

SQL_FUNCTION(halfvec_inner_product) { return Float8GetDatum(dense_inner_product<Traits>(fcinfo)); }

SQL_FUNCTION(halfvec_negative_inner_product) { return Float8GetDatum(-dense_inner_product<Traits>(fcinfo)); }

SQL_FUNCTION(halfvec_cosine_distance) { return Float8GetDatum(dense_cosine<Traits>(fcinfo)); }

SQL_FUNCTION(halfvec_spherical_distance) { return Float8GetDatum(dense_spherical<Traits>(fcinfo)); }

SQL_FUNCTION(halfvec_l1_distance) { return Float8GetDatum(dense_l1<Traits>(fcinfo)); }

// one value

SQL_FUNCTION(halfvec_vector_dims) { return Int32GetDatum(argument<Traits::Struct>(fcinfo, 0)->dim); }

SQL_FUNCTION(halfvec_l2_norm) { return Float8GetDatum(dense_norm<Traits>(argument<Traits::Struct>(fcinfo, 0))); }

SQL_FUNCTION(halfvec_l2_normalize) { return dense_normalize<Traits>(fcinfo); }

SQL_FUNCTION(halfvec_binary_quantize) { return dense_binary_quantize<Traits>(fcinfo); }

SQL_FUNCTION(halfvec_subvector) { return dense_subvector<Traits>(fcinfo); }

// arithmetic

// also what sum() goes on with
SQL_FUNCTION(halfvec_add)
{
    MemoryContext aggregate;
    if (AggCheckCallContext(fcinfo, &aggregate) != 0) return add_to_sum<Traits>(fcinfo, aggregate);
    return dense_arithmetic<Traits, false>(fcinfo, [](float a, float b) { return a + b; });
}

SQL_FUNCTION(halfvec_sub)
{
    return dense_arithmetic<Traits, false>(fcinfo, [](float a, float b) { return a - b; });
}

SQL_FUNCTION(halfvec_mul)
{
    return dense_arithmetic<Traits, true>(fcinfo, [](float a, float b) { return a * b; });
}

SQL_FUNCTION(halfvec_concat) { return dense_concat<Traits>(fcinfo); }

// order

SQL_FUNCTION(halfvec_lt) { return BoolGetDatum(dense_compare_arguments<Traits>(fcinfo) < 0); }

SQL_FUNCTION(halfvec_le) { return BoolGetDatum(dense_compare_arguments<Traits>(fcinfo) <= 0); }

SQL_FUNCTION(halfvec_eq) { return BoolGetDatum(dense_compare_arguments<Traits>(fcinfo) == 0); }

SQL_FUNCTION(halfvec_ne) { return BoolGetDatum(dense_compare_arguments<Traits>(fcinfo) != 0); }

SQL_FUNCTION(halfvec_ge) { return BoolGetDatum(dense_compare_arguments<Traits>(fcinfo) >= 0); }

SQL_FUNCTION(halfvec_gt) { return BoolGetDatum(dense_compare_arguments<Traits>(fcinfo) > 0); }

SQL_FUNCTION(halfvec_cmp) { return Int32GetDatum(dense_compare_arguments<Traits>(fcinfo)); }

}  // namespace vkv
