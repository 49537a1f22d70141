// Decoding, element by element as the format is written down: the reference that encoders and attention kernels are tested with.
#include <algorithm>
#include <cstring>

#include "core/kv/levels.h"
#include "core/kv/rotation.h"
#include "core/kv/tile_layout.h"
#include "core/simd/half.h"

namespace vkv::kv {
namespace {

// The planes of K, or of V.
struct Planes {
    Codec codec;
    bool along_tokens;
    int tokens, dim;
    const uint8_t *codes, *high;
    const uint16_t *scales;
};

// Element `element` of word `word` of a plane with kBits bits an element.
template <int kBits>
uint32_t field(const uint8_t *plane, size_t word, size_t element)
{
    const uint8_t byte = plane[4 * word + element % 4];
    return (byte >> (kBits * (element / 4))) & ((1u << kBits) - 1);
}

template <int kBits>
uint32_t code_at(const Planes &planes, const uint8_t *plane, size_t t, size_t d)
{
    constexpr size_t kWidth = 32 / kBits;
    const auto tokens = static_cast<size_t>(planes.tokens), dim = static_cast<size_t>(planes.dim);
    return planes.along_tokens ? field<kBits>(plane, t / kWidth * dim + d, t % kWidth)
                               : field<kBits>(plane, d / kWidth * tokens + t, d % kWidth);
}

float half_value(const Planes &planes, size_t t, size_t d)
{
    const auto tokens = static_cast<size_t>(planes.tokens), dim = static_cast<size_t>(planes.dim);
    const size_t at = planes.along_tokens ? 2 * (t / 2 * dim + d) + t % 2 : 2 * (d / 2 * tokens + t) + d % 2;
    uint16_t half;
    std::memcpy(&half, planes.codes + sizeof half * at, sizeof half);
    return half_to_float(half);
}

template <int kBits>
uint32_t whole_code(const Planes &planes, size_t t, size_t d)
{
    if constexpr (kBits == 3)
        return code_at<2>(planes, planes.codes, t, d) | code_at<1>(planes, planes.high, t, d) << 2;
    else
        return code_at<kBits>(planes, planes.codes, t, d);
}

float scale_at(const Planes &planes, int row, size_t t)
{
    return half_to_float(planes.scales[static_cast<size_t>(row) * static_cast<size_t>(planes.tokens) + t]);
}

void decode_int8(const Planes &planes, size_t t, float *out)
{
    for (int d = 0; d < planes.dim; ++d) {
        const int code = static_cast<int>(whole_code<8>(planes, t, static_cast<size_t>(d))) - 128;
        out[d] = scale_at(planes, d / kInt8Group, t) * static_cast<float>(code);
    }
}

template <int kBits>
void decode_uniform(const Planes &planes, size_t t, float *out)
{
    const int groups = groups_of(planes.codec, planes.dim);
    for (int d = 0; d < planes.dim; ++d) {
        const float step = scale_at(planes, d / kUniformGroup, t), least = scale_at(planes, groups + d / kUniformGroup, t);
        out[d] = least + step * static_cast<float>(whole_code<kBits>(planes, t, static_cast<size_t>(d)));
    }
}

template <int kBits>
void decode_rotated(const Planes &planes, size_t t, float *out)
{
    const float scale = scale_at(planes, 0, t);
    for (int d = 0; d < planes.dim; ++d) out[d] = scale * levels(kBits)[whole_code<kBits>(planes, t, static_cast<size_t>(d))];
    rotate_back(out, planes.dim);
}

void decode_row(const Planes &planes, size_t t, float *out)
{
    switch (planes.codec) {
        case Codec::f16:
            for (int d = 0; d < planes.dim; ++d) out[d] = half_value(planes, t, static_cast<size_t>(d));
            return;
        case Codec::int8:
            return decode_int8(planes, t, out);
        case Codec::uniform4:
            return decode_uniform<4>(planes, t, out);
        case Codec::uniform3:
            return decode_uniform<3>(planes, t, out);
        case Codec::uniform2:
            return decode_uniform<2>(planes, t, out);
        case Codec::rotated4:
            return decode_rotated<4>(planes, t, out);
        case Codec::rotated3:
            return decode_rotated<3>(planes, t, out);
        case Codec::rotated2:
            return decode_rotated<2>(planes, t, out);
    }
}

void add_means(const Means &means, float *row)
{
    for (int i = 0; i < means.count; ++i) row[means.channel(i)] += half_to_float(means.values[i]);
}

}  // namespace

void decode_tile(const TileView &tile, float *k, float *v)
{
    const Planes keys{tile.codec, false, tile.tokens, tile.dim_k, tile.k, tile.k_high, tile.k_scale};
    const Planes values{tile.codec, true, tile.tokens, tile.dim_v, tile.v, tile.v_high, tile.v_scale};
    float row[kMaxHeadDim];
    for (size_t t = 0; t < static_cast<size_t>(tile.tokens); ++t) {
        if (k || (v && tile.values_in_keys())) {
            decode_row(keys, t, row);
            add_means(tile.k_means, row);
        }
        if (k) std::copy_n(row, tile.dim_k, k + t * static_cast<size_t>(tile.dim_k));
        if (v && !tile.values_in_keys()) {
            decode_row(values, t, row);
            add_means(tile.v_means, row);
        }
        if (v) std::copy_n(row, tile.dim_v, v + t * static_cast<size_t>(tile.dim_v));
    }
}

}  // namespace vkv::kv
