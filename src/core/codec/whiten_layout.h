// Bytes of the model that is drawn in whiten.h, before the inner codec's.
#pragma once
#include <cstddef>
#include <cstdint>

namespace vkv::whiten {

inline constexpr uint32_t kMagic = 0x4D484957;  // "WIHM"
inline constexpr uint16_t kVersion = 1;

enum class Shape : uint16_t { identity = 0, diagonal = 1, triangle = 2 };  // of L; on disk

struct Header {
    uint32_t magic;
    uint16_t version;
    uint16_t shape;
    uint32_t dim;
    uint32_t rows;
    double scale;
};
static_assert(sizeof(Header) == 24);

inline size_t factor_size(Shape shape, uint32_t dim)
{
    if (shape == Shape::identity) return 0;
    if (shape == Shape::diagonal) return sizeof(float) + 2 * sizeof(uint16_t) * size_t{dim};
    return sizeof(uint16_t) * size_t{dim} * (size_t{dim} + 1) / 2;
}
inline size_t head_size(Shape shape, uint32_t dim)
{
    return sizeof(Header) + sizeof(float) * size_t{dim} + factor_size(shape, dim);
}

// Sums term(i) for i < n in four chains, which do not wait for each other.
template <class Term>
inline double sum_of(size_t n, Term term)
{
    double sum[4] = {};
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (size_t k = 0; k < 4; k++) sum[k] += term(i + k);
    for (; i < n; i++) sum[0] += term(i);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

}  // namespace vkv::whiten
