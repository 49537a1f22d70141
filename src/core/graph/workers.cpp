// Threads with all signals blocked: PostgreSQL's handlers must only run on the thread that it knows.

#include "core/graph/workers.h"

#include <csignal>
#include <system_error>
#include <utility>

namespace vkv::graph {

Workers::Workers(unsigned count, std::function<void(unsigned)> body)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
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
            } catch (const std::system_error &) {  // for want of memory, or at a limit of processes
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

}  // namespace vkv::graph
