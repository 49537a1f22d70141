// The text and binary parsers: what they accept, what they refuse and with which code and words, and that nothing is read or
// written out of bounds (the buffers here are exactly as large as the headers promise; run under the address sanitizer).

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/simd/half.h"
#include "core/text/limits.h"
#include "core/text/message.h"
#include "core/text/parse.h"
#include "core/text/wire.h"
#include "core/value.h"

namespace vkv {
namespace {

std::vector<float> vector_of(const std::string &text)
{
    std::vector<float> out(max_elements(text.c_str(), kMaxDim));
    out.resize(static_cast<size_t>(parse_vector(text.c_str(), out.data())));
    return out;
}

std::vector<uint16_t> halfvec_of(const std::string &text)
{
    std::vector<uint16_t> out(max_elements(text.c_str(), kMaxDim));
    out.resize(static_cast<size_t>(parse_halfvec(text.c_str(), out.data())));
    return out;
}

struct Sparse {
    int dim;
    std::vector<int32_t> indices;
    std::vector<float> values;
};

Sparse sparsevec_of(const std::string &text)
{
    std::vector<SparseElement> elements(max_elements(text.c_str(), kMaxSparseNnz));
    SparseShape shape = parse_sparsevec(text.c_str(), elements.data());
    Sparse result{shape.dim, std::vector<int32_t>(static_cast<size_t>(shape.nnz)),
                  std::vector<float>(static_cast<size_t>(shape.nnz))};
    place_elements(elements.data(), shape, result.indices.data(), result.values.data());
    return result;
}

template <typename Body>
void expect_error(Body body, Errc code, const std::string &text, const std::string &detail = "")
{
    try {
        body();
        ADD_FAILURE() << "no error, expected: " << text;
    } catch (const Error &error) {
        EXPECT_EQ(error.code(), code) << error.message();
        EXPECT_EQ(error.message(), text);
        EXPECT_EQ(error.detail(), detail);
    }
}

std::string repeated(size_t n, const std::string &element)
{
    std::string text;
    for (size_t i = 0; i < n; ++i) text += (i > 0 ? "," : "") + element;
    return text;
}

TEST(Message, FormatsAnyLength)
{
    EXPECT_EQ(message("%s: %d", "x", -5), "x: -5");
    EXPECT_EQ(message("%s", ""), "");
    std::string longer(100000, 'a');
    EXPECT_EQ(message("<%s>", longer.c_str()), "<" + longer + ">");
}

TEST(ParseVector, AcceptsWhatStrtofAccepts)
{
    for (const char *number : {"0",
                               "-0",
                               "1",
                               "+1",
                               "007",
                               "1.",
                               ".5",
                               "-.5",
                               "1.5e3",
                               "1E-3",
                               "1e+2",
                               "0x10",
                               "0X1p-3",
                               "-0x.8p1",
                               "1e-45",
                               "1e-46",
                               "1e-400",
                               "3.4028235e38",
                               "1.17549435e-38",
                               "16777217",
                               "0.1",
                               "123456789012345678901234567890",
                               "0.000000000000000000000000000000000000000000001401298464324817"}) {
        std::vector<float> got = vector_of(std::string("[") + number + "]");
        float expected = std::strtof(number, nullptr);
        ASSERT_EQ(got.size(), 1u) << number;
        EXPECT_EQ(std::memcmp(&got[0], &expected, sizeof(float)), 0) << number << " gave " << got[0];
    }
}

TEST(ParseVector, AgreesWithStrtofOnRandomFloats)
{
    std::mt19937 random(1);
    for (int i = 0; i < 20000; ++i) {
        uint32_t bits = random();
        float value;
        std::memcpy(&value, &bits, sizeof(value));
        if (!std::isfinite(value)) continue;
        for (const char *format : {"%.9g", "%.6f", "%.3e", "%a"}) {
            char number[400];
            std::snprintf(number, sizeof(number), format, static_cast<double>(value));
            float expected = std::strtof(number, nullptr);
            if (std::isinf(expected)) continue;
            float got = vector_of(std::string("[") + number + "]").at(0);
            ASSERT_EQ(std::memcmp(&got, &expected, sizeof(float)), 0) << number;
        }
    }
}

TEST(ParseVector, SkipsWhiteSpaceOnly)
{
    EXPECT_EQ(vector_of(" \t\n\v\f\r[ 1 ,\n2\t,\r3 ] \f"), (std::vector<float>{1, 2, 3}));
    for (const char *text : {"[1 2]", "[1\x01,2]", "[- 1]", "[1e 5]",
                             "[\xc2\xa0"
                             "1]"}) {
        expect_error([&] { vector_of(text); }, Errc::invalid_text, message("invalid input syntax for type vector: \"%s\"", text));
    }
}

TEST(ParseVector, RefusesMalformedText)
{
    for (const char *text :
         {"[", "[1", "[1,", "[,", "[,1]", "[1,]", "[1,,2]", "[1;2]", "[x]", "[1x]", "[--1]", "[.]", "[-]", "[[1]]", "[1,2,"}) {
        expect_error([&] { vector_of(text); }, Errc::invalid_text, message("invalid input syntax for type vector: \"%s\"", text));
    }
    for (const char *text : {"", " ", "1", "{1}", "]"}) {
        expect_error([&] { vector_of(text); }, Errc::invalid_text, message("invalid input syntax for type vector: \"%s\"", text),
                     "Vector contents must start with \"[\".");
    }
    for (const char *text : {"[1]x", "[1]]", "[1] ,"}) {
        expect_error([&] { vector_of(text); }, Errc::invalid_text, message("invalid input syntax for type vector: \"%s\"", text),
                     "Junk after closing right brace.");
    }
    expect_error([] { vector_of("[]"); }, Errc::data_exception, "vector must have at least 1 dimension");
    expect_error([] { halfvec_of("[ ]"); }, Errc::data_exception, "halfvec must have at least 1 dimension");
}

TEST(ParseVector, RefusesWhatIsNotFinite)
{
    for (const char *number : {"nan", "NaN", "-nan", "nan(7)"}) {
        expect_error([&] { vector_of(std::string("[") + number + "]"); }, Errc::data_exception, "NaN not allowed in vector");
    }
    for (const char *number : {"inf", "-Infinity", "INF"}) {
        expect_error([&] { vector_of(std::string("[") + number + "]"); }, Errc::data_exception,
                     "infinite value not allowed in vector");
    }
    for (const char *number : {"1e39", "-3.5e38", "1e400", "0x1p128"}) {
        expect_error([&] { vector_of(std::string("[") + number + "]"); }, Errc::numeric_overflow,
                     message("\"%s\" is out of range for type vector", number));
    }
}

TEST(ParseVector, KnowsItsLimit)
{
    EXPECT_EQ(vector_of("[" + repeated(kMaxDim, "1") + "]").size(), kMaxDim);
    EXPECT_EQ(halfvec_of("[" + repeated(kMaxDim, "1") + "]").size(), kMaxDim);
    for (size_t n : {kMaxDim + 1, 3 * kMaxDim}) {
        std::string text = "[" + repeated(n, "1") + "]";
        expect_error([&] { vector_of(text); }, Errc::limit_exceeded, "vector cannot have more than 16000 dimensions");
        expect_error([&] { halfvec_of(text); }, Errc::limit_exceeded, "halfvec cannot have more than 16000 dimensions");
    }
    EXPECT_EQ(max_elements(",,,", 100), 4u);
    EXPECT_EQ(max_elements(",,,", 2), 2u);
    EXPECT_EQ(max_elements("", 2), 1u);
}

// A number is read in one call, which nothing can interrupt.
TEST(Parse, RefusesNumbersThatGoOnAndOn)
{
    const size_t most = 65536;
    const std::string longest(most, '0'), zeros(most + 1, '0'), ones = std::string(most, '0') + "1";
    for (const std::string &text : {"[" + longest + "]", "[1," + longest + ",1]", "[1," + longest + " ]"}) {
        EXPECT_EQ(vector_of(text).back(), text.back() == ']' && text[text.size() - 2] == '1' ? 1 : 0);
        EXPECT_EQ(halfvec_of(text).size(), vector_of(text).size());
    }
    EXPECT_EQ(sparsevec_of("{" + longest.substr(1) + "1:2}/" + longest.substr(1) + "5").values, std::vector<float>{2});
    auto refuses = [&](auto parse, const char *type, const std::string &before, const std::string &number,
                       const std::string &after) {
        const std::string text = before + number + after;
        expect_error([&] { parse(text); }, Errc::invalid_text,
                     message("invalid input syntax for type %s: \"%s...\"", type, text.substr(0, 60).c_str()),
                     message("A number has at most 65536 characters. (at character %zu)", before.size() + 1));
    };
    const std::string nan = "nan(" + std::string(most, 'a') + ")";
    for (const std::string &number : {zeros, "-." + zeros, nan, "0x" + zeros, "1e" + zeros})
        for (const char *before : {"[", "[1,2, "})
            for (const char *after : {"]", ",3]", "", " "}) {
                refuses(vector_of, "vector", before, number, after);
                refuses(halfvec_of, "halfvec", before, number, after);
            }
    for (const char *after : {"}/5", ",2:1}/5", ""}) refuses(sparsevec_of, "sparsevec", "{1:", zeros, after);
    for (const char *after : {":1}/5", ":1,2:1}/5", ""}) refuses(sparsevec_of, "sparsevec", "{", ones, after);
    for (const char *after : {"", " ", "x"}) refuses(sparsevec_of, "sparsevec", "{1:1}/", ones, after);
    refuses(vector_of, "vector", "[1,", "+" + zeros, "\xc3\xa9]");
}

TEST(Parse, ShowsTheBeginningOfVeryLongText)
{
    const std::string spaces(size_t{1} << 22, ' ');
    expect_error([&] { vector_of("[1,a" + spaces); }, Errc::invalid_text,
                 message("invalid input syntax for type vector: \"[1,a%s...\"", std::string(56, ' ').c_str()));
    const std::string cut = "[" + std::string(58, ' ');
    expect_error([&] { vector_of(cut + "\xc3\xa9" + spaces); }, Errc::invalid_text,
                 message("invalid input syntax for type vector: \"%s...\"", cut.c_str()));
}

TEST(ParseHalfvec, RoundsAndRefuses)
{
    EXPECT_EQ(halfvec_of("[1,-2,65504,65519.99,2.98e-8,3e-8]"), (std::vector<uint16_t>{0x3c00, 0xc000, 0x7bff, 0x7bff, 0, 1}));
    for (const char *number : {"65520", "-65520", "1e6", "1e39", "1e400"}) {
        expect_error([&] { halfvec_of(std::string("[") + number + "]"); }, Errc::numeric_overflow,
                     message("\"%s\" is out of range for type halfvec", number));
    }
    expect_error([] { halfvec_of("[inf]"); }, Errc::data_exception, "infinite value not allowed in halfvec");
    expect_error([] { halfvec_of("[nan]"); }, Errc::data_exception, "NaN not allowed in halfvec");
}

TEST(ParseSparsevec, SortsAndDropsZeros)
{
    Sparse v = sparsevec_of(" { 5 : 1e1 , 1:-2 , 3 : 0 , 2:-0 } / 7 ");
    EXPECT_EQ(v.dim, 7);
    EXPECT_EQ(v.indices, (std::vector<int32_t>{0, 4}));
    EXPECT_EQ(v.values, (std::vector<float>{-2, 10}));
    EXPECT_TRUE(sparsevec_of("{}/1000000000").indices.empty());
    EXPECT_TRUE(sparsevec_of("{9:0}/2").indices.empty());  // an element of value 0 is nowhere
}

TEST(ParseSparsevec, RefusesMalformedText)
{
    auto syntax = [](const char *text) { return message("invalid input syntax for type sparsevec: \"%s\"", text); };
    for (const char *text : {"{", "{1", "{1:", "{1:}/2", "{:1}/2", "{1:1", "{1:1,", "{1:1,}/2", "{,1:1}/2", "{1 1}/2", "{1.5:1}/2",
                             "{}/", "{}/x", "{}//2"}) {
        expect_error([&] { sparsevec_of(text); }, Errc::invalid_text, syntax(text));
    }
    expect_error([&] { sparsevec_of("[]/1"); }, Errc::invalid_text, syntax("[]/1"), "Vector contents must start with \"{\".");
    expect_error([&] { sparsevec_of("{1:1}"); }, Errc::invalid_text, syntax("{1:1}"), "Unexpected end of input.");
    expect_error([&] { sparsevec_of("{}/2x"); }, Errc::invalid_text, syntax("{}/2x"), "Junk after closing.");
}

TEST(ParseSparsevec, RefusesBadNumbers)
{
    for (const char *dim : {"0", "-1", "-99999999999999999999"}) {
        expect_error([&] { sparsevec_of(std::string("{}/") + dim); }, Errc::data_exception,
                     "sparsevec must have at least 1 dimension");
    }
    for (const char *dim : {"1000000001", "2147483648", "99999999999999999999"}) {
        expect_error([&] { sparsevec_of(std::string("{}/") + dim); }, Errc::limit_exceeded,
                     "sparsevec cannot have more than 1000000000 dimensions");
    }
    for (const char *index : {"0", "-1", "3", "2147483648", "-2147483649", "99999999999999999999", "-99999999999999999999"}) {
        expect_error([&] { sparsevec_of(std::string("{") + index + ":1}/2"); }, Errc::data_exception,
                     "sparsevec index out of bounds");
    }
    expect_error([] { sparsevec_of("{2:1,1:1,2:1}/2"); }, Errc::data_exception, "sparsevec indices must not contain duplicates");
    expect_error([] { sparsevec_of("{1:nan}/2"); }, Errc::data_exception, "NaN not allowed in sparsevec");
    expect_error([] { sparsevec_of("{1:1e-46}/2"); }, Errc::numeric_overflow, "\"1e-46\" is out of range for type sparsevec");
    expect_error([] { sparsevec_of("{1:-1e39}/2"); }, Errc::numeric_overflow, "\"-1e39\" is out of range for type sparsevec");
    expect_error([] { sparsevec_of("{" + repeated(kMaxSparseNnz + 1, "1:0") + "}/2"); }, Errc::limit_exceeded,
                 "sparsevec cannot have more than 16000 non-zero elements");
    EXPECT_TRUE(sparsevec_of("{" + repeated(kMaxSparseNnz, "1:0") + "}/2").values.empty());
}

TEST(Wire, DenseRoundTrip)
{
    std::vector<float> values{0, -0.0f, 1, -2.5f, std::numeric_limits<float>::max(), std::numeric_limits<float>::denorm_min()};
    std::vector<uint8_t> bytes(kDenseHeaderBytes + 4 * values.size());
    encode_vector(values, bytes.data());
    EXPECT_EQ(std::vector<uint8_t>(bytes.begin(), bytes.begin() + 12),
              (std::vector<uint8_t>{0, 6, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0}));
    std::vector<float> back(values.size());
    ASSERT_EQ(decode_dense_header(Bytes(bytes).first(kDenseHeaderBytes), kVectorName, -1), 6);
    decode_floats(Bytes(bytes).subspan(kDenseHeaderBytes), back.data());
    EXPECT_EQ(std::memcmp(back.data(), values.data(), 4 * values.size()), 0);

    std::vector<uint16_t> halves{0, 0x8000, 0x3c00, 1, 0x7bff}, halves_back(5);
    std::vector<uint8_t> half_bytes(kDenseHeaderBytes + 2 * halves.size());
    encode_halfvec(halves, half_bytes.data());
    ASSERT_EQ(decode_dense_header(Bytes(half_bytes).first(kDenseHeaderBytes), kHalfvecName, 5), 5);
    decode_halves(Bytes(half_bytes).subspan(kDenseHeaderBytes), halves_back.data());
    EXPECT_EQ(halves_back, halves);
}

TEST(Wire, SparseRoundTrip)
{
    std::vector<int32_t> indices{0, 7, 999999999}, indices_back(3);
    std::vector<float> values{1, -2, 1e-45f}, values_back(3);
    std::vector<uint8_t> bytes(kSparseHeaderBytes + 24);
    encode_sparsevec({1000000000, 3}, indices.data(), values.data(), bytes.data());
    SparseShape shape = decode_sparse_header(Bytes(bytes).first(kSparseHeaderBytes), -1);
    EXPECT_EQ(shape.dim, 1000000000);
    EXPECT_EQ(shape.nnz, 3);
    decode_sparse(Bytes(bytes).subspan(kSparseHeaderBytes), shape, indices_back.data(), values_back.data());
    EXPECT_EQ(indices_back, indices);
    EXPECT_EQ(values_back, values);
}

TEST(Wire, RefusesHostileHeaders)
{
    auto dense = [](std::vector<uint8_t> header, int typmod) { return decode_dense_header(Bytes(header), kVectorName, typmod); };
    expect_error([&] { dense({0, 1, 0}, -1); }, Errc::invalid_binary, "insufficient data left in message");
    expect_error([&] { dense({0, 0, 0, 0}, -1); }, Errc::data_exception, "vector must have at least 1 dimension");
    expect_error([&] { dense({0xff, 0xff, 0, 0}, -1); }, Errc::limit_exceeded, "vector cannot have more than 16000 dimensions");
    expect_error([&] { dense({0, 2, 0, 0}, 3); }, Errc::data_exception, "expected 3 dimensions, not 2");
    expect_error([&] { dense({0, 2, 0, 9}, 2); }, Errc::data_exception, "expected unused to be 0, not 9");

    auto sparse = [](std::vector<uint8_t> header) { return decode_sparse_header(Bytes(header), -1); };
    expect_error([&] { sparse({0, 0, 0}); }, Errc::invalid_binary, "insufficient data left in message");
    expect_error(
        [&] {
            sparse({0, 0, 0, 3, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0});
        },
        Errc::data_exception, "sparsevec cannot have negative number of elements");
    expect_error(
        [&] {
            sparse({0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0});
        },
        Errc::limit_exceeded, "sparsevec cannot have more elements than dimensions");
    expect_error(
        [&] {
            sparse({0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0});
        },
        Errc::limit_exceeded, "sparsevec cannot have more than 1000000000 dimensions");
}

TEST(Wire, RefusesHostilePayload)
{
    auto sparse = [](int dim, std::vector<int32_t> indices, std::vector<float> values, size_t missing = 0) {
        std::vector<uint8_t> bytes(kSparseHeaderBytes + 8 * values.size());
        SparseShape shape{dim, static_cast<int>(values.size())};
        encode_sparsevec(shape, indices.data(), values.data(), bytes.data());
        bytes.resize(bytes.size() - missing);
        bytes.shrink_to_fit();
        decode_sparse(Bytes(bytes).subspan(kSparseHeaderBytes), shape, indices.data(), values.data());
    };
    sparse(3, {0, 2}, {1, 2});
    expect_error([&] { sparse(3, {0, 2}, {1, 2}, 1); }, Errc::invalid_binary, "insufficient data left in message");
    expect_error([&] { sparse(3, {0, 3}, {1, 2}); }, Errc::data_exception, "sparsevec index out of bounds");
    expect_error([&] { sparse(3, {-1, 2}, {1, 2}); }, Errc::data_exception, "sparsevec index out of bounds");
    expect_error([&] { sparse(3, {2, 0}, {1, 2}); }, Errc::data_exception, "sparsevec indices must be in ascending order");
    expect_error([&] { sparse(3, {2, 2}, {1, 2}); }, Errc::data_exception, "sparsevec indices must not contain duplicates");
    expect_error(
        [&] {
            sparse(3, {0, 2}, {1, 0});
        },
        Errc::data_exception, "binary representation of sparsevec cannot contain zero values");
    expect_error([&] { sparse(3, {0, 2}, {1, NAN}); }, Errc::data_exception, "NaN not allowed in sparsevec");

    std::vector<uint8_t> infinity{0xff, 0x80, 0, 0}, half_nan{0x7c, 1};
    float value;
    uint16_t half;
    expect_error([&] { decode_floats(infinity, &value); }, Errc::data_exception, "infinite value not allowed in vector");
    expect_error([&] { decode_halves(half_nan, &half); }, Errc::data_exception, "NaN not allowed in halfvec");
}

TEST(Limits, SayWhatIsWrong)
{
    check_same_dim(2, 2, kVectorName);
    expect_error([] { check_same_dim(2, 3, kVectorName); }, Errc::data_exception, "different vector dimensions 2 and 3");
    expect_error([] { check_same_dim(2, 3, kSparsevecName); }, Errc::data_exception, "different sparsevec dimensions 2 and 3");
    check_expected_dim(-1, 5);
    expect_error([] { check_expected_dim(4, 5); }, Errc::data_exception, "expected 4 dimensions, not 5");
    expect_error([] { throw_overflow(); }, Errc::numeric_overflow, "value out of range: overflow");
    expect_error([] { throw_underflow(); }, Errc::numeric_overflow, "value out of range: underflow");
}

int polls;

// Millions of blanks are passed in pieces, wherever they stand.
TEST(Text, BlanksArePassedInPieces)
{
    const std::string blanks(size_t{10} << 20, ' ');
    const auto count = [] { ++polls; };
    float values[2];
    uint16_t halves[2];
    SparseElement elements[2];
    for (const auto &[before, after] : {std::pair{blanks, std::string()}, std::pair{std::string(), blanks}}) {
        polls = 0;
        EXPECT_EQ(parse_vector((before + "[1,2]" + after).c_str(), values, count), 2);
        EXPECT_GE(polls, 12);
        polls = 0;
        EXPECT_EQ(parse_halfvec((before + "[1,2]" + after).c_str(), halves, count), 2);
        EXPECT_GE(polls, 12);
        polls = 0;
        EXPECT_EQ(parse_sparsevec((before + "{1:1}/2" + after).c_str(), elements, count).nnz, 1);
        EXPECT_GE(polls, 12);
        polls = 0;
        EXPECT_EQ(max_elements((before + "[1,2]" + after).c_str(), 5, count), 2u);
        EXPECT_GE(polls, 4);
    }
}

}  // namespace
}  // namespace vkv
