// What a graph search keeps: a pool of the nearest nodes met, in ascending distance, and the set of nodes already met.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace vkv::graph {

inline constexpr uint32_t kNoNode = std::numeric_limits<uint32_t>::max();
inline constexpr int kMaxLevel = 31;

// Of values so large that single precision overflows: far away, but comparable. (Infinity means a node that cannot be read.)
inline float finite(float distance)
{
    constexpr float kFarthest = std::numeric_limits<float>::max();
    return distance < kFarthest ? distance : kFarthest;  // NaN too
}

struct Candidate {
    float distance;
    uint32_t id;
    bool operator<(const Candidate &o) const { return distance < o.distance || (distance == o.distance && id < o.id); }
    bool operator>(const Candidate &o) const { return o < *this; }
};

// A pool of bounded width, sorted. Nodes that do not count (tombstones, which lead on but are no answer) stand in it without using
// up width. Insertion moves memory; for the widths in use (<= 1,000) that is cheaper than two heaps.
class Pool {
public:
    struct Entry {
        float distance;
        uint32_t id;
        bool counts;
        bool expanded;
    };

    void reset(size_t width)
    {
        width_ = width;
        counting_ = 0;
        next_ = 0;
        entries_.clear();
        entries_.reserve(width + 1);
    }
    bool full() const { return counting_ >= width_; }
    // Beyond this distance a node cannot enter.
    float bound() const { return full() ? entries_.back().distance : std::numeric_limits<float>::infinity(); }

    // Calls dropped(candidate) for a counting node that falls out. Returns false if the node itself did not enter.
    template <class Dropped>
    bool insert(Candidate c, bool counts, Dropped &&dropped)
    {
        if (full() && !(c.distance < entries_.back().distance)) return false;
        auto at =
            std::upper_bound(entries_.begin(), entries_.end(), c.distance, [](float d, const Entry &e) { return d < e.distance; });
        size_t pos = static_cast<size_t>(at - entries_.begin());
        entries_.insert(at, Entry{c.distance, c.id, counts, false});
        next_ = std::min(next_, pos);
        counting_ += counts;
        while (counting_ > width_ || (full() && !entries_.back().counts)) {
            Entry last = entries_.back();
            entries_.pop_back();
            counting_ -= last.counts;
            if (last.counts || !last.expanded) dropped(last);
        }
        return true;
    }

    // The nearest node not yet expanded, marked as expanded; kNoNode when there is none.
    uint32_t expand_next()
    {
        while (next_ < entries_.size() && entries_[next_].expanded) ++next_;
        if (next_ >= entries_.size()) return kNoNode;
        entries_[next_].expanded = true;
        return entries_[next_++].id;
    }
    // The one after it, to prefetch; kNoNode when there is none.
    uint32_t peek_next() const
    {
        for (size_t i = next_; i < entries_.size(); ++i)
            if (!entries_[i].expanded) return entries_[i].id;
        return kNoNode;
    }
    const std::vector<Entry> &entries() const { return entries_; }
    size_t counting() const { return counting_; }

private:
    std::vector<Entry> entries_;
    size_t width_ = 0, counting_ = 0, next_ = 0;
};

// A set of node ids that is emptied in O(1) and stays small enough for the cache: its size follows the nodes met, not the graph's.
class Visited {
public:
    explicit Visited(uint32_t epoch = 1) : epoch_(epoch) { grow(1024); }
    void clear()
    {
        used_ = 0;
        if (++epoch_ == 0) {
            std::fill(slots_.begin(), slots_.end(), 0);
            epoch_ = 1;
        }
    }
    bool insert(uint32_t id)  // true if it is new
    {
        size_t i = hash(id);
        const uint64_t key = (static_cast<uint64_t>(epoch_) << 32) | id;
        for (;; i = (i + 1) & mask_) {
            if (slots_[i] == key) return false;
            if (static_cast<uint32_t>(slots_[i] >> 32) != epoch_) break;
        }
        slots_[i] = key;
        if (++used_ * 2 > slots_.size()) rehash();
        return true;
    }
    size_t size() const { return used_; }
    size_t bytes() const { return slots_.size() * sizeof(uint64_t); }

private:
    size_t hash(uint32_t id) const { return (id * 0x9E3779B97F4A7C15ull >> 32) & mask_; }
    void grow(size_t n)
    {
        slots_.assign(n, 0);
        mask_ = n - 1;
    }
    void rehash()
    {
        std::vector<uint64_t> old(slots_.size() * 2, 0);
        old.swap(slots_);
        mask_ = slots_.size() - 1;
        for (uint64_t key : old)
            if (static_cast<uint32_t>(key >> 32) == epoch_) {
                size_t i = hash(static_cast<uint32_t>(key));
                while (slots_[i] >> 32 == epoch_) i = (i + 1) & mask_;
                slots_[i] = key;
            }
    }
    std::vector<uint64_t> slots_;
    size_t mask_ = 0, used_ = 0;
    uint32_t epoch_;
};

}  // namespace vkv::graph
