// Text of tensors and of their numbers.
//
//   tensor  = [dtype] [shape] list        f16[2,3]{1,2,3,4,5,6}: what is written; the values flat
//   shape   = [n, n, ...]                 a list in brackets is the shape when another list follows it, and the values otherwise
//   list    = {value, ...} or [value, ...], where value is a number or, on every level alike, a list: {{1,2,3},{4,5,6}}
//
// Without dtype f32, without shape the shape of the nesting; with a shape the values are flat, or nested as the shape says. White
// space may stand between any two of these. Numbers are decimal; NaN, Infinity and inf are numbers, whatever their case. A number
// that is too large for the dtype is an error, one that is too small becomes 0. Written are the fewest digits that read back as
// the same number of the dtype.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/kv/tensor.h"

namespace vkv::kv {

struct ParsedTensor {
    Dtype dtype = Dtype::f32;
    int dims = 0;
    uint32_t shape[kMaxTensorDims] = {};
    std::vector<uint8_t> data;
    TensorView view() const;
};

// Called every few milliseconds of work; may throw. Null: nobody asks.
using TextPoll = std::function<void()>;

// Throw Error: invalid_text, numeric_overflow, limit_exceeded.
ParsedTensor parse_tensor(std::string_view text, const TextPoll &poll = {});
std::string tensor_text(const TensorView &tensor, const TextPoll &poll = {});

// An empty text with room for so many numbers: growing would copy hundreds of megabytes. And: not more than PostgreSQL takes.
std::string text_of_numbers(size_t n);
void check_text_size(const std::string &text);

// Numbers, for the text of other types too.
void append_number(Dtype dtype, const void *data, size_t index, std::string *out);

// Reads a text from its start to its end; every error names the type and the place.
class TextCursor {
public:
    TextCursor(std::string_view text, const char *type, const TextPoll &poll = {}) : text_(text), type_(type), poll_(poll) {}
    void skip_space();
    char peek();              // the next character that is no white space; 0 at the end
    bool accept(char c);      // takes it if it is next
    void expect(char c);      // takes it or throws
    std::string_view word();  // letters and digits that start with a letter; empty if there are none
    float number();           // throws numeric_overflow for one beyond float
    float number(Dtype dtype);
    uint32_t natural(uint32_t limit);  // a whole number up to limit
    size_t at() const { return at_; }
    void go_to(size_t at) { at_ = at; }
    [[noreturn]] void malformed(const std::string &detail) const;

private:
    std::string_view text_;
    const char *type_;
    const TextPoll poll_;
    size_t at_ = 0, poll_at_ = kPollEvery;
    static constexpr size_t kPollEvery = 1 << 16;  // characters
    void poll();
    std::string_view number_text();
};

}  // namespace vkv::kv
