// Rows of halves in fewer bytes, bit for bit: how a cache's tail stores its tokens.
//
// Of a half, the sign and ten bits of mantissa are noise, but the exponents of neighbours are alike: a block of up to 64 values
// keeps a top exponent, and three bits a value that count down from it; 7 stands for any other exponent, which follows in unary:
// the further from the top, the rarer. Keys and values of language models take 14.2 bits a value so.
//
//   byte 0            form: 2 packed, 0 as they are (1: packed before the first release)     byte 1   zero
//   bytes 2-3, 4-5    slots, width: there are slots runs of width values, each in blocks of 64 and a last of what is left
//   bytes 6-7         zero
//   form 0            2 * slots * width bytes: the halves
//   form 2            a byte a block: bits 0-4 top exponent, bits 5-7 number of exceptions, 7 for seven and more
//                     block by block: n low bytes of mantissa, then 3 * q bytes, q = ceil(n / 4): value i is in column i % q,
//                       quarter i / q; quarters 0 to 2 are bits 0-5 of the bytes in a column, quarter 3 their bits 6-7, lowest
//                       first. Six bits: 0-1 mantissa, 2-4 steps below the top, 5 sign
//                     unary codes, from the lowest bit on: as many zeros as the number says, and a one. Of each block in order
//                       first, if its byte says 7, by how many its exceptions exceed 7; then, for each value that has 7 steps,
//                       the place of its exponent in the order top - 7, top - 8, top + 1, top - 9, top - 10, top + 2 and so on,
//                       without those that are not from 0 to 31
//
// A slot can be read without the others. Packed bytes are only used where they are fewer, so a row never takes more than its
// halves and the 8 bytes in front.
#pragma once
#include <cstddef>
#include <cstdint>

namespace vkv::kv {

inline constexpr size_t kPackedHeader = 8;
inline constexpr int kPackedBlock = 64;

struct RowShape {
    int slots, width;  // 1 to 65,535
    size_t values() const { return static_cast<size_t>(slots) * static_cast<size_t>(width); }
};

// What pack_halves may write.
inline size_t packed_bound(const RowShape &shape) { return kPackedHeader + 2 * shape.values(); }

// Writes the row and returns its bytes. Any bit pattern comes back as it was.
size_t pack_halves(const uint16_t *values, const RowShape &shape, uint8_t *out);

// A packed row; it points into the bytes. Damage that shows is an Error(data_corrupted), on opening or reading; that there is
// nothing behind the row shows when its last slot is read.
class PackedRow {
public:
    PackedRow(const void *bytes, size_t size);
    const RowShape &shape() const { return shape_; }
    // Slots first .. first + count - 1, which must be there.
    void read(int first, int count, uint16_t *out) const;

private:
    struct Cursor;
    Cursor start() const;
    void skip_slots(int count, Cursor *at) const;
    void read_slot(Cursor *at, uint16_t *out) const;

    const uint8_t *bytes_, *planes_ = nullptr, *codes_ = nullptr;
    size_t size_ = 0;
    RowShape shape_{};
    bool packed_ = false;
};

}  // namespace vkv::kv
