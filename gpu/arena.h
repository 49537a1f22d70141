// The memory that the helper shares with its clients: an anonymous file of fixed size, so that no client can cut it short under the
// helper's hands and nothing is left behind. Its first slab holds the counters.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/offload/protocol.h"

namespace vkv::gpu {

class Arena {
public:
    explicit Arena(size_t bytes);  // rounded up to slabs; throws std::runtime_error
    ~Arena();
    Arena(const Arena &) = delete;
    Arena &operator=(const Arena &) = delete;

    uint8_t *base() const { return base_; }
    size_t bytes() const { return bytes_; }
    int fd() const { return fd_; }
    uint32_t slabs() const { return static_cast<uint32_t>(bytes_ / offload::kSlabBytes); }
    uint8_t *slab(uint32_t number) const { return base_ + size_t{number} * offload::kSlabBytes; }
    offload::ArenaHeader &header() const { return *reinterpret_cast<offload::ArenaHeader *>(base_); }

private:
    uint8_t *base_ = nullptr;
    size_t bytes_ = 0;
    int fd_ = -1;
};

// Counters are read by others while they change.
inline void set(uint64_t &counter, uint64_t value) { std::atomic_ref<uint64_t>(counter).store(value, std::memory_order_relaxed); }
inline uint64_t get(const uint64_t &counter)
{
    return std::atomic_ref<uint64_t>(const_cast<uint64_t &>(counter)).load(std::memory_order_relaxed);
}
inline void add(uint64_t &counter, uint64_t value)
{
    std::atomic_ref<uint64_t>(counter).fetch_add(value, std::memory_order_relaxed);
}

}  // namespace vkv::gpu
