// The grammar of tensor_text.h. Values go into the tensor's bytes as they are read, so a text is walked once.
#include "core/kv/tensor_text.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/simd/half.h"

namespace vkv::kv {
namespace {

constexpr const char *kTypeName = "kv.tensor";
constexpr size_t kLongestNumber = 1 << 16;  // nothing asks for interrupts within one
constexpr size_t kPollEvery = 1 << 13;      // numbers written
constexpr size_t kMostText = 0x3FFFFFFE;    // bytes of a text of PostgreSQL

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
bool is_letter(char c) { return lower(c) >= 'a' && lower(c) <= 'z'; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_open(char c) { return c == '{' || c == '['; }
char closing(char open) { return open == '{' ? '}' : ']'; }

// The elements of a list, nested as deeply as it goes; all lists of a level must be of one length.
class ListReader {
public:
    ListReader(TextCursor *cursor, ParsedTensor *tensor) : cursor_(cursor), tensor_(tensor) {}

    void read()
    {
        list(0);
        tensor_->dims = depth_;
        for (int i = 0; i < depth_; ++i) tensor_->shape[i] = length_[i] == kUnknown ? 0 : static_cast<uint32_t>(length_[i]);
    }

private:
    static constexpr int64_t kUnknown = -1;

    void list(int level)
    {
        if (level == kMaxTensorDims) cursor_->malformed("A tensor has at most " + std::to_string(kMaxTensorDims) + " dimensions.");
        const char open = cursor_->peek();
        cursor_->expect(open == '[' ? '[' : '{');
        int64_t count = 0;
        if (!cursor_->accept(closing(open))) {
            do {
                item(level);
                ++count;
            } while (cursor_->accept(','));
            cursor_->expect(closing(open));
        } else if (depth_ == 0) {
            depth_ = level + 1;  // the first list without lists: this is the innermost level
        }
        if (length_[level] == kUnknown) length_[level] = count;
        if (length_[level] != count) cursor_->malformed("Lists of one level must have the same number of elements.");
    }

    void item(int level)
    {
        const bool nested = is_open(cursor_->peek());
        if (depth_ == 0 && !nested) depth_ = level + 1;
        if (depth_ != 0 && nested != (level + 1 < depth_)) cursor_->malformed("Numbers must all be nested equally deep.");
        if (nested)
            list(level + 1);
        else
            value();
    }

    void value()
    {
        const float value = cursor_->number(tensor_->dtype);
        const size_t size = dtype_bytes(tensor_->dtype), at = tensor_->data.size();
        if (at + size > kMaxTensorBytes)
            throw Error(Errc::limit_exceeded, "a tensor takes at most " + std::to_string(kMaxTensorBytes) + " bytes");
        tensor_->data.resize(at + size);
        from_f32(tensor_->dtype, &value, tensor_->data.data() + at, 1);
    }

    TextCursor *cursor_;
    ParsedTensor *tensor_;
    int depth_ = 0;  // 0: not known yet
    int64_t length_[kMaxTensorDims] = {kUnknown, kUnknown, kUnknown, kUnknown, kUnknown};
};

// Reads [n, n, ...] when another list follows it; else takes nothing.
bool read_shape(TextCursor *cursor, ParsedTensor *tensor)
{
    const size_t start = cursor->at();
    if (!cursor->accept('[')) return false;
    int dims = 0;
    uint32_t shape[kMaxTensorDims];
    do {
        if (dims == kMaxTensorDims || !is_digit(cursor->peek())) break;
        const size_t before = cursor->at();
        shape[dims] = cursor->natural(std::numeric_limits<uint32_t>::max());
        if (cursor->at() == before) break;
        ++dims;
    } while (cursor->accept(','));
    const bool is_shape = dims > 0 && cursor->accept(']') && is_open(cursor->peek());
    if (!is_shape) {
        cursor->go_to(start);
        return false;
    }
    tensor->dims = dims;
    std::memcpy(tensor->shape, shape, sizeof shape[0] * static_cast<size_t>(dims));
    return true;
}

// Values of a text with a shape: flat, or nested as the shape says.
void check_against_shape(const TextCursor &cursor, const ParsedTensor &given, const ParsedTensor &read)
{
    uint64_t elements = 1;
    for (int i = 0; i < given.dims; ++i) {
        if (given.shape[i] == 0) elements = 0;
        if (elements != 0 && given.shape[i] > kMaxTensorBytes / elements)
            throw Error(Errc::limit_exceeded,
                        "a tensor of shape " + shape_text(given.view()) + " exceeds " + std::to_string(kMaxTensorBytes) + " bytes");
        elements *= given.shape[i];
    }
    const bool flat = read.dims == 1 && read.shape[0] == elements;
    const bool nested = read.dims == given.dims && std::equal(read.shape, read.shape + read.dims, given.shape);
    if (!flat && !nested)
        cursor.malformed("Shape " + shape_text(given.view()) + " does not fit values of shape " + shape_text(read.view()) + ".");
}

// The fewest digits whose nearest number of two bytes is this one.
std::to_chars_result short_digits(Dtype dtype, float value, char *first, char *last)
{
    uint16_t wanted;
    from_f32(dtype, &value, &wanted, 1);
    for (int digits = 1; digits <= 9; ++digits) {
        const std::to_chars_result written = std::to_chars(first, last, value, std::chars_format::general, digits);
        float again = 0;
        std::from_chars(first, written.ptr, again);
        uint16_t got;
        from_f32(dtype, &again, &got, 1);
        if (got == wanted) return std::to_chars(first, last, again);  // the shorter of 1000 and 1e+03
    }
    return std::to_chars(first, last, value);
}

}  // namespace

// ---- cursor ----------------------------------------------------------------------------------------------------------------

void TextCursor::malformed(const std::string &detail) const
{
    constexpr size_t kShown = 60;
    std::string shown(text_.substr(0, kShown));
    while (text_.size() > kShown && !shown.empty() && (static_cast<unsigned char>(shown.back()) & 0x80)) shown.pop_back();
    if (text_.size() > kShown) shown += "...";
    throw Error(Errc::invalid_text, std::string("invalid input syntax for type ") + type_ + ": \"" + shown + "\"", {},
                detail + " (at character " + std::to_string(at_ + 1) + ")");
}

void TextCursor::skip_space()
{
    while (at_ < text_.size() && (text_[at_] == ' ' || (text_[at_] >= '\t' && text_[at_] <= '\r')))
        if (++at_ >= poll_at_) poll();
    if (at_ >= poll_at_) poll();
}

void TextCursor::poll()
{
    poll_at_ = at_ + kPollEvery;
    if (poll_) poll_();
}

char TextCursor::peek()
{
    skip_space();
    return at_ < text_.size() ? text_[at_] : '\0';
}

bool TextCursor::accept(char c)
{
    if (peek() != c || at_ == text_.size()) return false;
    ++at_;
    return true;
}

void TextCursor::expect(char c)
{
    if (!accept(c)) malformed(std::string("Expected \"") + c + "\".");
}

std::string_view TextCursor::word()
{
    if (!is_letter(peek())) return {};
    const size_t start = at_;
    while (at_ < text_.size() && (is_letter(text_[at_]) || is_digit(text_[at_])))
        if (++at_ >= poll_at_) poll();
    return text_.substr(start, at_ - start);
}

std::string_view TextCursor::number_text()
{
    skip_space();
    const size_t start = at_;
    while (at_ < text_.size() &&
           (is_letter(text_[at_]) || is_digit(text_[at_]) || text_[at_] == '.' || text_[at_] == '-' || text_[at_] == '+'))
        if (++at_ >= poll_at_) poll();
    if (at_ - start > kLongestNumber) {
        at_ = start;
        malformed("A number has at most " + std::to_string(kLongestNumber) + " characters.");
    }
    return text_.substr(start, at_ - start);
}

float TextCursor::number() { return number(Dtype::f32); }

float TextCursor::number(Dtype dtype)
{
    const size_t start = at_;
    const std::string_view text = number_text();
    const char *first = text.data(), *last = first + text.size();
    if (first != last && *first == '+' && text.size() > 1 && text[1] != '-') ++first;
    float value = 0;
    const std::from_chars_result result = std::from_chars(first, last, value);
    if (first == last || result.ptr != last || result.ec == std::errc::invalid_argument) {
        at_ = start;
        malformed("Expected a number.");
    }
    const bool large = result.ec == std::errc::result_out_of_range && [&] {
        double wide = 0;
        const auto again = std::from_chars(first, last, wide);
        if (again.ec == std::errc()) return std::fabs(wide) > 1;
        std::string copy(first, last);
        return std::fabs(std::strtold(copy.c_str(), nullptr)) > 1;
    }();
    if (result.ec == std::errc::result_out_of_range && !large) return *first == '-' ? -0.0f : 0.0f;
    float stored = value;
    if (!large && dtype != Dtype::f32) {
        uint16_t narrow;
        from_f32(dtype, &value, &narrow, 1);
        stored = element(dtype, &narrow, 0);
    }
    if (large || (std::isinf(stored) && !std::isinf(value)))
        throw Error(Errc::numeric_overflow, "\"" + std::string(text) + "\" is out of range for " + dtype_name(dtype));
    return value;
}

uint32_t TextCursor::natural(uint32_t limit)
{
    skip_space();
    const size_t start = at_;
    while (at_ < text_.size() && is_digit(text_[at_]))
        if (++at_ >= poll_at_) poll();
    uint32_t value = 0;
    const auto [end, error] = std::from_chars(text_.data() + start, text_.data() + at_, value);
    if (at_ == start || error != std::errc() || value > limit) {
        at_ = start;
        malformed("Expected a whole number up to " + std::to_string(limit) + ".");
    }
    return value;
}

// ---- tensors ---------------------------------------------------------------------------------------------------------------

TensorView ParsedTensor::view() const
{
    TensorView view;
    view.dtype = dtype;
    view.dims = dims;
    std::memcpy(view.shape, shape, sizeof shape);
    view.data = data.data();
    return view;
}

namespace {

// Room for all numbers that there can be.
size_t most_bytes(std::string_view text, Dtype dtype, const TextPoll &poll)
{
    constexpr size_t kPiece = size_t{1} << 22;
    size_t numbers = 1;
    for (size_t at = 0; at < text.size(); at += kPiece) {
        if (at > 0 && poll) poll();
        const std::string_view piece = text.substr(at, kPiece);
        numbers += static_cast<size_t>(std::count(piece.begin(), piece.end(), ','));
    }
    return std::min(numbers * dtype_bytes(dtype), kMaxTensorBytes);
}

}  // namespace

ParsedTensor parse_tensor(std::string_view text, const TextPoll &poll)
{
    TextCursor cursor(text, kTypeName, poll);
    ParsedTensor tensor;
    if (const std::string_view name = cursor.word(); !name.empty()) {
        try {
            tensor.dtype = dtype_named(std::string(name));
        } catch (const Error &error) {
            throw Error(Errc::invalid_text, error.message(), error.hint());
        }
    }
    ParsedTensor given = tensor;
    const bool has_shape = read_shape(&cursor, &given);
    tensor.data.reserve(most_bytes(text, tensor.dtype, poll));
    ListReader(&cursor, &tensor).read();
    if (cursor.peek() != '\0' || cursor.at() != text.size()) cursor.malformed("Text after the end of the tensor.");
    if (!has_shape) return tensor;
    check_against_shape(cursor, given, tensor);
    given.data = std::move(tensor.data);
    return given;
}

void append_number(Dtype dtype, const void *data, size_t index, std::string *out)
{
    const float value = element(dtype, data, index);
    if (std::isnan(value)) {
        *out += "NaN";
        return;
    }
    if (std::isinf(value)) {
        *out += value < 0 ? "-Infinity" : "Infinity";
        return;
    }
    char digits[32];
    const std::to_chars_result written = dtype == Dtype::f32 ? std::to_chars(digits, digits + sizeof digits, value)
                                                             : short_digits(dtype, value, digits, digits + sizeof digits);
    out->append(digits, written.ptr);
}

std::string text_of_numbers(size_t n)
{
    constexpr size_t kLong = 16;  // of most numbers
    std::string text;
    text.reserve(std::min(n, kMostText / kLong) * kLong);
    return text;
}

void check_text_size(const std::string &text)
{
    if (text.size() > kMostText)
        throw Error(Errc::limit_exceeded, "a text of more than " + std::to_string(kMostText) + " bytes is too large");
}

std::string tensor_text(const TensorView &tensor, const TextPoll &poll)
{
    std::string text = text_of_numbers(tensor.elements());
    text += dtype_name(tensor.dtype);
    text += '[';
    for (int i = 0; i < tensor.dims; ++i) text += (i ? "," : "") + std::to_string(tensor.shape[i]);
    text += "]{";
    const size_t n = tensor.elements();
    for (size_t i = 0; i < n; ++i) {
        if (i) text += ',';
        append_number(tensor.dtype, tensor.data, i, &text);
        if ((i + 1) % kPollEvery != 0) continue;
        check_text_size(text);
        if (poll) poll();
    }
    text += '}';
    return text;
}

}  // namespace vkv::kv
