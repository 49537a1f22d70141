// Launches: blocks in random order on several OS threads, and the seed that all orders are drawn from.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>

#include "gpu/emulator/machine.h"

namespace vkv::gpu::cu::emulated {

constinit Mutation mutation;

bool Mutation::is_in(const char *path) const
{
    const char *slash = std::strrchr(path, '/');
    return std::strcmp(slash ? slash + 1 : path, file) == 0;
}

namespace {

uint64_t environment(const char *name, uint64_t otherwise)
{
    const char *value = std::getenv(name);
    return value && *value ? std::strtoull(value, nullptr, 10) : otherwise;
}

void read_mutation(const char *name, bool weaker)
{
    const char *value = std::getenv(name);
    if (!value || !*value) return;
    const char *colon = std::strrchr(value, ':');
    if (!colon || colon - value >= static_cast<std::ptrdiff_t>(sizeof mutation.file) || std::atoi(colon + 1) <= 0) {
        throw KernelError(std::string("emulator: ") + name + " is not FILE:LINE");
    }
    std::memcpy(mutation.file, value, static_cast<size_t>(colon - value));
    mutation.line = std::atoi(colon + 1);
    mutation.weaker = weaker;
}

std::atomic<uint64_t> &seed_in_use()
{
    static std::atomic<uint64_t> value = [] {
        read_mutation("VKV_EMULATOR_WITHOUT", false);
        read_mutation("VKV_EMULATOR_WEAKER", true);
        const uint64_t given = environment("VKV_EMULATOR_SEED", 1);
        std::fprintf(stderr, "emulator: VKV_EMULATOR_SEED=%llu\n", static_cast<unsigned long long>(given));
        return given;
    }();
    return value;
}

std::atomic<uint64_t> launches{0};

// Of any two numbers, one that looks random (splitmix64).
uint64_t mix(uint64_t a, uint64_t b)
{
    uint64_t x = a * 0x9e3779b97f4a7c15u + b + 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

// Machines wait here between launches, so that stacks are mapped once.
class Pool {
public:
    std::unique_ptr<Machine> take()
    {
        const std::lock_guard lock(mutex_);
        if (free_.empty()) return std::make_unique<Machine>();
        std::unique_ptr<Machine> machine = std::move(free_.back());
        free_.pop_back();
        return machine;
    }
    void give(std::unique_ptr<Machine> machine)
    {
        const std::lock_guard lock(mutex_);
        free_.push_back(std::move(machine));
    }

private:
    std::mutex mutex_;
    std::vector<std::unique_ptr<Machine>> free_;
};

Pool &pool()
{
    static Pool machines;
    return machines;
}

struct Work {
    const Grid *grid;
    uint64_t seed;
    std::vector<int> order;
    std::atomic<size_t> next{0};
    std::mutex mutex;
    std::exception_ptr error;

    void run() noexcept
    {
        std::unique_ptr<Machine> machine;
        try {
            machine = pool().take();
            for (size_t i = next++; i < order.size(); i = next++)
                machine->run_block(*grid, order[i], mix(seed, static_cast<uint64_t>(order[i])));
        } catch (...) {
            const std::lock_guard lock(mutex);
            if (!error) error = std::current_exception();
            next = order.size();
        }
        if (machine) pool().give(std::move(machine));
    }
};

void check(const Grid &grid)
{
    if (current) throw KernelError("emulator: a kernel launches a kernel");
    if (grid.blocks <= 0) throw KernelError("emulator: launch of " + std::to_string(grid.blocks) + " blocks");
    if (grid.threads <= 0 || grid.threads > kMaxThreads || grid.threads % kWarp != 0) {
        throw KernelError("emulator: " + std::to_string(grid.threads) + " threads a block: not 32, 64, ... 1024");
    }
    if (grid.shared_bytes > kMaxShared) {
        throw KernelError("emulator: " + std::to_string(grid.shared_bytes) + " bytes of shared memory: at most " +
                          std::to_string(kMaxShared));
    }
}

}  // namespace

uint64_t seed() { return seed_in_use(); }
void set_seed(uint64_t value)
{
    seed_in_use() = value;
    launches = 0;
}

void run_grid(const Grid &grid)
{
    check(grid);
    Work work{&grid, mix(seed(), launches++), std::vector<int>(static_cast<size_t>(grid.blocks)), {}, {}, {}};
    std::iota(work.order.begin(), work.order.end(), 0);
    for (size_t i = work.order.size(); i > 1; --i) std::swap(work.order[i - 1], work.order[mix(work.seed, ~i) % i]);

    static const uint64_t limit = environment("VKV_EMULATOR_THREADS", std::max(1u, std::thread::hardware_concurrency()));
    std::vector<std::thread> helpers;
    for (size_t i = 1; i < std::min<size_t>(limit, work.order.size()); ++i) helpers.emplace_back([&work] { work.run(); });
    work.run();
    for (std::thread &helper : helpers) helper.join();
    if (!work.error) return;
    try {
        std::rethrow_exception(work.error);
    } catch (const KernelError &error) {
        throw KernelError(error.what() + std::string(" (VKV_EMULATOR_SEED=") + std::to_string(seed()) + ")");
    }
}

}  // namespace vkv::gpu::cu::emulated
