// SQL functions of sparsevec: text, binary, casts from arrays, norms and order. Distances are in sparsevec_distance.cpp.

#include <cmath>

#include "core/error.h"
#include "core/text/limits.h"
#include "core/text/parse.h"
#include "core/text/wire.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/types/array.h"
#include "pg/types/dense.h"
#include "pg/types/text.h"

namespace vkv {
namespace {

double norm_of(const SparseVec *v)
{
    double sum = 0;
    for (int i = 0; i < v->nnz; ++i) {
        double x = static_cast<double>(v->values()[i]);
        sum += x * x;
    }
    return std::sqrt(sum);
}

// Keeps the elements that are not 0; values may have become so by rounding.
SparseVec *without_zeros(SparseVec *v)
{
    int nnz = 0;
    for (int i = 0; i < v->nnz; ++i) nnz += v->values()[i] != 0;
    if (nnz == v->nnz) return v;
    SparseVec *result = make_sparsevec(v->dim, nnz);
    for (int i = 0, j = 0; i < v->nnz; ++i) {
        if (v->values()[i] == 0) continue;
        result->indices()[j] = v->indices()[i];
        result->values()[j++] = v->values()[i];
    }
    return result;
}

// As if the zeros were written out: values first and then dimensions. Below, one vector has an element where the other has a 0.
int compare(const SparseVec *a, const SparseVec *b)
{
    const float *x = a->values(), *y = b->values();
    int common = std::min(a->nnz, b->nnz);
    for (int i = 0; i < common; ++i) {
        if (a->indices()[i] < b->indices()[i]) return x[i] < 0 ? -1 : 1;
        if (a->indices()[i] > b->indices()[i]) return y[i] < 0 ? 1 : -1;
        if (x[i] < y[i]) return -1;
        if (x[i] > y[i]) return 1;
    }
    if (a->nnz < b->nnz && b->indices()[common] < a->dim) return y[common] < 0 ? 1 : -1;
    if (a->nnz > b->nnz && a->indices()[common] < b->dim) return x[common] < 0 ? -1 : 1;
    return (a->dim > b->dim) - (a->dim < b->dim);
}

int compare_arguments(FunctionCallInfo fcinfo)
{
    auto *a = argument<SparseVec>(fcinfo, 0), *b = argument<SparseVec>(fcinfo, 1);
    int order = compare(a, b);
    PG_FREE_IF_COPY(a, 0);  // comparisons run by the million in one memory context
    PG_FREE_IF_COPY(b, 1);
    return order;
}

}  // namespace

SQL_FUNCTION(sparsevec_in)
{
    const char *text = PG_GETARG_CSTRING(0);
    const size_t most = max_elements(text, kMaxSparseNnz, look_for_interrupts);
    auto *elements = static_cast<SparseElement *>(palloc(sizeof(SparseElement) * most));
    SparseShape shape = parse_sparsevec(text, elements, look_for_interrupts);
    check_expected_dim(PG_GETARG_INT32(2), shape.dim);
    SparseVec *result = make_sparsevec(shape.dim, shape.nnz);
    place_elements(elements, shape, result->indices(), result->values());
    pfree(elements);
    return PointerGetDatum(result);
}

SQL_FUNCTION(sparsevec_out)
{
    const auto *v = argument<SparseVec>(fcinfo, 0);
    size_t element_bytes = kIntTextBytes + kFloatTextBytes + 2;
    char *text = static_cast<char *>(palloc(element_bytes * static_cast<size_t>(v->nnz) + kIntTextBytes + 4));
    char *at = text;
    *at++ = '{';
    for (int i = 0; i < v->nnz; ++i) {
        if (i > 0) *at++ = ',';
        at = append_int(v->indices()[i] + 1, at);
        *at++ = ':';
        at = append_float(v->values()[i], at);
    }
    *at++ = '}';
    *at++ = '/';
    at = append_int(v->dim, at);
    *at = '\0';
    return CStringGetDatum(text);
}

SQL_FUNCTION(sparsevec_typmod_in) { return Int32GetDatum(typmod_dimensions(PG_GETARG_DATUM(0), kSparsevecName, kMaxSparseDim)); }

SQL_FUNCTION(sparsevec_recv)
{
    auto *buffer = reinterpret_cast<StringInfo>(PG_GETARG_POINTER(0));
    auto take = [buffer](size_t bytes) {
        return Bytes(reinterpret_cast<const uint8_t *>(pq_getmsgbytes(buffer, static_cast<int>(bytes))), bytes);
    };
    SparseShape shape = decode_sparse_header(take(kSparseHeaderBytes), PG_GETARG_INT32(2));
    Bytes payload = take(8 * static_cast<size_t>(shape.nnz));
    SparseVec *result = make_sparsevec(shape.dim, shape.nnz);
    decode_sparse(payload, shape, result->indices(), result->values());
    return PointerGetDatum(result);
}

SQL_FUNCTION(sparsevec_send)
{
    const auto *v = argument<SparseVec>(fcinfo, 0);
    bytea *result = make_bytea(kSparseHeaderBytes + 8 * static_cast<size_t>(v->nnz));
    encode_sparsevec({v->dim, v->nnz}, v->indices(), v->values(), reinterpret_cast<uint8_t *>(VARDATA(result)));
    return PointerGetDatum(result);
}

SQL_FUNCTION(sparsevec)
{
    auto *v = argument<SparseVec>(fcinfo, 0);
    check_expected_dim(PG_GETARG_INT32(1), v->dim);
    return PointerGetDatum(v);
}

SQL_FUNCTION(array_to_sparsevec)
{
    ArrayType *array = PG_GETARG_ARRAYTYPE_P(0);
    int dim = array_length(array);
    check_sparse_dim(dim);
    check_expected_dim(PG_GETARG_INT32(1), dim);
    const float *x = array_floats(array, dim);
    int nnz = 0;
    for (int i = 0; i < dim; ++i) nnz += x[i] != 0;
    check_sparse_nnz(nnz, dim);
    SparseVec *result = make_sparsevec(dim, nnz);
    for (int i = 0, j = 0; i < dim; ++i) {
        if (x[i] == 0) continue;
        check_finite(x[i], kSparsevecName);
        result->indices()[j] = i;
        result->values()[j++] = x[i];
    }
    return PointerGetDatum(result);
}

SQL_FUNCTION(sparsevec_l2_norm) { return Float8GetDatum(norm_of(argument<SparseVec>(fcinfo, 0))); }

SQL_FUNCTION(sparsevec_l2_normalize)
{
    const auto *v = argument<SparseVec>(fcinfo, 0);
    SparseVec *result = make_sparsevec(v->dim, v->nnz);
    double norm = norm_of(v);
    if (norm > 0) {
        for (int i = 0; i < v->nnz; ++i) {
            result->indices()[i] = v->indices()[i];
            result->values()[i] = static_cast<float>(static_cast<double>(v->values()[i]) / norm);
            if (std::isinf(result->values()[i])) throw_overflow();
        }
    }
    return PointerGetDatum(without_zeros(result));
}

SQL_FUNCTION(sparsevec_lt) { return BoolGetDatum(compare_arguments(fcinfo) < 0); }

SQL_FUNCTION(sparsevec_le) { return BoolGetDatum(compare_arguments(fcinfo) <= 0); }

SQL_FUNCTION(sparsevec_eq) { return BoolGetDatum(compare_arguments(fcinfo) == 0); }

SQL_FUNCTION(sparsevec_ne) { return BoolGetDatum(compare_arguments(fcinfo) != 0); }

SQL_FUNCTION(sparsevec_ge) { return BoolGetDatum(compare_arguments(fcinfo) >= 0); }

SQL_FUNCTION(sparsevec_gt) { return BoolGetDatum(compare_arguments(fcinfo) > 0); }

SQL_FUNCTION(sparsevec_cmp) { return Int32GetDatum(compare_arguments(fcinfo)); }

}  // namespace vkv
