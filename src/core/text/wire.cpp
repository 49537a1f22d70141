// Binary format of wire.h, read and written byte by byte, so that neither alignment nor byte order of the machine matter.

#include "core/text/wire.h"

#include <bit>
#include <cstring>

#include "core/error.h"
#include "core/simd/half.h"
#include "core/text/limits.h"

namespace vkv {
namespace {

uint16_t load16(const uint8_t *p) { return static_cast<uint16_t>(p[0] << 8 | p[1]); }

uint32_t load32(const uint8_t *p)
{
    return static_cast<uint32_t>(p[0]) << 24 | static_cast<uint32_t>(p[1]) << 16 | static_cast<uint32_t>(p[2]) << 8 | p[3];
}

void store16(uint16_t value, uint8_t *p)
{
    p[0] = static_cast<uint8_t>(value >> 8);
    p[1] = static_cast<uint8_t>(value);
}

void store32(uint32_t value, uint8_t *p)
{
    store16(static_cast<uint16_t>(value >> 16), p);
    store16(static_cast<uint16_t>(value), p + 2);
}

void require(Bytes bytes, size_t size)
{
    if (bytes.size() < size) throw Error(Errc::invalid_binary, "insufficient data left in message");
}

}  // namespace

int decode_dense_header(Bytes header, const char *type, int32_t typmod)
{
    require(header, kDenseHeaderBytes);
    int dim = load16(header.data());
    check_dense_dim(dim, type);
    check_expected_dim(typmod, dim);
    check_unused(load16(header.data() + 2));
    return dim;
}

SparseShape decode_sparse_header(Bytes header, int32_t typmod)
{
    require(header, kSparseHeaderBytes);
    SparseShape shape{static_cast<int32_t>(load32(header.data())), static_cast<int32_t>(load32(header.data() + 4))};
    check_sparse_dim(shape.dim);
    check_sparse_nnz(shape.nnz, shape.dim);
    check_expected_dim(typmod, shape.dim);
    check_unused(static_cast<int32_t>(load32(header.data() + 8)));
    return shape;
}

void decode_floats(Bytes payload, float *out)
{
    for (size_t i = 0; i < payload.size() / 4; ++i) {
        out[i] = std::bit_cast<float>(load32(payload.data() + 4 * i));
        check_finite(out[i], kVectorName);
    }
}

void decode_halves(Bytes payload, uint16_t *out)
{
    for (size_t i = 0; i < payload.size() / 2; ++i) {
        out[i] = load16(payload.data() + 2 * i);
        check_finite(half_to_float(out[i]), kHalfvecName);
    }
}

void decode_sparse(Bytes payload, SparseShape shape, int32_t *indices, float *values)
{
    size_t nnz = static_cast<size_t>(shape.nnz);
    require(payload, 8 * nnz);
    for (size_t i = 0; i < nnz; ++i) {
        indices[i] = static_cast<int32_t>(load32(payload.data() + 4 * i));
        check_sparse_index(indices, static_cast<int>(i), shape.dim);
    }
    for (size_t i = 0; i < nnz; ++i) {
        values[i] = std::bit_cast<float>(load32(payload.data() + 4 * (nnz + i)));
        check_finite(values[i], kSparsevecName);
        if (values[i] == 0) throw Error(Errc::data_exception, "binary representation of sparsevec cannot contain zero values");
    }
}

void encode_vector(std::span<const float> values, uint8_t *out)
{
    store16(static_cast<uint16_t>(values.size()), out);
    store16(0, out + 2);
    out += kDenseHeaderBytes;
    for (float value : values) {
        store32(std::bit_cast<uint32_t>(value), out);
        out += 4;
    }
}

void encode_halfvec(std::span<const uint16_t> values, uint8_t *out)
{
    store16(static_cast<uint16_t>(values.size()), out);
    store16(0, out + 2);
    out += kDenseHeaderBytes;
    for (uint16_t value : values) {
        store16(value, out);
        out += 2;
    }
}

void encode_sparsevec(SparseShape shape, const int32_t *indices, const float *values, uint8_t *out)
{
    size_t nnz = static_cast<size_t>(shape.nnz);
    store32(static_cast<uint32_t>(shape.dim), out);
    store32(static_cast<uint32_t>(shape.nnz), out + 4);
    store32(0, out + 8);
    out += kSparseHeaderBytes;
    for (size_t i = 0; i < nnz; ++i) store32(static_cast<uint32_t>(indices[i]), out + 4 * i);
    out += 4 * nnz;
    for (size_t i = 0; i < nnz; ++i) store32(std::bit_cast<uint32_t>(values[i]), out + 4 * i);
}

}  // namespace vkv
