// Threads of the CPU device, and what they share.
#include "gpu/worker_pool.h"

namespace vkv::gpu {

WorkerPool::WorkerPool(unsigned workers)
{
    for (unsigned i = 1; i < workers; i++) threads_.emplace_back([this, i] { work(i); });
}

WorkerPool::~WorkerPool()
{
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    for (std::thread &thread : threads_) thread.join();
}

void WorkerPool::take_tasks(unsigned worker)
{
    for (size_t i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1)) (*task_)(i, worker);
}

void WorkerPool::run(size_t count, bool alone, const std::function<void(size_t, unsigned)> &task)
{
    if (alone || threads_.empty() || count < 2) {
        for (size_t i = 0; i < count; i++) task(i, 0);
        return;
    }
    {
        const std::lock_guard lock(mutex_);
        task_ = &task;
        count_ = count;
        next_ = 0;
        call_++;
        open_ = true;
    }
    wake_.notify_all();
    take_tasks(0);
    std::unique_lock lock(mutex_);
    open_ = false;
    done_.wait(lock, [&] { return active_ == 0; });
}

void WorkerPool::work(unsigned worker)
{
    uint64_t seen = 0;
    std::unique_lock lock(mutex_);
    for (;;) {
        wake_.wait(lock, [&] { return stop_ || (open_ && call_ != seen); });
        if (stop_) return;
        seen = call_;
        active_++;
        lock.unlock();
        take_tasks(worker);
        lock.lock();
        if (--active_ == 0) done_.notify_one();
    }
}

}  // namespace vkv::gpu
