// Checks and allocation of the types of schema kv; see values.h.
//
// What comes out of a table was checked when it came in, so here only what a wrong look at memory would need is checked: version,
// dimensions and that they agree with the size. Contents (checksums, NaN) are the business of input functions and kv.check.

#include "pg/kv/values.h"

#include "core/error.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"

namespace vkv::kv {
namespace {

// Elements of a shape; SIZE_MAX when they are more than any tensor may have, or a dimension is more than an integer of SQL.
size_t count_elements(int dims, const uint32_t *shape)
{
    size_t n = 1;
    for (int i = 0; i < dims; ++i) {
        if (shape[i] > INT32_MAX || (n != 0 && shape[i] > kMaxTensorBytes / n)) return SIZE_MAX;
        n *= shape[i];
    }
    return n;
}

}  // namespace

TensorView view_of(const TensorHeader *tensor)
{
    const size_t bytes = VARSIZE(tensor);
    if (bytes < sizeof(TensorHeader)) throw Error(Errc::data_corrupted, message("tensor of %zu bytes is too short", bytes));
    if (tensor->version != 1) {
        throw Error(Errc::data_corrupted, message("tensor has unknown version %u", tensor->version));
    }
    if (tensor->dtype > static_cast<uint8_t>(Dtype::bf16) || tensor->dims > kMaxTensorDims) {
        throw Error(Errc::data_corrupted, message("tensor has dtype %u and %u dimensions", tensor->dtype, tensor->dims));
    }
    TensorView view;
    view.dtype = static_cast<Dtype>(tensor->dtype);
    view.dims = tensor->dims;
    for (int i = 0; i < view.dims; ++i) view.shape[i] = tensor->shape[i];
    const size_t elements = count_elements(view.dims, view.shape);
    if (elements == SIZE_MAX || sizeof(TensorHeader) + elements * dtype_bytes(view.dtype) != bytes) {
        throw Error(Errc::data_corrupted, message("tensor of shape %s has %zu bytes", shape_text(view).c_str(), bytes));
    }
    view.data = tensor + 1;
    return view;
}

TileView view_of(const TileHeader *tile) { return view_tile(tile, VARSIZE(tile)); }

StateView view_of(const StateHeader *state) { return view_state(state, VARSIZE(state), Errc::data_corrupted); }

TensorHeader *make_tensor(Dtype dtype, int dims, const uint32_t *shape)
{
    const size_t elements = count_elements(dims, shape);
    const size_t limit = kMaxTensorBytes - sizeof(TensorHeader);
    if (elements > limit / dtype_bytes(dtype)) {
        TensorView view;
        view.dims = dims;
        for (int i = 0; i < dims; ++i) view.shape[i] = shape[i];
        throw Error(Errc::limit_exceeded, message("a tensor of shape %s and dtype %s is larger than %zu bytes",
                                                  shape_text(view).c_str(), dtype_name(dtype), limit));
    }
    const size_t bytes = sizeof(TensorHeader) + elements * dtype_bytes(dtype);
    auto *tensor = pg_call([&] { return static_cast<TensorHeader *>(palloc(bytes)); });
    memset(tensor, 0, sizeof(TensorHeader));
    SET_VARSIZE(tensor, bytes);
    tensor->version = 1;
    tensor->dtype = static_cast<uint8_t>(dtype);
    tensor->dims = static_cast<uint8_t>(dims);
    for (int i = 0; i < dims; ++i) tensor->shape[i] = shape[i];
    return tensor;
}

StateHeader *make_state(int rows, int dim)
{
    const auto n = static_cast<uint32_t>(rows), width = static_cast<uint32_t>(dim);
    const size_t bytes = state_bytes(n, width);
    auto *state = pg_call([&] { return static_cast<StateHeader *>(palloc(bytes)); });
    SET_VARSIZE(state, bytes);
    init_state(n, width, state, look_for_interrupts);
    return state;
}

TileHeader *make_tile(const TileShape &shape, int tokens)
{
    const size_t bytes = most_tile_bytes(shape, tokens);
    auto *tile = pg_call([&] { return static_cast<TileHeader *>(palloc(bytes)); });
    SET_VARSIZE(tile, tile_bytes(shape, tokens));
    return tile;
}

}  // namespace vkv::kv
