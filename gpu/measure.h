// What the helper finds out about itself when it starts: how long a small cached request takes, and how fast tiles are read and
// copied. It asks itself through its own socket, as any client does.
#pragma once
#include <string>

#include "gpu/arena.h"

namespace vkv::gpu {

inline constexpr uint64_t kMeasuring = ~uint64_t{0};  // said in place of a process id

void measure(const std::string &socket, Arena *arena);

}  // namespace vkv::gpu
