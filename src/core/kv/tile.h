// The KV tile: keys and values of one KV head for a run of consecutive tokens, small enough for one heap page. Immutable; the same
// bytes lie in a table row, in an attention kernel's hands and in a GPU's cache.
//
//   | varlena header 4 | magic and version 2 | codec 1 | flags 1 | tokens 2 | dim_k 2 | dim_v 2 | head 2 | heads 2 |
//   | means of K 1 | means of V 1 | first position 4 | crc 4 | zero 4 | content id 8 |
//   | K codes | V codes | K scales | V scales | means of K, of V
//
// At most kMaxTileData bytes of planes, so that heap tuple header 24 + key columns 16 + header 40 + planes fit one 8 kB page. Every
// plane starts at a multiple of 16 bytes from the header's end, and that lies at a multiple of 16 in the heap tuple.
//
// Codes are 32-bit words, and a word never mixes what an integer dot product must keep apart:
//   K words run along the head dimension:  word [g][t] holds dims g*w .. g*w+w-1 of token t;   [ceil(dim_k / w)][tokens]
//   V words run along the tokens:          word [g][d] holds tokens g*w .. g*w+w-1 of dim d;   [ceil(tokens / w)][dim_v]
// with w = 32 / bits. Element e of a word lies in byte e % 4, in the field of `bits` bits number e / 4 (lowest first); halves are
// in order. So one shift and one mask of a word give four bytes that are consecutive elements: the operand of the byte dot products
// of CPUs, and a fragment of a GPU's matrix units without a transposition. 3-bit codes are a plane of 2-bit words (the low bits)
// followed by a plane of 1-bit words (the high bit). What pads a word is zero.
//
// Scales are halves, [groups][tokens], tokens contiguous.
//
// Means: channels (dims) that are large in the same way for all tokens of a tile would spend a codec's levels, so their mean is
// taken off before coding and stands here; a decoded key or value is what its codes say plus these. Halves [means of K, of V]
// right behind the last scale, then their channels, of K and of V ascending: a byte each, two where a dimension is more than 256.
// To attention each is one number a tile and row of queries: softmax(q (k + mean)) has <q, mean> more in all logits of the tile,
// and the sum of weighted values has (sum of weights) * mean more. Most tiles of random numbers have none, f16 never has any.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace vkv::kv {

inline constexpr uint16_t kTileMagic = 0x4B01;  // 'K', version 1
inline constexpr size_t kTileHeaderBytes = 40;
inline constexpr size_t kMaxTileData = 8080;
inline constexpr int kMaxHeadDim = 1024;
inline constexpr int kMaxKvHeads = 32767;

// Numbers are on disk: never reuse.
//   f16            halves, no scales
//   int8           round(x / s), stored + 128; s a half a token and 128 dims
//   uniformB       B bits, x = min + s * code; s and min two halves a token and 64 dims: scale plane [2 * groups][tokens], the
//   scales
//                  of all groups first, then the minima
//   rotatedB       B bits, x = R^-1 (s * level[code]): R a random-sign Hadamard rotation over the head dimension (rotation.h),
//   level
//                  int8 Lloyd-Max levels of a normal distribution, s one half a token
enum class Codec : uint8_t {
    f16 = 0,
    int8 = 1,
    uniform4 = 2,
    uniform3 = 3,
    uniform2 = 4,
    rotated4 = 5,
    rotated3 = 6,
    rotated2 = 7,
};
inline constexpr int kCodecs = 8;

constexpr int bits_of(Codec codec)
{
    constexpr int kBits[kCodecs] = {16, 8, 4, 3, 2, 4, 3, 2};
    return kBits[static_cast<int>(codec)];
}
constexpr bool is_rotated(Codec codec) { return codec >= Codec::rotated4; }
constexpr bool is_uniform(Codec codec) { return codec >= Codec::uniform4 && codec <= Codec::uniform2; }

// "f16", "int8", "int4_uniform", "int4_rotated", ...; the short "int4", "int3", "int2" name the better of the two (kShortNames).
Codec codec_named(const std::string &name);  // throws Error(invalid_parameter) that lists the names
const char *codec_name(Codec codec);         // the short name where it means this codec

enum TileFlags : uint8_t {
    kValuesInKeys = 1,    // no V plane: V is the first dim_v dims of K (multi-head latent attention)
    kKeysBeforeRope = 2,  // K is stored before the rotary position embedding and rotated when read
};

struct TileHeader {
    uint32_t varlena;  // PostgreSQL's length word; ours to skip
    uint16_t magic;
    uint8_t codec;
    uint8_t flags;
    uint16_t tokens;
    uint16_t dim_k;
    uint16_t dim_v;
    uint16_t head;   // KV head, from 0
    uint16_t heads;  // KV heads of the layer
    uint8_t means_k, means_v;
    uint32_t first;  // position of the first token; first + tokens <= 2^31 - 1
    uint32_t crc;    // CRC-32C of the tile but for the varlena word, this field and id
    uint32_t reserved2;
    uint64_t id;  // content id: random, given when a tile is built or read from outside; content never changes under an id
};
static_assert(sizeof(TileHeader) == kTileHeaderBytes && offsetof(TileHeader, id) == 32 && alignof(TileHeader) == 8);
static_assert(offsetof(TileHeader, means_k) == 18 && offsetof(TileHeader, first) == 20);

inline constexpr int kMostMeans = 16;  // of a tile, K and V together

// The means of K or of V, which their codes lack. Points into the tile.
struct Means {
    const uint16_t *values = nullptr;  // halves
    const uint8_t *channels = nullptr;
    int channel_bytes = 1, count = 0;
    int channel(int i) const { return channel_bytes == 1 ? channels[i] : channels[2 * i] | channels[2 * i + 1] << 8; }
};

// What a tile says of itself, and where its planes are. Points into the tile.
struct TileView {
    Codec codec = Codec::f16;
    uint8_t flags = 0;
    int tokens = 0, dim_k = 0, dim_v = 0, head = 0, heads = 0;
    int32_t first = 0;
    uint64_t id = 0;
    const uint8_t *k = nullptr, *v = nullptr;               // code planes; v is null under kValuesInKeys
    const uint8_t *k_high = nullptr, *v_high = nullptr;     // the 1-bit planes of 3-bit codes
    const uint16_t *k_scale = nullptr, *v_scale = nullptr;  // null for f16
    Means k_means = {}, v_means = {};                       // where values are in keys, those of the keys' first dims
    bool values_in_keys() const { return flags & kValuesInKeys; }
    bool before_rope() const { return flags & kKeysBeforeRope; }
};

struct TileShape {
    Codec codec = Codec::f16;
    uint8_t flags = 0;
    int dim_k = 0, dim_v = 0, heads = 0;
    int means = 0;  // of K and V together
};
TileShape shape_of(const TileHeader &header);

// Whole tile, header included; a multiple of 16 plus 8. 0 < tokens <= most_tokens(shape).
size_t tile_bytes(const TileShape &shape, int tokens);
// The most that a tile of so many tokens takes, whatever is in it.
size_t most_tile_bytes(const TileShape &shape, int tokens);
// Tokens of a full tile: the most that fit, less up to a fiftieth that leaves room for means. Throws Error(invalid_parameter) for
// dimensions outside 1..1024, v > k with values in keys.
int tile_capacity(const TileShape &shape);
// What fits without means: tiles of before there were means have so many. Throws as tile_capacity.
int most_tokens(const TileShape &shape);

// Checks header, dimensions and size (not the checksum); throws Error(data_corrupted) that names what is wrong. bytes are
// 8-aligned.
TileView view_tile(const void *tile, size_t bytes);
uint32_t tile_checksum(const void *tile, size_t bytes);  // what TileHeader::crc must be
uint64_t new_tile_id();                                  // 64 random bits of the operating system

// Builds a tile at `out` (room for most_tile_bytes(shape, tokens), 8-aligned; the varlena word is left alone) and returns its size:
// k [tokens][dim_k] and v [tokens][dim_v] are halves with a stride in elements from token to token; v null under kValuesInKeys.
// Values must be finite. shape.means does not count.
struct Rows {
    const uint16_t *data = nullptr;
    size_t stride = 0;
};
size_t encode_tile(const TileShape &shape, int head, int32_t first, int tokens, Rows k, Rows v, void *out);

// Reference decoding, back in the caller's basis: k [tokens][dim_k], v [tokens][dim_v]; either may be null.
void decode_tile(const TileView &tile, float *k, float *v);

TileShape shape_of(const TileView &tile);

// The first `tokens` of a tile as a tile of its own (same codes and means, new id).
void clip_tile(const TileView &tile, int tokens, void *out);

}  // namespace vkv::kv
