// Where threads wait for each other, who goes on next, and asynchronous copies.
#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "gpu/emulator/machine.h"

#if VKV_EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace vkv::gpu::cu::emulated {

const char *name_of(Meeting meeting)
{
    switch (meeting) {
        case Meeting::block_barrier:
            return "block_barrier";
        case Meeting::warp_barrier:
            return "warp_barrier";
        case Meeting::shuffle:
            return "shuffle";
        case Meeting::any:
            return "warp_any";
        case Meeting::mma:
            return "mma_m16n8k16";
        case Meeting::none:
            break;
    }
    return "nothing";
}

std::string text(const Where &where)
{
    const char *slash = std::strrchr(where.file, '/');
    return std::string(slash ? slash + 1 : where.file) + ":" + std::to_string(where.line);
}

std::string text(Meeting meeting, const Where &where) { return std::string(name_of(meeting)) + " at " + text(where); }

namespace {

constexpr uint8_t kPoison = 0xff;
constexpr size_t kCopyBytes = 16;

// One of the bits that are set.
int one_of(uint32_t bits, uint64_t random)
{
    const int turn = static_cast<int>(random >> 59);
    return (std::countr_zero(std::rotr(bits, turn)) + turn) & 31;
}

bool aligned(const void *pointer) { return reinterpret_cast<uintptr_t>(pointer) % kCopyBytes == 0; }

}  // namespace

// Half of the time one warp runs as far as it can before another does; that shows skew between warps, and is fast.
void Machine::draw_order()
{
    constexpr Order orders[] = {Order::warp_by_warp, Order::warp_by_warp, Order::mixed, Order::even};
    order_ = orders[random() >> 62];
    last_warp_ = one_of(ready_warps_, random());
}

Thread *Machine::draw()
{
    if (ready_warps_ == 0) return nullptr;
    const uint64_t bits = random();
    const bool stays =
        (ready_warps_ >> last_warp_ & 1) && (order_ == Order::warp_by_warp || (order_ == Order::mixed && (bits & 7)));
    if (!stays) last_warp_ = one_of(ready_warps_, bits << 8);
    Warp &warp = warps[last_warp_];
    const int lane = one_of(warp.ready, bits);
    warp.ready &= ~(1u << lane);
    if (warp.ready == 0) ready_warps_ &= ~(1u << last_warp_);
    return &threads_[last_warp_ * kWarp + lane];
}

void Machine::leave()
{
    switch_fiber(&current->fiber, &main_);
    __builtin_unreachable();
}

void Machine::describe(const Where &where, const char *what, Meeting other, const Where &other_where)
{
    error_ = text(where) + ": " + what + (other == Meeting::none ? "" : text(other, other_where));
    error_ += " (thread " + std::to_string(current->index) + ")";
}

// The frames of a fiber that is left are never unwound: nothing in them may own memory.
void Machine::fail(const Where &where, const char *what, Meeting other, const Where &other_where)
{
    describe(where, what, other, other_where);
    leave();
}

void Machine::go_on()
{
    Thread *self = current, *next = draw();
    if (next == self) return;
    if (!next) {
        note_deadlock();
        leave();
    }
    current = next;
    switch_fiber(&self->fiber, &next->fiber);
}

void Machine::end_thread()
{
    Thread *thread = current;
    if (!thread->copies.empty()) fail(thread->copied, "a copy_async was never waited for");
    thread->ended = true;
    ++ended_;
    Thread *next = draw();
    if (!next && ended_ != thread_count) note_deadlock();
    current = next;
    switch_fiber(nullptr, next ? &next->fiber : &main_);
    __builtin_unreachable();
}

std::string Machine::absent(const Thread &thread) const
{
    const std::string name = "thread " + std::to_string(thread.index);
    return name + (thread.ended ? " has returned" : " waits in " + text(thread.waits, thread.where));
}

// Nobody can go on: some thread is not where others wait for it.
std::string Machine::deadlock() const
{
    for (int w = 0; w < thread_count / kWarp; ++w) {
        const Warp &warp = warps[w];
        if (warp.arrived == 0) continue;
        const int missing = one_of(warp.all & ~warp.arrived, 0);
        return text(warp.meeting, warp.where) + " was reached by " + std::to_string(std::popcount(warp.arrived)) +
               " of 32 lanes of warp " + std::to_string(w) + ": " + absent(threads_[w * kWarp + missing]);
    }
    int missing = 0;
    while (threads_[missing].waits == Meeting::block_barrier && !threads_[missing].ended) ++missing;
    return text(Meeting::block_barrier, barrier_) + " was reached by " + std::to_string(at_barrier_) + " of " +
           std::to_string(thread_count) + " threads: " + absent(threads_[missing]);
}

void Machine::note_deadlock() { error_ = deadlock(); }

void Machine::block_barrier(const Where &where)
{
    if (at_barrier_ == 0) {
        barrier_ = where;
    } else if (barrier_.line != where.line || std::strcmp(barrier_.file, where.file) != 0) {
        fail(where, "block_barrier, while other threads wait in another ", Meeting::block_barrier, barrier_);
    }
    current->waits = Meeting::block_barrier;
    current->where = where;
    if (++at_barrier_ == thread_count) {
        at_barrier_ = 0;
        for (int w = 0; w < thread_count / kWarp; ++w) warps[w].ready = warps[w].all;
        ready_warps_ = ~0u >> (32 - thread_count / kWarp);
        draw_order();
    }
    go_on();
    current->waits = Meeting::none;
}

uint32_t Machine::meet(Meeting meeting, const Where &where)
{
    const int index = current->index / kWarp;
    Warp &warp = warps[index];
    if (warp.arrived == 0) {
        warp.meeting = meeting;
        warp.where = where;
    } else if (warp.meeting != meeting || warp.where.line != where.line || std::strcmp(warp.where.file, where.file) != 0) {
        fail(where, "lanes of a warp meet here, while others wait in ", warp.meeting, warp.where);
    }
    current->waits = meeting;
    current->where = where;
    const uint32_t phase = warp.phase;
    warp.arrived |= 1u << current->index % kWarp;
    if (warp.arrived == warp.all) {
        if (meeting == Meeting::mma) multiply(warp.fragments);
        warp.any[(phase + 1) & 1] = false;
        warp.arrived = 0;
        warp.phase = phase + 1;
        warp.ready = warp.all;
        ready_warps_ |= 1u << index;
    }
    go_on();
    current->waits = Meeting::none;
    return phase & 1;
}

// The bytes are nobody's from now on: they change at any time until the copy has been waited for.
void Machine::copy_async(void *to, const void *from, const Where &where)
{
    auto *target = static_cast<uint8_t *>(to);
    if (!aligned(to) || !aligned(from)) fail(where, "copy_async between addresses that are not 16-aligned");
    if (target < shared || target + kCopyBytes > shared + shared_bytes) fail(where, "copy_async to what is not shared memory");
#if VKV_EMULATOR_ASAN
    if (__asan_region_is_poisoned(const_cast<void *>(from), kCopyBytes)) fail(where, "copy_async from beyond a global array");
#endif
    std::memset(target, kPoison, kCopyBytes);
    current->copied = where;
    current->copies.push_back({target, static_cast<const uint8_t *>(from)});
}

void Machine::copy_wait(uint32_t pending)
{
    std::vector<PendingCopy> &copies = current->copies;
    std::vector<uint32_t> &groups = current->groups;
    if (groups.size() <= pending) return;
    const size_t closed = groups.size() - pending;
    const uint32_t done = groups[closed - 1];
    for (uint32_t i = done; i > 0; --i) {
        std::swap(copies[i - 1], copies[random() % i]);
        std::memcpy(copies[i - 1].to, copies[i - 1].from, kCopyBytes);
    }
    copies.erase(copies.begin(), copies.begin() + done);
    groups.erase(groups.begin(), groups.begin() + static_cast<std::ptrdiff_t>(closed));
    for (uint32_t &end : groups) end -= done;
}

}  // namespace vkv::gpu::cu::emulated
