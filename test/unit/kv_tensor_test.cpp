// Tensors and states as values: element types, text, binary form, and what is refused. Tiles on the wire are here too, because they
// share its rules.
#include <limits>

#include "core/kv/state.h"
#include "core/kv/tensor.h"
#include "core/kv/tensor_text.h"
#include "core/kv/wire.h"
#include "core/simd/half.h"
#include "kv_rows.h"

namespace vkv::kv {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// ---- element types ---------------------------------------------------------------------------------------------------------

TEST(Dtype, Names)
{
    for (Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16}) EXPECT_EQ(dtype_named(dtype_name(dtype)), dtype);
    EXPECT_EQ(dtype_named("Float16"), Dtype::f16);
    EXPECT_EQ(dtype_named("half"), Dtype::f16);
    EXPECT_EQ(dtype_named("bfloat16"), Dtype::bf16);
    EXPECT_EQ(dtype_named("float32"), Dtype::f32);
    const Error error = error_of([] { dtype_named("f64"); });
    EXPECT_EQ(error.code(), Errc::invalid_parameter);
    EXPECT_EQ(error.message(), "unknown element type \"f64\"");
}

TEST(Dtype, EveryBrainFloatIsKeptAndRoundingIsToEven)
{
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
        const auto in = static_cast<uint16_t>(bits);
        const float value = element(Dtype::bf16, &in, 0);
        uint16_t out;
        from_f32(Dtype::bf16, &value, &out, 1);
        if (std::isnan(value))
            EXPECT_EQ(out, in | 0x40);
        else
            EXPECT_EQ(out, in);
    }
    const auto rounded = [](uint32_t bits) {
        float value;
        std::memcpy(&value, &bits, sizeof value);
        uint16_t out;
        from_f32(Dtype::bf16, &value, &out, 1);
        return out;
    };
    EXPECT_EQ(rounded(0x3F808000), 0x3F80);  // a tie, to even
    EXPECT_EQ(rounded(0x3F818000), 0x3F82);
    EXPECT_EQ(rounded(0x3F808001), 0x3F81);
    EXPECT_EQ(rounded(0x7F7FFFFF), 0x7F80);  // overflow
}

TEST(Dtype, CountsWhatHalvesDoNotHoldExactlyOfEveryBrainFloat)
{
    constexpr float kLargestHalf = 65504;
    std::vector<uint16_t> all(0x10000);
    size_t inexact = 0;
    for (size_t bits = 0; bits < all.size(); ++bits) {
        const auto in = all[bits] = static_cast<uint16_t>(bits);
        const float value = element(Dtype::bf16, &in, 0);
        // What is beyond the range of halves is refused elsewhere.
        const bool lost = std::fabs(value) <= kLargestHalf && half_to_float(float_to_half(value)) != value;
        EXPECT_EQ(inexact_bf16(&in, 1), lost ? 1u : 0u) << bits;
        inexact += lost;
    }
    EXPECT_EQ(inexact_bf16(all.data(), all.size()), inexact);
    EXPECT_GT(inexact, 0u);
    EXPECT_EQ(inexact_bf16(all.data(), 0), 0u);
}

TEST(Dtype, ConversionsAgreeWithElements)
{
    std::mt19937 random(1);
    std::vector<float> values(1000);
    for (float &value : values)
        value = std::ldexp(static_cast<float>(random() % 4001) - 2000.0f, static_cast<int>(random() % 25) - 20);
    for (Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
        std::vector<uint8_t> stored(values.size() * dtype_bytes(dtype));
        from_f32(dtype, values.data(), stored.data(), values.size());
        std::vector<float> wide(values.size());
        to_f32(dtype, stored.data(), wide.data(), wide.size());
        Halves halves(values.size());
        to_f16(dtype, stored.data(), halves.data(), halves.size());
        for (size_t i = 0; i < values.size(); ++i) {
            EXPECT_EQ(wide[i], element(dtype, stored.data(), i));
            EXPECT_EQ(halves[i], float_to_half(wide[i]));
            EXPECT_NEAR(wide[i], values[i],
                        std::fabs(values[i]) * (dtype == Dtype::f32   ? 0
                                                : dtype == Dtype::f16 ? 0x1p-11
                                                                      : 0x1p-8) +
                            0x1p-25);
        }
    }
}

TEST(Dtype, FindsTheFirstThatIsNoFiniteHalf)
{
    for (Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16})
        for (float bad : {kInfinity, -kInfinity, kNan, 65536.0f, -65536.0f})
            for (size_t at : {0, 1, 255, 256, 999}) {
                std::vector<float> values(1000, -60000);
                std::vector<uint8_t> stored(values.size() * dtype_bytes(dtype));
                from_f32(dtype, values.data(), stored.data(), values.size());
                EXPECT_EQ(first_not_finite_f16(dtype, stored.data(), 1000), 1000u);
                values[at] = bad;
                values[999] = bad;
                from_f32(dtype, values.data(), stored.data(), values.size());
                EXPECT_EQ(first_not_finite_f16(dtype, stored.data(), 1000), at);
            }
    const float edge[3] = {65504, 65519.99f, 65520};  // the last rounds to infinity
    EXPECT_EQ(first_not_finite_f16(Dtype::f32, edge, 3), 2u);
    Halves halves(2);
    to_f16(Dtype::f32, edge, halves.data(), 2);
    EXPECT_EQ(halves, Halves({0x7BFF, 0x7BFF}));
    EXPECT_EQ(first_not_finite_f16(Dtype::f32, nullptr, 0), 0u);
}

// ---- text of tensors -------------------------------------------------------------------------------------------------------

std::string round_trip(const std::string &text) { return tensor_text(parse_tensor(text).view()); }

// Long texts are walked in steps, between which somebody may end the walk.
TEST(TensorText, AsksAgainAndAgain)
{
    const auto steps = [](const std::string &text) {
        int asked = 0;
        parse_tensor(text, [&] { ++asked; });
        return asked;
    };
    constexpr size_t kLong = 1 << 20;
    std::string numbers = "{1";
    while (numbers.size() < kLong) numbers += ",1";
    EXPECT_GE(steps(numbers + "}"), 15);
    EXPECT_GE(steps(std::string(kLong, ' ') + "{1}"), 15);
    EXPECT_GE(steps("{1}" + std::string(kLong, '\n')), 15);
    EXPECT_GE(steps("{1" + std::string(kLong, ' ') + ",2}"), 15);
    EXPECT_EQ(steps("{1,2,3}"), 0);
    EXPECT_THROW(parse_tensor(numbers + "}", [] { throw std::runtime_error("enough"); }), std::runtime_error);
    const ParsedTensor parsed = parse_tensor(numbers + "}");
    int asked = 0;
    tensor_text(parsed.view(), [&] { ++asked; });
    EXPECT_GE(asked, 60);
}

TEST(TensorText, NumbersHaveAnEnd)
{
    EXPECT_EQ(round_trip("{0." + std::string(60000, '0') + "1}"), "f32[1]{0}");
    EXPECT_EQ(error_of([] { parse_tensor("{0." + std::string(70000, '0') + "1}"); }).code(), Errc::invalid_text);
}

TEST(TensorText, IsReadInEveryForm)
{
    EXPECT_EQ(round_trip("f16[2,3]{1,2,3,4,5,6}"), "f16[2,3]{1,2,3,4,5,6}");
    EXPECT_EQ(round_trip("{{1,2,3},{4,5,6}}"), "f32[2,3]{1,2,3,4,5,6}");
    EXPECT_EQ(round_trip("f16{{1,2},{3,4}}"), "f16[2,2]{1,2,3,4}");
    EXPECT_EQ(round_trip("[[1,2],[3,4]]"), "f32[2,2]{1,2,3,4}");
    EXPECT_EQ(round_trip("bf16[[1],[2]]"), "bf16[2,1]{1,2}");
    EXPECT_EQ(round_trip("[2,3]"), "f32[2]{2,3}");  // nothing follows: values
    EXPECT_EQ(round_trip("[1,2]{2,3}"), "f32[1,2]{2,3}");
    EXPECT_EQ(round_trip("[2,1][[5],[6]]"), "f32[2,1]{5,6}");
    EXPECT_EQ(round_trip(" half [ 2 , 1 ] { 5 , 6 } "), "f16[2,1]{5,6}");
    EXPECT_EQ(round_trip("FLOAT32{1}"), "f32[1]{1}");
    EXPECT_EQ(round_trip("[1,1,1,1,2]{1,2}"), "f32[1,1,1,1,2]{1,2}");
    EXPECT_EQ(round_trip("{{{{{7}}}}}"), "f32[1,1,1,1,1]{7}");
}

TEST(TensorText, EmptyTensors)
{
    EXPECT_EQ(round_trip("{}"), "f32[0]{}");
    EXPECT_EQ(round_trip("f16[0]{}"), "f16[0]{}");
    EXPECT_EQ(round_trip("{{},{}}"), "f32[2,0]{}");
    EXPECT_EQ(round_trip("f32[2,0,4294967295]{}"), "f32[2,0,4294967295]{}");
}

TEST(TensorText, Numbers)
{
    EXPECT_EQ(round_trip("{+1,-0,1e3,.5,1.,-2.5E-1}"), "f32[6]{1,-0,1000,0.5,1,-0.25}");
    EXPECT_EQ(round_trip("{NaN,nan,Infinity,-Infinity,inf,-inf,+inf}"),
              "f32[7]{NaN,NaN,Infinity,-Infinity,Infinity,-Infinity,Infinity}");
    EXPECT_EQ(round_trip("f16{65504,-65519,1e-9,5.9604645e-08}"), "f16[4]{65500,-65500,0,6e-08}");
    EXPECT_EQ(round_trip("{3.4028235e38,1e-45,1e-46,1e-400,-1e-400}"), "f32[5]{3.4028235e+38,1e-45,0,0,-0}");
}

TEST(TensorText, WritesTheFewestDigitsThatReadBack)
{
    EXPECT_EQ(round_trip("f16{0.1,0.333,3.14159,1000.4}"), "f16[4]{0.1,0.333,3.14,1000.5}");
    EXPECT_EQ(round_trip("bf16{0.1,3.14159,70000}"), "bf16[3]{0.1,3.14,70000}");
    EXPECT_EQ(round_trip("f32{0.1,16777216,0.333333343}"), "f32[3]{0.1,16777216,0.33333334}");
}

TEST(TensorText, EveryHalfAndBrainFloatSurvives)
{
    for (Dtype dtype : {Dtype::f16, Dtype::bf16}) {
        Halves all;
        for (uint32_t bits = 0; bits < 0x10000; ++bits) {
            const auto value = static_cast<uint16_t>(bits);
            if (!std::isnan(element(dtype, &value, 0))) all.push_back(value);
        }
        TensorView view;
        view.dtype = dtype;
        view.dims = 1;
        view.shape[0] = static_cast<uint32_t>(all.size());
        view.data = all.data();
        const ParsedTensor parsed = parse_tensor(tensor_text(view));
        ASSERT_EQ(parsed.data.size(), view.bytes());
        EXPECT_EQ(std::memcmp(parsed.data.data(), all.data(), view.bytes()), 0) << dtype_name(dtype);
    }
}

TEST(TensorText, WhatIsNoTensorIsRefused)
{
    const char *malformed[] = {"",
                               " ",
                               "f16",
                               "f16[2]",
                               "{",
                               "}",
                               "{1",
                               "{1,",
                               "{1,}",
                               "{,1}",
                               "{1 2}",
                               "{1}}",
                               "{1}x",
                               "{{1},{2,3}}",
                               "{{1},2}",
                               "{1,{2}}",
                               "{{{{{{1}}}}}}",
                               "[2,3]{1,2,3}",
                               "[2,3]{{1,2},{3,4},{5,6}}",
                               "[1,1,1,1,1,1]{1}",
                               "{1]",
                               "[1}",
                               "{a}",
                               "{0x10}",
                               "{1e}",
                               "{--1}",
                               "{+-1}",
                               "{1_000}",
                               "[-1]{1}",
                               "[4294967296]{1}",
                               "{{},{1}}",
                               "f16[2]{1,2}{3}",
                               "{\"1\"}",
                               "{{1,2},{}}",
                               "[1e0]{1}",
                               "{1,2;3}",
                               "{inff}"};
    for (const char *text : malformed) {
        if (std::string(text) == "f16[2]") {
            EXPECT_EQ(round_trip(text), "f16[1]{2}");
            continue;
        }
        const Error error = error_of([&] { parse_tensor(text); });
        EXPECT_EQ(error.code(), Errc::invalid_text) << text;
        EXPECT_EQ(error.message(), std::string("invalid input syntax for type kv.tensor: \"") + text + "\"");
        EXPECT_NE(error.detail(), "");
    }
    EXPECT_EQ(error_of([] { parse_tensor("f64{1}"); }).message(), "unknown element type \"f64\"");
    EXPECT_EQ(error_of([] { parse_tensor("f64{1}"); }).code(), Errc::invalid_text);
    EXPECT_EQ(error_of([] { parse_tensor(std::string("{1}\0", 4)); }).code(), Errc::invalid_text);
    EXPECT_LT(error_of([] { parse_tensor(std::string(1000, '{')); }).message().size(), 200u);
}

TEST(TensorText, WhatIsTooLargeIsRefused)
{
    for (const char *text : {"{1e39}", "{-1e400}", "f16{65520}", "f16{-1e9}", "bf16{3.4e38}"}) {
        const Error error = error_of([&] { parse_tensor(text); });
        if (std::string(text) == "bf16{3.4e38}") {
            EXPECT_EQ(error.message(), "\"3.4e38\" is out of range for bf16");
        }
        EXPECT_EQ(error.code(), Errc::numeric_overflow) << text;
    }
    EXPECT_EQ(error_of([] { parse_tensor("[65536,65536]{1}"); }).code(), Errc::limit_exceeded);
    EXPECT_EQ(error_of([] { parse_tensor("[4294967295,4294967295,4294967295]{1}"); }).code(), Errc::limit_exceeded);
}

// ---- binary form of tensors ------------------------------------------------------------------------------------------------

std::vector<uint8_t> wire_of(const TensorView &tensor)
{
    std::vector<uint8_t> wire(tensor_wire_bytes(tensor));
    write_tensor(tensor, wire.data());
    return wire;
}

TEST(TensorWire, IsAsDocumented)
{
    const ParsedTensor tensor = parse_tensor("f16[2,1]{1,-2}");
    EXPECT_EQ(wire_of(tensor.view()), std::vector<uint8_t>({1, 1, 2, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0x00, 0x3C, 0x00, 0xC0}));
}

TEST(TensorWire, RoundTrips)
{
    for (const char *text :
         {"f32[3]{1,NaN,-Infinity}", "bf16[1,2,3]{1,2,3,4,5,6}", "f16[0]{}", "f32[1,0,2]{}", "f16[1,1,1,1,1]{7}"}) {
        const std::vector<uint8_t> wire = wire_of(parse_tensor(text).view());
        const TensorView view = read_tensor(wire);
        EXPECT_EQ(tensor_text(view), text);
        EXPECT_EQ(wire_of(view), wire);
    }
}

TEST(TensorWire, BrokenOnesAreRefused)
{
    const std::vector<uint8_t> good = wire_of(parse_tensor("f32[2,2]{1,2,3,4}").view());
    const auto refused = [](const std::vector<uint8_t> &wire, const std::string &part) {
        const Error error = error_of([&] { read_tensor(wire); });
        EXPECT_EQ(error.code(), Errc::invalid_binary);
        EXPECT_NE(error.message().find(part), std::string::npos) << error.message();
    };
    const auto with = [&](size_t at, uint8_t value) {
        std::vector<uint8_t> wire = good;
        wire[at] = value;
        return wire;
    };
    refused(with(0, 2), "unknown version 2");
    refused(with(1, 3), "unknown element type 3");
    refused(with(2, 0), "0 dimensions");
    refused(with(2, 6), "6 dimensions");
    refused(with(2, 1), "bytes instead of");
    refused(with(3, 1), "reserved byte 1");
    refused(with(4, 0xFF), "larger than a tensor may be");
    refused(with(7, 3), "28 bytes instead of 36");
    for (size_t size = 0; size < good.size(); ++size)
        refused({good.begin(), good.begin() + static_cast<ptrdiff_t>(size)}, "bytes instead of");
    std::vector<uint8_t> longer = good;
    longer.push_back(0);
    refused(longer, "29 bytes instead of 28");
}

// ---- tiles on the wire -----------------------------------------------------------------------------------------------------

TEST(TileWire, RoundTripsWithANewId)
{
    for (Codec codec : all_codecs())
        for (int tokens : {1, 5, 16, 40}) {
            const Tile tile({codec, 0, 20, 33, 2}, tokens, normal_halves(40 * 20, 1), normal_halves(40 * 33, 2), 1, 77);
            const std::string text = tile_text(tile.data(), tile.bytes());
            const std::vector<uint8_t> wire = parse_tile(text);
            ASSERT_EQ(tile_bytes_of_wire(wire), tile.bytes());
            Tile again(tile.bytes());
            read_tile(wire, again.data());
            EXPECT_TRUE(again.guarded());
            EXPECT_EQ(again.planes(), tile.planes());
            EXPECT_NE(again.view().id, tile.view().id);
            EXPECT_EQ(again.view().first, 77);
            EXPECT_EQ(tile_text(again.data(), again.bytes()).size(), text.size());
        }
}

TEST(TileWire, EveryFlippedBitButThoseOfTheIdIsFound)
{
    const Tile tile({Codec::rotated3, 0, 20, 20, 2}, 3, normal_halves(60, 1), normal_halves(60, 2), 1, 77);
    const Bytes wire = tile_wire(tile.data(), tile.bytes());
    Tile out(tile.bytes());
    for (size_t bit = 0; bit < 8 * wire.size(); ++bit) {
        std::vector<uint8_t> broken(wire.begin(), wire.end());
        broken[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
        if (bit / 8 >= 28 && bit / 8 < 36)
            read_tile(broken, out.data());
        else
            EXPECT_EQ(error_of([&] { read_tile(broken, out.data()); }).code(), Errc::invalid_binary) << bit;
    }
    EXPECT_EQ(error_of([&] { read_tile(wire.subspan(0, wire.size() - 1), out.data()); }).code(), Errc::invalid_binary);
    EXPECT_EQ(error_of([&] { tile_bytes_of_wire(wire.subspan(0, 35)); }).code(), Errc::invalid_binary);
    EXPECT_EQ(error_of([&] { tile_bytes_of_wire(std::vector<uint8_t>(8117)); }).code(), Errc::invalid_binary);
}

// Contents that no encoder makes, under a checksum that fits them.
TEST(TileWire, ForgedContentsAreFound)
{
    const auto forged = [](TileShape shape, int tokens, size_t plane_byte, uint8_t value, const char *part) {
        const auto n = static_cast<size_t>(tokens);
        Tile tile(shape, tokens, normal_halves(n * static_cast<size_t>(shape.dim_k), 1),
                  normal_halves(n * static_cast<size_t>(shape.dim_v), 2));
        tile.data()[kTileHeaderBytes + plane_byte] = value;
        tile.header().crc = tile_checksum(tile.data(), tile.bytes());
        Tile out(tile.bytes());
        const Error error = error_of([&] { read_tile(tile_wire(tile.data(), tile.bytes()), out.data()); });
        EXPECT_EQ(error.code(), Errc::invalid_binary);
        EXPECT_NE(error.message().find(part), std::string::npos) << error.message();
        EXPECT_EQ(error_of([&] { check_tile_contents(tile.data(), tile.bytes(), Errc::data_corrupted); }).code(),
                  Errc::data_corrupted);
    };
    // f16, 3 dims, 1 token: K words at 0..7, V words at 16..27.
    forged({Codec::f16, 0, 3, 3, 1}, 1, 1, 0x7C, "not finite");
    forged({Codec::f16, 0, 3, 3, 1}, 1, 17, 0xFF, "not finite");
    forged({Codec::f16, 0, 3, 3, 1}, 1, 6, 1, "pad its words");
    forged({Codec::f16, 0, 3, 3, 1}, 1, 18, 1, "pad its words");
    forged({Codec::f16, 0, 3, 3, 1}, 1, 8, 1, "between its planes");
    forged({Codec::f16, 0, 3, 3, 1}, 1, 31, 1, "between its planes");
    // rotated3, 4 dims, 1 token: K 0..3, its high plane 16..19, V 32..47, its high plane 48..63, scales at 64 and 80.
    forged({Codec::rotated3, 0, 4, 4, 1}, 1, 0, 0xFF, "pad its words");
    forged({Codec::rotated3, 0, 4, 4, 1}, 1, 17, 2, "pad its words");
    forged({Codec::rotated3, 0, 4, 4, 1}, 1, 33, 1, "pad its words");
    forged({Codec::rotated3, 0, 4, 4, 1}, 1, 48, 2, "pad its words");
    forged({Codec::rotated3, 0, 4, 4, 1}, 1, 20, 1, "between its planes");
    forged({Codec::rotated3, 0, 4, 4, 1}, 1, 65, 0x7C, "not finite");
    forged({Codec::rotated3, 0, 4, 4, 1}, 1, 81, 0x7E, "not finite");
    forged({Codec::rotated3, 0, 4, 4, 1}, 1, 82, 1, "between its planes");
}

TEST(TileText, WhatIsNoneIsRefused)
{
    for (const char *text : {"", "\\", "x00", "\\x0", "\\x0g", "\\x00 00", "\\x00z"})
        EXPECT_EQ(error_of([&] { parse_tile(text); }).code(), Errc::invalid_text) << text;
    EXPECT_EQ(parse_tile(" \\x00fF10 "), std::vector<uint8_t>({0x00, 0xFF, 0x10}));
}

// ---- states ----------------------------------------------------------------------------------------------------------------

std::vector<uint64_t> state_of(const std::string &text)
{
    const std::vector<uint8_t> wire = parse_state(text);
    std::vector<uint64_t> state(state_bytes_of_wire(wire) / 8 + 1);
    read_state(wire, state.data());
    return state;
}

TEST(State, TextAndWireRoundTrip)
{
    for (const char *text : {"{2,3;1.5,-Infinity;1,0;0.25,1,4,0,0,0}", "{1,1;-3;2.5;-1e+10}"}) {
        const std::vector<uint64_t> state = state_of(text);
        const auto &header = *reinterpret_cast<const StateHeader *>(state.data());
        const size_t bytes = state_bytes(header.rows, header.dim);
        const StateView view = view_state(state.data(), bytes);
        EXPECT_EQ(state_text(view), text);
        std::vector<uint8_t> wire(state_wire_bytes(view));
        write_state(view, wire.data());
        EXPECT_EQ(wire, parse_state(text));
    }
    const std::vector<uint8_t> wire = parse_state(" { 1 , 2 ; 1 ; 2 ; 0 , -2 } ");
    EXPECT_EQ(wire, std::vector<uint8_t>(
                        {0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0x80, 0x3F, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0xC0}));
}

TEST(State, NewOnesHaveSeenNothing)
{
    std::vector<uint64_t> state(state_bytes(3, 5) / 8 + 1, 0xEEEEEEEEEEEEEEEE);
    init_state(3, 5, state.data());
    const StateView view = view_state(state.data(), state_bytes(3, 5));
    EXPECT_EQ(view.rows, 3u);
    EXPECT_EQ(view.dim, 5u);
    check_state(view);
    EXPECT_EQ(state_text(view), "{3,5;-Infinity,-Infinity,-Infinity;0,0,0;0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}");
}

TEST(State, SizesAreLimited)
{
    EXPECT_EQ(state_bytes(2, 64), 16u + 4 * 2 * 66);
    EXPECT_EQ(error_of([] { state_bytes(0, 64); }).code(), Errc::invalid_parameter);
    EXPECT_EQ(error_of([] { state_bytes(1, 0); }).code(), Errc::invalid_parameter);
    EXPECT_EQ(error_of([] { state_bytes(1, 1025); }).code(), Errc::invalid_parameter);
    EXPECT_EQ(error_of([] { state_bytes(UINT32_MAX, 1024); }).code(), Errc::limit_exceeded);
}

TEST(State, EveryBrokenFieldIsNamed)
{
    const auto refused = [](auto change, const char *part, size_t more = 0) {
        std::vector<uint64_t> state = state_of("{2,1;1,2;1,1;3,4}");
        change(*reinterpret_cast<StateHeader *>(state.data()));
        for (Errc code : {Errc::invalid_binary, Errc::data_corrupted}) {
            const Error error = error_of([&] { view_state(state.data(), state_bytes(2, 1) + more, code); });
            EXPECT_EQ(error.code(), code);
            EXPECT_NE(error.message().find(part), std::string::npos) << error.message();
        }
    };
    refused([](StateHeader &h) { h.version = 2; }, "unknown version 2");
    refused([](StateHeader &h) { h.reserved = 1; }, "reserved field 1");
    refused([](StateHeader &h) { h.rows = 0; }, "rows 0");
    refused([](StateHeader &h) { h.rows = 3; }, "size in bytes 40");
    refused([](StateHeader &h) { h.dim = 0; }, "value dimension 0");
    refused([](StateHeader &h) { h.dim = 1025; }, "value dimension 1025");
    refused([](StateHeader &h) { h.dim = 2; }, "size in bytes 40");
    refused([](StateHeader &h) { h.rows = 0x80000002, h.dim = 0x1; }, "size in bytes 40");
    refused([](StateHeader &) {}, "size in bytes 44", 4);
}

TEST(State, ValuesThatAreNoneAreFound)
{
    for (const char *text : {"{1,2;-inf;1;0,0}", "{1,2;-inf;0;0,1}", "{1,2;0;0;0,0}", "{1,2;0;-1;0,0}", "{1,2;inf;1;0,0}",
                             "{1,2;nan;1;0,0}", "{1,2;0;nan;0,0}", "{1,2;0;inf;0,0}", "{1,2;0;1;0,nan}", "{1,2;0;1;inf,0}"}) {
        const Error error = error_of([&] { state_of(text); });
        EXPECT_EQ(error.code(), Errc::invalid_binary) << text;
        EXPECT_EQ(error.message().find("row 1 of an attention state is none"), 0u);
    }
}

TEST(State, TextsThatAreNoneAreRefused)
{
    for (const char *text :
         {"", "{", "{1}", "{1,2}", "{1,2;1;1;1}", "{1,2;1;1;1,2,3}", "{1,2;1,1;1;1}", "{1,2;1;1;1,2", "{1,2;1;1;1,2}x",
          "{-1,2;1;1;1,2}", "{1,1025;1;1;1}", "{2147483647,1024;1;1;1}", "{4294967296,1;1}", "{1,2;1;1;1,x}", "{1,2;1;1;1,}"})
        EXPECT_EQ(error_of([&] { parse_state(text); }).code(), Errc::invalid_text) << text;
    for (const char *text : {"{0,2}", "{0,0}"}) {
        const std::vector<uint8_t> wire = parse_state(text);
        EXPECT_EQ(error_of([&] { state_bytes_of_wire(wire); }).code(), Errc::invalid_binary) << text;
    }
}

TEST(StateWire, BrokenOnesAreRefused)
{
    const std::vector<uint8_t> good = parse_state("{1,2;1;2;0,-2}");
    const auto refused = [&](size_t at, uint8_t value) {
        std::vector<uint8_t> wire = good;
        wire[at] = value;
        EXPECT_EQ(error_of([&] { state_bytes_of_wire(wire); }).code(), Errc::invalid_binary) << at;
    };
    EXPECT_EQ(state_bytes_of_wire(good), 32u);
    for (size_t at : {0, 1, 2, 3, 4, 6, 7, 8, 10, 11}) refused(at, 9);
    for (size_t size = 0; size < good.size(); ++size)
        EXPECT_EQ(error_of([&] { state_bytes_of_wire(Bytes(good).subspan(0, size)); }).code(), Errc::invalid_binary);
}

}  // namespace
}  // namespace vkv::kv
