// Tensors, tiles and states as they travel: the binary form of the wire protocol, and the text of tiles and states (that of tensors
// is in tensor_text.h).
//
//   tensor   version 1 | dtype 1 | dimensions 1 | zero 1 | shape: dimensions * 4, big-endian | values, little-endian
//   tile     the tile but for its varlena word, as it is in memory (little-endian)
//   state    version 2 | zero 2 | rows 4 | dim 4, all big-endian | m, l, o: f32, little-endian
//
// Text of a tile: \x and the hexadecimal digits of its wire form. Text of a state: {rows,dim;m,...;l,...;o,...}, for example
// {2,3;1.5,-inf;1,0;0.25,1,4,0,0,0}: two rows over values of three dimensions, the second of which has seen nothing.
//
// What is read is checked completely: sizes, header, every reserved byte, the checksum and the padding of a tile, that its scales
// and halves are finite, and the values of a state. A tile that is read is given a new content id.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/kv/state.h"
#include "core/kv/tensor.h"
#include "core/kv/tensor_text.h"
#include "core/kv/tile.h"
#include "core/poll.h"

namespace vkv::kv {

using Bytes = std::span<const uint8_t>;

// Reading throws Error(invalid_binary), from text Error(invalid_text).

// data points into the wire form (not aligned); copy bytes() of it.
TensorView read_tensor(Bytes wire);
size_t tensor_wire_bytes(const TensorView &tensor);
void write_tensor(const TensorView &tensor, uint8_t *out, Poll poll = nullptr);

// Bytes that the tile needs in memory, varlena word included.
size_t tile_bytes_of_wire(Bytes wire);
void read_tile(Bytes wire, void *out);  // out: 8-aligned, tile_bytes_of_wire(wire) bytes; the varlena word is left alone
// The tile without its varlena word: what travels.
Bytes tile_wire(const void *tile, size_t bytes);
std::string tile_text(const void *tile, size_t bytes);
std::vector<uint8_t> parse_tile(std::string_view text);  // its wire form, for read_tile

size_t state_bytes_of_wire(Bytes wire);
// out: 4-aligned, state_bytes_of_wire(wire) bytes; the varlena word is left alone
void read_state(Bytes wire, void *out, Poll poll = nullptr);
size_t state_wire_bytes(const StateView &state);
void write_state(const StateView &state, uint8_t *out, Poll poll = nullptr);
std::string state_text(const StateView &state, const TextPoll &poll = {});
std::vector<uint8_t> parse_state(std::string_view text, const TextPoll &poll = {});  // its wire form, for read_state

// The contents of a tile whose header view_tile accepted: finite scales and halves, zero padding; throws Error(code).
void check_tile_contents(const void *tile, size_t bytes, Errc code);

}  // namespace vkv::kv
