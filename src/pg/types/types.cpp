// Allocation of values; see types.h.

#include "pg/types/types.h"

#include "pg/boundary/pg.h"

namespace vkv {
namespace {

void *make_value(size_t size)
{
    void *value = palloc0(size);
    SET_VARSIZE(value, size);
    return value;
}

}  // namespace

Vector *make_vector(int dim)
{
    auto *v = static_cast<Vector *>(make_value(vector_size(dim)));
    v->dim = static_cast<int16_t>(dim);
    return v;
}

HalfVec *make_halfvec(int dim)
{
    auto *v = static_cast<HalfVec *>(make_value(halfvec_size(dim)));
    v->dim = static_cast<int16_t>(dim);
    return v;
}

SparseVec *make_sparsevec(int dim, int nnz)
{
    auto *v = static_cast<SparseVec *>(make_value(sparsevec_size(nnz)));
    v->dim = dim;
    v->nnz = nnz;
    return v;
}

VarBit *make_bits(int bits)
{
    auto *v = static_cast<VarBit *>(make_value(VARBITTOTALLEN(bits)));
    VARBITLEN(v) = bits;
    return v;
}

}  // namespace vkv
