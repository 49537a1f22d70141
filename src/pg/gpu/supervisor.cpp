// Keeps the helper program running, as a background worker (worker.cpp). It never touches a device, holds no database connection
// and leaves by proc_exit alone, so that nothing that happens to the helper reaches the server.
//
//   off ──> starting ──> ready ──> (ended, or killed: it hangs) ──> waiting ──> starting ...     a pause of 1 s, doubled up to 60 s
//                  └──> no device: not started again until the configuration is read again
//
// While the helper is ready the supervisor is its client, too: the arena it maps holds the counters, also when the helper is gone.

#include <poll.h>
#include <algorithm>
#include <chrono>
#include <csignal>
#include <optional>
#include <string>
#include <vector>

#include "core/offload/client.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/gpu/helper.h"
#include "pg/gpu/process.h"
#include "pg/gpu/settings.h"
#include "pg/gpu/shared.h"
#include "pg/gpu/supervisor.h"

namespace vkv::helper {

namespace {

constexpr int64_t kMs = 1000, kSecond = 1000 * kMs;
constexpr int64_t kFirstPause = kSecond, kLongestPause = 60 * kSecond, kRanWell = 60 * kSecond;
constexpr int64_t kStartLimit = 120 * kSecond;  // a device may take long to come up
constexpr int64_t kStopLimit = 3 * kSecond;
constexpr int64_t kEndLimit = 3 * kSecond;  // of a killed process; one in uninterruptible sleep may never end
constexpr int kNoDevice = 4;                // the helper's exit code

int64_t now()
{
    return std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void log(int level, const std::string &text)
{
    const char *bytes = text.c_str();
    pg_call([=] { ereport(level, errmsg_internal("%s", bytes)); });
}

std::string program()
{
    if (settings.program[0] != '\0') return settings.program;
    const std::string server = my_exec_path;
    return server.substr(0, server.rfind('/') + 1) + "vectorkv_helper";
}

// What the helper is started with; it is started anew when this changes. Empty: none is wanted.
std::vector<std::string> command_line()
{
    if (use() == Use::off) return {};
    // Without a GPU there is nothing to gain from a helper, so "auto" is never the CPU.
    const std::string device = strcmp(settings.device, "auto") == 0 ? "cuda" : settings.device;
    std::vector<std::string> words = {program(), "--socket", kSocketPath, "--device", device};
    auto add = [&words](const char *name, int value) { words.insert(words.end(), {name, std::to_string(value)}); };
    if (settings.memory_mb > 0) add("--memory", settings.memory_mb);
    add("--arena", settings.arena_mb);
    add("--max-launch-tiles", settings.max_launch_tiles);
    add("--batch-wait-us", settings.batch_wait_us);
    if (settings.faults) words.push_back("--faults");
    return words;
}

bool runs_on_cpu(const std::vector<std::string> &command) { return command.size() > 4 && command[4] == "cpu"; }

class Supervisor {
public:
    void run();

private:
    enum class Phase { idle, starting, ready, stopping, killed };

    void reload();
    void step();
    void wait();
    void start();
    void say(const std::string &line);
    void greet();
    void hear();
    void watch();
    void stop();
    void kill(const std::string &why);
    void bury(std::optional<int> status);
    void pause(const std::string &why);
    void rest(State state, const std::string &why);
    void publish(State state, const std::string &reason);
    void read_counters();
    int64_t next_event() const;

    std::vector<std::string> command_;
    Process process_;
    offload::Client client_;
    Phase phase_ = Phase::idle, killed_in_ = Phase::idle;  // killed_in_: what it was in before it was killed
    bool open_ = false;                                    // the helper's side of the control socket
    bool refused_ = false;                                 // another start with the same command line is of no use
    int64_t start_at_ = 0, started_ = 0, kill_at_ = 0, ping_at_ = 0, unanswered_ = 0, give_up_at_ = 0, pause_ = kFirstPause;
    std::string killed_for_, last_error_;
};

void Supervisor::publish(State state, const std::string &reason)
{
    const Locked locked(LW_EXCLUSIVE);
    Record &record = shared()->record;
    if (record.state != state) record.since = GetCurrentTimestamp();
    record.state = state;
    record.pid = process_.pid();
    record.retry_at = state == State::waiting ? GetCurrentTimestamp() + (start_at_ - now()) : 0;
    strlcpy(record.reason, reason.c_str(), sizeof record.reason);
    if (!last_error_.empty()) strlcpy(record.last_error, last_error_.c_str(), sizeof record.last_error);
    if (state == State::ready) record.generation = static_cast<uint64_t>(GetCurrentTimestamp());
    pg_atomic_write_u32(&shared()->cpu_device, runs_on_cpu(command_));
    pg_atomic_write_u64(&shared()->ready, state == State::ready ? record.generation : 0);
}

void Supervisor::rest(State state, const std::string &why)
{
    phase_ = Phase::idle;
    publish(state, why);
}

void Supervisor::pause(const std::string &why)
{
    start_at_ = now() + pause_;
    // What cannot be executed is said once, not every minute.
    const int level = phase_ == Phase::idle && why == last_error_ ? DEBUG1 : LOG;
    log(level, message("vectorkv helper: %s; the next start is in %lld s", why.c_str(), static_cast<long long>(pause_ / kSecond)));
    pause_ = std::min(2 * pause_, kLongestPause);
    last_error_ = why;
    rest(State::waiting, why);
}

void Supervisor::start()
{
    try {
        process_.start(command_);
    } catch (const Error &error) {
        pause(error.message());
        return;
    }
    phase_ = Phase::starting;
    open_ = true;
    started_ = now();
    unanswered_ = ping_at_ = 0;
    kill_at_ = started_ + kStartLimit;
    killed_for_ = message("it was not ready after %lld s", static_cast<long long>(kStartLimit / kSecond));
    last_error_.clear();
    publish(State::starting, "the GPU helper is starting");
}

// A line that the helper logged.
void Supervisor::say(const std::string &line)
{
    struct Level {
        const char *name;
        int level;
    };
    static constexpr Level kLevels[] = {{"log: ", LOG}, {"warning: ", WARNING}, {"error: ", WARNING}, {"debug: ", DEBUG1}};
    for (const Level &level : kLevels) {
        if (line.compare(0, strlen(level.name), level.name) != 0) continue;
        const std::string text = line.substr(strlen(level.name));
        const bool error = level.name[0] == 'e';
        if (error) last_error_ = text;
        // What keeps it from starting is said when it has ended.
        log(error && phase_ == Phase::starting ? DEBUG1 : level.level, "vectorkv helper: " + text);
        if (phase_ == Phase::starting && text.compare(0, 6, "ready:") == 0) greet();
        return;
    }
    log(LOG, "vectorkv helper: " + line);
}

// It listens: the supervisor becomes a client, which also finds out whether the two are of one version.
void Supervisor::greet()
{
    const int64_t until = now() + 5 * kSecond;
    try {
        client_.connect(kSocketPath, [until](int socket) {
            pollfd readable{socket, POLLIN, 0};
            const int64_t left = until - now();
            if (left <= 0 || poll(&readable, 1, static_cast<int>(left / kMs) + 1) == 0)
                throw offload::Lost("it does not answer the supervisor");
        });
    } catch (const offload::Lost &error) {
        client_.close();
        kill(error.what());
        return;
    }
    phase_ = Phase::ready;
    kill_at_ = 0;
    killed_for_.clear();
    last_error_.clear();
    started_ = ping_at_ = now();
    publish(State::ready, "");
    read_counters();
}

void Supervisor::read_counters()
{
    const uint64_t wanted = pg_atomic_read_u64(&shared()->refreshes_wanted);
    if (client_.connected()) {
        const Locked locked(LW_EXCLUSIVE);
        shared()->arena = client_.arena();
    }
    if (pg_atomic_read_u64(&shared()->refreshes_done) >= wanted) return;
    pg_atomic_write_u64(&shared()->refreshes_done, wanted);
    pg_call([] { ConditionVariableBroadcast(&shared()->refreshed); });
}

void Supervisor::hear()
{
    process_.read_lines([this](const std::string &line) { say(line); });
    while (open_) {
        const auto message = process_.receive(&open_);
        if (!message) break;
        if (message->verb != offload::Verb::pong) continue;
        unanswered_ = 0;
        if (static_cast<int64_t>(message->b) > settings.hang_timeout_ms * kMs)
            kill(vkv::message("a launch took longer than %d ms (vectorkv.gpu_hang_timeout)", settings.hang_timeout_ms));
    }
}

// Pings, and kills what does not answer or does not end in time.
void Supervisor::watch()
{
    const int64_t time = now();
    const int64_t limit = settings.hang_timeout_ms * kMs;
    if (phase_ == Phase::ready && unanswered_ != 0 && time - unanswered_ > limit)
        kill(message("it did not answer for %d ms (vectorkv.gpu_hang_timeout)", settings.hang_timeout_ms));
    if (phase_ == Phase::ready && time >= ping_at_) {
        const bool sent = process_.send({offload::Verb::ping, 0, static_cast<uint64_t>(time), 0, 0});
        if (unanswered_ == 0 && (sent || open_)) unanswered_ = time;
        ping_at_ = time + std::clamp<int64_t>(limit / 4, 50 * kMs, kSecond);
        read_counters();
    }
    if (phase_ != Phase::idle && kill_at_ != 0 && time >= kill_at_) kill(killed_for_);
}

// From now on nobody is sent to it, and who waits for it is told; it may take its time to end.
void Supervisor::kill(const std::string &why)
{
    kill_at_ = 0;
    if (phase_ == Phase::killed) return;
    killed_for_ = why;
    killed_in_ = phase_;
    phase_ = Phase::killed;
    give_up_at_ = now() + kEndLimit;
    process_.signal(SIGKILL);
    publish(State::starting, "the GPU helper is being killed: " + why);
    pg_atomic_write_u64(&shared()->killed, shared()->record.generation);
}

// Orderly: what runs is answered.
void Supervisor::stop()
{
    if (!process_.running() || phase_ == Phase::stopping || phase_ == Phase::killed) return;
    publish(State::starting, "the GPU helper is being started anew");
    phase_ = Phase::stopping;
    process_.signal(SIGTERM);
    kill_at_ = now() + kStopLimit;
}

// The helper has ended, or, without a status, does not although it was killed.
void Supervisor::bury(std::optional<int> status)
{
    hear();
    const Phase phase = phase_ == Phase::killed ? killed_in_ : phase_;
    const bool stopped = phase == Phase::stopping, ran_well = phase == Phase::ready && now() - started_ >= kRanWell;
    const bool no_device = phase == Phase::starting && status && WIFEXITED(*status) && WEXITSTATUS(*status) == kNoDevice;
    {
        const Locked locked(LW_EXCLUSIVE);
        if (client_.connected()) add(&shared()->ended, counters_of(client_.arena()));
        memset(static_cast<void *>(&shared()->arena), 0, sizeof shared()->arena);
        if (!stopped && !no_device && !ShutdownRequestPending) ++shared()->record.restarts;
    }
    client_.close();
    process_.close_files();
    unlink(kSocketPath);
    if (ran_well) pause_ = kFirstPause;
    std::string why;
    if (!status)
        why = message("process %d was killed and does not end: ", process_.pid()) + killed_for_;
    else if (!killed_for_.empty() && WIFSIGNALED(*status))
        why = "it was killed: " + killed_for_;
    else
        why = "it ended with " + describe_status(*status) + (last_error_.empty() ? "" : ": " + last_error_);
    if (!status) process_.abandon();
    kill_at_ = 0;
    killed_for_.clear();
    if (stopped) {
        start_at_ = now();
        rest(State::starting, "the GPU helper is being started anew");
    } else if (no_device) {
        refused_ = true;
        if (last_error_.empty()) last_error_ = "no CUDA device";
        log(LOG, "vectorkv helper: no GPU is used: " + last_error_);
        rest(State::no_device, last_error_);
    } else {
        pause(why);
    }
}

// Reading the configuration again is also the way to have another try at once.
void Supervisor::reload()
{
    ConfigReloadPending = false;
    pg_call([] { ProcessConfigFile(PGC_SIGHUP); });
    std::vector<std::string> command = command_line();
    const bool changed = command != command_;
    command_ = std::move(command);
    refused_ = false;
    pause_ = kFirstPause;
    start_at_ = now();
    if (changed) stop();
}

void Supervisor::step()
{
    if (process_.running()) {
        hear();
        watch();
        if (const auto status = process_.ended())
            bury(status);
        else if (phase_ == Phase::killed && now() >= give_up_at_)
            bury({});
    }
    if (pg_atomic_read_u64(&shared()->refreshes_wanted) != pg_atomic_read_u64(&shared()->refreshes_done)) read_counters();
    if (process_.running() || refused_ || now() < start_at_ || ShutdownRequestPending) return;
    if (command_.empty())
        rest(State::off, "vectorkv.gpu is off for the whole server");
    else
        start();
}

int64_t Supervisor::next_event() const
{
    if (process_.running() && (!open_ || phase_ == Phase::stopping || phase_ == Phase::killed)) return 20 * kMs;
    const int64_t time = now();
    int64_t next = time + 10 * kSecond;
    if (phase_ == Phase::ready) next = std::min(next, ping_at_);
    if (kill_at_ != 0) next = std::min(next, kill_at_);
    if (!process_.running() && !refused_ && !command_.empty()) next = std::min(next, start_at_);
    return std::max<int64_t>(next - time, 0);
}

void Supervisor::wait()
{
    const long timeout = static_cast<long>(next_event() / kMs + 1);
    const int control = open_ ? process_.control() : -1, errors = open_ ? process_.errors() : -1;
    pg_call([=] {
        WaitEventSet *set = compat::create_wait_set(4);
        AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, nullptr);
        AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, nullptr, nullptr);
        if (control >= 0) AddWaitEventToSet(set, WL_SOCKET_READABLE, control, nullptr, nullptr);
        if (errors >= 0) AddWaitEventToSet(set, WL_SOCKET_READABLE, errors, nullptr, nullptr);
        WaitEvent event;
        WaitEventSetWait(set, timeout, &event, 1, wait_event());
        FreeWaitEventSet(set);
        ResetLatch(MyLatch);
    });
}

void Supervisor::run()
{
    command_ = command_line();
    start_at_ = now();
    while (!ShutdownRequestPending) {
        if (ConfigReloadPending) reload();
        step();
        wait();
    }
    for (stop(); process_.running(); step()) wait();
    publish(State::waiting, "the supervisor has ended");
}

}  // namespace

void supervise() { Supervisor().run(); }

}  // namespace vkv::helper
