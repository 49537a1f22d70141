// Everything of schema kv that comes from outside: binary tensors, tiles and states, the texts of all three, and packed halves. The
// first byte picks one. What is accepted survives a round trip, and a tile that is accepted decodes to finite numbers and can be
// clipped.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/kv/pack_halves.h"
#include "core/kv/tensor_text.h"
#include "core/kv/wire.h"

namespace {

using namespace vkv::kv;

void require(bool holds)
{
    if (!holds) std::abort();
}

// 8-aligned, and of exactly the size that is asked for, so that the address sanitizer sees any access past the end.
class Buffer {
public:
    explicit Buffer(size_t bytes) : data_(std::malloc(bytes)) {}
    ~Buffer() { std::free(data_); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    void *data() { return data_; }

private:
    void *data_;
};

bool same(Bytes a, Bytes b) { return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0); }

void fuzz_tensor(Bytes input)
{
    const TensorView tensor = read_tensor(input);
    std::vector<uint8_t> again(tensor_wire_bytes(tensor));
    write_tensor(tensor, again.data());
    require(same(again, input));
    const size_t bad = first_not_finite_f16(tensor.dtype, tensor.data, tensor.elements());
    require(bad <= tensor.elements());
    if (bad == tensor.elements() || tensor.dtype == Dtype::f32) return;
    const float value = element(tensor.dtype, tensor.data, bad);
    require(!(std::fabs(value) < 65520));
}

void clip(const TileView &tile)
{
    const int kept = (tile.tokens + 1) / 2;
    const size_t bytes = tile_bytes(shape_of(tile), kept);
    Buffer clipped(bytes);
    clip_tile(tile, kept, clipped.data());
    require(view_tile(clipped.data(), bytes).tokens == kept);
    check_tile_contents(clipped.data(), bytes, vkv::Errc::internal);
}

void fuzz_tile(Bytes input)
{
    const size_t bytes = tile_bytes_of_wire(input);
    // Few inputs have the right checksum: give them one, so that what lies behind it is reached.
    std::vector<uint8_t> wire(input.begin(), input.end());
    Buffer tile(bytes);
    std::memcpy(static_cast<uint8_t *>(tile.data()) + 4, wire.data(), wire.size());
    const uint32_t crc = tile_checksum(tile.data(), bytes);
    std::memcpy(wire.data() + offsetof(TileHeader, crc) - 4, &crc, sizeof crc);
    read_tile(wire, tile.data());
    const TileView view = view_tile(tile.data(), bytes);
    std::vector<float> k(static_cast<size_t>(view.tokens * view.dim_k)), v(static_cast<size_t>(view.tokens * view.dim_v));
    decode_tile(view, k.data(), v.data());
    for (float value : k) require(std::isfinite(value));
    for (float value : v) require(std::isfinite(value));
    clip(view);
    require(parse_tile(tile_text(tile.data(), bytes)).size() == wire.size());
}

void fuzz_state(Bytes input)
{
    const size_t bytes = state_bytes_of_wire(input);
    Buffer state(bytes);
    read_state(input, state.data());
    const StateView view = view_state(state.data(), bytes);
    std::vector<uint8_t> again(state_wire_bytes(view));
    write_state(view, again.data());
    require(same(again, input));
    require(same(parse_state(state_text(view)), input));
}

void fuzz_tensor_text(std::string_view text)
{
    const ParsedTensor tensor = parse_tensor(text);
    const std::string written = tensor_text(tensor.view());
    const ParsedTensor again = parse_tensor(written);
    require(again.dtype == tensor.dtype && again.dims == tensor.dims);
    require(std::memcmp(again.shape, tensor.shape, sizeof tensor.shape) == 0);
    require(tensor_text(again.view()) == written);
}

void fuzz_texts(std::string_view text)
{
    if (!text.empty() && text[0] == '\\') {
        fuzz_tile(parse_tile(text));
    } else {
        fuzz_state(parse_state(text));
    }
}

void fuzz_packed(Bytes input)
{
    // What is read from anything packs and comes back, and any values do.
    Buffer bytes(input.size());
    if (!input.empty()) std::memcpy(bytes.data(), input.data(), input.size());
    const PackedRow row(bytes.data(), input.size());
    std::vector<uint16_t> values(row.shape().values()), again(values.size());
    row.read(0, row.shape().slots, values.data());
    Buffer packed(packed_bound(row.shape()));
    const size_t size = pack_halves(values.data(), row.shape(), static_cast<uint8_t *>(packed.data()));
    require(size <= packed_bound(row.shape()));
    const PackedRow second(packed.data(), size);
    for (int slot = 0; slot < row.shape().slots; ++slot)
        second.read(slot, 1, again.data() + static_cast<size_t>(slot) * static_cast<size_t>(row.shape().width));
    require(values == again);
}

void fuzz_packing(Bytes input)
{
    const size_t n = input.size() / 2;
    if (n == 0 || n > 65535) return;
    std::vector<uint16_t> values(n), again(n);
    std::memcpy(values.data(), input.data(), 2 * n);
    const int width = 1 + static_cast<int>(values[0] % n);
    const RowShape shape{static_cast<int>(n) / width, width};
    Buffer packed(packed_bound(shape));
    const size_t size = pack_halves(values.data(), shape, static_cast<uint8_t *>(packed.data()));
    PackedRow(packed.data(), size).read(0, shape.slots, again.data());
    require(std::memcmp(values.data(), again.data(), 2 * shape.values()) == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    const Bytes input(data + 1, size - 1);
    const std::string_view text(reinterpret_cast<const char *>(data) + 1, size - 1);
    try {
        switch (data[0] % 7) {
            case 0:
                fuzz_tensor(input);
                break;
            case 1:
                fuzz_tile(input);
                break;
            case 2:
                fuzz_state(input);
                break;
            case 3:
                fuzz_tensor_text(text);
                break;
            case 4:
                fuzz_texts(text);
                break;
            case 5:
                fuzz_packed(input);
                break;
            case 6:
                fuzz_packing(input);
                break;
        }
    } catch (const vkv::Error &error) {
        require(!error.message().empty());
    }
    return 0;
}
