// kv.tensor: text and binary form, and what a tensor says of itself. Reading and writing is core's (tensor_text.h, wire.h).

#include <string>

#include "core/kv/tensor_text.h"
#include "core/kv/wire.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/arguments.h"

namespace vkv::kv {

SQL_FUNCTION(kv_tensor_in)
{
    const char *text = PG_GETARG_CSTRING(0);
    const ParsedTensor parsed = parse_tensor({text, text_length(text, look_for_interrupts)}, look_for_interrupts);
    TensorHeader *result = make_tensor_like(parsed.view(), parsed.dtype);
    if (!parsed.data.empty()) copy_data(tensor_data(result), parsed.data.data(), parsed.data.size());
    return PointerGetDatum(result);
}

SQL_FUNCTION(kv_tensor_out)
{
    const TensorView tensor = tensor_argument(fcinfo, 0);
    return copy_cstring(tensor_text(tensor, look_for_interrupts));
}

SQL_FUNCTION(kv_tensor_recv)
{
    const TensorView wire = read_tensor(rest_of_message(fcinfo));
    TensorHeader *result = make_tensor_like(wire, wire.dtype);
    copy_data(tensor_data(result), wire.data, wire.bytes());
    return PointerGetDatum(result);
}

SQL_FUNCTION(kv_tensor_send)
{
    const TensorView tensor = tensor_argument(fcinfo, 0);
    bytea *result = new_bytea(tensor_wire_bytes(tensor));
    write_tensor(tensor, reinterpret_cast<uint8_t *>(VARDATA(result)), look_for_interrupts);
    return PointerGetDatum(result);
}

SQL_FUNCTION(kv_tensor_shape)
{
    const TensorView tensor = tensor_argument(fcinfo, 0);
    Datum shape[kMaxTensorDims];
    for (int i = 0; i < tensor.dims; ++i) shape[i] = Int32GetDatum(static_cast<int32_t>(tensor.shape[i]));
    return PointerGetDatum(construct_array(shape, tensor.dims, INT4OID, sizeof(int32_t), true, TYPALIGN_INT));
}

SQL_FUNCTION(kv_tensor_dtype) { return PointerGetDatum(cstring_to_text(dtype_name(tensor_argument(fcinfo, 0).dtype))); }

}  // namespace vkv::kv
