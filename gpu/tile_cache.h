// The slots of the device's memory: who holds each, and which one is given away next (CLOCK).
//
// A slot holds a tile of a page table, or a private tile, which is found by its content id. Pins and use are noted once for a whole
// table, so that a request over a long sequence costs the same as one over a short one. CLOCK's reference bit is a time: a slot
// survives the hand when it, or its table, was used since the hand was there last. A slot that is being filled is always pinned.
// Where all that the hand passes is pinned, those that are not are found by lists of them.
#pragma once
#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace vkv::gpu {

inline constexpr uint32_t kNoSlot = UINT32_MAX;
inline constexpr uint32_t kReserved = UINT32_MAX - 1;  // of a page or a private tile: a slot will be found at once
inline constexpr uint32_t kFilling = 1u << 31;         // with a slot's number, in a page table

struct Table;

// What all tiles of a request have in common.
struct TileKind {
    uint16_t dim_k = 0, dim_v = 0, heads = 0, flags = 0;
    bool operator==(const TileKind &) const = default;
};

struct Slot {
    Table *table = nullptr;
    uint64_t id = 0;                // of a private tile; of a table's: head << 32 | index
    uint64_t used = 0;              // private tiles
    uint32_t pins = 0;              // private tiles
    uint32_t idle_at = UINT32_MAX;  // private tiles: as in Table
    uint16_t bytes = 0;
    uint16_t kind = 0;
    uint8_t codec = 0;
    bool taken = false, filling = false;
};

class TileCache {
public:
    explicit TileCache(uint32_t slots);

    // A slot for a page of a table or for a private tile, to be filled; the private tile is pinned once. kNoSlot: everything is
    // pinned.
    uint32_t take_page(Table *table, uint32_t head, uint32_t index);
    uint32_t take_private(uint64_t id, const TileKind &kind);
    void filled(uint32_t slot, uint16_t bytes, uint8_t codec);
    bool remember(const TileKind &kind);  // false: it knows too many
    void drop(uint32_t slot);             // whatever it holds; not while it is filled by the device or read

    // Private tiles. find: kNoSlot where there is none, kReserved where one was reserved.
    uint32_t find(uint64_t id) const;
    bool is_kind(uint32_t slot, const TileKind &kind) const;
    void reserve(uint64_t id) { private_[id] = kReserved; }
    void unreserve(uint64_t id) { private_.erase(id); }
    void pin(uint32_t slot);
    void unpin(uint32_t slot);

    void pin(Table *table);
    void unpin(Table *table);
    void move_page(uint32_t slot, uint32_t index) { slots_[slot].id = slots_[slot].id >> 32 << 32 | index; }

    const Slot &operator[](uint32_t slot) const { return slots_[slot]; }
    uint32_t slots() const { return static_cast<uint32_t>(slots_.size()); }
    uint32_t used() const { return used_; }
    uint32_t pinned() const { return pinned_; }
    uint32_t available() const { return slots() - pinned_; }
    uint64_t evictions() const { return evictions_; }
    uint64_t steps() const { return tick_; }  // of the hand
    // Tables that lost their last page since this was asked: nobody may want them any more.
    std::vector<Table *> take_emptied() { return std::exchange(emptied_, {}); }
    void forget(Table *table) { std::erase(emptied_, table); }

private:
    uint32_t take();
    uint32_t victim();
    uint32_t idle_victim();
    void note(Table *table);  // after its pins or slots have changed
    void note(uint32_t slot);
    bool pinned(const Slot &slot) const;
    uint64_t used_at(const Slot &slot) const;
    uint16_t number_of(const TileKind &kind);

    std::vector<Slot> slots_;
    std::vector<uint32_t> free_;
    std::vector<TileKind> kinds_;
    std::unordered_map<uint64_t, uint32_t> private_;
    std::vector<Table *> emptied_;
    std::vector<Table *> idle_tables_;    // that hold slots and are not pinned
    std::vector<uint32_t> idle_private_;  // slots of private tiles that are not pinned
    uint64_t tick_ = 0;                   // slots that the hand has passed; the hand is at tick_ % slots
    uint32_t never_used_ = 0, used_ = 0, pinned_ = 0;
    uint64_t evictions_ = 0;
};

}  // namespace vkv::gpu
