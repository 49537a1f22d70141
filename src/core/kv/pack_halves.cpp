// Packing of halves; the format is drawn in pack_halves.h.
//
// Both ways go over whole blocks of 64 in loops of fixed length, which compilers make vectors of; a shorter block takes the same
// road through a padded copy.
#include "core/kv/pack_halves.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/kv/unary_codes.h"

namespace vkv::kv {
namespace {

constexpr int kBlock = kPackedBlock, kColumns = kBlock / 4;
constexpr uint8_t kPackedForm = 2;
constexpr int kExponents = 32;
constexpr int kSteps = 7;                        // values of the three bits that are no exception
constexpr unsigned kManyInByte = 7;              // and more: a code says by how many
constexpr uint64_t kBytes = 0x0101010101010101;  // one in every byte

// The exponents outside the seven below a top, in the order of their codes: most of a block's values are below its top, so two
// below come for each one above.
struct ExceptionOrder {
    uint8_t exponent[kExponents][kExponents] = {};   // of a top and a place
    uint8_t code_bits[kExponents][kExponents] = {};  // of a top and an exponent; 0 where no code is needed
    uint8_t count[kExponents] = {};                  // of a top

    constexpr ExceptionOrder()
    {
        for (int top = 0; top < kExponents; ++top) {
            int below = top - kSteps, above = top + 1, places = 0;
            for (int turn = 0; below >= 0 || above < kExponents; turn = (turn + 1) % 3) {
                const bool is_below = turn < 2;
                if (is_below ? below < 0 : above == kExponents) continue;
                const int e = is_below ? below-- : above++;
                exponent[top][places++] = static_cast<uint8_t>(e);
                code_bits[top][e] = static_cast<uint8_t>(places);
            }
            count[top] = static_cast<uint8_t>(places);
        }
    }
};
constexpr ExceptionOrder kOrder;

size_t columns_of(size_t values) { return (values + 3) / 4; }
size_t block_bytes(size_t values) { return values + 3 * columns_of(values); }
size_t blocks_of(int width) { return (static_cast<size_t>(width) + kBlock - 1) / kBlock; }

size_t slot_bytes(int width)
{
    const size_t w = static_cast<size_t>(width), last = w % kBlock;
    return w / kBlock * block_bytes(kBlock) + block_bytes(last);
}

// Up to kBlock values.
struct Block {
    const uint16_t *values;
    size_t n;
};

int exponent_of(uint16_t half) { return half >> 10 & 31; }

using Histogram = std::array<uint8_t, kExponents>;  // how often each exponent is in a block

// What a top costs a block.
struct Cost {
    unsigned exceptions, bits;
};

Cost cost_of(const Histogram &h, int top)
{
    const uint8_t *code = kOrder.code_bits[top];
    unsigned exceptions = 0, bits = 0;
    for (int e = 0; e < kExponents; ++e) {
        bits += static_cast<unsigned>(h[e] * code[e]);
        exceptions += code[e] > 0 ? h[e] : 0U;
    }
    return {exceptions, exceptions < kManyInByte ? bits : bits + exceptions - kManyInByte + 1};
}

struct Top {
    int exponent;
    unsigned exceptions;
};

// The top of the seven exponents in a row that most values have, or the one below it where that takes fewer bits.
Top best_top(const Block &block)
{
    Histogram h{};
    for (size_t i = 0; i < block.n; ++i) ++h[exponent_of(block.values[i])];
    int best = 31, most = -1, within = 0;
    for (int top = 0; top < kExponents; ++top) {
        within += h[top] - (top < kSteps ? 0 : h[top - kSteps]);
        if (within >= most) {
            most = within;
            best = top;
        }
    }
    const Cost cost = cost_of(h, best);
    if (best == 0 || cost.exceptions == 0) return {best, cost.exceptions};
    const Cost below = cost_of(h, best - 1);
    return below.bits < cost.bits ? Top{best - 1, below.exceptions} : Top{best, cost.exceptions};
}

// The planes of a whole block.
void write_planes(const uint16_t *values, int top, uint8_t *low, uint8_t *columns)
{
    uint8_t six[kBlock];
    for (int i = 0; i < kBlock; ++i) {
        const unsigned v = values[i];
        const unsigned steps = static_cast<unsigned>(top) - (v >> 10 & 31);
        low[i] = static_cast<uint8_t>(v);
        six[i] = static_cast<uint8_t>((v >> 8 & 3) | (steps < kSteps ? steps : kSteps) << 2 | (v >> 15) << 5);
    }
    for (int i = 0; i < kColumns; ++i) {
        const unsigned last = six[3 * kColumns + i];
        columns[i] = static_cast<uint8_t>(six[i] | last << 6);
        columns[kColumns + i] = static_cast<uint8_t>(six[kColumns + i] | (last >> 2 & 3) << 6);
        columns[2 * kColumns + i] = static_cast<uint8_t>(six[2 * kColumns + i] | (last >> 4 & 3) << 6);
    }
}

// A block of q columns and another of kColumns differ in where a value is.
size_t padded_place(size_t i, size_t q) { return i / q * kColumns + i % q; }

// The planes of any block.
void write_block(const Block &block, int top, uint8_t *plane)
{
    if (block.n == kBlock) return write_planes(block.values, top, plane, plane + kBlock);
    const size_t q = columns_of(block.n);
    uint16_t padded[kBlock];
    uint8_t low[kBlock], columns[3 * kColumns];
    std::fill_n(padded, kBlock, static_cast<uint16_t>(top << 10));
    for (size_t i = 0; i < block.n; ++i) padded[padded_place(i, q)] = block.values[i];
    write_planes(padded, top, low, columns);
    for (size_t i = 0; i < block.n; ++i) plane[i] = static_cast<uint8_t>(block.values[i]);
    for (size_t i = 0; i < 3; ++i) std::memcpy(plane + block.n + i * q, columns + i * kColumns, q);
}

// The codes of a block, and its byte of the table.
uint8_t write_exceptions(const Block &block, const Top &top, CodeWriter *codes)
{
    const uint8_t *bits = kOrder.code_bits[top.exponent];
    if (top.exceptions >= kManyInByte) codes->put(top.exceptions - kManyInByte);
    for (size_t i = 0; top.exceptions > 0 && i < block.n; ++i)
        if (const unsigned b = bits[exponent_of(block.values[i])]) codes->put(b - 1);
    return static_cast<uint8_t>(top.exponent | static_cast<int>(std::min(top.exceptions, kManyInByte)) << 5);
}

// Six bits of each value, and low bytes, in the order of a whole block.
void read_planes(const uint8_t *low, const uint8_t *columns, int top, uint16_t *out, uint8_t *steps)
{
    uint8_t six[kBlock];
    for (int i = 0; i < kColumns; ++i) {
        const uint8_t a = columns[i], b = columns[kColumns + i], c = columns[2 * kColumns + i];
        six[i] = a & 63;
        six[kColumns + i] = b & 63;
        six[2 * kColumns + i] = c & 63;
        six[3 * kColumns + i] = static_cast<uint8_t>(a >> 6 | (b >> 6) << 2 | (c >> 6) << 4);
    }
    const uint8_t highest = static_cast<uint8_t>(top << 2);
    for (int i = 0; i < kBlock; ++i) {
        const uint8_t s = six[i];
        const uint8_t high = static_cast<uint8_t>((s & 3) | ((highest - (s & 28)) & 124) | (s & 32) << 2);
        out[i] = static_cast<uint16_t>(low[i] | high << 8);
        steps[i] = s & 28;
    }
}

// Exceptions of the block whose codes are next: its codes for them are, afterwards.
size_t exceptions_of(uint8_t entry, CodeReader *codes)
{
    const size_t n = entry >> 5;
    if (n < kManyInByte) return n;
    const size_t more = codes->next();
    if (more > kBlock - kManyInByte) damaged_halves("with more exceptions than values");
    return n + more;
}

// A byte of steps has its three bits at 2: all of them set are an exception.
void set_exceptions(const uint8_t *steps, int top, size_t count, CodeReader *codes, uint16_t *values)
{
    uint8_t places[kBlock];
    size_t n = 0;
    for (size_t w = 0; w < kBlock; w += 8) {
        uint64_t word;
        std::memcpy(&word, steps + w, 8);
        for (uint64_t all = word >> 2 & word >> 3 & word >> 4 & kBytes; all != 0; all &= all - 1)
            places[n++] = static_cast<uint8_t>(w + static_cast<size_t>(__builtin_ctzll(all)) / 8);
    }
    if (n != count) damaged_halves("with another number of exceptions than they say");
    codes->read(n, [&](size_t i, size_t number) {
        if (number >= kOrder.count[top]) damaged_halves("with an exponent that is none");
        uint16_t &value = values[places[i]];
        value = static_cast<uint16_t>((value & 0x83FF) | kOrder.exponent[top][number] << 10);
    });
}

}  // namespace

size_t pack_halves(const uint16_t *values, const RowShape &shape, uint8_t *out)
{
    const size_t slots = static_cast<size_t>(shape.slots), width = static_cast<size_t>(shape.width);
    const size_t table = blocks_of(shape.width) * slots, planes = slot_bytes(shape.width) * slots, plain = 2 * slots * width;
    const uint16_t given[] = {static_cast<uint16_t>(shape.slots), static_cast<uint16_t>(shape.width)};
    std::memset(out, 0, kPackedHeader);
    std::memcpy(out + 2, given, 4);
    uint8_t *data = out + kPackedHeader;
    if (table + planes < plain) {
        uint8_t *entry = data, *plane = data + table;
        CodeWriter codes(plane + planes, data + plain);
        for (size_t slot = 0; slot < slots; ++slot)
            for (size_t from = 0; from < width; from += kBlock) {
                const Block block{values + slot * width + from, std::min<size_t>(kBlock, width - from)};
                const Top top = best_top(block);
                *entry++ = write_exceptions(block, top, &codes);
                write_block(block, top.exponent, plane);
                plane += block_bytes(block.n);
            }
        const uint8_t *end = codes.finish();
        if (end != nullptr && end < data + plain) {
            out[0] = kPackedForm;
            return static_cast<size_t>(end - out);
        }
    }
    std::memcpy(data, values, plain);
    return kPackedHeader + plain;
}

// Where reading has come to.
struct PackedRow::Cursor {
    const uint8_t *table, *plane;
    CodeReader codes;
};

PackedRow::PackedRow(const void *bytes, size_t size) : bytes_(static_cast<const uint8_t *>(bytes))
{
    if (size < kPackedHeader) damaged_halves("shorter than their header");
    uint16_t slots, width;
    std::memcpy(&slots, bytes_ + 2, 2);
    std::memcpy(&width, bytes_ + 4, 2);
    if ((bytes_[0] != 0 && bytes_[0] != kPackedForm) || bytes_[1] != 0 || bytes_[6] != 0 || bytes_[7] != 0)
        damaged_halves("of an unknown form");
    if (slots == 0 || width == 0) damaged_halves("without values");
    packed_ = bytes_[0] == kPackedForm;
    shape_ = {slots, width};
    const size_t rest = size - kPackedHeader;
    if (!packed_) {
        if (rest != 2 * shape_.values()) damaged_halves("of another size than their shape");
        return;
    }
    const size_t table = blocks_of(width) * slots, planes = slot_bytes(width) * slots;
    if (rest < table + planes) damaged_halves("cut short");
    planes_ = bytes_ + kPackedHeader + table;
    codes_ = planes_ + planes;
    size_ = size;
}

PackedRow::Cursor PackedRow::start() const { return {bytes_ + kPackedHeader, planes_, {codes_, bytes_ + size_}}; }

void PackedRow::skip_slots(int count, Cursor *at) const
{
    const auto slots = static_cast<size_t>(count);
    size_t codes = 0;
    for (size_t b = slots * blocks_of(shape_.width); b > 0; --b) {
        const uint8_t entry = *at->table++;
        const size_t n = entry >> 5;
        if (n < kManyInByte) {
            codes += n;
            continue;
        }
        at->codes.skip(codes);
        codes = exceptions_of(entry, &at->codes);
    }
    at->codes.skip(codes);
    at->plane += slots * slot_bytes(shape_.width);
}

void PackedRow::read_slot(Cursor *at, uint16_t *out) const
{
    alignas(16) uint8_t steps[kBlock];
    uint16_t padded[kBlock];
    for (size_t left = static_cast<size_t>(shape_.width); left > 0;) {
        const size_t n = std::min<size_t>(left, kBlock), q = columns_of(n);
        const uint8_t entry = *at->table++;
        const int top = entry & 31;
        const size_t exceptions = exceptions_of(entry, &at->codes);
        if (n == kBlock) {
            read_planes(at->plane, at->plane + n, top, out, steps);
            set_exceptions(steps, top, exceptions, &at->codes, out);
        } else {
            uint8_t low[kBlock] = {}, columns[3 * kColumns] = {};
            for (size_t i = 0; i < n; ++i) low[padded_place(i, q)] = at->plane[i];
            for (size_t i = 0; i < 3; ++i) std::memcpy(columns + i * kColumns, at->plane + n + i * q, q);
            read_planes(low, columns, top, padded, steps);
            set_exceptions(steps, top, exceptions, &at->codes, padded);
            for (size_t i = 0; i < n; ++i) out[i] = padded[padded_place(i, q)];
        }
        at->plane += block_bytes(n);
        out += n;
        left -= n;
    }
}

void PackedRow::read(int first, int count, uint16_t *out) const
{
    const auto width = static_cast<size_t>(shape_.width);
    if (!packed_) {
        std::memcpy(out, bytes_ + kPackedHeader + 2 * static_cast<size_t>(first) * width, 2 * static_cast<size_t>(count) * width);
        return;
    }
    Cursor at = start();
    skip_slots(first, &at);
    for (int slot = 0; slot < count; ++slot, out += width) read_slot(&at, out);
    const size_t end = static_cast<size_t>(codes_ - bytes_) + at.codes.bytes();
    if (first + count == shape_.slots && end != size_) damaged_halves("of another size than their contents");
}

}  // namespace vkv::kv
