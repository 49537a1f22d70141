// Binary forms, read byte by byte where they are big-endian, so that neither alignment nor byte order of the wire matter; and the
// texts of tiles and states, which are read by way of their binary forms.
#include "core/kv/wire.h"

#include <bit>
#include <climits>
#include <cstring>

#include "core/kv/tensor_text.h"
#include "core/kv/tile_layout.h"

namespace vkv::kv {
namespace {

static_assert(std::endian::native == std::endian::little, "tiles and tensors are little-endian in memory and on the wire");

constexpr size_t kTensorWireHeader = 4, kStateWireHeader = 12, kVarlena = sizeof(uint32_t);

void require(bool holds, const std::string &message)
{
    if (!holds) throw Error(Errc::invalid_binary, message);
}

uint16_t load16(const uint8_t *p) { return static_cast<uint16_t>(p[0] << 8 | p[1]); }
uint32_t load32(const uint8_t *p) { return static_cast<uint32_t>(load16(p)) << 16 | load16(p + 2); }
void store16(uint16_t value, uint8_t *p)
{
    p[0] = static_cast<uint8_t>(value >> 8);
    p[1] = static_cast<uint8_t>(value);
}
void store32(uint32_t value, uint8_t *p)
{
    store16(static_cast<uint16_t>(value >> 16), p);
    store16(static_cast<uint16_t>(value), p + 2);
}

std::string mismatch(const char *what, uint64_t bytes, uint64_t expected)
{
    return std::string("binary ") + what + " has " + std::to_string(bytes) + " bytes instead of " + std::to_string(expected);
}

}  // namespace

// ---- tensors ---------------------------------------------------------------------------------------------------------------

TensorView read_tensor(Bytes wire)
{
    require(wire.size() >= kTensorWireHeader, mismatch("tensor", wire.size(), kTensorWireHeader));
    const uint8_t version = wire[0], dtype = wire[1], dims = wire[2], reserved = wire[3];
    require(version == 1, "binary tensor is of unknown version " + std::to_string(version));
    require(dtype <= static_cast<uint8_t>(Dtype::bf16), "binary tensor has unknown element type " + std::to_string(dtype));
    require(dims >= 1 && dims <= kMaxTensorDims, "binary tensor has " + std::to_string(dims) + " dimensions instead of 1 to 5");
    require(reserved == 0, "binary tensor has reserved byte " + std::to_string(reserved));
    TensorView tensor;
    tensor.dtype = static_cast<Dtype>(dtype);
    tensor.dims = dims;
    const size_t header = tensor_wire_bytes(tensor);  // no values yet: its shape is all zero
    require(wire.size() >= header, mismatch("tensor", wire.size(), header));
    uint64_t elements = 1;
    for (int i = 0; i < dims; ++i) {
        tensor.shape[i] = load32(wire.data() + kTensorWireHeader + 4 * i);
        require(tensor.shape[i] == 0 || elements <= kMaxTensorBytes / tensor.shape[i],
                "binary tensor is larger than a tensor may be");
        elements *= tensor.shape[i];
    }
    const uint64_t expected = header + elements * dtype_bytes(tensor.dtype);
    require(wire.size() == expected, mismatch("tensor", wire.size(), expected));
    tensor.data = wire.data() + header;
    return tensor;
}

size_t tensor_wire_bytes(const TensorView &tensor)
{
    return kTensorWireHeader + 4 * static_cast<size_t>(tensor.dims) + tensor.bytes();
}

void write_tensor(const TensorView &tensor, uint8_t *out, Poll poll)
{
    *out++ = 1;
    *out++ = static_cast<uint8_t>(tensor.dtype);
    *out++ = static_cast<uint8_t>(tensor.dims);
    *out++ = 0;
    for (int i = 0; i < tensor.dims; ++i, out += 4) store32(tensor.shape[i], out);
    copy_bytes(out, tensor.data, tensor.bytes(), poll);
}

// ---- tiles -----------------------------------------------------------------------------------------------------------------

namespace {

// Reads the planes of a tile and says what no encoder could have written.
class ContentCheck {
public:
    ContentCheck(const void *tile, size_t bytes, Errc code) : view_(view_tile_as(tile, bytes, code)), code_(code)
    {
        const TileShape shape = shape_of(*static_cast<const TileHeader *>(tile));
        layout_ = tile_layout(shape, view_.tokens);
        means_end_ = layout_.means + static_cast<size_t>(shape.means) * mean_bytes(shape);
        planes_ = static_cast<const uint8_t *>(tile) + kTileHeaderBytes;
    }

    void run()
    {
        const int bits = low_bits(view_.codec);
        const bool high = has_high_plane(view_.codec), values = view_.v != nullptr;
        const int dim_v = values ? view_.dim_v : 0;
        check_k(view_.k, bits, layout_.k, layout_.k_high);
        if (high) check_k(view_.k_high, 1, layout_.k_high, layout_.v);
        if (values) check_v(view_.v, bits, layout_.v, layout_.v_high);
        if (values && high) check_v(view_.v_high, 1, layout_.v_high, layout_.k_scale);
        if (view_.codec == Codec::f16) {
            finite(layout_.k, k_plane_bytes(bits, view_.tokens, view_.dim_k));
            if (values) finite(layout_.v, v_plane_bytes(bits, view_.tokens, dim_v));
            return;
        }
        check_scales(view_.dim_k, layout_.k_scale, values ? layout_.v_scale : layout_.means);
        if (values) check_scales(dim_v, layout_.v_scale, layout_.means);
        zero(means_end_, layout_.end);
    }

private:
    [[noreturn]] void fail(const char *what) const { throw Error(code_, std::string("tile is corrupt: ") + what); }

    void zero(size_t from, size_t to) const
    {
        for (size_t i = from; i < to; ++i)
            if (planes_[i] != 0) fail("bytes between its planes are not zero");
    }

    // Bits of a word that belong to its first `used` elements.
    static uint32_t used_bits(int bits, int used)
    {
        uint32_t mask = 0;
        for (int e = 0; e < used; ++e) mask |= ((1u << bits) - 1) << (bits == 16 ? 16 * e : 8 * (e % 4) + bits * (e / 4));
        return mask;
    }

    void words_within(const uint8_t *words, size_t n, uint32_t mask) const
    {
        for (size_t i = 0; i < n; ++i) {
            uint32_t word;
            std::memcpy(&word, words + 4 * i, sizeof word);
            if (word & ~mask) fail("codes that pad its words are not zero");
        }
    }

    void check_k(const uint8_t *plane, int bits, size_t at, size_t next) const
    {
        const int width = 32 / bits, rest = view_.dim_k % width;
        const size_t tokens = static_cast<size_t>(view_.tokens), size = k_plane_bytes(bits, view_.tokens, view_.dim_k);
        if (rest) words_within(plane + size - 4 * tokens, tokens, used_bits(bits, rest));
        zero(at + size, next);
    }

    void check_v(const uint8_t *plane, int bits, size_t at, size_t next) const
    {
        const int width = 32 / bits, rest = view_.tokens % width;
        const size_t dim = static_cast<size_t>(view_.dim_v), size = v_plane_bytes(bits, view_.tokens, view_.dim_v);
        if (rest) words_within(plane + size - 4 * dim, dim, used_bits(bits, rest));
        zero(at + size, next);
    }

    void finite(size_t at, size_t bytes) const
    {
        for (size_t i = 0; i < bytes; i += 2) {
            uint16_t half;
            std::memcpy(&half, planes_ + at + i, sizeof half);
            if ((half & 0x7C00u) == 0x7C00u) fail("a number in it is not finite");
        }
    }

    void check_scales(int dim, size_t at, size_t next) const
    {
        const size_t size = static_cast<size_t>(scale_rows(view_.codec, dim)) * static_cast<size_t>(view_.tokens) * 2;
        finite(at, size);
        // Minima, behind the scales, may be negative.
        const size_t scales = static_cast<size_t>(groups_of(view_.codec, dim)) * static_cast<size_t>(view_.tokens) * 2;
        for (size_t i = 0; i < scales; i += 2) {
            uint16_t half;
            std::memcpy(&half, planes_ + at + i, sizeof half);
            if (half > 0x8000) fail("a scale in it is negative");
        }
        zero(at + size, next);
    }

    TileView view_;
    TileLayout layout_;
    size_t means_end_;
    const uint8_t *planes_;
    Errc code_;
};

int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

}  // namespace

void check_tile_contents(const void *tile, size_t bytes, Errc code) { ContentCheck(tile, bytes, code).run(); }

size_t tile_bytes_of_wire(Bytes wire)
{
    const size_t bytes = wire.size() + kVarlena;
    require(bytes >= kTileHeaderBytes && bytes <= kTileHeaderBytes + kMaxTileData,
            "binary tile has " + std::to_string(wire.size()) + " bytes instead of " + std::to_string(kTileHeaderBytes - kVarlena) +
                " to " + std::to_string(kTileHeaderBytes - kVarlena + kMaxTileData));
    return bytes;
}

void read_tile(Bytes wire, void *out)
{
    const size_t bytes = tile_bytes_of_wire(wire);
    std::memcpy(static_cast<uint8_t *>(out) + kVarlena, wire.data(), wire.size());
    auto &header = *static_cast<TileHeader *>(out);
    view_tile_as(out, bytes, Errc::invalid_binary);
    require(header.crc == tile_checksum(out, bytes), "tile is corrupt: its checksum does not fit its contents");
    check_tile_contents(out, bytes, Errc::invalid_binary);
    header.id = new_tile_id();
}

Bytes tile_wire(const void *tile, size_t bytes) { return {static_cast<const uint8_t *>(tile) + kVarlena, bytes - kVarlena}; }

std::string tile_text(const void *tile, size_t bytes)
{
    constexpr char kDigits[] = "0123456789abcdef";
    std::string text = "\\x";
    for (const uint8_t byte : tile_wire(tile, bytes)) {
        text += kDigits[byte >> 4];
        text += kDigits[byte & 15];
    }
    return text;
}

std::vector<uint8_t> parse_tile(std::string_view text)
{
    TextCursor cursor(text, "kv.tile");
    cursor.expect('\\');
    cursor.expect('x');
    constexpr size_t kMost = 2 * (kTileHeaderBytes + kMaxTileData);
    std::vector<uint8_t> wire;
    size_t at = cursor.at();
    for (; at + 1 < text.size() && hex_digit(text[at]) >= 0 && hex_digit(text[at + 1]) >= 0; at += 2) {
        wire.push_back(static_cast<uint8_t>(hex_digit(text[at]) << 4 | hex_digit(text[at + 1])));
        if (wire.size() > kMost) break;
    }
    cursor.go_to(at);
    cursor.skip_space();
    if (cursor.at() != text.size()) cursor.malformed("Expected pairs of hexadecimal digits, at most as many as a tile has bytes.");
    return wire;
}

// ---- states ----------------------------------------------------------------------------------------------------------------

size_t state_bytes_of_wire(Bytes wire)
{
    require(wire.size() >= kStateWireHeader, mismatch("attention state", wire.size(), kStateWireHeader));
    const uint16_t version = load16(wire.data()), reserved = load16(wire.data() + 2);
    require(version == kStateVersion, "binary attention state is of unknown version " + std::to_string(version));
    require(reserved == 0, "binary attention state has reserved field " + std::to_string(reserved));
    const uint64_t rows = load32(wire.data() + 4), dim = load32(wire.data() + 8);
    require(rows > 0, "binary attention state has no rows");
    require(dim >= 1 && dim <= kMaxStateDim, "binary attention state has value dimension " + std::to_string(dim));
    const uint64_t values = sizeof(float) * rows * (2 + dim);
    require(wire.size() == kStateWireHeader + values, mismatch("attention state", wire.size(), kStateWireHeader + values));
    require(sizeof(StateHeader) + values <= kMaxTensorBytes, "binary attention state is larger than a state may be");
    return sizeof(StateHeader) + values;
}

void read_state(Bytes wire, void *out, Poll poll)
{
    const size_t bytes = state_bytes_of_wire(wire);
    auto &header = *static_cast<StateHeader *>(out);
    header.version = kStateVersion;
    header.reserved = 0;
    header.rows = load32(wire.data() + 4);
    header.dim = load32(wire.data() + 8);
    copy_bytes(static_cast<uint8_t *>(out) + sizeof(StateHeader), wire.data() + kStateWireHeader, bytes - sizeof(StateHeader),
               poll);
    check_state(view_state(out, bytes), Errc::invalid_binary, poll);
}

size_t state_wire_bytes(const StateView &state) { return kStateWireHeader + sizeof(float) * state.floats(); }

void write_state(const StateView &state, uint8_t *out, Poll poll)
{
    store16(kStateVersion, out);
    store16(0, out + 2);
    store32(state.rows, out + 4);
    store32(state.dim, out + 8);
    copy_bytes(out + kStateWireHeader, state.m, sizeof(float) * state.floats(), poll);
}

std::string state_text(const StateView &state, const TextPoll &poll)
{
    constexpr size_t kPollEvery = 1 << 13;
    std::string text = text_of_numbers(state.floats());
    text += "{" + std::to_string(state.rows) + "," + std::to_string(state.dim);
    const auto list = [&](const float *values, size_t n) {
        for (size_t i = 0; i < n; ++i) {
            text += i ? ',' : ';';
            append_number(Dtype::f32, values, i, &text);
            if ((i + 1) % kPollEvery != 0) continue;
            check_text_size(text);
            if (poll) poll();
        }
    };
    list(state.m, state.rows);
    list(state.l, state.rows);
    list(state.o, static_cast<size_t>(state.rows) * state.dim);
    return text + "}";
}

std::vector<uint8_t> parse_state(std::string_view text, const TextPoll &poll)
{
    TextCursor cursor(text, "kv.state", poll);
    cursor.expect('{');
    const size_t rows = cursor.natural(INT_MAX);
    cursor.expect(',');
    const size_t dim = cursor.natural(kMaxStateDim);
    // Two characters a number at least: a text that promises more than it has asks for no memory.
    const size_t floats = rows * (2 + dim);
    if (2 * floats > text.size()) cursor.malformed("Expected " + std::to_string(floats) + " numbers.");
    std::vector<uint8_t> wire(kStateWireHeader);
    wire.reserve(kStateWireHeader + sizeof(float) * floats);
    store16(kStateVersion, wire.data());
    store32(static_cast<uint32_t>(rows), wire.data() + 4);
    store32(static_cast<uint32_t>(dim), wire.data() + 8);
    for (size_t i = 0; i < floats; ++i) {
        cursor.expect(i == 0 || i == rows || i == 2 * rows ? ';' : ',');
        const float value = cursor.number();
        const auto *bytes = reinterpret_cast<const uint8_t *>(&value);
        wire.insert(wire.end(), bytes, bytes + sizeof value);
    }
    cursor.expect('}');
    if (cursor.peek() != '\0' || cursor.at() != text.size()) cursor.malformed("Text after the end of the state.");
    return wire;
}

}  // namespace vkv::kv
