// Arrays of numbers, as casts to vector types read them.
#pragma once

#include "pg/boundary/pg.h"

namespace vkv {

// Refuses nulls and more than one dimension; an empty array has length 0.
int array_length(ArrayType *array);

// The elements of an integer[], real[], double precision[] or numeric[] as floats, in the current memory context. What a float
// cannot hold becomes infinite.
const float *array_floats(ArrayType *array, int length);

}  // namespace vkv
