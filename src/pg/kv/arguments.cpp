// Arguments and results of SQL functions; see arguments.h.

#include "pg/kv/arguments.h"

#include <cmath>
#include <string>

#include "core/error.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"

namespace vkv::kv {

IntList int_list_argument(FunctionCallInfo fcinfo, int i, const char *what)
{
    ArrayType *array = PG_GETARG_ARRAYTYPE_P(i);
    if (ARR_NDIM(array) > 1) throw Error(Errc::invalid_parameter, message("%s must be an array of one dimension", what));
    if (ARR_HASNULL(array) && array_contains_nulls(array)) {
        throw Error(Errc::null_not_allowed, message("%s must not contain nulls", what));
    }
    const int n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
    if (n > kMaxTensorDims) {
        throw Error(Errc::invalid_parameter,
                    message("%s has %d elements: a tensor has at most %d dimensions", what, n, kMaxTensorDims));
    }
    IntList list;
    list.n = n;
    memcpy(list.values, ARR_DATA_PTR(array), sizeof(int32_t) * static_cast<size_t>(n));
    return list;
}

void shape_of(const IntList &list, uint32_t *shape)
{
    if (list.n == 0) throw Error(Errc::invalid_parameter, "shape must have at least one dimension");
    for (int i = 0; i < list.n; ++i) {
        if (list.values[i] < 0) {
            throw Error(Errc::invalid_parameter, message("dimension %d of the shape is negative: %d", i, list.values[i]));
        }
        shape[i] = static_cast<uint32_t>(list.values[i]);
    }
}

TensorHeader *make_tensor_like(const TensorView &view, Dtype dtype) { return make_tensor(dtype, view.dims, view.shape); }

std::span<const uint8_t> rest_of_message(FunctionCallInfo fcinfo)
{
    auto *buffer = reinterpret_cast<StringInfo>(PG_GETARG_POINTER(0));
    const int n = buffer->len - buffer->cursor;
    return {reinterpret_cast<const uint8_t *>(pq_getmsgbytes(buffer, n)), static_cast<size_t>(n)};
}

namespace {

// "[1, 0, 17]": the indices of an element.
std::string place_text(const TensorView &tensor, size_t index)
{
    std::string text;
    for (int i = tensor.dims - 1; i >= 0; --i) {
        text = std::to_string(index % tensor.shape[i]) + (text.empty() ? "" : ", ") + text;
        index /= tensor.shape[i];
    }
    return "[" + text + "]";
}

}  // namespace

const uint16_t *finite_halves(const TensorView &tensor, const char *name)
{
    const size_t n = tensor.elements();
    const size_t bad = first_not_finite(tensor);
    if (bad < n) {
        const float value = element(tensor.dtype, tensor.data, bad);
        const std::string place = place_text(tensor, bad);
        if (std::isnan(value)) throw Error(Errc::data_exception, message("NaN in %s at %s", name, place.c_str()));
        if (std::isinf(value)) throw Error(Errc::data_exception, message("infinite value in %s at %s", name, place.c_str()));
        throw Error(Errc::numeric_overflow,
                    message("%g in %s at %s is out of range for half precision", static_cast<double>(value), name, place.c_str()));
    }
    auto *halves = pg_call([&] { return static_cast<uint16_t *>(palloc(n * sizeof(uint16_t))); });
    by_pieces(n, piece_of(sizeof(float)), look_for_interrupts, [&](size_t first, size_t count) {
        to_f16(tensor.dtype, static_cast<const char *>(tensor.data) + first * dtype_bytes(tensor.dtype), halves + first, count);
    });
    return halves;
}

const float *floats_of(const TensorView &tensor)
{
    const size_t n = tensor.elements();
    auto *floats =
        pg_call([&] { return static_cast<float *>(MemoryContextAllocHuge(CurrentMemoryContext, n * sizeof(float) + 64)); });
    by_pieces(n, piece_of(sizeof(float)), look_for_interrupts, [&](size_t first, size_t count) {
        to_f32(tensor.dtype, static_cast<const char *>(tensor.data) + first * dtype_bytes(tensor.dtype), floats + first, count);
    });
    return floats;
}

size_t first_not_finite(const TensorView &tensor)
{
    const size_t n = tensor.elements();
    size_t bad = n;
    by_pieces(n, piece_of(sizeof(float)), look_for_interrupts, [&](size_t first, size_t count) {
        if (bad < n) return;
        const void *part = static_cast<const char *>(tensor.data) + first * dtype_bytes(tensor.dtype);
        const size_t found = first_not_finite_f16(tensor.dtype, part, count);
        if (found < count) bad = first + found;
    });
    return bad;
}

Datum make_row(FunctionCallInfo fcinfo, Datum *values, bool *nulls)
{
    TupleDesc descriptor;
    if (get_call_result_type(fcinfo, nullptr, &descriptor) != TYPEFUNC_COMPOSITE) {
        throw Error(Errc::internal, "function must be declared with OUT parameters");
    }
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(descriptor), values, nulls));
}

bytea *new_bytea(size_t bytes)
{
    if (bytes > MaxAllocSize - VARHDRSZ) throw Error(Errc::limit_exceeded, message("a value of %zu bytes is too large", bytes));
    auto *result = pg_call([&] { return static_cast<bytea *>(palloc(VARHDRSZ + bytes)); });
    SET_VARSIZE(result, VARHDRSZ + bytes);
    return result;
}

Datum copy_cstring(const std::string &text)
{
    if (text.size() >= MaxAllocSize) throw Error(Errc::limit_exceeded, message("a text of %zu bytes is too large", text.size()));
    char *copy = pg_call([&] { return static_cast<char *>(palloc(text.size() + 1)); });
    copy_data(copy, text.c_str(), text.size() + 1);
    return CStringGetDatum(copy);
}

}  // namespace vkv::kv
