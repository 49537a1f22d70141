// Threads with all signals blocked: PostgreSQL's handlers must only run on the thread that it knows.

#include "core/graph/workers.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <utility>

namespace vkv::graph {

Workers::Workers(unsigned count, std::function<void(unsigned)> body)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
        threads_.reserve(count);  // before there is one that could not be joined
        for (unsigned i = 0; i < count; ++i) {
            running_.fetch_add(1, std::memory_order_relaxed);
            try {
                threads_.emplace_back([this, body, i] {
                    try {
                        body(i);
                    } catch (...) {
                        std::lock_guard lock(error_mutex_);
                        if (!error_) error_ = std::current_exception();
                        request_stop();
                    }
                    running_.fetch_sub(1, std::memory_order_release);
                });
            } catch (const std::exception &) {  // for want of memory, or at a limit of processes
                running_.fetch_sub(1, std::memory_order_relaxed);
                break;
            }
        }
    } catch (...) {
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Workers::join()
{
    for (auto &t : threads_) t.join();
    threads_.clear();
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

Workers::~Workers()
{
    request_stop();
    for (auto &t : threads_) t.join();
}

bool work_through(uint32_t begin, uint32_t end, unsigned threads, const std::function<bool(uint64_t)> &poll,
                  const std::function<void(uint32_t, unsigned)> &use)
{
    std::atomic<uint32_t> next{begin};
    std::atomic<uint64_t> done{begin};
    std::atomic<bool> stop{false};
    auto work = [&](unsigned worker, auto &&after_each) {
        for (;;) {
            const uint32_t i = next.fetch_add(1, std::memory_order_relaxed);
            if (i >= end || stop.load(std::memory_order_relaxed)) return;
            use(i, worker);
            done.fetch_add(1, std::memory_order_relaxed);
            after_each();
        }
    };
    Workers workers(std::max(1u, threads), [&](unsigned worker) { work(worker, [] {}); });
    struct StopOnExit {  // poll may throw: then the threads end at their next one, before workers waits for them
        std::atomic<bool> &stop;
        ~StopOnExit() { stop.store(true, std::memory_order_relaxed); }
    } stop_on_exit{stop};
    auto ask = [&] {
        if (poll(done.load(std::memory_order_relaxed)) || workers.stopping()) stop.store(true, std::memory_order_relaxed);
    };
    if (workers.none()) work(0, ask);  // slower than with threads, but no reason to fail
    while (!workers.done()) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        ask();
    }
    workers.join();
    poll(done.load());
    return !stop.load();
}

}  // namespace vkv::graph
