// Threads for work over plain memory. They start with every signal blocked (so that the process's own thread keeps receiving them),
// share one stop flag, and are joined before the owner goes on; the first exception is thrown again on the caller's thread.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace vkv::graph {

class Workers {
public:
    // Runs body(worker) on `count` threads, or on as many as can be started.
    Workers(unsigned count, std::function<void(unsigned)> body);
    ~Workers();
    Workers(const Workers &) = delete;
    Workers &operator=(const Workers &) = delete;

    bool none() const noexcept { return threads_.empty(); }
    void request_stop() noexcept { stop_.store(true, std::memory_order_relaxed); }
    bool stopping() const noexcept { return stop_.load(std::memory_order_relaxed); }
    bool done() const noexcept { return running_.load(std::memory_order_acquire) == 0; }
    void join();  // rethrows the first exception of a worker

private:
    std::atomic<bool> stop_{false};
    std::atomic<unsigned> running_{0};
    std::mutex error_mutex_;
    std::exception_ptr error_;
    std::vector<std::thread> threads_;
};

// use(i, worker) for each i from `begin` on to `end`, in about that order, on `threads` threads, or on the caller's where none can
// be started. poll(how many are done, and `begin`) is called on the caller's thread about every 2 ms, or after each one there; a
// true answer stops the work early (then false is returned). It may throw.
bool work_through(uint32_t begin, uint32_t end, unsigned threads, const std::function<bool(uint64_t)> &poll,
                  const std::function<void(uint32_t i, unsigned worker)> &use);

}  // namespace vkv::graph
