// What this session's functions read and how long they took: the view kv.stats.
#pragma once

#include <chrono>
#include <cstdint>

namespace vkv::kv {

enum class Operation : int { attend = 0, append = 1, fetch = 2 };

struct Work {
    uint64_t sequences, tokens, tiles, bytes;
};

// Counts one call; the time runs since the StatTimer of the operation was made.
void count_work(Operation operation, const Work &work);

class StatTimer {
public:
    explicit StatTimer(Operation operation);
};

}  // namespace vkv::kv
