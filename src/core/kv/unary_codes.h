// Numbers in unary, from the lowest bit of a byte on: as many zeros as the number says, and a one. Part of packed halves
// (pack_halves.h), where small numbers are the most frequent by far.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "core/error.h"

namespace vkv::kv {

[[noreturn]] inline void damaged_halves(const char *what)
{
    throw Error(Errc::data_corrupted, std::string("packed halves are damaged: ") + what);
}

// Unary codes, one behind the other.
class CodeWriter {
public:
    CodeWriter(uint8_t *out, const uint8_t *end) : out_(out), end_(end) {}
    void put(size_t number)
    {
        for (bits_ += number; bits_ >= 8; bits_ -= 8) flush();
        held_ |= 1U << bits_++;
    }
    // Null when the room did not do.
    uint8_t *finish()
    {
        if (bits_ > 0) flush();
        return out_;
    }

private:
    void flush()
    {
        if (out_ == end_) out_ = nullptr;
        if (out_ != nullptr) *out_++ = static_cast<uint8_t>(held_);
        held_ = 0;
    }
    uint8_t *out_;
    const uint8_t *end_;
    uint32_t held_ = 0;
    size_t bits_ = 0;
};

// Reads codes from bytes that end at `end`. Damage that shows is an Error(data_corrupted).
class CodeReader {
public:
    CodeReader(const uint8_t *codes, const uint8_t *end) : codes_(codes), end_(end) {}

    // The bytes up to and with that of the last code read.
    size_t bytes() const { return (bit_ + 7) / 8; }

    size_t next()
    {
        size_t number = 0;
        uint64_t word;
        while ((word = window()) == 0) {
            number += kWindow;
            bit_ += kWindow;
        }
        const auto zeros = static_cast<size_t>(__builtin_ctzll(word));
        bit_ += zeros + 1;
        return number + zeros;
    }

    void skip(size_t count)
    {
        while (count > 0) {
            uint64_t word = window();
            const auto ones = static_cast<size_t>(__builtin_popcountll(word));
            if (ones < count) {
                count -= ones;
                bit_ += kWindow;
                continue;
            }
            while (--count > 0) word &= word - 1;
            bit_ += static_cast<size_t>(__builtin_ctzll(word)) + 1;
        }
    }

    // Number i of `count` goes to use(i, number). A word at a time: no code has to wait for the one before it.
    template <typename Use>
    void read(size_t count, Use use)
    {
        for (size_t i = 0; i < count;) {
            size_t start = 0;
            for (uint64_t word = window(); word != 0 && i < count; word &= word - 1) {
                const auto one = static_cast<size_t>(__builtin_ctzll(word));
                use(i++, one - start);
                start = one + 1;
            }
            if (start == 0) damaged_halves("with a code that is too long");
            bit_ += start;
        }
    }

private:
    static constexpr size_t kWindow = 57;  // bits of a word that are there whatever bit it starts at
    // The next kWindow bits, zeros behind the end.
    uint64_t window() const
    {
        const uint8_t *at = codes_ + bit_ / 8;
        uint64_t word = 0;
        if (end_ - at >= 8)
            std::memcpy(&word, at, 8);
        else if (at < end_)
            for (int i = 0; at + i < end_; ++i) word |= static_cast<uint64_t>(at[i]) << 8 * i;
        else
            damaged_halves("cut short");
        return word >> bit_ % 8 & ((uint64_t{1} << kWindow) - 1);
    }
    const uint8_t *codes_, *end_;
    size_t bit_ = 0;
};

}  // namespace vkv::kv
