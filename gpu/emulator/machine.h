// The emulated device: runs the threads of a block as fibers, warp by warp or mixed, in an order drawn from the seed.
//
// A thread runs until it waits for others: at a block barrier, or where its warp meets (shuffle, any, matrix product, barrier of
// the warp). There the machine draws who goes on. So a barrier that is missing shows as a thread that reads before another has
// written, or after another has written again. Program errors end the launch with an exception that names the line of the kernel.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "gpu/emulator/arithmetic.h"
#include "gpu/emulator/fiber.h"

namespace vkv::gpu::cu::emulated {

inline constexpr int kWarp = 32, kMaxThreads = 1024;
inline constexpr size_t kMaxShared = 232448;  // what a block may ask for on compute capability 9.0

// A kernel did what it must not: what, and where.
struct KernelError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Where {
    const char *file = "";
    int line = 0;
};

enum class Meeting : uint8_t { none, block_barrier, warp_barrier, shuffle, any, mma };

struct Machine;

struct PendingCopy {
    uint8_t *to;
    const uint8_t *from;
};

struct alignas(64) Thread {
    Machine *machine = nullptr;
    int index = 0;
    Meeting waits = Meeting::none;
    bool ended = false;
    Where where;   // of the meeting it waits for
    Where copied;  // of its newest copy_async
    Fiber fiber;
    std::vector<PendingCopy> copies;  // oldest first
    std::vector<uint32_t> groups;     // where each committed group ends in copies
};

struct Warp {
    uint32_t ready = 0, arrived = 0, all = 0;
    uint32_t phase = 0;  // of meetings: values of one are read while the next one gathers
    Meeting meeting = Meeting::none;
    Where where;
    bool any[2] = {};
    uint64_t values[2][kWarp] = {};
    Fragments fragments[kWarp] = {};
};

// The thread whose code is running on this OS thread.
extern constinit thread_local Thread *current
#if defined(__GNUC__)
    __attribute__((tls_model("initial-exec")))
#endif
    ;

// For tests of tests: one call in the kernels' source that is left out (VKV_EMULATOR_WITHOUT=FILE:LINE), or waits for one group
// fewer (VKV_EMULATOR_WEAKER=FILE:LINE). No line: none.
struct Mutation {
    char file[64] = "";
    int line = 0;
    bool weaker = false;

    bool hits(const Where &where) const { return line == where.line && line != 0 && is_in(where.file); }

private:
    bool is_in(const char *path) const;
};
extern constinit Mutation mutation;  // set before the first launch

struct Grid {
    void (*body)(const void *call);
    const void *call;
    int blocks, threads;
    size_t shared_bytes;
};

const char *name_of(Meeting meeting);
std::string text(const Where &where);  // file:line
std::string text(Meeting meeting, const Where &where);

// Runs all blocks in random order on several OS threads. Throws KernelError.
void run_grid(const Grid &grid);

// What random orders are drawn from: VKV_EMULATOR_SEED (1) until set. Printed with each error and once on standard error.
uint64_t seed();
void set_seed(uint64_t value);

// One block at a time; owns stacks and shared memory.
struct Machine {
    Machine();
    ~Machine();
    Machine(const Machine &) = delete;
    Machine &operator=(const Machine &) = delete;

    void run_block(const Grid &grid, int block_index, uint64_t block_seed);

    // Called on a fiber.
    void block_barrier(const Where &where);
    uint32_t meet(Meeting meeting, const Where &where);  // returns the phase to read from
    void copy_async(void *shared, const void *global, const Where &where);
    void copy_wait(uint32_t pending);
    [[noreturn]] void fail(const Where &where, const char *what, Meeting other = Meeting::none, const Where &other_where = {});

    int block = 0, blocks = 0, thread_count = 0;
    uint8_t *shared = nullptr;  // its end is the end of readable memory, but for alignment
    size_t shared_bytes = 0;
    Warp warps[kMaxThreads / kWarp];

private:
    enum class Order : uint8_t { warp_by_warp, mixed, even };

    static void thread_main();
    void prepare_shared();
    void check_shared();
    void start_threads(const Grid &grid);
    void end_thread();
    void draw_order();
    Thread *draw();
    void go_on();  // with whomever is drawn
    void describe(const Where &where, const char *what, Meeting other, const Where &other_where);
    void note_deadlock();
    std::string deadlock() const;
    std::string absent(const Thread &thread) const;
    [[noreturn]] void leave();  // to the OS thread's own stack, for good
    uint64_t random();

    Stacks stacks_;
    std::unique_ptr<Thread[]> threads_;
    Fiber main_;
    uint8_t *arena_ = nullptr;
    const Grid *grid_ = nullptr;
    uint32_t ready_warps_ = 0;
    int ended_ = 0, at_barrier_ = 0, last_warp_ = 0;
    Order order_ = Order::even;
    Where barrier_;
    uint64_t random_ = 1;
    std::string error_;
    bool first_entry_ = false;
};

}  // namespace vkv::gpu::cu::emulated
