// The tile as a format: bytes of small tiles, sizes, capacity, every field of the header broken once, clipping, ids and checksum.
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <set>
#include <thread>

#include "core/kv/crc32c.h"
#include "kv_rows.h"

namespace vkv::kv {
namespace {

uint32_t word_at(const uint8_t *plane, size_t index)
{
    uint32_t word;
    std::memcpy(&word, plane + 4 * index, sizeof word);
    return word;
}

// ---- names -----------------------------------------------------------------------------------------------------------------

TEST(TileNames, EveryCodecHasOneThatNamesIt)
{
    for (Codec codec : all_codecs()) EXPECT_EQ(codec_named(codec_name(codec)), codec);
    EXPECT_EQ(codec_named("int4_uniform"), Codec::uniform4);
    EXPECT_EQ(codec_named("int2_rotated"), Codec::rotated2);
    EXPECT_EQ(bits_of(codec_named("int3")), 3);
    const Error error = error_of([] { codec_named("int5"); });
    EXPECT_EQ(error.code(), Errc::invalid_parameter);
    EXPECT_EQ(error.message(), "unknown codec \"int5\"");
    EXPECT_NE(error.hint().find("int4_rotated"), std::string::npos);
}

// ---- bytes -----------------------------------------------------------------------------------------------------------------

// Two tokens of three dimensions; halves 1..6 and 11..16.
TEST(TileBytes, HalvesInWordsAlongDimsAndTokens)
{
    const Tile tile({Codec::f16, 0, 3, 3, 1}, 2, to_halves({1, 2, 3, 4, 5, 6}), to_halves({11, 12, 13, 14, 15, 16}));
    ASSERT_EQ(tile.bytes(), 40u + 16 + 16);
    const TileView view = tile.view();
    EXPECT_EQ(view.k, tile.data() + 40);
    EXPECT_EQ(view.v, tile.data() + 56);
    EXPECT_EQ(view.k_scale, nullptr);
    const uint32_t k[4] = {0x40003C00, 0x45004400, 0x00004200, 0x00004600};  // dims 0 and 1 of both tokens, then dim 2
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(word_at(view.k, i), k[i]) << i;
    const uint32_t v[4] = {0x4B004980, 0x4B804A00, 0x4C004A80, 0};  // tokens 0 and 1 of each dim; padding
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(word_at(view.v, i), v[i]) << i;
}

TEST(TileBytes, BytesOfInt8)
{
    // 127 and -127 make the step 1, so that codes are values + 128.
    const Tile tile({Codec::int8, 0, 5, 2, 1}, 2, to_halves({127, 1, 2, 3, 4, -127, -1, -2, -3, -4}), to_halves({127, 5, -127, 6}));
    const TileView view = tile.view();
    ASSERT_EQ(tile.bytes(), 40u + 16 + 16 + 16 + 16);
    EXPECT_EQ(word_at(view.k, 0), 0x838281FFu);
    EXPECT_EQ(word_at(view.k, 1), 0x7D7E7F01u);
    EXPECT_EQ(word_at(view.k, 2), 0x00000084u);  // what pads is 0
    EXPECT_EQ(word_at(view.k, 3), 0x0000007Cu);
    EXPECT_EQ(word_at(view.v, 0), 0x000001FFu);
    EXPECT_EQ(word_at(view.v, 1), 0x00008685u);
    EXPECT_EQ(view.k_scale[0], 0x3C00);
    EXPECT_EQ(view.k_scale[1], 0x3C00);
    EXPECT_EQ(view.v_scale, view.k_scale + 8);
}

TEST(TileBytes, NibblesAreFourConsecutiveElementsAByteEach)
{
    // 0..15 makes minimum 0 and step 1: codes are values. Both tokens of K hold them; V holds them along the tokens.
    std::vector<float> k, v;
    for (int t = 0; t < 16; ++t)
        for (int d = 0; d < 16; ++d) k.push_back(static_cast<float>(t % 2 ? 15 - d : d));
    for (int t = 0; t < 16; ++t)
        for (int d = 0; d < 16; ++d) v.push_back(static_cast<float>((t + d) % 16));
    const Tile tile({Codec::uniform4, 0, 16, 16, 1}, 16, to_halves(k), to_halves(v));
    const TileView view = tile.view();
    EXPECT_EQ(word_at(view.k, 0), 0x73625140u);   // dims 0..7 of token 0
    EXPECT_EQ(word_at(view.k, 1), 0x8C9DAEBFu);   // of token 1
    EXPECT_EQ(word_at(view.k, 16), 0xFBEAD9C8u);  // dims 8..15 of token 0
    EXPECT_EQ(word_at(view.v, 0), 0x73625140u);   // tokens 0..7 of dim 0
    EXPECT_EQ(word_at(view.v, 1), 0x84736251u);   // of dim 1
    EXPECT_EQ(word_at(view.v, 16), 0xFBEAD9C8u);  // tokens 8..15 of dim 0
    EXPECT_EQ(view.k_scale[0], 0x3C00);           // steps, then minima
    EXPECT_EQ(view.k_scale[16], 0);
    EXPECT_EQ(view.v - view.k, 2 * 16 * 4);
}

TEST(TileBytes, ThreeBitCodesAreTwoPlanes)
{
    std::vector<float> k(32), v(32);
    for (size_t d = 0; d < 32; ++d) k[d] = static_cast<float>(d % 8);
    for (size_t d = 0; d < 32; ++d) v[d] = static_cast<float>(7 - d % 8);
    const Tile tile({Codec::uniform3, 0, 32, 32, 1}, 1, to_halves(k), to_halves(v));
    const TileView view = tile.view();
    // Elements 0..3 (codes 0..3) in field 0, 4..7 (low bits 0..3 again) in field 1, and so on.
    EXPECT_EQ(word_at(view.k, 0), 0xFFAA5500u);
    EXPECT_EQ(word_at(view.k, 1), 0xFFAA5500u);
    EXPECT_EQ(word_at(view.k_high, 0), 0xAAAAAAAAu);  // elements 4..7 of each eight: fields 1, 3, 5, 7
    EXPECT_EQ(view.k_high - view.k, 16);
    EXPECT_EQ(word_at(view.v, 0), 3u);
    EXPECT_EQ(word_at(view.v, 1), 2u);
    EXPECT_EQ(word_at(view.v_high, 0), 1u);
    EXPECT_EQ(word_at(view.v_high, 4), 0u);
}

TEST(TileBytes, TwoBitCodesOfSeventeenTokens)
{
    std::vector<float> v;
    for (int t = 0; t < 17; ++t)
        for (int d = 0; d < 4; ++d) v.push_back(static_cast<float>((t + d) % 4));
    const Tile tile({Codec::uniform2, 0, 4, 4, 1}, 17, to_halves(v), to_halves(v));
    const TileView view = tile.view();
    EXPECT_EQ(word_at(view.v, 0), 0xFFAA5500u);  // tokens 0..15 of dim 0
    EXPECT_EQ(word_at(view.v, 3), 0xAA5500FFu);
    EXPECT_EQ(word_at(view.v, 4), 0u);  // token 16
    EXPECT_EQ(word_at(view.v, 7), 3u);
    EXPECT_EQ(word_at(view.k, 0), 0x03020100u);
    EXPECT_EQ(word_at(view.k, 1), 0x00030201u);
}

// ---- sizes -----------------------------------------------------------------------------------------------------------------

TEST(TileSize, CapacityIsNearlyTheMostThatFits)
{
    for (Codec codec : all_codecs())
        for (int dim_k = 1; dim_k <= kMaxHeadDim; dim_k = dim_k * 5 / 4 + 1)
            for (int dim_v : {1, 20, 64, 128, 512})
                for (uint8_t flags : {0, 1}) {
                    if (flags && dim_v > dim_k) continue;
                    const TileShape shape{codec, flags, dim_k, dim_v, 1};
                    const int most = most_tokens(shape), capacity = tile_capacity(shape);
                    ASSERT_GE(capacity, 1);
                    ASSERT_LE(capacity, most);
                    ASSERT_GE(50 * capacity, 49 * most);
                    ASSERT_TRUE(codec != Codec::f16 || capacity == most);
                    ASSERT_LE(tile_bytes(shape, most), kTileHeaderBytes + kMaxTileData);
                    ASSERT_LE(most_tile_bytes(shape, capacity), kTileHeaderBytes + kMaxTileData);
                    for (int more = 1; more <= 40; ++more)
                        ASSERT_GT(tile_bytes(shape, most + more), kTileHeaderBytes + kMaxTileData);
                    ASSERT_EQ(tile_bytes(shape, capacity) % 16, 8u);
                }
}

TEST(TileSize, KnownCapacities)
{
    const auto capacity = [](Codec codec, int dim, uint8_t flags = 0) { return tile_capacity({codec, flags, dim, dim, 1}); };
    EXPECT_EQ(capacity(Codec::f16, 64), 31);
    EXPECT_EQ(capacity(Codec::f16, 128), 15);
    EXPECT_EQ(capacity(Codec::int8, 64), 60);
    EXPECT_EQ(capacity(Codec::int8, 128), 30);
    EXPECT_EQ(capacity(Codec::rotated4, 64), 116);
    EXPECT_EQ(capacity(Codec::rotated4, 128), 58);
    EXPECT_EQ(capacity(Codec::rotated2, 128), 112);
    EXPECT_EQ(tile_capacity({Codec::f16, kValuesInKeys, 576, 512, 1}), 7);  // multi-head latent attention
}

TEST(TileSize, ImpossibleShapesAreRefused)
{
    const auto message = [](TileShape shape) {
        const Error error = error_of([&] { tile_capacity(shape); });
        EXPECT_EQ(error.code(), Errc::invalid_parameter);
        return error.message();
    };
    EXPECT_EQ(message({Codec::f16, 0, 0, 64, 1}), "head dimension 0 is outside the valid range 1 to 1024");
    EXPECT_EQ(message({Codec::f16, 0, 64, 1025, 1}), "head dimension 1025 is outside the valid range 1 to 1024");
    EXPECT_EQ(message({Codec::f16, kValuesInKeys, 64, 65, 1}),
              "value dimension 65 exceeds key dimension 64, although values are part of the keys");
    EXPECT_NE(message({Codec::rotated3, 0, 1024, 1024, 1}).find("no room"), std::string::npos);
}

TEST(TileSize, EncodeRefusesWhatHasNoPlace)
{
    const TileShape shape{Codec::f16, 0, 4, 4, 2};
    const Halves rows(4 * 2000);
    std::vector<uint64_t> out(2048);
    const auto message = [&](TileShape of, int head, int32_t first, int tokens) {
        const Error error = error_of([&] { encode_tile(of, head, first, tokens, {rows.data(), 4}, {rows.data(), 4}, out.data()); });
        EXPECT_EQ(error.code(), Errc::invalid_parameter);
        return error.message();
    };
    EXPECT_EQ(message(shape, 2, 0, 1), "head 2 is outside the valid range 0 to 1");
    EXPECT_EQ(message(shape, 0, 0, 0),
              "0 tokens are outside the valid range 1 to " + std::to_string(tile_capacity(shape)) + " of a tile");
    EXPECT_NE(message(shape, 0, 0, tile_capacity(shape) + 1), "");
    EXPECT_NE(message(shape, 0, -1, 1).find("position -1"), std::string::npos);
    EXPECT_NE(message(shape, 0, INT32_MAX - 1, 2).find("position 2147483646"), std::string::npos);
    EXPECT_EQ(message({Codec::f16, 0, 4, 4, 0}, 0, 0, 1), "0 key-value heads are outside the valid range 1 to 32767");
    EXPECT_EQ(message({Codec::f16, 8, 4, 4, 1}, 0, 0, 1), "tile flags 8 are unknown");
    EXPECT_EQ(message({static_cast<Codec>(8), 0, 4, 4, 1}, 0, 0, 1), "codec number 8 is unknown");
    encode_tile(shape, 1, INT32_MAX - 2, 2, {rows.data(), 4}, {rows.data(), 4}, out.data());
    EXPECT_EQ(view_tile(out.data(), tile_bytes(shape, 2)).first, INT32_MAX - 2);
}

// ---- headers ---------------------------------------------------------------------------------------------------------------

TEST(TileHeader, SaysWhatWasEncoded)
{
    const TileShape shape{Codec::rotated3, kKeysBeforeRope, 80, 40, 5};
    const Tile tile(shape, 7, normal_halves(7 * 80, 1), normal_halves(7 * 40, 2), 4, 123456);
    EXPECT_TRUE(tile.guarded());
    const TileView view = tile.view();
    EXPECT_EQ(view.codec, Codec::rotated3);
    EXPECT_EQ(view.flags, kKeysBeforeRope);
    EXPECT_TRUE(view.before_rope());
    EXPECT_FALSE(view.values_in_keys());
    EXPECT_EQ(view.tokens, 7);
    EXPECT_EQ(view.dim_k, 80);
    EXPECT_EQ(view.dim_v, 40);
    EXPECT_EQ(view.head, 4);
    EXPECT_EQ(view.heads, 5);
    EXPECT_EQ(view.first, 123456);
    EXPECT_NE(view.id, 0u);
}

TEST(TileHeader, EveryBrokenFieldIsNamed)
{
    const Tile good({Codec::uniform4, 0, 64, 64, 3}, 20, normal_halves(20 * 64, 1), normal_halves(20 * 64, 2), 1, 100);
    struct Case {
        const char *message;
        std::function<void(TileHeader &)> change;
    };
    const Case cases[] = {
        {"unknown format 19202", [](TileHeader &h) { h.magic = 0x4B02; }},
        {"unknown codec 8", [](TileHeader &h) { h.codec = 8; }},
        {"unknown flags 4", [](TileHeader &h) { h.flags = 4; }},
        {"tokens 0", [](TileHeader &h) { h.tokens = 0; }},
        {"key dimension 0", [](TileHeader &h) { h.dim_k = 0; }},
        {"key dimension 1025", [](TileHeader &h) { h.dim_k = 1025; }},
        {"value dimension 0", [](TileHeader &h) { h.dim_v = 0; }},
        {"value dimension 65535", [](TileHeader &h) { h.dim_v = 65535; }},
        {"values in keys with value dimension 65", [](TileHeader &h) { h.flags = kValuesInKeys, h.dim_v = 65; }},
        {"number of heads 0", [](TileHeader &h) { h.heads = 0; }},
        {"number of heads 32768", [](TileHeader &h) { h.heads = 32768; }},
        {"head 3", [](TileHeader &h) { h.head = 3; }},
        {"first position 2147483628", [](TileHeader &h) { h.first = INT32_MAX - 19; }},
        {"reserved field 2", [](TileHeader &h) { h.reserved2 = 2; }},
        {"means of channels 17", [](TileHeader &h) { h.means_k = 9, h.means_v = 8; }},
        {"means of channels 1", [](TileHeader &h) { h.codec = 0, h.means_v = 1; }},
        {"means of values in keys 1", [](TileHeader &h) { h.flags = kValuesInKeys, h.means_v = 1; }},
        {"size in bytes", [](TileHeader &h) { h.means_k = 1; }},
        {"size in bytes", [](TileHeader &h) { h.tokens = 21; }},
        {"size in bytes", [](TileHeader &h) { h.tokens = 65535; }},
        {"size in bytes", [](TileHeader &h) { h.codec = 0; }},
        {"size in bytes", [](TileHeader &h) { h.flags = kValuesInKeys; }},
        {"size in bytes", [](TileHeader &h) { h.dim_k = 1024; }},
    };
    for (const Case &broken : cases) {
        Tile tile = good;
        broken.change(tile.header());
        const Error error = error_of([&] { tile.view(); });
        EXPECT_EQ(error.code(), Errc::data_corrupted) << broken.message;
        EXPECT_EQ(error.message().find(std::string("tile is corrupt: ") + broken.message), 0u) << error.message();
    }
    for (size_t bytes : {size_t{0}, size_t{39}, good.bytes() - 16, good.bytes() + 16})
        EXPECT_NE(error_of([&] { view_tile(good.data(), bytes); }).message().find("size in bytes"), std::string::npos);
    Tile last = good;
    last.header().first = INT32_MAX - 20;
    EXPECT_EQ(last.view().first, INT32_MAX - 20);
}

TEST(TileHeader, ChecksumCoversAllButLengthChecksumAndId)
{
    Tile tile({Codec::int8, 0, 5, 5, 1}, 3, normal_halves(15, 1), normal_halves(15, 2));
    const uint32_t crc = tile.header().crc;
    EXPECT_EQ(tile_checksum(tile.data(), tile.bytes()), crc);
    for (size_t i = 0; i < tile.bytes(); ++i) {
        tile.data()[i] ^= 0x10;
        const bool covered = !(i < 4 || (i >= 24 && i < 28) || (i >= 32 && i < 40));
        EXPECT_EQ(tile_checksum(tile.data(), tile.bytes()) != crc, covered) << i;
        tile.data()[i] ^= 0x10;
    }
}

TEST(Crc32c, KnownValuesAndBothWaysAgree)
{
    EXPECT_EQ(crc32c(0, "123456789", 9), 0xE3069283u);
    EXPECT_EQ(crc32c_by_tables(0, "123456789", 9), 0xE3069283u);
    std::vector<uint8_t> bytes(100);
    EXPECT_EQ(crc32c(0, bytes.data(), 32), 0x8A9136AAu);  // RFC 3720, B.4
    std::mt19937 random(1);
    for (uint8_t &byte : bytes) byte = static_cast<uint8_t>(random());
    for (size_t n = 0; n <= bytes.size(); ++n)
        for (size_t at : {0, 1, 3})
            if (at <= n) {
                const uint32_t whole = crc32c_by_tables(7, bytes.data() + at, n - at);
                EXPECT_EQ(crc32c(7, bytes.data() + at, n - at), whole);
                const size_t middle = at + (n - at) / 3;
                EXPECT_EQ(crc32c(crc32c(7, bytes.data() + at, middle - at), bytes.data() + middle, n - middle), whole);
            }
}

// ---- clipping --------------------------------------------------------------------------------------------------------------

TEST(TileClip, IsTheTileOfTheFirstTokens)
{
    for (Codec codec : all_codecs())
        for (uint8_t flags : {0, 1, 2}) {
            const TileShape shape{codec, flags, 20, 12, 4};
            const int tokens = 70;
            const Halves k = normal_halves(70 * 20, 3), v = normal_halves(70 * 12, 4);
            const Tile whole(shape, tokens, k, v, 2, 9);
            for (int kept : {1, 2, 3, 15, 16, 17, 31, 32, 33, 63, 64, 69, 70}) {
                Tile clipped(tile_bytes(shape, kept));
                clip_tile(whole.view(), kept, clipped.data());
                EXPECT_TRUE(clipped.guarded());
                const Tile fresh(shape, kept, k, v, 2, 9);
                // A token's codes depend on nothing else, so a clipped tile is the one that would have been encoded.
                EXPECT_EQ(clipped.planes(), fresh.planes()) << codec_name(codec) << ", " << kept;
                EXPECT_EQ(clipped.header().crc, tile_checksum(fresh.data(), fresh.bytes()));
                EXPECT_NE(clipped.header().id, whole.view().id);
                EXPECT_EQ(clipped.view().first, 9);
                EXPECT_EQ(clipped.view().head, 2);
            }
            std::vector<uint64_t> out(2048);
            for (int kept : {0, -1, 71})
                EXPECT_EQ(error_of([&] { clip_tile(whole.view(), kept, out.data()); }).code(), Errc::invalid_parameter);
        }
}

// ---- ids -------------------------------------------------------------------------------------------------------------------

TEST(TileId, AreUniqueAcrossThreadsAndProcesses)
{
    constexpr size_t kEach = 20000;
    std::vector<uint64_t> ids(4 * kEach);
    const auto fill = [&](size_t part) {
        for (size_t i = 0; i < kEach; ++i) ids[part * kEach + i] = new_tile_id();
    };
    fill(0);
    std::thread other(fill, 1), third(fill, 2);
    other.join();
    third.join();
    // A child that was forked with ids in stock must not give out the same ones.
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        uint64_t own[100];
        for (uint64_t &id : own) id = new_tile_id();
        const bool sent = write(pipe_ends[1], own, sizeof own) == sizeof own;
        _exit(sent ? 0 : 1);
    }
    uint64_t of_child[100];
    ASSERT_EQ(read(pipe_ends[0], of_child, sizeof of_child), static_cast<ssize_t>(sizeof of_child));
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    fill(3);
    ids.insert(ids.end(), of_child, of_child + 100);
    const std::set<uint64_t> distinct(ids.begin(), ids.end());
    EXPECT_EQ(distinct.size(), ids.size());
    EXPECT_EQ(distinct.count(0), 0u);
}

}  // namespace
}  // namespace vkv::kv
