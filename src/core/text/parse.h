// From text to values. The grammar:
//
//   vector, halfvec:  [ number , number ... ]
//   sparsevec:        { index : number , ... } / dimensions        indices from 1, in any order; {} is all zero
//
// White space may stand anywhere but inside a number. Numbers are those of strtof: decimal, hexadecimal; NaN and infinity parse
// and are then refused. A number has at most 65,536 characters. Text must end with a null byte; everything else about it may be
// hostile.
// A caller asks first how many elements there can be and gives room for them, so that values are parsed in place.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/poll.h"

namespace vkv {

// One more than the commas, at most limit: the parsers below store no more elements.
size_t max_elements(const char *text, size_t limit, Poll poll = nullptr);

// Return the number of dimensions; out has room for max_elements(text, kMaxDim).
int parse_vector(const char *text, float *out, Poll poll = nullptr);
int parse_halfvec(const char *text, uint16_t *out, Poll poll = nullptr);

struct SparseElement {
    int32_t index;  // from 0; not yet checked
    float value;    // finite and not 0
};

struct SparseShape {
    int dim;
    int nnz;
};

// out has room for max_elements(text, kMaxSparseNnz). Elements come in the order of the text; see place_elements.
SparseShape parse_sparsevec(const char *text, SparseElement *out, Poll poll = nullptr);

// Sorts the elements and writes them to indices and values, [shape.nnz] each; throws if an index is out of bounds or twice there.
void place_elements(SparseElement *elements, SparseShape shape, int32_t *indices, float *values);

}  // namespace vkv
