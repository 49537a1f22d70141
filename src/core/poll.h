// Loops over what may be hundreds of megabytes, in pieces of a few milliseconds, between which somebody may say stop.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace vkv {

using Poll = void (*)();  // may throw; null: nobody asks

inline constexpr size_t kPollBytes = size_t{1} << 22;

// part(first, count) of n of them.
template <typename F>
void by_pieces(size_t n, size_t piece, Poll poll, F &&part)
{
    for (size_t at = 0; at < n; at += piece) {
        if (at > 0 && poll) poll();
        part(at, std::min(piece, n - at));
    }
}

// How many things of so many bytes make a piece.
constexpr size_t piece_of(size_t bytes) { return bytes >= kPollBytes ? 1 : kPollBytes / (bytes ? bytes : 1); }

inline void copy_bytes(void *to, const void *from, size_t n, Poll poll)
{
    by_pieces(n, kPollBytes, poll, [&](size_t at, size_t count) {
        std::memcpy(static_cast<char *>(to) + at, static_cast<const char *>(from) + at, count);
    });
}

inline size_t text_length(const char *text, Poll poll)
{
    size_t length = 0;
    for (size_t more; (more = strnlen(text + length, kPollBytes)) == kPollBytes;) {
        length += more;
        if (poll) poll();
    }
    return length + std::strlen(text + length);
}

}  // namespace vkv
