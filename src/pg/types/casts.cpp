// Casts between vector, halfvec and sparsevec. The target's type modifier is checked; a value that a half cannot hold is refused.

#include <cmath>

#include "core/error.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/types/dense.h"
#include "pg/types/text.h"

namespace vkv {

float check_halfvec_range(float value)
{
    if (std::isinf(half_to_float(float_to_half(value))) && !std::isinf(value)) {
        char text[kFloatTextBytes];
        *append_float(value, text) = '\0';
        throw Error(Errc::numeric_overflow, message("\"%s\" is out of range for type halfvec", text));
    }
    return value;
}

namespace {

// The non-zero elements of a vector or halfvec.
template <typename Traits>
Datum dense_to_sparse(FunctionCallInfo fcinfo)
{
    const auto *v = argument<typename Traits::Struct>(fcinfo, 0);
    const auto *x = v->values();
    check_sparse_dim(v->dim);
    check_expected_dim(PG_GETARG_INT32(1), v->dim);
    int nnz = 0;
    for (int i = 0; i < v->dim; ++i) nnz += Traits::widen(x[i]) != 0;
    check_sparse_nnz(nnz, v->dim);
    SparseVec *result = make_sparsevec(v->dim, nnz);
    for (int i = 0, j = 0; i < v->dim; ++i) {
        if (Traits::widen(x[i]) == 0) continue;
        result->indices()[j] = i;
        result->values()[j++] = Traits::widen(x[i]);
    }
    return PointerGetDatum(result);
}

template <typename Traits>
Datum sparse_to_dense(FunctionCallInfo fcinfo)
{
    const auto *v = argument<SparseVec>(fcinfo, 0);
    check_dense_dim(v->dim, Traits::kName);
    check_expected_dim(PG_GETARG_INT32(1), v->dim);
    auto *result = Traits::make(v->dim);
    for (int i = 0; i < v->nnz; ++i) {
        int32_t index = v->indices()[i];
        if (index < 0 || index >= v->dim) throw Error(Errc::data_corrupted, "index out of bounds");
        result->values()[index] = to_element<Traits>(v->values()[i]);
    }
    return PointerGetDatum(result);
}

}  // namespace

SQL_FUNCTION(halfvec_to_vector)
{
    const auto *v = argument<HalfVec>(fcinfo, 0);
    check_dense_dim(v->dim, kVectorName);
    check_expected_dim(PG_GETARG_INT32(1), v->dim);
    Vector *result = make_vector(v->dim);
    simd::kernels().f16_to_f32(v->values(), result->values(), static_cast<size_t>(v->dim));
    return PointerGetDatum(result);
}

SQL_FUNCTION(vector_to_halfvec)
{
    const auto *v = argument<Vector>(fcinfo, 0);
    check_dense_dim(v->dim, kHalfvecName);
    check_expected_dim(PG_GETARG_INT32(1), v->dim);
    HalfVec *result = make_halfvec(v->dim);
    simd::kernels().f32_to_f16(v->values(), result->values(), static_cast<size_t>(v->dim));
    for (int i = 0; i < v->dim; ++i) {
        if (std::isinf(half_to_float(result->values()[i]))) check_halfvec_range(v->values()[i]);
    }
    return PointerGetDatum(result);
}

SQL_FUNCTION(vector_to_sparsevec) { return dense_to_sparse<VectorTraits>(fcinfo); }

SQL_FUNCTION(halfvec_to_sparsevec) { return dense_to_sparse<HalfvecTraits>(fcinfo); }

SQL_FUNCTION(sparsevec_to_vector) { return sparse_to_dense<VectorTraits>(fcinfo); }

SQL_FUNCTION(sparsevec_to_halfvec) { return sparse_to_dense<HalfvecTraits>(fcinfo); }

}  // namespace vkv
