// Lines of the helper's log: one each to stderr, "level: text", which the supervisor passes on to the server's log.
#pragma once

namespace vkv::gpu {

enum class Level { debug, log, warning, error };

__attribute__((format(printf, 2, 3))) void log_as(Level level, const char *format, ...);
__attribute__((format(printf, 1, 2))) void log(const char *format, ...);

}  // namespace vkv::gpu
