// Small pieces of text output and type modifiers that the three vector types share.
#pragma once

#include <cstdint>

#include "pg/boundary/pg.h"

namespace vkv {

// Room for one number as append_float and append_int write it.
inline constexpr size_t kFloatTextBytes = FLOAT_SHORTEST_DECIMAL_LEN;
inline constexpr size_t kIntTextBytes = 12;

// Write at out without a null byte and return the end. A float is the shortest decimal that reads back the same, as float4 prints.
char *append_float(float value, char *out);
char *append_int(int32_t value, char *out);

// The body of a typmod_in function: one integer from 1 to limit.
int32_t typmod_dimensions(Datum array, const char *type, uint32_t limit);

// A bytea of that many bytes, for send functions.
bytea *make_bytea(size_t bytes);

}  // namespace vkv
