// Who is being linked at this moment. Nothing leads yet to a node in flight, so no search meets it; two that are in flight at once
// learn of each other here, and the one whose lists stand later links the pair. Each pair is given to one of them, exactly once.
#pragma once
#include <cstdint>
#include <mutex>
#include <vector>

#include "core/graph/candidate.h"

namespace vkv::graph {

class InFlight {
public:
    explicit InFlight(unsigned threads) : slots_(threads) {}

    // This worker's node takes off. From here on it is known to those that follow it.
    void begin(unsigned worker, uint32_t id)
    {
        std::lock_guard lock(mutex_);
        Slot &mine = slots_[worker];
        mine.waiting.clear();
        mine.earlier.clear();
        for (unsigned i = 0; i < slots_.size(); ++i)
            if (i != worker && slots_[i].id != kNoNode) mine.earlier.push_back({i, slots_[i].id});
        mine.id = id;
        mine.lists_stand = false;
    }

    // Its lists stand. The nodes that it must be linked with: all that flew beside it and whose lists stand too. (The others are
    // told to link the pair when theirs do.)
    void lists_stand(unsigned worker, std::vector<uint32_t> *others)
    {
        std::lock_guard lock(mutex_);
        Slot &mine = slots_[worker];
        mine.lists_stand = true;
        *others = mine.waiting;
        for (const Earlier &e : mine.earlier) {
            Slot &theirs = slots_[e.slot];
            if (theirs.id == e.id && !theirs.lists_stand)
                theirs.waiting.push_back(mine.id);
            else
                others->push_back(e.id);
        }
    }

    // It is linked with all of them: searches meet it.
    void end(unsigned worker)
    {
        std::lock_guard lock(mutex_);
        slots_[worker].id = kNoNode;
    }

private:
    struct Earlier {
        unsigned slot;
        uint32_t id;
    };
    struct Slot {
        uint32_t id = kNoNode;
        bool lists_stand = false;
        std::vector<Earlier> earlier;   // in flight when this one began
        std::vector<uint32_t> waiting;  // whose lists stood first
    };
    std::mutex mutex_;
    std::vector<Slot> slots_;
};

}  // namespace vkv::graph
