// Addresses of items before they are written: a build plans them, and knows all of them when it writes the first page.
#pragma once

#include "pg/hnsw/format.h"

namespace vkv::hnsw {

// Where items go when they are packed one after the other.
class Packer {
public:
    explicit Packer(BlockNumber first) : block_(first), begin_(first) {}
    ItemPointerData next(size_t bytes)
    {
        const size_t need = MAXALIGN(bytes) + sizeof(ItemIdData);
        if (need > room_) {
            if (used_) ++block_;
            room_ = kPageRoom;
            offset_ = 0;
            used_ = true;
        }
        room_ -= need;
        ItemPointerData at;
        ItemPointerSet(&at, block_, ++offset_);
        return at;
    }
    BlockNumber end() const { return used_ ? block_ + 1 : begin_; }

private:
    BlockNumber block_, begin_;
    size_t room_ = 0;
    OffsetNumber offset_ = 0;
    bool used_ = false;
};

}  // namespace vkv::hnsw
