// Blocks: their threads, meetings, asynchronous copies and shared memory.
#include "gpu/emulator/machine.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>

#if VKV_EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace vkv::gpu::cu::emulated {

constinit thread_local Thread *current = nullptr;

namespace {

constexpr uint32_t kPoison[] = {0xffffffff, 0x7fffffff};  // NaN as float and as half; as integers of 64 bits neither first nor last
constexpr uint8_t kCanary = 0xa5;
constexpr size_t kSharedAlign = 128;

size_t page_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }
size_t up(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }
size_t arena_bytes() { return up(kMaxShared, page_bytes()); }

}  // namespace

Machine::Machine() : stacks_(kMaxThreads), threads_(new Thread[kMaxThreads])
{
    const size_t page = page_bytes();
    void *memory = mmap(nullptr, arena_bytes() + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    arena_ = static_cast<uint8_t *>(memory) + page;
    if (mprotect(arena_, arena_bytes(), PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    for (int i = 0; i < kMaxThreads; ++i) {
        threads_[i].machine = this;
        threads_[i].index = i;
    }
}

Machine::~Machine()
{
#if VKV_EMULATOR_ASAN
    __asan_unpoison_memory_region(arena_, arena_bytes());
#endif
    for (int i = 0; i < kMaxThreads; ++i) release(&threads_[i].fiber);
    release(&main_);
    munmap(arena_ - page_bytes(), arena_bytes() + 2 * page_bytes());
}

uint64_t Machine::random()
{
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return random_;
}

// Shared memory ends where the unreadable page begins; what alignment leaves between them holds canaries.
void Machine::prepare_shared()
{
    uint8_t *end = arena_ + arena_bytes();
#if VKV_EMULATOR_ASAN
    __asan_unpoison_memory_region(arena_, arena_bytes());
#endif
    shared = end - up(shared_bytes, kSharedAlign);
    const size_t before = std::min<size_t>(kSharedAlign, static_cast<size_t>(shared - arena_));
    std::memset(shared - before, kCanary, before);
    for (size_t i = 0; i < shared_bytes; ++i) shared[i] = static_cast<uint8_t>(kPoison[i / 4 % 2] >> 8 * (i % 4));
    std::memset(shared + shared_bytes, kCanary, static_cast<size_t>(end - shared) - shared_bytes);
#if VKV_EMULATOR_ASAN
    __asan_poison_memory_region(arena_, static_cast<size_t>(shared - arena_));
    __asan_poison_memory_region(shared + shared_bytes, static_cast<size_t>(end - shared) - shared_bytes);
#endif
}

void Machine::check_shared()
{
    uint8_t *end = arena_ + arena_bytes();
#if VKV_EMULATOR_ASAN
    __asan_unpoison_memory_region(arena_, arena_bytes());
#endif
    const auto overwritten = [](uint8_t byte) { return byte != kCanary; };
    const size_t before = std::min<size_t>(kSharedAlign, static_cast<size_t>(shared - arena_));
    if (std::any_of(shared + shared_bytes, end, overwritten)) error_ = "shared memory was written beyond its end";
    if (std::any_of(shared - before, shared, overwritten)) error_ = "shared memory was written before its beginning";
}

void Machine::start_threads(const Grid &grid)
{
    thread_count = grid.threads;
    for (int i = 0; i < thread_count; ++i) {
        Thread &thread = threads_[i];
        thread.waits = Meeting::none;
        thread.ended = false;
        thread.copies.clear();
        thread.groups.clear();
        prepare(&thread.fiber, stacks_.bottom(i), i, &thread_main);
    }
    ready_warps_ = 0;
    for (int w = 0; w < thread_count / kWarp; ++w) {
        Warp &warp = warps[w];
        warp.all = warp.ready = ~0u;
        warp.arrived = warp.phase = 0;
        warp.meeting = Meeting::none;
        warp.any[0] = warp.any[1] = false;
        ready_warps_ |= 1u << w;
    }
    ended_ = at_barrier_ = 0;
}

void Machine::run_block(const Grid &grid, int block_index, uint64_t block_seed)
{
    grid_ = &grid;
    block = block_index;
    blocks = grid.blocks;
    shared_bytes = grid.shared_bytes;
    random_ = block_seed | 1;
    error_.clear();
    prepare_shared();
    start_threads(grid);
    draw_order();
    first_entry_ = true;
    current = draw();
    switch_fiber(&main_, &current->fiber);
    current = nullptr;
    if (error_.empty()) check_shared();
    if (!error_.empty()) {
        stacks_.forget_frames();
        throw KernelError("emulator: " + error_ + "; block " + std::to_string(block) + " of " + std::to_string(blocks));
    }
}

void Machine::thread_main()
{
    Machine *machine = current->machine;
    entered(machine->first_entry_ ? &machine->main_ : nullptr);
    machine->first_entry_ = false;
    machine->grid_->body(machine->grid_->call);
    current->machine->end_thread();
}

}  // namespace vkv::gpu::cu::emulated
