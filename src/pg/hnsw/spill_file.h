// Memory for a build that outgrows maintenance_work_mem: pieces of one temporary file, mapped. PostgreSQL owns the file (it counts
// against temp_file_limit and goes away with the transaction, whatever happens); its space is reserved before it is used, so that a
// full disk is an error and not a signal.
#pragma once

#include <cstddef>
#include <vector>

#include "pg/boundary/boundary.h"

namespace vkv::hnsw {

class SpillFile {
public:
    SpillFile() = default;
    ~SpillFile();
    SpillFile(const SpillFile &) = delete;
    SpillFile &operator=(const SpillFile &) = delete;

    void *allocate(size_t bytes);  // zeroed, page-aligned
    size_t bytes() const { return size_; }
    void close();  // when all went well; otherwise the transaction does it

private:
    File file_ = -1;
    size_t size_ = 0;
    struct Mapping {
        void *address;
        size_t bytes;
    };
    std::vector<Mapping> mappings_;
};

}  // namespace vkv::hnsw
