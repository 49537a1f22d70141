// Casts of kv.tensor: arrays of numbers of up to five dimensions, vector and halfvec, raw bytes, and between dtypes.
//
// Arrays and vectors of floats become f32, a halfvec f16. NaN and infinities are values like others here; what is finite stays
// finite, or the cast fails (only bf16 and f32 hold what a half cannot).

#include <bit>
#include <cmath>

#include "core/error.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/arguments.h"
#include "pg/types/array.h"
#include "pg/types/dense.h"

namespace vkv::kv {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors lie little-endian on disk");

void check_no_nulls(ArrayType *array)
{
    if (ARR_HASNULL(array) && array_contains_nulls(array)) {
        throw Error(Errc::null_not_allowed, "array must not contain nulls");
    }
}

// double precision is the one array type whose finite elements a float may not hold without saying so itself.
void check_range(ArrayType *array, const float *values, int n)
{
    if (ARR_ELEMTYPE(array) != FLOAT8OID) return;
    const char *data = ARR_DATA_PTR(array);
    by_pieces(static_cast<size_t>(n), piece_of(sizeof(double)), look_for_interrupts, [&](size_t first, size_t count) {
        for (size_t i = first; i < first + count; ++i) {
            double value;
            memcpy(&value, data + sizeof(value) * i, sizeof(value));
            if (std::isinf(values[i]) && !std::isinf(value))
                throw Error(Errc::numeric_overflow, message("\"%g\" is out of range for a tensor of dtype f32", value));
        }
    });
}

// A conversion made an infinity of a finite number.
[[noreturn]] void throw_out_of_range(float value, Dtype dtype)
{
    throw Error(Errc::numeric_overflow,
                message("\"%.9g\" is out of range for a tensor of dtype %s", static_cast<double>(value), dtype_name(dtype)));
}

void check_narrowed(const TensorView &from, const void *to, Dtype dtype)
{
    by_pieces(from.elements(), piece_of(sizeof(double)), look_for_interrupts, [&](size_t first, size_t n) {
        for (size_t i = first; i < first + n; ++i) {
            if (!std::isinf(element(dtype, to, i))) continue;
            const float before = element(from.dtype, from.data, i);
            if (!std::isinf(before)) throw_out_of_range(before, dtype);
        }
    });
}

// to_f16 and from_f32 take what is wanted in one step; halves and bf16 meet in floats.
void convert_some(Dtype from, const char *in, Dtype to, char *out, size_t n)
{
    if (to == Dtype::f32) {
        to_f32(from, in, reinterpret_cast<float *>(out), n);
    } else if (from == Dtype::f32) {
        from_f32(to, reinterpret_cast<const float *>(in), out, n);
    } else {
        constexpr size_t kBlock = 1024;
        float floats[kBlock];
        by_pieces(n, kBlock, nullptr, [&](size_t first, size_t count) {
            to_f32(from, in + first * dtype_bytes(from), floats, count);
            from_f32(to, floats, out + first * dtype_bytes(to), count);
        });
    }
}

void convert(const TensorView &from, Dtype dtype, void *out)
{
    if (dtype == from.dtype) return copy_data(out, from.data, from.bytes());
    by_pieces(from.elements(), piece_of(sizeof(float)), look_for_interrupts, [&](size_t first, size_t n) {
        convert_some(from.dtype, static_cast<const char *>(from.data) + first * dtype_bytes(from.dtype), dtype,
                     static_cast<char *>(out) + first * dtype_bytes(dtype), n);
    });
}

TensorView one_dimension(FunctionCallInfo fcinfo, const char *type)
{
    const TensorView tensor = tensor_argument(fcinfo, 0);
    if (tensor.dims != 1) {
        throw Error(
            Errc::data_exception,
            message("a tensor of shape %s cannot be cast to %s: it must have one dimension", shape_text(tensor).c_str(), type),
            "kv.at and kv.reshape give tensors of one dimension.");
    }
    return tensor;
}

template <typename Traits>
Datum to_dense(FunctionCallInfo fcinfo)
{
    const TensorView tensor = one_dimension(fcinfo, Traits::kName);
    const int dim = tensor.shape[0] > static_cast<uint32_t>(kMaxDim) ? kMaxDim + 1 : static_cast<int>(tensor.shape[0]);
    check_dense_dim(dim, Traits::kName);
    check_expected_dim(PG_GETARG_INT32(1), dim);
    auto *result = Traits::make(dim);
    for (int i = 0; i < dim; ++i) {
        result->values()[i] = to_element<Traits>(element(tensor.dtype, tensor.data, static_cast<size_t>(i)));
    }
    return PointerGetDatum(result);
}

template <typename Traits>
Datum from_dense(FunctionCallInfo fcinfo, Dtype dtype)
{
    const auto *v = argument<typename Traits::Struct>(fcinfo, 0);
    const uint32_t shape[1] = {static_cast<uint32_t>(v->dim)};
    TensorHeader *result = make_tensor(dtype, 1, shape);
    memcpy(tensor_data(result), v->values(), sizeof(typename Traits::Element) * shape[0]);
    return PointerGetDatum(result);
}

}  // namespace

// Of integer[], real[], double precision[] and numeric[].
SQL_FUNCTION(kv_array_to_tensor)
{
    ArrayType *array = PG_GETARG_ARRAYTYPE_P(0);
    const int dims = ARR_NDIM(array);
    if (dims > kMaxTensorDims) {
        throw Error(Errc::data_exception, message("array has %d dimensions: a tensor has at most %d", dims, kMaxTensorDims));
    }
    check_no_nulls(array);
    const int n = ArrayGetNItems(dims, ARR_DIMS(array));
    uint32_t shape[kMaxTensorDims] = {0};  // '{}' is a tensor [0]
    for (int i = 0; i < dims; ++i) shape[i] = static_cast<uint32_t>(ARR_DIMS(array)[i]);
    TensorHeader *result = make_tensor(Dtype::f32, dims == 0 ? 1 : dims, shape);
    if (ARR_ELEMTYPE(array) == FLOAT4OID) {
        copy_data(tensor_data(result), ARR_DATA_PTR(array), sizeof(float) * static_cast<size_t>(n));
        return PointerGetDatum(result);
    }
    const float *values = array_floats(array, n);
    check_range(array, values, n);
    copy_data(tensor_data(result), values, sizeof(float) * static_cast<size_t>(n));
    return PointerGetDatum(result);
}

SQL_FUNCTION(kv_tensor_to_float4)
{
    const TensorView tensor = tensor_argument(fcinfo, 0);
    const size_t n = tensor.elements();
    if (n == 0) return PointerGetDatum(construct_empty_array(FLOAT4OID));
    if (n > (MaxAllocSize - ARR_OVERHEAD_NONULLS(kMaxTensorDims)) / sizeof(float4)) {
        throw Error(Errc::limit_exceeded, message("a tensor of %zu elements is too large for an array", n));
    }
    const int dims = tensor.dims;
    const size_t bytes = ARR_OVERHEAD_NONULLS(dims) + sizeof(float4) * n;
    auto *array = static_cast<ArrayType *>(palloc(bytes));
    memset(array, 0, ARR_OVERHEAD_NONULLS(dims));
    SET_VARSIZE(array, bytes);
    array->ndim = dims;
    array->dataoffset = 0;
    array->elemtype = FLOAT4OID;
    for (int i = 0; i < dims; ++i) {
        ARR_DIMS(array)[i] = static_cast<int>(tensor.shape[i]);
        ARR_LBOUND(array)[i] = 1;
    }
    convert(tensor, Dtype::f32, ARR_DATA_PTR(array));
    return PointerGetDatum(array);
}

SQL_FUNCTION(kv_vector_to_tensor) { return from_dense<VectorTraits>(fcinfo, Dtype::f32); }

SQL_FUNCTION(kv_halfvec_to_tensor) { return from_dense<HalfvecTraits>(fcinfo, Dtype::f16); }

SQL_FUNCTION(kv_tensor_to_vector) { return to_dense<VectorTraits>(fcinfo); }

SQL_FUNCTION(kv_tensor_to_halfvec) { return to_dense<HalfvecTraits>(fcinfo); }

// kv.cast(tensor, dtype)
SQL_FUNCTION(kv_tensor_cast)
{
    const TensorView tensor = tensor_argument(fcinfo, 0);
    const Dtype dtype = dtype_named(text_argument(fcinfo, 1));
    TensorHeader *result = make_tensor_like(tensor, dtype);
    convert(tensor, dtype, tensor_data(result));
    if (dtype != tensor.dtype && dtype != Dtype::f32) check_narrowed(tensor, tensor_data(result), dtype);
    return PointerGetDatum(result);
}

// kv.tensor(bytea, shape, dtype): raw elements, row-major, little-endian.
SQL_FUNCTION(kv_tensor_from_bytes)
{
    const bytea *data = PG_GETARG_BYTEA_PP(0);
    const IntList list = int_list_argument(fcinfo, 1, "shape");
    const Dtype dtype = dtype_named(text_argument(fcinfo, 2));
    uint32_t shape[kMaxTensorDims];
    shape_of(list, shape);
    TensorHeader *result = make_tensor(dtype, list.n, shape);
    const size_t need = VARSIZE(result) - sizeof(TensorHeader), got = VARSIZE_ANY_EXHDR(data);
    if (need != got) {
        throw Error(Errc::data_exception, message("a tensor of shape %s and dtype %s has %zu bytes, not %zu",
                                                  shape_text(view_of(result)).c_str(), dtype_name(dtype), need, got));
    }
    copy_data(tensor_data(result), VARDATA_ANY(data), need);
    return PointerGetDatum(result);
}

SQL_FUNCTION(kv_tensor_bytes)
{
    const TensorView tensor = tensor_argument(fcinfo, 0);
    bytea *result = new_bytea(tensor.bytes());
    copy_data(VARDATA(result), tensor.data, tensor.bytes());
    return PointerGetDatum(result);
}

}  // namespace vkv::kv
