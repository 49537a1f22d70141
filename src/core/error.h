// The one exception type of core. Its code says which SQLSTATE the boundary raises; texts are for users:
// lower case, with the names and numbers that matter, and a hint when something can be done.
#pragma once
#include <exception>
#include <string>
#include <utility>

namespace vkv {

enum class Errc {
    invalid_parameter,  // 22023
    invalid_text,       // 22P02
    invalid_binary,     // 22P03
    data_exception,     // 22000: values that do not fit together, e.g. different dimensions
    numeric_overflow,   // 22003
    array_subscript,    // 2202E
    null_not_allowed,   // 22004
    limit_exceeded,     // 54000
    not_supported,      // 0A000
    index_corrupted,    // XX002
    data_corrupted,     // XX001
    undefined_object,   // 42704
    wrong_object_type,  // 42809
    duplicate_object,   // 42710
    wrong_state,        // 55000
    out_of_memory,      // 53200
    internal,           // XX000
};

class Error : public std::exception {
public:
    Error(Errc code, std::string message, std::string hint = {}, std::string detail = {})
        : code_(code), message_(std::move(message)), hint_(std::move(hint)), detail_(std::move(detail))
    {
    }
    Errc code() const noexcept { return code_; }
    const std::string &message() const noexcept { return message_; }
    const std::string &hint() const noexcept { return hint_; }
    const std::string &detail() const noexcept { return detail_; }
    const char *what() const noexcept override { return message_.c_str(); }

private:
    Errc code_;
    std::string message_, hint_, detail_;
};

}  // namespace vkv
