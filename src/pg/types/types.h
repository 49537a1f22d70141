// The types as they lie on disk, byte for byte those of pgvector, and how C++ looks at them.
//
//   vector, halfvec:  | varlena header 4 | dim 2 | unused 2 | values: dim * (4 or 2) |
//   sparsevec:        | varlena header 4 | dim 4 | nnz 4 | unused 4 | indices: nnz * 4, ascending from 0 | values: nnz * 4 |
//   bit:              PostgreSQL's VarBit, the bits past the end are zero
//
// "unused" is always zero. Values are finite; a sparsevec stores no zeros. All alignment is 4.
// Pointers given out here are detoasted: they point into the datum or to a copy in the current memory context.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/value.h"
#include "pg/boundary/pg.h"

namespace vkv {

// The structs are headers; elements follow them.
struct Vector {
    int32_t varlena_header;
    int16_t dim;
    int16_t unused;
    float *values() { return reinterpret_cast<float *>(this + 1); }
    const float *values() const { return reinterpret_cast<const float *>(this + 1); }
};

struct HalfVec {
    int32_t varlena_header;
    int16_t dim;
    int16_t unused;
    uint16_t *values() { return reinterpret_cast<uint16_t *>(this + 1); }
    const uint16_t *values() const { return reinterpret_cast<const uint16_t *>(this + 1); }
};

struct SparseVec {
    int32_t varlena_header;
    int32_t dim;
    int32_t nnz;
    int32_t unused;
    int32_t *indices() { return reinterpret_cast<int32_t *>(this + 1); }
    const int32_t *indices() const { return reinterpret_cast<const int32_t *>(this + 1); }
    float *values() { return reinterpret_cast<float *>(indices() + nnz); }
    const float *values() const { return reinterpret_cast<const float *>(indices() + nnz); }
};

static_assert(sizeof(Vector) == 8 && offsetof(Vector, dim) == 4 && offsetof(Vector, unused) == 6 && alignof(Vector) == 4);
static_assert(sizeof(HalfVec) == 8 && offsetof(HalfVec, dim) == 4 && offsetof(HalfVec, unused) == 6 && alignof(HalfVec) == 4);
static_assert(sizeof(SparseVec) == 16 && offsetof(SparseVec, dim) == 4 && offsetof(SparseVec, nnz) == 8 &&
              offsetof(SparseVec, unused) == 12 && alignof(SparseVec) == 4);

constexpr size_t vector_size(int dim) { return sizeof(Vector) + static_cast<size_t>(dim) * sizeof(float); }
constexpr size_t halfvec_size(int dim) { return sizeof(HalfVec) + static_cast<size_t>(dim) * sizeof(uint16_t); }
constexpr size_t sparsevec_size(int nnz)
{
    return sizeof(SparseVec) + static_cast<size_t>(nnz) * (sizeof(int32_t) + sizeof(float));
}

// New values in the current memory context, all zero. They raise (out of memory) and do not check limits.
Vector *make_vector(int dim);
HalfVec *make_halfvec(int dim);
SparseVec *make_sparsevec(int dim, int nnz);
VarBit *make_bits(int bits);

// May raise: use inside pg_call where objects with destructors are alive.
inline Vector *datum_vector(Datum datum) { return reinterpret_cast<Vector *>(PG_DETOAST_DATUM(datum)); }
inline HalfVec *datum_halfvec(Datum datum) { return reinterpret_cast<HalfVec *>(PG_DETOAST_DATUM(datum)); }
inline SparseVec *datum_sparsevec(Datum datum) { return reinterpret_cast<SparseVec *>(PG_DETOAST_DATUM(datum)); }
inline VarBit *datum_bits(Datum datum) { return DatumGetVarBitP(datum); }

inline VectorView view_of(const Vector *v) { return {Scalar::f32, static_cast<uint32_t>(v->dim), v->values(), nullptr, 0}; }

inline VectorView view_of(const HalfVec *v) { return {Scalar::f16, static_cast<uint32_t>(v->dim), v->values(), nullptr, 0}; }

inline VectorView view_of(const SparseVec *v)
{
    return {Scalar::sparse, static_cast<uint32_t>(v->dim), v->values(), v->indices(), static_cast<uint32_t>(v->nnz)};
}

inline VectorView view_of(const VarBit *v) { return {Scalar::bit, static_cast<uint32_t>(VARBITLEN(v)), VARBITS(v), nullptr, 0}; }

// A detoasted datum of the type that holds such scalars, as a view.
inline VectorView view_of(Scalar scalar, Datum datum)
{
    switch (scalar) {
        case Scalar::f32:
            return view_of(datum_vector(datum));
        case Scalar::f16:
            return view_of(datum_halfvec(datum));
        case Scalar::sparse:
            return view_of(datum_sparsevec(datum));
        case Scalar::bit:
            return view_of(datum_bits(datum));
    }
    return {};
}

}  // namespace vkv
