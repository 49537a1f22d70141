// Where the planes of a tile are, for those who write and read tiles; the format is drawn in tile.h.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/error.h"
#include "core/kv/tile.h"

namespace vkv::kv {

inline constexpr int kInt8Group = 128;    // dims that share a scale
inline constexpr int kUniformGroup = 64;  // dims that share a scale and a minimum

// The planes of codes of one codec: `bits` of the first, `high_bits` (3-bit codes: 1, else 0) of the second.
constexpr int low_bits(Codec codec) { return bits_of(codec) == 3 ? 2 : bits_of(codec); }
constexpr bool has_high_plane(Codec codec) { return bits_of(codec) == 3; }

constexpr int groups_of(Codec codec, int dim)
{
    if (codec == Codec::f16) return 0;
    if (codec == Codec::int8) return (dim + kInt8Group - 1) / kInt8Group;
    return is_uniform(codec) ? (dim + kUniformGroup - 1) / kUniformGroup : 1;
}
// Rows of the scale plane: uniform codes have a minimum beside each scale.
constexpr int scale_rows(Codec codec, int dim) { return groups_of(codec, dim) * (is_uniform(codec) ? 2 : 1); }

// Offsets from the end of the header; of a plane that the tile has not, that of the next one.
struct TileLayout {
    size_t k = 0, k_high = 0, v = 0, v_high = 0, k_scale = 0, v_scale = 0, means = 0, end = 0;
};
TileLayout tile_layout(const TileShape &shape, int tokens);  // means: not padded
constexpr size_t channel_bytes(const TileShape &shape) { return shape.dim_k > 256 || shape.dim_v > 256 ? 2 : 1; }
constexpr size_t mean_bytes(const TileShape &shape) { return sizeof(uint16_t) + channel_bytes(shape); }

// Bytes of a plane of words, not padded.
constexpr size_t k_plane_bytes(int bits, int tokens, int dim)
{
    const size_t width = 32 / static_cast<size_t>(bits);
    return (static_cast<size_t>(dim) + width - 1) / width * static_cast<size_t>(tokens) * 4;
}
constexpr size_t v_plane_bytes(int bits, int tokens, int dim)
{
    const size_t width = 32 / static_cast<size_t>(bits);
    return (static_cast<size_t>(tokens) + width - 1) / width * static_cast<size_t>(dim) * 4;
}

// view_tile with the error code of the caller's choice.
TileView view_tile_as(const void *tile, size_t bytes, Errc code);

// Means that a tile of so many tokens has room for. 0 < tokens <= most_tokens(shape).
int most_means(const TileShape &shape, int tokens);

// Throws Error(invalid_parameter) for what no tile can be: dimensions, heads, flags.
void check_shape(const TileShape &shape);

// Where a tile lies in its sequence, and how many of its means are the keys'.
struct TilePlace {
    int head = 0;
    int32_t first = 0;
    int tokens = 0;
    int means_k = 0;
};
// The header but for the varlena word, with a new id; the planes must be written already, for the checksum.
void finish_tile(const TileShape &shape, const TilePlace &place, void *out);

}  // namespace vkv::kv
