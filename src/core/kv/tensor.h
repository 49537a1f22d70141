// Dense tensors of up to five dimensions: what applications send and receive. Row-major, last dimension fastest.
//
//   | varlena header 4 | version 1 | dtype 1 | dimensions 1 | zero 1 | shape 5 * 4, unused zero | zero 4 | data |
//
// The header is 32 bytes. A dimension may be 0: a tensor without elements. On the wire (binary): version, dtype, dimensions, zero,
// shape (dimensions * 4, big-endian), then the data little-endian as in memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace vkv::kv {

inline constexpr int kMaxTensorDims = 5;
inline constexpr size_t kMaxTensorBytes = 0x3FFFFF00;  // below PostgreSQL's 1 GB

enum class Dtype : uint8_t { f32 = 0, f16 = 1, bf16 = 2 };  // numbers are on disk: never reuse

constexpr size_t dtype_bytes(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }
const char *dtype_name(Dtype dtype);
Dtype dtype_named(
    const std::string &name);  // "f32", "f16", "bf16"; also float32, float16, half, bfloat16; throws invalid_parameter

struct TensorHeader {
    uint32_t varlena;
    uint8_t version;  // 1
    uint8_t dtype;
    uint8_t dims;
    uint8_t reserved;
    uint32_t shape[kMaxTensorDims];
    uint32_t reserved2;
};
static_assert(sizeof(TensorHeader) == 32);

struct TensorView {
    Dtype dtype = Dtype::f32;
    int dims = 0;
    uint32_t shape[kMaxTensorDims] = {};
    const void *data = nullptr;
    size_t elements() const
    {
        size_t n = 1;
        for (int i = 0; i < dims; ++i) n *= shape[i];
        return n;
    }
    size_t bytes() const { return elements() * dtype_bytes(dtype); }
};

// "[30, 3, 128, 64]", for messages.
std::string shape_text(const TensorView &tensor);

// Widening is exact. To halves: rounds to nearest even; finite_f16 returns the index of the first element that is NaN, infinite or
// beyond the range of a half (65504), or elements when there is none; to_f16 then may be used without loss of range.
void to_f32(Dtype dtype, const void *in, float *out, size_t n);
void to_f16(Dtype dtype, const void *in, uint16_t *out, size_t n);
size_t first_not_finite_f16(Dtype dtype, const void *in, size_t n);
// How many values of bf16 halves do not hold exactly: magnitudes below 2^-17, where steps of halves are wider than theirs.
size_t inexact_bf16(const void *in, size_t n);
void from_f32(Dtype dtype, const float *in, void *out, size_t n);
float element(Dtype dtype, const void *data, size_t index);

}  // namespace vkv::kv
