// kv.pack_halves and kv.unpack_halves: tensors as rows of a cache's tail hold them, and back.

#include "pg/kv/packed_row.h"

#include <type_traits>

#include "core/error.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/arguments.h"

namespace vkv::kv {

static_assert(std::is_trivially_copyable_v<PackedRow> && std::is_trivially_destructible_v<PackedRow>);

bytea *new_packed_row(const RowShape &shape) { return new_bytea(packed_bound(shape)); }

void pack_into(const uint16_t *values, const RowShape &shape, bytea *row)
{
    const size_t bytes = pack_halves(values, shape, reinterpret_cast<uint8_t *>(VARDATA(row)));
    SET_VARSIZE(row, VARHDRSZ + bytes);
}

PackedRow packed_row(Datum datum)
{
    const bytea *row = DatumGetByteaPP(datum);
    return {VARDATA_ANY(row), VARSIZE_ANY_EXHDR(row)};
}

SQL_FUNCTION(kv_pack_halves)
{
    const TensorView tensor = tensor_argument(fcinfo, 0);
    if (tensor.dtype != Dtype::f16 || tensor.dims != 2) {
        throw Error(Errc::data_exception, message("kv must be f16 [slots, dim_k + dim_v], not %s %s", dtype_name(tensor.dtype),
                                                  shape_text(tensor).c_str()));
    }
    constexpr uint32_t kMost = UINT16_MAX;
    if (tensor.shape[0] - 1 >= kMost || tensor.shape[1] - 1 >= kMost) {
        throw Error(Errc::limit_exceeded, message("packed halves have 1 to %u slots and as many values in one, not %s", kMost,
                                                  shape_text(tensor).c_str()));
    }
    const RowShape shape{static_cast<int>(tensor.shape[0]), static_cast<int>(tensor.shape[1])};
    bytea *row = new_packed_row(shape);
    pack_into(static_cast<const uint16_t *>(tensor.data), shape, row);
    return PointerGetDatum(row);
}

Error packed_argument_error(FunctionCallInfo fcinfo, const Error &error)
{
    if (error.code() != Errc::data_corrupted || !get_fn_expr_arg_stable(fcinfo->flinfo, 0)) return error;
    return {Errc::invalid_binary, error.message(), error.hint(), error.detail()};
}

SQL_FUNCTION(kv_unpack_halves)
{
    return with_packed_argument(fcinfo, [](const PackedRow &row) {
        const uint32_t shape[] = {static_cast<uint32_t>(row.shape().slots), static_cast<uint32_t>(row.shape().width)};
        TensorHeader *tensor = make_tensor(Dtype::f16, 2, shape);
        row.read(0, row.shape().slots, static_cast<uint16_t *>(tensor_data(tensor)));
        return PointerGetDatum(tensor);
    });
}

}  // namespace vkv::kv
