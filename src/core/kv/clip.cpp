// A tile cut short: the same codes and scales of its first tokens.
#include <cstring>

#include "core/kv/tile_layout.h"

namespace vkv::kv {
namespace {

// Rows of `from` words or halves each, of which the first `to` are kept.
void clip_rows(const uint8_t *in, size_t from, size_t to, size_t rows, uint8_t *out)
{
    for (size_t row = 0; row < rows; ++row) std::memcpy(out + row * to, in + row * from, to);
}

void clip_k(const uint8_t *in, int bits, const TileView &tile, int tokens, uint8_t *out)
{
    const size_t width = 32 / static_cast<size_t>(bits), words = (static_cast<size_t>(tile.dim_k) + width - 1) / width;
    clip_rows(in, 4 * static_cast<size_t>(tile.tokens), 4 * static_cast<size_t>(tokens), words, out);
}

// Words of V run along the tokens: of the last one only the fields of tokens that remain are kept.
void clip_v(const uint8_t *in, int bits, const TileView &tile, int tokens, uint8_t *out)
{
    const int width = 32 / bits;
    std::memcpy(out, in, v_plane_bytes(bits, tokens, tile.dim_v));
    if (tokens % width == 0) return;
    uint32_t kept = 0;
    for (int e = 0; e < tokens % width; ++e) {
        const int at = bits == 16 ? 16 * e : 8 * (e % 4) + bits * (e / 4);
        kept |= ((1u << bits) - 1) << at;
    }
    uint8_t *last = out + 4 * static_cast<size_t>(tokens / width) * static_cast<size_t>(tile.dim_v);
    for (int d = 0; d < tile.dim_v; ++d) {
        uint32_t word;
        std::memcpy(&word, last + 4 * d, sizeof word);
        word &= kept;
        std::memcpy(last + 4 * d, &word, sizeof word);
    }
}

void clip_scales(const uint16_t *in, const TileView &tile, int dim, int tokens, uint8_t *out)
{
    clip_rows(reinterpret_cast<const uint8_t *>(in), 2 * static_cast<size_t>(tile.tokens), 2 * static_cast<size_t>(tokens),
              static_cast<size_t>(scale_rows(tile.codec, dim)), out);
}

}  // namespace

void clip_tile(const TileView &tile, int tokens, void *out)
{
    if (tokens < 1 || tokens > tile.tokens)
        throw Error(Errc::invalid_parameter,
                    "a tile of " + std::to_string(tile.tokens) + " tokens has no first " + std::to_string(tokens) + " tokens");
    const TileShape shape = shape_of(tile);
    const TileLayout at = tile_layout(shape, tokens);
    auto *planes = static_cast<uint8_t *>(out) + kTileHeaderBytes;
    std::memset(planes, 0, at.end);
    const int bits = low_bits(tile.codec);
    clip_k(tile.k, bits, tile, tokens, planes + at.k);
    if (tile.k_high) clip_k(tile.k_high, 1, tile, tokens, planes + at.k_high);
    if (tile.v) clip_v(tile.v, bits, tile, tokens, planes + at.v);
    if (tile.v_high) clip_v(tile.v_high, 1, tile, tokens, planes + at.v_high);
    if (tile.k_scale) clip_scales(tile.k_scale, tile, tile.dim_k, tokens, planes + at.k_scale);
    if (tile.v_scale) clip_scales(tile.v_scale, tile, tile.dim_v, tokens, planes + at.v_scale);
    if (shape.means > 0)  // those of V follow those of K, all channels all values
        std::memcpy(planes + at.means, tile.k_means.values, static_cast<size_t>(shape.means) * mean_bytes(shape));
    finish_tile(shape, {tile.head, tile.first, tokens, tile.k_means.count}, out);
}

}  // namespace vkv::kv
