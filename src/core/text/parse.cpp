// The parsers of parse.h: one cursor over the text, shared by the three types.
//
// Numbers take the fast road of from_chars, and strtof wherever the two could differ (hexadecimal, signs, out of range, names),
// so the accepted language is strtof's.

#include "core/text/parse.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/error.h"
#include "core/simd/half.h"
#include "core/text/limits.h"
#include "core/text/message.h"
#include "core/value.h"

namespace vkv {
namespace {

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// What strtof may take for a part of a number: "nan(_1)" is one.
bool is_of_number(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c != '\0' && std::strchr("+-._()", c));
}

struct Number {
    float value;
    bool range_error;  // the text names a number too large, or too small for anything but 0 or a subnormal
    const char *begin, *end;
    std::string text() const { return std::string(begin, end); }
};

class Cursor {
public:
    Cursor(const char *text, const char *type, Poll poll)
        : text_(text), end_(text + text_length(text, poll)), at_(text), type_(type), poll_(poll)
    {
    }

    void skip_space()
    {
        for (; is_space(*at_); ++at_)
            if (++blanks_ % kBlanks == 0 && poll_) poll_();
    }
    bool accept(char c)
    {
        if (*at_ != c) return false;
        ++at_;
        return true;
    }
    bool at_end() const { return *at_ == '\0'; }

    [[noreturn]] void malformed(const char *detail = "") const { malformed(detail, kPollBytes); }

    [[noreturn]] void out_of_range(const Number &number) const
    {
        throw Error(Errc::numeric_overflow, message("\"%s\" is out of range for type %s", number.text().c_str(), type_));
    }

    Number number()
    {
        check_length();
        Number result{0, false, at_, at_};
        if (is_digit(*at_) || (*at_ == '-' && is_digit(at_[1]))) {
            auto [stop, error] = std::from_chars(at_, end_, result.value);
            bool plain = error == std::errc() && std::isnormal(result.value) && *stop != 'x' && *stop != 'X';
            if (plain) {
                result.end = at_ = stop;
                return result;
            }
        }
        char *stop;
        errno = 0;
        result.value = std::strtof(at_, &stop);
        if (stop == at_) malformed();
        result.range_error = errno == ERANGE;
        result.end = at_ = stop;
        return result;
    }

    // Saturates: an integer too large for int is out of every bound that is checked later.
    int integer(int least)
    {
        check_length();
        char *stop;
        long value = std::strtol(at_, &stop, 10);
        if (stop == at_) malformed();
        at_ = stop;
        return static_cast<int>(std::clamp(value, static_cast<long>(least), static_cast<long>(INT_MAX)));
    }

private:
    static constexpr size_t kBlanks = size_t{1} << 20;
    static constexpr size_t kLongestNumber = size_t{1} << 16;  // nothing asks for interrupts within one

    // A comma so near ends any number.
    void check_length() const
    {
        if (static_cast<size_t>(end_ - at_) <= kLongestNumber || std::memchr(at_, ',', kLongestNumber)) return;
        const char *stop = at_;
        while (stop <= at_ + kLongestNumber && is_of_number(*stop)) ++stop;
        if (stop <= at_ + kLongestNumber) return;
        malformed("A number has at most " + std::to_string(kLongestNumber) + " characters. (at character " +
                      std::to_string(at_ - text_ + 1) + ")",
                  kLongestNumber);
    }

    // Of a text longer than `most` the beginning is shown, up to the end of a character of UTF-8.
    [[noreturn]] void malformed(const std::string &detail, size_t most) const
    {
        constexpr size_t kShown = 60;
        std::string shown(text_, std::min(static_cast<size_t>(end_ - text_), most));
        if (shown.size() == most) {
            size_t n = kShown;
            while (n > 0 && (static_cast<unsigned char>(shown[n]) & 0xC0) == 0x80) --n;
            shown.replace(n, std::string::npos, "...");
        }
        throw Error(Errc::invalid_text, message("invalid input syntax for type %s: \"%s\"", type_, shown.c_str()), {}, detail);
    }

    const char *text_, *end_, *at_;
    const char *type_;
    Poll poll_;
    size_t blanks_ = 0;
};

struct FloatElement {
    static constexpr const char *kType = kVectorName;
    using Stored = float;
    static Stored convert(const Cursor &cursor, const Number &number)
    {
        if (number.range_error && std::isinf(number.value)) cursor.out_of_range(number);
        check_finite(number.value, kType);
        return number.value;
    }
};

struct HalfElement {
    static constexpr const char *kType = kHalfvecName;
    using Stored = uint16_t;
    static Stored convert(const Cursor &cursor, const Number &number)
    {
        Stored half = float_to_half(number.value);
        bool overflow = std::isinf(half_to_float(half)) && (number.range_error || !std::isinf(number.value));
        if (overflow) cursor.out_of_range(number);
        check_finite(number.value, kType);
        return half;
    }
};

template <typename Element>
int parse_dense(const char *text, typename Element::Stored *out, Poll poll)
{
    Cursor cursor(text, Element::kType, poll);
    cursor.skip_space();
    if (!cursor.accept('[')) cursor.malformed("Vector contents must start with \"[\".");
    cursor.skip_space();
    if (cursor.accept(']')) check_dense_dim(0, Element::kType);
    int dim = 0;
    for (;;) {
        check_dense_dim(dim + 1, Element::kType);
        cursor.skip_space();
        if (cursor.at_end()) cursor.malformed();
        out[dim++] = Element::convert(cursor, cursor.number());
        cursor.skip_space();
        if (cursor.accept(']')) break;
        if (!cursor.accept(',')) cursor.malformed();
    }
    cursor.skip_space();
    if (!cursor.at_end()) cursor.malformed("Junk after closing right brace.");
    return dim;
}

SparseElement parse_sparse_element(Cursor *cursor)
{
    cursor->skip_space();
    if (cursor->at_end()) cursor->malformed();
    int index = cursor->integer(INT_MIN + 1);
    cursor->skip_space();
    if (!cursor->accept(':')) cursor->malformed();
    cursor->skip_space();
    Number number = cursor->number();
    if (number.range_error && (number.value == 0 || std::isinf(number.value))) cursor->out_of_range(number);
    check_finite(number.value, kSparsevecName);
    return {index - 1, number.value};
}

}  // namespace

size_t max_elements(const char *text, size_t limit, Poll poll)
{
    size_t elements = 1;
    by_pieces(text_length(text, poll), kPollBytes, poll,
              [&](size_t at, size_t n) { elements += static_cast<size_t>(std::count(text + at, text + at + n, ',')); });
    return std::min(elements, limit);
}

int parse_vector(const char *text, float *out, Poll poll) { return parse_dense<FloatElement>(text, out, poll); }

int parse_halfvec(const char *text, uint16_t *out, Poll poll) { return parse_dense<HalfElement>(text, out, poll); }

SparseShape parse_sparsevec(const char *text, SparseElement *out, Poll poll)
{
    // every element counts against the limit here, also those that turn out to be 0
    if (max_elements(text, kMaxSparseNnz + 1, poll) > kMaxSparseNnz) check_sparse_nnz(kMaxSparseNnz + 1, kMaxSparseDim);
    Cursor cursor(text, kSparsevecName, poll);
    SparseShape shape{0, 0};
    cursor.skip_space();
    if (!cursor.accept('{')) cursor.malformed("Vector contents must start with \"{\".");
    cursor.skip_space();
    if (!cursor.accept('}')) {
        for (;;) {
            SparseElement element = parse_sparse_element(&cursor);
            if (element.value != 0) out[shape.nnz++] = element;
            cursor.skip_space();
            if (cursor.accept('}')) break;
            if (!cursor.accept(',')) cursor.malformed();
        }
    }
    cursor.skip_space();
    if (!cursor.accept('/')) cursor.malformed("Unexpected end of input.");
    cursor.skip_space();
    shape.dim = cursor.integer(INT_MIN);
    cursor.skip_space();
    if (!cursor.at_end()) cursor.malformed("Junk after closing.");
    check_sparse_dim(shape.dim);
    return shape;
}

void place_elements(SparseElement *elements, SparseShape shape, int32_t *indices, float *values)
{
    auto by_index = [](const SparseElement &a, const SparseElement &b) { return a.index < b.index; };
    if (!std::is_sorted(elements, elements + shape.nnz, by_index)) std::sort(elements, elements + shape.nnz, by_index);
    for (int i = 0; i < shape.nnz; ++i) {
        indices[i] = elements[i].index;
        values[i] = elements[i].value;
        check_sparse_index(indices, i, shape.dim);
    }
}

}  // namespace vkv
