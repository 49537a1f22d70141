// Slots by content id, with CLOCK and pins.
#include "gpu/tile_cache.h"

#include <algorithm>
#include <stdexcept>

#include "gpu/page_tables.h"

namespace vkv::gpu {

namespace {
// The hand looks at so many slots at most, so that no request waits for a walk around a cache of millions of slots.
constexpr uint64_t kMostSteps = 65536;
constexpr size_t kMostCompared = 64;  // of what is not pinned, when it passed nothing else
constexpr size_t kMostKinds = 4096;

// Into the list, or out of it: the last takes its place.
template <class T, class Place>
void list(std::vector<T> *idle, T item, bool in, Place &&place)
{
    uint32_t &at = place(item);
    if (in == (at != UINT32_MAX)) return;
    if (in) {
        at = static_cast<uint32_t>(idle->size());
        idle->push_back(item);
        return;
    }
    (*idle)[at] = idle->back();
    place(idle->back()) = at;
    idle->pop_back();
    at = UINT32_MAX;
}

// The next slot from where the last look ended.
uint32_t next_held(Table *table)
{
    for (size_t laps = 0; laps <= table->heads.size(); laps++) {
        if (table->search_head >= table->heads.size()) table->search_head = 0;
        const std::vector<uint32_t> &slots = table->heads[table->search_head].slots;
        for (; table->search_from < slots.size(); table->search_from++)
            if (slots[table->search_from] < kFilling) return slots[table->search_from];
        table->search_head++;
        table->search_from = 0;
    }
    return kNoSlot;
}
}  // namespace

TileCache::TileCache(uint32_t slots) : slots_(slots) {}

bool TileCache::pinned(const Slot &slot) const { return (slot.table ? slot.table->pins : slot.pins) > 0; }
uint64_t TileCache::used_at(const Slot &slot) const { return slot.table ? slot.table->used : slot.used; }

uint32_t TileCache::victim()
{
    const uint64_t lap = slots_.size();
    uint32_t oldest = kNoSlot;
    for (uint64_t step = 0; step < std::min(2 * lap, kMostSteps + 1); step++) {
        const auto at = static_cast<uint32_t>(tick_++ % lap);
        const Slot &slot = slots_[at];
        if (!slot.taken || pinned(slot)) continue;
        if (used_at(slot) + lap < tick_) return at;
        if (oldest == kNoSlot || used_at(slot) < used_at(slots_[oldest])) oldest = at;
    }
    return oldest == kNoSlot ? idle_victim() : oldest;
}

// Of the first of those that are not pinned, the one that was not used for longest.
uint32_t TileCache::idle_victim()
{
    Table *table = nullptr;
    for (size_t i = 0; i < std::min(idle_tables_.size(), kMostCompared); i++)
        if (!table || idle_tables_[i]->used < table->used) table = idle_tables_[i];
    uint32_t found = kNoSlot;
    for (size_t i = 0; i < std::min(idle_private_.size(), kMostCompared); i++)
        if (found == kNoSlot || slots_[idle_private_[i]].used < slots_[found].used) found = idle_private_[i];
    return table && (found == kNoSlot || table->used < slots_[found].used) ? next_held(table) : found;
}

void TileCache::note(Table *table)
{
    list(&idle_tables_, table, table->pins == 0 && table->held > 0, [](Table *t) -> uint32_t & { return t->idle_at; });
}

void TileCache::note(uint32_t at)
{
    const Slot &slot = slots_[at];
    list(&idle_private_, at, slot.taken && !slot.table && slot.pins == 0,
         [&](uint32_t i) -> uint32_t & { return slots_[i].idle_at; });
}

uint32_t TileCache::take()
{
    if (!free_.empty()) {
        const uint32_t slot = free_.back();
        free_.pop_back();
        return slot;
    }
    if (never_used_ < slots_.size()) return never_used_++;
    if (available() == 0) return kNoSlot;
    const uint32_t slot = victim();
    if (slot == kNoSlot) return kNoSlot;
    drop(slot);
    free_.pop_back();
    evictions_++;
    return slot;
}

uint32_t TileCache::take_page(Table *table, uint32_t head, uint32_t index)
{
    const uint32_t at = take();
    if (at == kNoSlot) return at;
    Slot &slot = slots_[at];
    slot = {};
    slot.taken = slot.filling = true;
    slot.table = table;
    slot.id = uint64_t{head} << 32 | index;
    table->heads[head].slots[index] = at | kFilling;
    table->held++;
    used_++;
    if (table->pins) pinned_++;
    note(table);
    return at;
}

uint32_t TileCache::take_private(uint64_t id, const TileKind &kind)
{
    const uint32_t at = take();
    if (at == kNoSlot) return at;
    Slot &slot = slots_[at];
    slot = {};
    slot.taken = slot.filling = true;
    slot.id = id;
    slot.kind = number_of(kind);
    slot.used = tick_;
    slot.pins = 1;
    private_[id] = at;
    used_++;
    pinned_++;
    return at;
}

void TileCache::filled(uint32_t at, uint16_t bytes, uint8_t codec)
{
    Slot &slot = slots_[at];
    slot.filling = false;
    slot.bytes = bytes;
    slot.codec = codec;
    if (!slot.table) return;
    Table::Head &head = slot.table->heads[slot.id >> 32];
    const auto index = static_cast<uint32_t>(slot.id);
    head.slots[index] = at;
    head.bytes[index] = bytes;
    slot.table->missing--;
    slot.table->codecs |= 1u << codec;
}

void TileCache::drop(uint32_t at)
{
    Slot &slot = slots_[at];
    if (pinned(slot)) pinned_--;
    if (slot.table) {
        slot.table->heads[slot.id >> 32].slots[static_cast<uint32_t>(slot.id)] = kNoSlot;
        if (!slot.filling) slot.table->missing++;
        if (--slot.table->held == 0) emptied_.push_back(slot.table);
        note(slot.table);
    } else {
        private_.erase(slot.id);
    }
    slot.taken = false;
    note(at);
    slot = {};
    used_--;
    free_.push_back(at);
}

uint32_t TileCache::find(uint64_t id) const
{
    const auto found = private_.find(id);
    return found == private_.end() ? kNoSlot : found->second;
}

bool TileCache::remember(const TileKind &kind)
{
    if (kinds_.size() >= kMostKinds && std::find(kinds_.begin(), kinds_.end(), kind) == kinds_.end()) return false;
    number_of(kind);
    return true;
}

uint16_t TileCache::number_of(const TileKind &kind)
{
    const auto found = std::find(kinds_.begin(), kinds_.end(), kind);
    const auto number = static_cast<size_t>(found - kinds_.begin());
    if (found == kinds_.end()) kinds_.push_back(kind);
    return static_cast<uint16_t>(number);
}

bool TileCache::is_kind(uint32_t slot, const TileKind &kind) const { return kinds_[slots_[slot].kind] == kind; }

void TileCache::pin(uint32_t at)
{
    Slot &slot = slots_[at];
    if (slot.pins++ == 0) pinned_++;
    note(at);
    slot.used = tick_;
}

void TileCache::unpin(uint32_t at)
{
    Slot &slot = slots_[at];
    if (slot.table || slot.pins == 0) throw std::logic_error("a tile was unpinned that was not pinned");
    if (--slot.pins == 0) pinned_--;
    note(at);
}

void TileCache::pin(Table *table)
{
    if (table->pins++ == 0) pinned_ += table->held;
    note(table);
    table->used = tick_;
}

void TileCache::unpin(Table *table)
{
    if (table->pins == 0) throw std::logic_error("a table was unpinned that was not pinned");
    if (--table->pins > 0) return;
    pinned_ -= table->held;
    note(table);
    if (table->held == 0) emptied_.push_back(table);
}

}  // namespace vkv::gpu
