// What core knows of a vector: a view of its numbers, wherever they lie. The four SQL types differ only here.
#pragma once
#include <cstddef>
#include <cstdint>

namespace vkv {

inline constexpr uint32_t kMaxDim = 16000;             // vector, halfvec
inline constexpr uint32_t kMaxSparseDim = 1000000000;  // sparsevec: dimensions
inline constexpr uint32_t kMaxSparseNnz = 16000;       // sparsevec: non-zeros

enum class Scalar : uint8_t { f32 = 0, f16 = 1, bit = 2, sparse = 3 };  // numbers are on disk: never reuse
enum class Metric : uint8_t { l2 = 0, ip = 1, cosine = 2, l1 = 3, hamming = 4, jaccard = 5 };

// Distances inside an index, always ascending with dissimilarity:
// l2: squared; ip: minus the inner product; cosine: 1 - cosine; l1: sum of |differences|; hamming: differing bits;
// jaccard: 1 - |a and b| / |a or b| (1 if nothing is common).

struct VectorView {
    Scalar scalar = Scalar::f32;
    uint32_t dim = 0;                  // bits for Scalar::bit
    const void *data = nullptr;        // f32: float[dim]; f16: uint16_t[dim]; bit: bytes, high bit first; sparse: float[nnz]
    const int32_t *indices = nullptr;  // sparse only: [nnz], ascending, from 0
    uint32_t nnz = 0;                  // sparse only

    const float *f32() const { return static_cast<const float *>(data); }
    const uint16_t *f16() const { return static_cast<const uint16_t *>(data); }
    const uint8_t *bytes() const { return static_cast<const uint8_t *>(data); }
    size_t bit_bytes() const { return (dim + 7) / 8; }
};

}  // namespace vkv
