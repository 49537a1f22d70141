// The tile as a format: names of codecs, sizes, the view of a header, checksum and content id. What is inside the planes is the
// business of encode*.cpp, decode.cpp and clip.cpp.
#include "core/kv/tile.h"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include "core/kv/crc32c.h"
#include "core/kv/tile_layout.h"

namespace vkv::kv {
namespace {

constexpr const char *kFullNames[kCodecs] = {"f16",          "int8",         "int4_uniform", "int3_uniform",
                                             "int2_uniform", "int4_rotated", "int3_rotated", "int2_rotated"};

struct ShortName {
    const char *name;
    Codec codec;
};
// Whichever of the two loses less perplexity at these bits (docs of the codecs have the figures).
constexpr ShortName kShortNames[] = {{"int4", Codec::rotated4}, {"int3", Codec::rotated3}, {"int2", Codec::rotated2}};

constexpr size_t pad16(size_t bytes) { return (bytes + 15) / 16 * 16; }

std::string shape_of(const TileShape &shape)
{
    return std::string("codec ") + codec_name(shape.codec) + " with key dimension " + std::to_string(shape.dim_k) +
           " and value dimension " + std::to_string(shape.dim_v);
}

void check_dims(const TileShape &shape)
{
    for (int dim : {shape.dim_k, shape.dim_v})
        if (dim < 1 || dim > kMaxHeadDim)
            throw Error(Errc::invalid_parameter, "head dimension " + std::to_string(dim) + " is outside the valid range 1 to " +
                                                     std::to_string(kMaxHeadDim));
    if ((shape.flags & kValuesInKeys) && shape.dim_v > shape.dim_k)
        throw Error(Errc::invalid_parameter, "value dimension " + std::to_string(shape.dim_v) + " exceeds key dimension " +
                                                 std::to_string(shape.dim_k) + ", although values are part of the keys");
}

}  // namespace

Codec codec_named(const std::string &name)
{
    for (const ShortName &entry : kShortNames)
        if (name == entry.name) return entry.codec;
    for (int i = 0; i < kCodecs; ++i)
        if (name == kFullNames[i]) return static_cast<Codec>(i);
    std::string all;
    for (const char *known : kFullNames) all += std::string(all.empty() ? "" : ", ") + known;
    for (const ShortName &entry : kShortNames) all += std::string(", ") + entry.name;
    throw Error(Errc::invalid_parameter, "unknown codec \"" + name + "\"", "Valid codecs are " + all + ".");
}

const char *codec_name(Codec codec)
{
    for (const ShortName &entry : kShortNames)
        if (codec == entry.codec) return entry.name;
    return static_cast<int>(codec) < kCodecs ? kFullNames[static_cast<int>(codec)] : "unknown";
}

// ---- sizes ---------------------------------------------------------------------------------------------------------------

TileLayout tile_layout(const TileShape &shape, int tokens)
{
    const Codec codec = shape.codec;
    const bool values = !(shape.flags & kValuesInKeys), high = has_high_plane(codec);
    const auto scales = [&](int dim) {
        return static_cast<size_t>(scale_rows(codec, dim)) * static_cast<size_t>(tokens) * sizeof(uint16_t);
    };
    TileLayout at;
    at.k_high = at.k + pad16(k_plane_bytes(low_bits(codec), tokens, shape.dim_k));
    at.v = at.k_high + (high ? pad16(k_plane_bytes(1, tokens, shape.dim_k)) : 0);
    at.v_high = at.v + (values ? pad16(v_plane_bytes(low_bits(codec), tokens, shape.dim_v)) : 0);
    at.k_scale = at.v_high + (values && high ? pad16(v_plane_bytes(1, tokens, shape.dim_v)) : 0);
    at.v_scale = at.k_scale + pad16(scales(shape.dim_k));
    at.means = values ? at.v_scale + scales(shape.dim_v) : at.k_scale + scales(shape.dim_k);
    at.end = pad16(at.means + static_cast<size_t>(shape.means) * mean_bytes(shape));
    return at;
}

size_t tile_bytes(const TileShape &shape, int tokens) { return kTileHeaderBytes + tile_layout(shape, tokens).end; }

int most_means(const TileShape &shape, int tokens)
{
    if (shape.codec == Codec::f16) return 0;
    const size_t room = kMaxTileData - tile_layout(shape, tokens).means;
    return static_cast<int>(std::min<size_t>(room / mean_bytes(shape), kMostMeans));
}

size_t most_tile_bytes(const TileShape &shape, int tokens)
{
    TileShape with_means = shape;
    with_means.means = most_means(shape, tokens);
    return tile_bytes(with_means, tokens);
}

int most_tokens(const TileShape &shape)
{
    check_dims(shape);
    // Sizes grow with tokens, and a token takes more than 4 bytes: its smallest word of K.
    int fits = 0, too_many = kMaxTileData / 4 + 1;
    while (too_many - fits > 1) {
        const int middle = (fits + too_many) / 2;
        (pad16(tile_layout(shape, middle).means) <= kMaxTileData ? fits : too_many) = middle;
    }
    if (fits == 0)
        throw Error(Errc::invalid_parameter, "a tile has no room for a token: " + shape_of(shape),
                    "Use another codec: codes of three bits take up to 8 bytes for each value dimension of a tile's first token.");
    return fits;
}

// A token less where that makes room for as many means as keys of models have, but not at the price of more than a fiftieth.
int tile_capacity(const TileShape &shape)
{
    constexpr int kUsualMeans = 8;
    const int most = most_tokens(shape);
    if (shape.codec == Codec::f16) return most;
    int best = most;
    for (int tokens = most; (most - tokens) * 50 <= most && most_means(shape, best) < kUsualMeans; --tokens)
        if (most_means(shape, tokens) > most_means(shape, best)) best = tokens;
    return best;
}

TileShape shape_of(const TileHeader &header)
{
    return {static_cast<Codec>(header.codec), header.flags, header.dim_k, header.dim_v, header.heads,
            header.means_k + header.means_v};
}

TileShape shape_of(const TileView &tile)
{
    const int means_v = tile.values_in_keys() ? 0 : tile.v_means.count;  // else they are some of K's
    return {tile.codec, tile.flags, tile.dim_k, tile.dim_v, tile.heads, tile.k_means.count + means_v};
}

void check_shape(const TileShape &shape)
{
    check_dims(shape);
    if (static_cast<int>(shape.codec) >= kCodecs)
        throw Error(Errc::invalid_parameter, "codec number " + std::to_string(static_cast<int>(shape.codec)) + " is unknown");
    if (shape.flags & ~(kValuesInKeys | kKeysBeforeRope))
        throw Error(Errc::invalid_parameter, "tile flags " + std::to_string(shape.flags) + " are unknown");
    if (shape.heads < 1 || shape.heads > kMaxKvHeads)
        throw Error(Errc::invalid_parameter, std::to_string(shape.heads) + " key-value heads are outside the valid range 1 to " +
                                                 std::to_string(kMaxKvHeads));
}

// ---- header ----------------------------------------------------------------------------------------------------------------

namespace {

class Checks {
public:
    explicit Checks(Errc code) : code_(code) {}
    void require(bool holds, const char *what, uint64_t value) const
    {
        if (!holds) throw Error(code_, std::string("tile is corrupt: ") + what + " " + std::to_string(value));
    }

private:
    Errc code_;
};

void check_header(const TileHeader &header, size_t bytes, const Checks &checks)
{
    checks.require(header.magic == kTileMagic, "unknown format", header.magic);
    checks.require(header.codec < kCodecs, "unknown codec", header.codec);
    checks.require((header.flags & ~(kValuesInKeys | kKeysBeforeRope)) == 0, "unknown flags", header.flags);
    checks.require(header.tokens > 0, "tokens", header.tokens);
    checks.require(header.dim_k > 0 && header.dim_k <= kMaxHeadDim, "key dimension", header.dim_k);
    checks.require(header.dim_v > 0 && header.dim_v <= kMaxHeadDim, "value dimension", header.dim_v);
    checks.require(!(header.flags & kValuesInKeys) || header.dim_v <= header.dim_k, "values in keys with value dimension",
                   header.dim_v);
    checks.require(header.heads > 0 && header.heads <= kMaxKvHeads, "number of heads", header.heads);
    checks.require(header.head < header.heads, "head", header.head);
    checks.require(uint64_t{header.first} + header.tokens <= INT32_MAX, "first position", header.first);
    checks.require(header.reserved2 == 0, "reserved field", header.reserved2);
    const int means = header.means_k + header.means_v;
    checks.require(means <= (header.codec == static_cast<uint8_t>(Codec::f16) ? 0 : kMostMeans), "means of channels",
                   static_cast<uint64_t>(means));
    checks.require(!(header.flags & kValuesInKeys) || header.means_v == 0, "means of values in keys", header.means_v);
    checks.require(bytes <= kTileHeaderBytes + kMaxTileData, "size in bytes", bytes);
}

// Channels lead to memory, so they are looked at whenever a tile is.
void check_means(const Means &means, int dim, const Checks &checks)
{
    for (int i = 0, last = -1; i < means.count; last = means.channel(i++)) {
        checks.require(means.channel(i) < dim && means.channel(i) > last, "mean of channel",
                       static_cast<uint64_t>(means.channel(i)));
        checks.require((means.values[i] & 0x7C00) != 0x7C00, "mean", means.values[i]);
    }
}

void find_means(const uint8_t *at, const TileShape &shape, const TileHeader &header, const Checks &checks, TileView *view)
{
    const int width = static_cast<int>(channel_bytes(shape));
    const auto *values = reinterpret_cast<const uint16_t *>(at);
    const uint8_t *channels = at + static_cast<size_t>(shape.means) * sizeof *values;
    view->k_means = {values, channels, width, header.means_k};
    view->v_means = {values + header.means_k, channels + width * header.means_k, width, header.means_v};
    check_means(view->k_means, shape.dim_k, checks);
    check_means(view->v_means, shape.dim_v, checks);
    if (!view->values_in_keys()) return;
    // Values that are the first dims of the keys have their means.
    view->v_means = {values, channels, width, 0};
    while (view->v_means.count < header.means_k && view->k_means.channel(view->v_means.count) < shape.dim_v) ++view->v_means.count;
}

}  // namespace

TileView view_tile_as(const void *tile, size_t bytes, Errc code)
{
    const Checks checks(code);
    checks.require(bytes >= kTileHeaderBytes, "size in bytes", bytes);
    const auto &header = *static_cast<const TileHeader *>(tile);
    check_header(header, bytes, checks);
    const TileShape shape = shape_of(header);
    const TileLayout at = tile_layout(shape, header.tokens);
    checks.require(bytes == kTileHeaderBytes + at.end, "size in bytes", bytes);
    const auto *planes = static_cast<const uint8_t *>(tile) + kTileHeaderBytes;
    const bool values = !(shape.flags & kValuesInKeys), high = has_high_plane(shape.codec), scaled = shape.codec != Codec::f16;
    TileView view{.codec = shape.codec,
                  .flags = shape.flags,
                  .tokens = header.tokens,
                  .dim_k = shape.dim_k,
                  .dim_v = shape.dim_v,
                  .head = header.head,
                  .heads = shape.heads,
                  .first = static_cast<int32_t>(header.first),
                  .id = header.id,
                  .k = planes + at.k,
                  .v = values ? planes + at.v : nullptr,
                  .k_high = high ? planes + at.k_high : nullptr,
                  .v_high = values && high ? planes + at.v_high : nullptr,
                  .k_scale = scaled ? reinterpret_cast<const uint16_t *>(planes + at.k_scale) : nullptr,
                  .v_scale = values && scaled ? reinterpret_cast<const uint16_t *>(planes + at.v_scale) : nullptr};
    if (shape.means > 0) find_means(planes + at.means, shape, header, checks, &view);
    return view;
}

TileView view_tile(const void *tile, size_t bytes) { return view_tile_as(tile, bytes, Errc::data_corrupted); }

uint32_t tile_checksum(const void *tile, size_t bytes)
{
    const auto *p = static_cast<const uint8_t *>(tile);
    constexpr size_t kAfterCrc = offsetof(TileHeader, reserved2), kId = offsetof(TileHeader, id);
    constexpr size_t kMagic = offsetof(TileHeader, magic);
    uint32_t crc = crc32c(0, p + kMagic, offsetof(TileHeader, crc) - kMagic);
    crc = crc32c(crc, p + kAfterCrc, kId - kAfterCrc);
    return crc32c(crc, p + kTileHeaderBytes, bytes - kTileHeaderBytes);
}

void finish_tile(const TileShape &shape, const TilePlace &place, void *out)
{
    auto &header = *static_cast<TileHeader *>(out);
    header.magic = kTileMagic;
    header.codec = static_cast<uint8_t>(shape.codec);
    header.flags = shape.flags;
    header.tokens = static_cast<uint16_t>(place.tokens);
    header.dim_k = static_cast<uint16_t>(shape.dim_k);
    header.dim_v = static_cast<uint16_t>(shape.dim_v);
    header.head = static_cast<uint16_t>(place.head);
    header.heads = static_cast<uint16_t>(shape.heads);
    header.means_k = static_cast<uint8_t>(place.means_k);
    header.means_v = static_cast<uint8_t>(shape.means - place.means_k);
    header.first = static_cast<uint32_t>(place.first);
    header.reserved2 = 0;
    header.id = new_tile_id();
    header.crc = tile_checksum(out, tile_bytes(shape, place.tokens));
}

// ---- content ids -------------------------------------------------------------------------------------------------------------

namespace {

// Random numbers in stock. A process that was forked from this one must not give out the same: it starts with an empty stock.
struct Stock {
    uint64_t ids[32] = {};  // 256 bytes: what the system gives without interruption
    size_t left = 0;
    pid_t owner = 0;
};
thread_local constinit Stock stock;

void refill()
{
    size_t have = 0;
    while (have < sizeof stock.ids) {
        const ssize_t got = getrandom(reinterpret_cast<uint8_t *>(stock.ids) + have, sizeof stock.ids - have, 0);
        if (got > 0) have += static_cast<size_t>(got);
        if (got < 0 && errno != EINTR)
            throw Error(Errc::internal, std::string("the system gives no random numbers: ") + std::strerror(errno));
    }
    stock.left = std::size(stock.ids);
    stock.owner = getpid();
}

}  // namespace

// 0 is never given: it may mean "none".
uint64_t new_tile_id()
{
    for (;;) {
        if (stock.left == 0 || stock.owner != getpid()) refill();
        if (const uint64_t id = stock.ids[--stock.left]) return id;
    }
}

}  // namespace vkv::kv
