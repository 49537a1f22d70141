// The state of attention over some tokens, as a value: for every row m = the largest logit, l = sum exp(logit - m) and
// o = sum exp(logit - m) * v (see attend.h).
//
//   | varlena header 4 | version 2 | zero 2 | rows 4 | dim 4 | m: f32 [rows] | l: f32 [rows] | o: f32 [rows][dim] |
//
// A valid state holds m finite, l > 0 and o finite for a row that saw tokens, and m = -inf, l = 0, o = 0 for one that saw none.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/error.h"
#include "core/kv/tensor.h"
#include "core/poll.h"

namespace vkv::kv {

inline constexpr uint16_t kStateVersion = 1;
inline constexpr uint32_t kMaxStateDim = 1024;

struct StateHeader {
    uint32_t varlena;  // PostgreSQL's length word; ours to skip
    uint16_t version;
    uint16_t reserved;
    uint32_t rows;
    uint32_t dim;
};
static_assert(sizeof(StateHeader) == 16);

// Points into the state. Whoever made the view knows whether it may be written through data().
struct StateView {
    uint32_t rows = 0, dim = 0;
    const float *m = nullptr, *l = nullptr, *o = nullptr;
    size_t floats() const { return static_cast<size_t>(rows) * (2 + static_cast<size_t>(dim)); }
};

// Whole state, header included. Throws Error(invalid_parameter) for a dim outside 1..1024 or no rows, Error(limit_exceeded) for
// more bytes than kMaxTensorBytes.
size_t state_bytes(uint32_t rows, uint32_t dim);

// Checks header and size, not the values; throws Error(code). state is 4-aligned.
StateView view_state(const void *state, size_t bytes, Errc code = Errc::invalid_binary);

// Checks the values; throws Error(code) that names the first row that is no state.
void check_state(const StateView &state, Errc code = Errc::invalid_binary, Poll poll = nullptr);

// Everything of the header but the varlena word, and a state that has seen nothing behind it: state_bytes(rows, dim) bytes.
void init_state(uint32_t rows, uint32_t dim, void *out, Poll poll = nullptr);

}  // namespace vkv::kv
