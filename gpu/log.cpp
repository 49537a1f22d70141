// One line of log for each event, to standard error: the supervisor passes it on.
#include "gpu/log.h"

#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstddef>
#include <cstdio>

namespace vkv::gpu {

namespace {

void write_line(Level level, const char *format, va_list arguments)
{
    static constexpr const char *kNames[] = {"debug", "log", "warning", "error"};
    char line[1024];  // one write each, so that threads do not mix them up
    const auto head = static_cast<size_t>(std::snprintf(line, sizeof line, "%s: ", kNames[static_cast<int>(level)]));
    const int body = std::vsnprintf(line + head, sizeof line - head - 1, format, arguments);
    size_t bytes = std::min(head + static_cast<size_t>(std::max(body, 0)), sizeof line - 2);
    std::replace(line + head, line + bytes, '\n', ' ');
    line[bytes++] = '\n';
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line, bytes);
}

}  // namespace

void log_as(Level level, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    write_line(level, format, arguments);
    va_end(arguments);
}

void log(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    write_line(Level::log, format, arguments);
    va_end(arguments);
}

}  // namespace vkv::gpu
