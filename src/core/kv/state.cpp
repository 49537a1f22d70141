// Size, header and values of a state.
#include "core/kv/state.h"

#include <cmath>
#include <limits>
#include <string>

namespace vkv::kv {
namespace {

bool all_finite(const float *x, size_t n)
{
    for (size_t i = 0; i < n; ++i)
        if (!std::isfinite(x[i])) return false;
    return true;
}

bool all_zero(const float *x, size_t n)
{
    for (size_t i = 0; i < n; ++i)
        if (x[i] != 0) return false;
    return true;
}

size_t bytes_of(uint64_t rows, uint64_t dim) { return sizeof(StateHeader) + sizeof(float) * rows * (2 + dim); }

}  // namespace

size_t state_bytes(uint32_t rows, uint32_t dim)
{
    if (rows < 1) throw Error(Errc::invalid_parameter, "an attention state needs at least one row");
    if (dim < 1 || dim > kMaxStateDim)
        throw Error(Errc::invalid_parameter, "value dimension " + std::to_string(dim) +
                                                 " of an attention state is outside the valid range 1 to " +
                                                 std::to_string(kMaxStateDim));
    const size_t bytes = bytes_of(rows, dim);
    if (bytes > kMaxTensorBytes)
        throw Error(Errc::limit_exceeded, "an attention state of " + std::to_string(rows) + " rows over " + std::to_string(dim) +
                                              " dimensions exceeds " + std::to_string(kMaxTensorBytes) + " bytes");
    return bytes;
}

StateView view_state(const void *state, size_t bytes, Errc code)
{
    const auto require = [code](bool holds, const char *what, uint64_t value) {
        if (!holds) throw Error(code, std::string("attention state is corrupt: ") + what + " " + std::to_string(value));
    };
    require(bytes >= sizeof(StateHeader), "size in bytes", bytes);
    const auto &header = *static_cast<const StateHeader *>(state);
    require(header.version == kStateVersion, "unknown version", header.version);
    require(header.reserved == 0, "reserved field", header.reserved);
    require(header.rows > 0, "rows", header.rows);
    require(header.dim > 0 && header.dim <= kMaxStateDim, "value dimension", header.dim);
    require(bytes == bytes_of(header.rows, header.dim) && bytes <= kMaxTensorBytes, "size in bytes", bytes);
    const float *m = reinterpret_cast<const float *>(static_cast<const char *>(state) + sizeof(StateHeader));
    return {header.rows, header.dim, m, m + header.rows, m + 2 * static_cast<size_t>(header.rows)};
}

void check_state(const StateView &state, Errc code, Poll poll)
{
    by_pieces(state.rows, piece_of(sizeof(float) * state.dim), poll, [&](size_t first, size_t rows) {
        for (size_t row = first; row < first + rows; ++row) {
            const float m = state.m[row], l = state.l[row], *o = state.o + row * state.dim;
            const bool unseen = m == -std::numeric_limits<float>::infinity() && l == 0 && all_zero(o, state.dim);
            const bool seen = std::isfinite(m) && std::isfinite(l) && l > 0 && all_finite(o, state.dim);
            if (!seen && !unseen)
                throw Error(code, "row " + std::to_string(row + 1) + " of an attention state is none: m " + std::to_string(m) +
                                      ", l " + std::to_string(l));
        }
    });
}

void init_state(uint32_t rows, uint32_t dim, void *out, Poll poll)
{
    auto &header = *static_cast<StateHeader *>(out);
    header.version = kStateVersion;
    header.reserved = 0;
    header.rows = rows;
    header.dim = dim;
    float *values = reinterpret_cast<float *>(static_cast<char *>(out) + sizeof(StateHeader));
    const size_t floats = static_cast<size_t>(rows) * (2 + static_cast<size_t>(dim));
    by_pieces(floats, piece_of(sizeof(float)), poll, [&](size_t first, size_t n) {
        for (size_t i = first; i < first + n; ++i) values[i] = i < rows ? -std::numeric_limits<float>::infinity() : 0;
    });
}

}  // namespace vkv::kv
