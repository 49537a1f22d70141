// Text pieces of text.h, over PostgreSQL's own number printing, so that output is the same to the byte.

#include "pg/types/text.h"

#include "core/error.h"
#include "core/text/message.h"
#include "pg/boundary/pg.h"

namespace vkv {

char *append_float(float value, char *out) { return out + float_to_shortest_decimal_bufn(value, out); }

char *append_int(int32_t value, char *out) { return out + pg_ltoa(value, out); }

int32_t typmod_dimensions(Datum array, const char *type, uint32_t limit)
{
    int n;
    const int32 *modifiers = ArrayGetIntegerTypmods(DatumGetArrayTypeP(array), &n);
    if (n != 1) throw Error(Errc::invalid_parameter, "invalid type modifier");
    if (modifiers[0] < 1) throw Error(Errc::invalid_parameter, message("dimensions for type %s must be at least 1", type));
    if (modifiers[0] > static_cast<int32>(limit)) {
        throw Error(Errc::invalid_parameter, message("dimensions for type %s cannot exceed %u", type, limit));
    }
    return modifiers[0];
}

bytea *make_bytea(size_t bytes)
{
    auto *result = static_cast<bytea *>(palloc(VARHDRSZ + bytes));
    SET_VARSIZE(result, VARHDRSZ + bytes);
    return result;
}

}  // namespace vkv
