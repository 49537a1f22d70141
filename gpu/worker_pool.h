// Threads of the CPU device: tasks of one call at a time, the caller works, too.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace vkv::gpu {

class WorkerPool {
public:
    explicit WorkerPool(unsigned workers);  // the caller among them
    ~WorkerPool();
    WorkerPool(const WorkerPool &) = delete;
    WorkerPool &operator=(const WorkerPool &) = delete;

    unsigned workers() const { return static_cast<unsigned>(threads_.size()) + 1; }
    // task(number, worker) for every number below count; returns when all are done. Nothing may leave a task. alone: the others are
    // left asleep, because there is too little to do.
    void run(size_t count, bool alone, const std::function<void(size_t, unsigned)> &task);

private:
    void work(unsigned worker);
    void take_tasks(unsigned worker);

    std::mutex mutex_;
    std::condition_variable wake_, done_;
    const std::function<void(size_t, unsigned)> *task_ = nullptr;
    std::atomic<size_t> next_{0};
    size_t count_ = 0;
    unsigned active_ = 0;  // threads that take tasks; one that wakes too late stays out
    uint64_t call_ = 0;
    bool open_ = false, stop_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace vkv::gpu
