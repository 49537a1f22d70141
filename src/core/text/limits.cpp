// The checks of limits.h; each throws Error with the code and text that users of pgvector know.

#include "core/text/limits.h"

#include <cmath>

#include "core/error.h"
#include "core/text/message.h"
#include "core/value.h"

namespace vkv {

void check_dense_dim(int dim, const char *type)
{
    if (dim < 1) throw Error(Errc::data_exception, message("%s must have at least 1 dimension", type));
    if (dim > static_cast<int>(kMaxDim)) {
        throw Error(Errc::limit_exceeded, message("%s cannot have more than %u dimensions", type, kMaxDim));
    }
}

void check_sparse_dim(int dim)
{
    if (dim < 1) throw Error(Errc::data_exception, "sparsevec must have at least 1 dimension");
    if (dim > static_cast<int>(kMaxSparseDim)) {
        throw Error(Errc::limit_exceeded, message("sparsevec cannot have more than %u dimensions", kMaxSparseDim));
    }
}

void check_sparse_nnz(int nnz, int dim)
{
    if (nnz < 0) throw Error(Errc::data_exception, "sparsevec cannot have negative number of elements");
    if (nnz > static_cast<int>(kMaxSparseNnz)) {
        throw Error(Errc::limit_exceeded, message("sparsevec cannot have more than %u non-zero elements", kMaxSparseNnz));
    }
    if (nnz > dim) throw Error(Errc::limit_exceeded, "sparsevec cannot have more elements than dimensions");
}

void check_sparse_index(const int32_t *indices, int i, int dim)
{
    int32_t index = indices[i];
    if (index < 0 || index >= dim) throw Error(Errc::data_exception, "sparsevec index out of bounds");
    if (i == 0) return;
    if (index < indices[i - 1]) throw Error(Errc::data_exception, "sparsevec indices must be in ascending order");
    if (index == indices[i - 1]) throw Error(Errc::data_exception, "sparsevec indices must not contain duplicates");
}

void check_finite(float value, const char *type)
{
    if (std::isnan(value)) throw Error(Errc::data_exception, message("NaN not allowed in %s", type));
    if (std::isinf(value)) throw Error(Errc::data_exception, message("infinite value not allowed in %s", type));
}

void check_same_dim(int a, int b, const char *type)
{
    if (a != b) throw Error(Errc::data_exception, message("different %s dimensions %d and %d", type, a, b));
}

void check_expected_dim(int32_t typmod, int dim)
{
    if (typmod != -1 && typmod != dim) {
        throw Error(Errc::data_exception, message("expected %d dimensions, not %d", typmod, dim));
    }
}

void check_unused(int unused)
{
    if (unused != 0) throw Error(Errc::data_exception, message("expected unused to be 0, not %d", unused));
}

void throw_overflow() { throw Error(Errc::numeric_overflow, "value out of range: overflow"); }

void throw_underflow() { throw Error(Errc::numeric_overflow, "value out of range: underflow"); }

}  // namespace vkv
