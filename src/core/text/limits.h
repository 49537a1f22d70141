// What a value of each type must satisfy, and the errors that say so. Used by text, binary, casts and arithmetic alike, so that
// one fault has one message.
#pragma once

#include <cstdint>

namespace vkv {

// The names of the types in messages.
inline constexpr const char *kVectorName = "vector";
inline constexpr const char *kHalfvecName = "halfvec";
inline constexpr const char *kSparsevecName = "sparsevec";

void check_dense_dim(int dim, const char *type);  // 1 to 16,000; vector and halfvec
void check_sparse_dim(int dim);
void check_sparse_nnz(int nnz, int dim);
void check_sparse_index(const int32_t *indices, int i, int dim);  // of element i: in range and above element i - 1
void check_finite(float value, const char *type);
void check_same_dim(int a, int b, const char *type);
void check_expected_dim(int32_t typmod, int dim);  // typmod -1: any
void check_unused(int unused);

[[noreturn]] void throw_overflow();
[[noreturn]] void throw_underflow();

}  // namespace vkv
