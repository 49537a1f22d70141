// A thread that does one kind of work for the scheduler, in order: jobs go in, done jobs come out, and an eventfd says so.
#pragma once
#include <sys/eventfd.h>
#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace vkv::gpu {

template <class Job>
class DeviceThread {
public:
    using Work = std::function<void(Job *)>;

    DeviceThread(int done_event, Work work) : done_event_(done_event), work_(std::move(work)), thread_([this] { run(); }) {}
    ~DeviceThread()
    {
        {
            const std::lock_guard lock(mutex_);
            stop_ = true;
        }
        wake_.notify_one();
        thread_.join();
    }
    DeviceThread(const DeviceThread &) = delete;
    DeviceThread &operator=(const DeviceThread &) = delete;

    void give(std::unique_ptr<Job> job)
    {
        {
            const std::lock_guard lock(mutex_);
            inbox_.push_back(std::move(job));
        }
        wake_.notify_one();
    }
    std::vector<std::unique_ptr<Job>> take_done()
    {
        const std::lock_guard lock(mutex_);
        return std::exchange(done_, {});
    }

private:
    void run()
    {
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return stop_ || !inbox_.empty(); });
            if (inbox_.empty()) return;
            std::unique_ptr<Job> job = std::move(inbox_.front());
            inbox_.pop_front();
            lock.unlock();
            work_(job.get());
            lock.lock();
            done_.push_back(std::move(job));
            const uint64_t one = 1;
            [[maybe_unused]] const ssize_t written = ::write(done_event_, &one, sizeof one);
        }
    }

    int done_event_;
    Work work_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<std::unique_ptr<Job>> inbox_;
    std::vector<std::unique_ptr<Job>> done_;
    bool stop_ = false;
    std::thread thread_;  // last: it uses the others
};

}  // namespace vkv::gpu
