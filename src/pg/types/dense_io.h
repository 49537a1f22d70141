// Text, binary and arrays of vector and halfvec: the SQL functions' bodies as templates over the traits of dense.h.
#pragma once

#include "pg/boundary/pg.h"
#include "pg/types/array.h"
#include "pg/types/dense.h"
#include "pg/types/text.h"

namespace vkv {

template <typename Traits>
Datum dense_in(FunctionCallInfo fcinfo)
{
    const char *text = PG_GETARG_CSTRING(0);
    auto *result = Traits::make(static_cast<int>(max_elements(text, kMaxDim, look_for_interrupts)));
    int dim = Traits::parse(text, result->values());
    check_expected_dim(PG_GETARG_INT32(2), dim);
    result->dim = static_cast<int16_t>(dim);
    SET_VARSIZE(result, Traits::size(dim));
    return PointerGetDatum(result);
}

template <typename Traits>
Datum dense_out(FunctionCallInfo fcinfo)
{
    const auto *v = argument<typename Traits::Struct>(fcinfo, 0);
    char *text = static_cast<char *>(palloc((kFloatTextBytes + 1) * static_cast<size_t>(v->dim) + 3));
    char *at = text;
    *at++ = '[';
    for (int i = 0; i < v->dim; ++i) {
        if (i > 0) *at++ = ',';
        at = append_float(Traits::widen(v->values()[i]), at);
    }
    *at++ = ']';
    *at = '\0';
    return CStringGetDatum(text);
}

// The length of what follows the header is checked by PostgreSQL as it hands out the bytes.
template <typename Traits>
Datum dense_recv(FunctionCallInfo fcinfo)
{
    auto *buffer = reinterpret_cast<StringInfo>(PG_GETARG_POINTER(0));
    auto take = [buffer](size_t bytes) {
        return Bytes(reinterpret_cast<const uint8_t *>(pq_getmsgbytes(buffer, static_cast<int>(bytes))), bytes);
    };
    int dim = decode_dense_header(take(kDenseHeaderBytes), Traits::kName, PG_GETARG_INT32(2));
    Bytes payload = take(static_cast<size_t>(dim) * sizeof(typename Traits::Element));
    auto *result = Traits::make(dim);
    Traits::decode(payload, result->values());
    return PointerGetDatum(result);
}

template <typename Traits>
Datum dense_send(FunctionCallInfo fcinfo)
{
    const auto *v = argument<typename Traits::Struct>(fcinfo, 0);
    size_t dim = static_cast<size_t>(v->dim);
    bytea *result = make_bytea(kDenseHeaderBytes + dim * sizeof(typename Traits::Element));
    Traits::encode({v->values(), dim}, reinterpret_cast<uint8_t *>(VARDATA(result)));
    return PointerGetDatum(result);
}

// The cast of a type to itself, which only checks the type modifier.
template <typename Traits>
Datum dense_check_typmod(FunctionCallInfo fcinfo)
{
    auto *v = argument<typename Traits::Struct>(fcinfo, 0);
    check_expected_dim(PG_GETARG_INT32(1), v->dim);
    return PointerGetDatum(v);
}

template <typename Traits>
Datum dense_from_array(FunctionCallInfo fcinfo)
{
    ArrayType *array = PG_GETARG_ARRAYTYPE_P(0);
    int dim = array_length(array);
    check_dense_dim(dim, Traits::kName);
    check_expected_dim(PG_GETARG_INT32(1), dim);
    const float *values = array_floats(array, dim);
    auto *result = Traits::make(dim);
    for (int i = 0; i < dim; ++i) result->values()[i] = to_element<Traits>(values[i]);
    return PointerGetDatum(result);
}

template <typename Traits>
Datum dense_to_float4(FunctionCallInfo fcinfo)
{
    const auto *v = argument<typename Traits::Struct>(fcinfo, 0);
    auto *datums = static_cast<Datum *>(palloc(sizeof(Datum) * static_cast<size_t>(v->dim)));
    for (int i = 0; i < v->dim; ++i) datums[i] = Float4GetDatum(Traits::widen(v->values()[i]));
    return PointerGetDatum(construct_array(datums, v->dim, FLOAT4OID, sizeof(float4), true, TYPALIGN_INT));
}

}  // namespace vkv
