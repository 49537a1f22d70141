// Rows of a target in blocks of bounded size: values as they are stored, and which row each is of. NULLs are left out.
#pragma once

#include <memory>
#include <vector>

#include "core/nearest/nearest.h"
#include "pg/nearest/target.h"

namespace vkv::nearest {

// Rows [rows][dim] of the target's type. Plain memory, filled from PostgreSQL code.
class Block {
public:
    Block(const Target &target, size_t dim);

    size_t rows() const { return rows_; }
    bool full() const { return rows_ == ids_.size(); }
    void clear() { rows_ = 0; }
    // Detoasts and copies. Throws Error for a vector of another dimension. May raise.
    void take(Datum value, RowId id);

    const uint8_t *values() const { return values_.data(); }
    const RowId *ids() const { return ids_.data(); }
    size_t row_bytes() const { return row_bytes_; }

private:
    Scalar scalar_;
    size_t dim_, row_bytes_, rows_ = 0;
    std::vector<uint8_t> values_;
    std::vector<RowId> ids_;
};

class Rows {
public:
    virtual ~Rows() = default;
    // Fills the empty block; false when no row is left and the block stayed empty.
    virtual bool next(Block *block) = 0;
    // Closes what was opened. Not called where an error ended the statement.
    virtual void close() = 0;
};

// Under the active snapshot. SPI must be connected.
std::unique_ptr<Rows> open_rows(const Target &target);

inline constexpr uint64_t kNoTid = UINT64_MAX;  // of a view's row whose ctid is null

inline uint64_t id_of(ItemPointer tid)
{
    return (static_cast<uint64_t>(ItemPointerGetBlockNumberNoCheck(tid)) << 16) | ItemPointerGetOffsetNumberNoCheck(tid);
}
inline void tid_of(uint64_t id, ItemPointer tid)
{
    ItemPointerSet(tid, static_cast<BlockNumber>(id >> 16), static_cast<OffsetNumber>(id & 0xFFFF));
}

}  // namespace vkv::nearest
