// Halves that are in no tile, laid out as the planes of an f16 tile of the moment: what attention over a tail or over new tokens
// works on. No header, checksum or content id is made.
#pragma once
#include "core/kv/tile.h"

namespace vkv::kv {

// planes: kMaxTileData bytes, 16-aligned; 0 < tokens <= tile_capacity(shape of codec f16). v is unused with values in keys.
// The values are not looked at: they must be finite.
TileView view_halves(const TileShape &shape, int head, int32_t first, int tokens, Rows k, Rows v, uint8_t *planes);

// The same tile again, from planes that view_halves has made.
TileView view_planes(const TileShape &shape, int head, int32_t first, int tokens, const uint8_t *planes);

// A tile of its own, header and checksum included, from planes that view_halves has made: tile_bytes(shape, at.tokens) bytes.
struct PlanesAt {
    int head;
    int32_t first;
    int tokens;
    uint64_t id;  // content id that it carries
};
void planes_to_tile(const TileShape &shape, const PlanesAt &at, const uint8_t *planes, void *out);

// To the range of halves, which what a codec decodes to may leave a little.
void clamp_to_halves(float *values, size_t n);

}  // namespace vkv::kv
