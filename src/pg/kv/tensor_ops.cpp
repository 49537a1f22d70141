// Parts of tensors and tensors made of tensors: at, element, slice, reshape, concat, comparison. Dimensions and indices count from
// 0, as in the libraries that tensors come from. A part is copied byte for byte, so nothing is rounded.

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/lookup3.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/arguments.h"

namespace vkv::kv {
namespace {

// A tensor cut at one dimension: [outer][length][inner bytes].
struct Cut {
    size_t outer = 1, length = 0, inner = 0;
};

Cut cut_at(const TensorView &tensor, int dim)
{
    Cut cut;
    for (int i = 0; i < dim; ++i) cut.outer *= tensor.shape[i];
    cut.length = tensor.shape[dim];
    cut.inner = dtype_bytes(tensor.dtype);
    for (int i = dim + 1; i < tensor.dims; ++i) cut.inner *= tensor.shape[i];
    return cut;
}

void check_dim(const TensorView &tensor, int dim)
{
    if (dim < 0 || dim >= tensor.dims) {
        throw Error(Errc::array_subscript,
                    message("dimension %d is out of range for a tensor of shape %s", dim, shape_text(tensor).c_str()),
                    "Dimensions count from 0.");
    }
}

// The element or sub-tensor that leading indices name: how many elements lie before it.
size_t offset_of(const TensorView &tensor, const IntList &indices)
{
    size_t offset = 0;
    for (int i = 0; i < indices.n; ++i) {
        if (indices.values[i] < 0 || static_cast<uint32_t>(indices.values[i]) >= tensor.shape[i]) {
            throw Error(
                Errc::array_subscript,
                message("index %d is out of range for dimension %d of shape %s", indices.values[i], i, shape_text(tensor).c_str()),
                "Indices count from 0.");
        }
        offset = offset * tensor.shape[i] + static_cast<uint32_t>(indices.values[i]);
    }
    for (int i = indices.n; i < tensor.dims; ++i) offset *= tensor.shape[i];
    return offset;
}

const char *bytes_of(const TensorView &tensor) { return static_cast<const char *>(tensor.data); }

bool same_shape(const TensorView &a, const TensorView &b)
{
    return a.dims == b.dims && std::equal(a.shape, a.shape + a.dims, b.shape);
}

bool equal(FunctionCallInfo fcinfo)
{
    const TensorView a = tensor_argument(fcinfo, 0), b = tensor_argument(fcinfo, 1);
    if (a.dtype != b.dtype || !same_shape(a, b)) return false;
    bool same = true;
    by_pieces(a.bytes(), kPollBytes, look_for_interrupts,
              [&](size_t at, size_t n) { same = same && memcmp(bytes_of(a) + at, bytes_of(b) + at, n) == 0; });
    return same;
}

uint64_t hash_of(const TensorView &tensor, uint64_t seed)
{
    uint32_t head[1 + kMaxTensorDims] = {static_cast<uint32_t>(tensor.dtype) << 8 | static_cast<uint32_t>(tensor.dims)};
    std::copy_n(tensor.shape, tensor.dims, head + 1);
    seed = hash_in_pieces(head, sizeof(head), seed, nullptr);
    return hash_in_pieces(tensor.data, tensor.bytes(), seed, look_for_interrupts);
}

// Calls visit(x, y) for all pairs of elements.
template <typename Visit>
void visit_pairs(FunctionCallInfo fcinfo, Visit visit)
{
    const TensorView a = tensor_argument(fcinfo, 0), b = tensor_argument(fcinfo, 1);
    if (!same_shape(a, b)) {
        throw Error(Errc::data_exception,
                    message("tensors have different shapes: %s and %s", shape_text(a).c_str(), shape_text(b).c_str()));
    }
    constexpr size_t kBlock = 512;
    float x[kBlock], y[kBlock];
    by_pieces(a.elements(), kBlock, look_for_interrupts, [&](size_t at, size_t count) {
        to_f32(a.dtype, bytes_of(a) + at * dtype_bytes(a.dtype), x, count);
        to_f32(b.dtype, bytes_of(b) + at * dtype_bytes(b.dtype), y, count);
        for (size_t i = 0; i < count; ++i) visit(static_cast<double>(x[i]), static_cast<double>(y[i]));
    });
}

double difference(double x, double y) { return x == y ? 0 : std::fabs(x - y); }  // equal infinities differ by nothing

}  // namespace

// kv.at(tensor, VARIADIC indices): the sub-tensor of leading indices, fewer than there are dimensions.
SQL_FUNCTION(kv_tensor_at)
{
    const TensorView tensor = tensor_argument(fcinfo, 0);
    const IntList indices = int_list_argument(fcinfo, 1, "indices");
    if (indices.n >= tensor.dims) {
        throw Error(
            Errc::array_subscript,
            message("kv.at takes fewer indices than dimensions, not %d for shape %s", indices.n, shape_text(tensor).c_str()),
            "kv.element gives a single number.");
    }
    const size_t offset = offset_of(tensor, indices);
    TensorHeader *result = make_tensor(tensor.dtype, tensor.dims - indices.n, tensor.shape + indices.n);
    copy_data(tensor_data(result), bytes_of(tensor) + offset * dtype_bytes(tensor.dtype), VARSIZE(result) - sizeof(TensorHeader));
    return PointerGetDatum(result);
}

SQL_FUNCTION(kv_tensor_element)
{
    const TensorView tensor = tensor_argument(fcinfo, 0);
    const IntList indices = int_list_argument(fcinfo, 1, "indices");
    if (indices.n != tensor.dims) {
        throw Error(Errc::array_subscript, message("an element of a tensor of shape %s has %d indices, not %d",
                                                   shape_text(tensor).c_str(), tensor.dims, indices.n));
    }
    return Float4GetDatum(element(tensor.dtype, tensor.data, offset_of(tensor, indices)));
}

// kv.slice(tensor, dim, first, count)
SQL_FUNCTION(kv_tensor_slice)
{
    const TensorView tensor = tensor_argument(fcinfo, 0);
    const int dim = PG_GETARG_INT32(1);
    const int64_t first = PG_GETARG_INT32(2), count = PG_GETARG_INT32(3);
    check_dim(tensor, dim);
    if (first < 0 || count < 0 || first + count > tensor.shape[dim]) {
        throw Error(Errc::array_subscript,
                    message("slice of %ld from %ld is out of range for dimension %d of shape %s", static_cast<long>(count),
                            static_cast<long>(first), dim, shape_text(tensor).c_str()));
    }
    uint32_t shape[kMaxTensorDims];
    std::copy_n(tensor.shape, kMaxTensorDims, shape);
    shape[dim] = static_cast<uint32_t>(count);
    const Cut cut = cut_at(tensor, dim);
    TensorHeader *result = make_tensor(tensor.dtype, tensor.dims, shape);
    const size_t run = static_cast<size_t>(count) * cut.inner;
    char *out = static_cast<char *>(tensor_data(result));
    const char *in = bytes_of(tensor) + static_cast<size_t>(first) * cut.inner;
    if (run == 0) return PointerGetDatum(result);
    by_pieces(cut.outer, piece_of(run), look_for_interrupts, [&](size_t first_run, size_t runs) {
        for (size_t i = first_run; i < first_run + runs; ++i) copy_data(out + i * run, in + i * cut.length * cut.inner, run);
    });
    return PointerGetDatum(result);
}

// kv.reshape(tensor, shape): the same elements in the same order; one dimension may be -1, "the rest".
SQL_FUNCTION(kv_tensor_reshape)
{
    const TensorView tensor = tensor_argument(fcinfo, 0);
    IntList list = int_list_argument(fcinfo, 1, "shape");
    int32_t *rest = std::find(list.values, list.values + list.n, -1);
    const auto mismatch = [&] {
        return Error(Errc::data_exception,
                     message("%zu elements of shape %s do not fill the new shape", tensor.elements(), shape_text(tensor).c_str()));
    };
    if (rest != list.values + list.n) {
        size_t others = 1;
        *rest = 1;
        for (int i = 0; i < list.n; ++i) {
            if (list.values[i] < 0) break;  // refused by shape_of
            if (list.values[i] == 0 || others > kMaxTensorBytes / static_cast<size_t>(list.values[i])) throw mismatch();
            others *= static_cast<size_t>(list.values[i]);
        }
        *rest = static_cast<int32_t>(tensor.elements() / others);
    }
    uint32_t shape[kMaxTensorDims];
    shape_of(list, shape);
    unsigned __int128 elements = 1;
    for (int i = 0; i < list.n; ++i) {
        elements *= shape[i];
        if (elements > kMaxTensorBytes) throw mismatch();
    }
    if (elements != tensor.elements()) throw mismatch();
    TensorHeader *result = make_tensor(tensor.dtype, list.n, shape);
    copy_data(tensor_data(result), tensor.data, tensor.bytes());
    return PointerGetDatum(result);
}

// kv.concat(a, b, dim)
SQL_FUNCTION(kv_tensor_concat)
{
    const TensorView a = tensor_argument(fcinfo, 0), b = tensor_argument(fcinfo, 1);
    const int dim = PG_GETARG_INT32(2);
    check_dim(a, dim);
    if (a.dtype != b.dtype) {
        throw Error(Errc::data_exception,
                    message("tensors have different dtypes: %s and %s", dtype_name(a.dtype), dtype_name(b.dtype)),
                    "kv.cast converts a tensor.");
    }
    bool fits = a.dims == b.dims;
    for (int i = 0; fits && i < a.dims; ++i) fits = i == dim || a.shape[i] == b.shape[i];
    if (!fits) {
        throw Error(Errc::data_exception, message("tensors of shapes %s and %s cannot be joined at dimension %d",
                                                  shape_text(a).c_str(), shape_text(b).c_str(), dim));
    }
    uint32_t shape[kMaxTensorDims];
    std::copy_n(a.shape, kMaxTensorDims, shape);
    const uint64_t length = static_cast<uint64_t>(a.shape[dim]) + b.shape[dim];
    if (length > INT32_MAX) throw Error(Errc::limit_exceeded, message("dimension %d would be larger than %d", dim, INT32_MAX));
    shape[dim] = static_cast<uint32_t>(length);
    TensorHeader *result = make_tensor(a.dtype, a.dims, shape);
    const Cut cut_a = cut_at(a, dim), cut_b = cut_at(b, dim);
    const size_t run_a = cut_a.length * cut_a.inner, run_b = cut_b.length * cut_b.inner;
    char *out = static_cast<char *>(tensor_data(result));
    if (run_a + run_b == 0) return PointerGetDatum(result);
    by_pieces(cut_a.outer, piece_of(run_a + run_b), look_for_interrupts, [&](size_t first, size_t n) {
        for (size_t i = first; i < first + n; ++i, out += run_a + run_b) {
            copy_data(out, bytes_of(a) + i * run_a, run_a);
            copy_data(out + run_a, bytes_of(b) + i * run_b, run_b);
        }
    });
    return PointerGetDatum(result);
}

SQL_FUNCTION(kv_tensor_eq) { return BoolGetDatum(equal(fcinfo)); }

SQL_FUNCTION(kv_tensor_ne) { return BoolGetDatum(!equal(fcinfo)); }

// Hashes what equality compares: dtype and dimensions, shape, bytes.
SQL_FUNCTION(kv_tensor_hash)
{
    const TensorView tensor = tensor_argument(fcinfo, 0);
    return UInt32GetDatum(static_cast<uint32_t>(hash_of(tensor, 0)));
}

SQL_FUNCTION(kv_tensor_hash_extended)
{
    const TensorView tensor = tensor_argument(fcinfo, 0);
    return UInt64GetDatum(hash_of(tensor, static_cast<uint64_t>(PG_GETARG_INT64(1))));
}

// kv.max_error(a, b): the largest absolute difference, NaN when any difference is NaN.
SQL_FUNCTION(kv_tensor_max_error)
{
    double largest = 0;
    bool nan = false;
    visit_pairs(fcinfo, [&](double x, double y) {
        const double d = difference(x, y);
        nan = nan || std::isnan(d);
        largest = std::max(largest, d);
    });
    return Float8GetDatum(nan ? std::numeric_limits<double>::quiet_NaN() : largest);
}

// kv.relative_error(a, b): |a - b| / |b|, Euclidean norms over all elements.
SQL_FUNCTION(kv_tensor_relative_error)
{
    double error = 0, norm = 0;
    visit_pairs(fcinfo, [&](double x, double y) {
        const double d = difference(x, y);
        error += d * d;
        norm += y * y;
    });
    return Float8GetDatum(error == 0 ? 0 : std::sqrt(error / norm));
}

}  // namespace vkv::kv
