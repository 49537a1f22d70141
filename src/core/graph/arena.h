// Memory of a build, in large chunks. Up to a budget it is ordinary memory; beyond it, a spill source gives chunks of some other
// kind (the PostgreSQL side gives a mapped temporary file), so that a build that outgrows its budget goes on at the same speed as
// long as the operating system can cache the file. Chunks are freed with the arena. One thread allocates.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

namespace vkv::graph {

class Arena {
public:
    static constexpr size_t kChunk = 2u << 20, kLeastChunk = 64u << 10;
    // spill(bytes): a chunk of zeroed memory that outlives the arena's use; it may throw. Called once the budget is used up.
    using Spill = std::function<void *(size_t)>;

    Arena(size_t budget, Spill spill);
    ~Arena();
    Arena(const Arena &) = delete;
    Arena &operator=(const Arena &) = delete;

    void *chunk(size_t bytes);                           // 64-byte aligned, zeroed, of its own
    void *allocate(size_t bytes);                        // 8-byte aligned, out of a shared chunk
    size_t chunk_bytes() const { return chunk_bytes_; }  // a small part of the budget, so that few rows fit into a small one
    size_t used() const { return used_; }
    bool spilled() const { return spilled_; }

private:
    size_t budget_, chunk_bytes_, used_ = 0;
    Spill spill_;
    bool spilled_ = false;
    std::vector<void *> owned_;
    uint8_t *open_ = nullptr;
    size_t open_left_ = 0;
};

}  // namespace vkv::graph
