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
//
// Ties: nodes exactly as far as the last of a full pool are no part of it, but the way on may lead through any of them: of bits and
// small integers, where many are equally far, a search that left them out would end at the edge of a plateau. They are expanded
// after the pool, for as long as nothing nearer makes them too far; as many newcomers as the pool is wide.
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
        next_ = next_tie_ = 0;
        frontier_ = -std::numeric_limits<float>::infinity();
        entries_.clear();
        ties_.clear();
        entries_.reserve(width + 1);
    }
    bool full() const { return counting_ >= width_; }
    // Beyond this distance a node cannot enter.
    float bound() const { return full() ? entries_.back().distance : std::numeric_limits<float>::infinity(); }

    // Calls dropped(candidate) for a counting node that falls out. Returns false if the node itself did not enter.
    template <class Dropped>
    bool insert(Candidate c, bool counts, Dropped &&dropped)
    {
        if (full() && !(c.distance < entries_.back().distance)) {
            if (c.distance > entries_.back().distance || ties_.size() >= width_) return false;
            ties_.push_back({c.distance, c.id, counts, false});
            return true;
        }
        auto at =
            std::upper_bound(entries_.begin(), entries_.end(), c.distance, [](float d, const Entry &e) { return d < e.distance; });
        size_t pos = static_cast<size_t>(at - entries_.begin());
        entries_.insert(at, Entry{c.distance, c.id, counts, false});
        next_ = std::min(next_, pos);
        counting_ += counts;
        while (counting_ > width_ || (full() && !entries_.back().counts)) {
            const Entry last = entries_.back();
            entries_.pop_back();
            counting_ -= last.counts;
            if (last.distance == entries_.back().distance) {
                ties_.push_back(last);
            } else {
                drop_ties(dropped);
                drop(last, dropped);
            }
        }
        return true;
    }
    // At the end of a search: what is left of the ties falls out, too.
    template <class Dropped>
    void drop_ties(Dropped &&dropped)
    {
        for (const Entry &e : ties_) drop(e, dropped);
        ties_.clear();
        next_tie_ = 0;
    }

    // The nearest node not yet expanded, marked as expanded; kNoNode when there is none.
    uint32_t expand_next()
    {
        const uint32_t id = take_unexpanded(entries_, &next_);
        if (id == kNoNode) return take_unexpanded(ties_, &next_tie_);
        frontier_ = std::max(frontier_, entries_[next_ - 1].distance);
        return id;
    }
    // How far the farthest node is that was expanded.
    float frontier() const { return frontier_; }
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
    template <class Dropped>
    static void drop(const Entry &e, Dropped &&dropped)
    {
        if (e.counts || !e.expanded) dropped(e);
    }
    static uint32_t take_unexpanded(std::vector<Entry> &from, size_t *next)
    {
        while (*next < from.size() && from[*next].expanded) ++*next;
        if (*next >= from.size()) return kNoNode;
        from[*next].expanded = true;
        return from[(*next)++].id;
    }

    std::vector<Entry> entries_, ties_;
    size_t width_ = 0, counting_ = 0, next_ = 0, next_tie_ = 0;
    float frontier_ = 0;
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
    bool contains(uint32_t id) const
    {
        const uint64_t key = (static_cast<uint64_t>(epoch_) << 32) | id;
        for (size_t i = hash(id); static_cast<uint32_t>(slots_[i] >> 32) == epoch_; i = (i + 1) & mask_)
            if (slots_[i] == key) return true;
        return false;
    }
    template <class Use>
    void for_each(Use &&use) const
    {
        for (uint64_t key : slots_)
            if (static_cast<uint32_t>(key >> 32) == epoch_) use(static_cast<uint32_t>(key));
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
