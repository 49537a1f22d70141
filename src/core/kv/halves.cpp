// Interleaving rows of halves into words: pairs of dims of a token for K, pairs of tokens of a dim for V (tile.h).
#include "core/kv/halves.h"

#include <algorithm>
#include <cstring>

#include "core/kv/tile_layout.h"

namespace vkv::kv {
namespace {

// Words of kColumns tokens at a time, so that what is written lies together and each row is read in runs.
void interleave_keys(Rows rows, int tokens, int dim, uint8_t *out)
{
    const size_t n = static_cast<size_t>(tokens), whole = static_cast<size_t>(dim) / 2;
    constexpr size_t kRun = 16;  // words of a row that are taken at once: a cache line
    for (size_t g = 0; g < whole; g += kRun) {
        const size_t end = g + kRun < whole ? g + kRun : whole;
        for (size_t t = 0; t < n; ++t) {
            const uint16_t *row = rows.data + t * rows.stride;
            for (size_t w = g; w < end; ++w) std::memcpy(out + (w * n + t) * 4, row + 2 * w, 4);
        }
    }
    if (dim % 2 == 0) return;
    for (size_t t = 0; t < n; ++t) {
        const uint32_t word = rows.data[t * rows.stride + 2 * whole];
        std::memcpy(out + (whole * n + t) * 4, &word, 4);
    }
}

void interleave_values(Rows rows, int tokens, int dim, uint8_t *out)
{
    const size_t d = static_cast<size_t>(dim);
    auto *words = reinterpret_cast<uint32_t *>(out);
    for (int t = 0; t < tokens; t += 2, words += d) {
        const uint16_t *a = rows.data + static_cast<size_t>(t) * rows.stride;
        if (t + 1 < tokens) {
            const uint16_t *b = a + rows.stride;
            for (size_t i = 0; i < d; ++i) words[i] = a[i] | static_cast<uint32_t>(b[i]) << 16;
        } else {
            for (size_t i = 0; i < d; ++i) words[i] = a[i];
        }
    }
}

}  // namespace

TileView view_planes(const TileShape &shape, int head, int32_t first, int tokens, const uint8_t *planes)
{
    const TileLayout at = tile_layout(shape, tokens);
    TileView view;
    view.codec = Codec::f16;
    view.flags = shape.flags;
    view.tokens = tokens;
    view.dim_k = shape.dim_k;
    view.dim_v = shape.dim_v;
    view.head = head;
    view.heads = shape.heads;
    view.first = first;
    view.k = planes + at.k;
    view.v = shape.flags & kValuesInKeys ? nullptr : planes + at.v;
    return view;
}

TileView view_halves(const TileShape &shape, int head, int32_t first, int tokens, Rows k, Rows v, uint8_t *planes)
{
    const TileLayout at = tile_layout(shape, tokens);
    interleave_keys(k, tokens, shape.dim_k, planes + at.k);
    if (!(shape.flags & kValuesInKeys)) interleave_values(v, tokens, shape.dim_v, planes + at.v);
    return view_planes(shape, head, first, tokens, planes);
}

void planes_to_tile(const TileShape &shape, const PlanesAt &at, const uint8_t *planes, void *out)
{
    std::memcpy(static_cast<uint8_t *>(out) + kTileHeaderBytes, planes, tile_layout(shape, at.tokens).end);
    finish_tile(shape, {at.head, at.first, at.tokens}, out);
    static_cast<TileHeader *>(out)->id = at.id;
}

void clamp_to_halves(float *values, size_t n)
{
    for (size_t i = 0; i < n; ++i) values[i] = std::clamp(values[i], -65504.0f, 65504.0f);
}

}  // namespace vkv::kv
