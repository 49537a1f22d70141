// The binary format of the wire, big-endian:
//
//   vector, halfvec:  dim int16 | unused int16 | values: float32 or float16, dim times
//   sparsevec:        dim int32 | nnz int32 | unused int32 | indices int32, nnz times, from 0, ascending | values float32, nnz
//   times
//
// Decoding is in two steps: the header says how many bytes follow, and has been checked when it does. Everything decoded is
// checked as strictly as text is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/text/parse.h"

namespace vkv {

using Bytes = std::span<const uint8_t>;

inline constexpr size_t kDenseHeaderBytes = 4;
inline constexpr size_t kSparseHeaderBytes = 12;

// typmod as in check_expected_dim. Payload bytes: dim * 4, dim * 2, nnz * 8.
int decode_dense_header(Bytes header, const char *type, int32_t typmod);
SparseShape decode_sparse_header(Bytes header, int32_t typmod);

void decode_floats(Bytes payload, float *out);     // a vector's; out [payload / 4]
void decode_halves(Bytes payload, uint16_t *out);  // a halfvec's; out [payload / 2]
void decode_sparse(Bytes payload, SparseShape shape, int32_t *indices, float *values);

// out has room for header and payload.
void encode_vector(std::span<const float> values, uint8_t *out);
void encode_halfvec(std::span<const uint16_t> values, uint8_t *out);
void encode_sparsevec(SparseShape shape, const int32_t *indices, const float *values, uint8_t *out);

}  // namespace vkv
