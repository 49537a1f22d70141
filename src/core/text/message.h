// Messages of errors, written as a printf format so that they read like the texts that users see.
#pragma once

#include <string>

namespace vkv {

__attribute__((format(printf, 1, 2))) std::string message(const char *format, ...);

}  // namespace vkv
