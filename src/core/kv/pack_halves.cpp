// Packing of halves; the format is drawn in pack_halves.h.
//
// Both ways go over whole blocks of 64 in loops of fixed length, which compilers make vectors of; a shorter block takes the same
// road through a padded copy.
#include "core/kv/pack_halves.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"

namespace vkv::kv {
namespace {

constexpr int kBlock = kPackedBlock, kColumns = kBlock / 4;
constexpr int kSteps = 7;                        // values of the three bits that are no exception
constexpr uint8_t kManyInByte = 7;               // and more: the number is in two fields
constexpr size_t kField = 5;                     // bits of an exponent
constexpr uint64_t kBytes = 0x0101010101010101;  // one in every byte

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
bool is_exception(int top, uint16_t half)
{
    return static_cast<unsigned>(top - exponent_of(half)) >= static_cast<unsigned>(kSteps);
}

[[noreturn]] void damaged(const char *what)
{
    throw Error(Errc::data_corrupted, std::string("packed halves are damaged: ") + what);
}

// Fields of five bits, one behind the other.
class FieldWriter {
public:
    FieldWriter(uint8_t *out, const uint8_t *end) : out_(out), end_(end) {}
    void put(uint32_t field)
    {
        held_ |= field << bits_;
        bits_ += kField;
        if (bits_ >= 8) flush();
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
        held_ >>= 8;
        bits_ = bits_ > 8 ? bits_ - 8 : 0;
    }
    uint8_t *out_;
    const uint8_t *end_;
    uint32_t held_ = 0;
    size_t bits_ = 0;
};

// The top of the seven exponents in a row that most values have.
int best_top(const Block &block)
{
    uint8_t count[32 + kSteps] = {};  // of exponent e at e + kSteps
    for (size_t i = 0; i < block.n; ++i) ++count[exponent_of(block.values[i]) + kSteps];
    int best = 31, most = -1, within = 0;
    for (int top = 0; top < 32; ++top) {
        within += count[top + kSteps] - count[top];
        if (within >= most) {
            most = within;
            best = top;
        }
    }
    return best;
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

// The fields of a block, and its byte of the table.
uint8_t write_exceptions(const Block &block, int top, FieldWriter *fields)
{
    size_t exceptions = 0;
    for (size_t i = 0; i < block.n; ++i) exceptions += is_exception(top, block.values[i]);
    if (exceptions >= kManyInByte) {
        fields->put(exceptions & 31);
        fields->put(static_cast<uint32_t>(exceptions >> 5));
    }
    for (size_t i = 0; exceptions > 0 && i < block.n; ++i)
        if (is_exception(top, block.values[i])) fields->put(static_cast<uint32_t>(exponent_of(block.values[i])));
    return static_cast<uint8_t>(top | static_cast<int>(std::min<size_t>(exceptions, kManyInByte)) << 5);
}

// Six bits of each value, and low bytes, in the order of a whole block.
void read_planes(const uint8_t *low, const uint8_t *columns, unsigned top, uint16_t *out, uint8_t *steps)
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

// Field i of fields that end at the last whole one: its second byte is read only when it holds a part of it.
uint32_t field_at(const uint8_t *fields, size_t i)
{
    const size_t bit = i * kField, shift = bit % 8;
    uint32_t bytes = fields[bit / 8];
    if (shift > 8 - kField) bytes |= static_cast<uint32_t>(fields[bit / 8 + 1]) << 8;
    return bytes >> shift & 31;
}

// Exceptions of the block that starts at *field, which moves on to the first.
size_t exceptions_of(uint8_t entry, const uint8_t *fields, size_t count, size_t *field)
{
    size_t n = entry >> 5;
    if (n == kManyInByte) {
        if (count - *field < 2) damaged("cut short");
        n = field_at(fields, *field) | field_at(fields, *field + 1) << kField;
        *field += 2;
    }
    if (n > count - *field) damaged("cut short");
    return n;
}

// Fields `first` .. `first` + `count` - 1.
struct Exceptions {
    const uint8_t *fields;
    size_t first, count;
};

// A byte of steps has its three bits at 2: all of them set are an exception.
void set_exceptions(const uint8_t *steps, Exceptions e, uint16_t *values)
{
    for (size_t w = 0; w < kBlock; w += 8) {
        uint64_t word;
        std::memcpy(&word, steps + w, 8);
        for (uint64_t all = word >> 2 & word >> 3 & word >> 4 & kBytes; all != 0; all &= all - 1) {
            if (e.count == 0) damaged("with more exceptions than they say");
            --e.count;
            uint16_t &value = values[w + static_cast<size_t>(__builtin_ctzll(all)) / 8];
            value = static_cast<uint16_t>((value & 0x83FF) | field_at(e.fields, e.first++) << 10);
        }
    }
    if (e.count != 0) damaged("with fewer exceptions than they say");
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
        FieldWriter fields(plane + planes, data + plain);
        for (size_t slot = 0; slot < slots; ++slot)
            for (size_t from = 0; from < width; from += kBlock) {
                const Block block{values + slot * width + from, std::min<size_t>(kBlock, width - from)};
                const int top = best_top(block);
                *entry++ = write_exceptions(block, top, &fields);
                write_block(block, top, plane);
                plane += block_bytes(block.n);
            }
        const uint8_t *end = fields.finish();
        if (end != nullptr && end < data + plain) {
            out[0] = 1;
            return static_cast<size_t>(end - out);
        }
    }
    std::memcpy(data, values, plain);
    return kPackedHeader + plain;
}

// Where reading has come to.
struct PackedRow::Cursor {
    const uint8_t *table, *plane;
    size_t field;
};

PackedRow::PackedRow(const void *bytes, size_t size) : bytes_(static_cast<const uint8_t *>(bytes))
{
    if (size < kPackedHeader) damaged("shorter than their header");
    uint16_t slots, width;
    std::memcpy(&slots, bytes_ + 2, 2);
    std::memcpy(&width, bytes_ + 4, 2);
    if (bytes_[0] > 1 || bytes_[1] != 0 || bytes_[6] != 0 || bytes_[7] != 0) damaged("of an unknown form");
    if (slots == 0 || width == 0) damaged("without values");
    packed_ = bytes_[0] == 1;
    shape_ = {slots, width};
    const size_t rest = size - kPackedHeader;
    if (!packed_) {
        if (rest != 2 * shape_.values()) damaged("of another size than their shape");
        return;
    }
    const size_t table = blocks_of(width) * slots, planes = slot_bytes(width) * slots;
    if (rest < table + planes) damaged("cut short");
    planes_ = bytes_ + kPackedHeader + table;
    exceptions_ = planes_ + planes;
    fields_ = (rest - table - planes) * 8 / kField;
    size_ = size;
}

PackedRow::Cursor PackedRow::start() const { return {bytes_ + kPackedHeader, planes_, 0}; }

void PackedRow::skip_slot(Cursor *at) const
{
    const size_t blocks = blocks_of(shape_.width);
    for (size_t b = 0; b < blocks; ++b) {
        const uint8_t entry = *at->table++;
        const size_t n = exceptions_of(entry, exceptions_, fields_, &at->field);
        at->field += n;
    }
    at->plane += slot_bytes(shape_.width);
}

void PackedRow::read_slot(Cursor *at, uint16_t *out) const
{
    alignas(16) uint8_t steps[kBlock];
    uint16_t padded[kBlock];
    for (size_t left = static_cast<size_t>(shape_.width); left > 0;) {
        const size_t n = std::min<size_t>(left, kBlock), q = columns_of(n);
        const uint8_t entry = *at->table++;
        const size_t exceptions = exceptions_of(entry, exceptions_, fields_, &at->field);
        if (n == kBlock) {
            read_planes(at->plane, at->plane + n, entry & 31, out, steps);
            set_exceptions(steps, {exceptions_, at->field, exceptions}, out);
        } else {
            uint8_t low[kBlock] = {}, columns[3 * kColumns] = {};
            for (size_t i = 0; i < n; ++i) low[padded_place(i, q)] = at->plane[i];
            for (size_t i = 0; i < 3; ++i) std::memcpy(columns + i * kColumns, at->plane + n + i * q, q);
            read_planes(low, columns, entry & 31, padded, steps);
            set_exceptions(steps, {exceptions_, at->field, exceptions}, padded);
            for (size_t i = 0; i < n; ++i) out[i] = padded[padded_place(i, q)];
        }
        at->field += exceptions;
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
    for (int slot = 0; slot < first; ++slot) skip_slot(&at);
    for (int slot = 0; slot < count; ++slot, out += width) read_slot(&at, out);
    const size_t end = static_cast<size_t>(exceptions_ - bytes_) + (at.field * kField + 7) / 8;
    if (first + count == shape_.slots && end != size_) damaged("of another size than their contents");
}

}  // namespace vkv::kv
