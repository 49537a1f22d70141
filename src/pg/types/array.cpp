// Arrays without nulls are read where they lie; only numeric needs taking apart.

#include "pg/types/array.h"

#include <cstring>

#include "core/error.h"
#include "core/poll.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"

namespace vkv {
namespace {

template <typename T>
void read_floats(const ArrayType *array, int length, float *out)
{
    const char *data = ARR_DATA_PTR(array);
    by_pieces(static_cast<size_t>(length), piece_of(sizeof(T)), look_for_interrupts, [&](size_t first, size_t n) {
        for (size_t i = first; i < first + n; ++i) {
            T value;
            memcpy(&value, data + sizeof(T) * i, sizeof(T));
            out[i] = static_cast<float>(value);
        }
    });
}

void read_numerics(ArrayType *array, int length, float *out)
{
    constexpr size_t kPiece = 4096;
    char *at = ARR_DATA_PTR(array);
    by_pieces(static_cast<size_t>(length), kPiece, look_for_interrupts, [&](size_t first, size_t n) {
        for (size_t i = first; i < first + n; ++i) {
            out[i] = DatumGetFloat4(DirectFunctionCall1(numeric_float4, PointerGetDatum(at)));
            at = reinterpret_cast<char *>(att_align_nominal(att_addlength_pointer(at, -1, at), TYPALIGN_INT));
        }
    });
}

}  // namespace

int array_length(ArrayType *array)
{
    if (ARR_NDIM(array) > 1) throw Error(Errc::data_exception, "array must be 1-D");
    if (ARR_HASNULL(array) && array_contains_nulls(array)) {
        throw Error(Errc::null_not_allowed, "array must not contain nulls");
    }
    return ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
}

const float *array_floats(ArrayType *array, int length)
{
    auto *out = static_cast<float *>(palloc(sizeof(float) * static_cast<size_t>(length)));
    switch (ARR_ELEMTYPE(array)) {
        case INT4OID:
            read_floats<int32>(array, length, out);
            break;
        case FLOAT4OID:
            read_floats<float4>(array, length, out);
            break;
        case FLOAT8OID:
            read_floats<float8>(array, length, out);
            break;
        case NUMERICOID:
            read_numerics(array, length, out);
            break;
        default:
            throw Error(Errc::data_exception, "unsupported array type");
    }
    return out;
}

}  // namespace vkv
