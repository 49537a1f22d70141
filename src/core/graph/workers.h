// Threads for work over plain memory. They start with every signal blocked (so that the process's own thread keeps receiving them),
// share one stop flag, and are joined before the owner goes on; the first exception is thrown again on the caller's thread.
#pragma once
#include <atomic>
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

}  // namespace vkv::graph
