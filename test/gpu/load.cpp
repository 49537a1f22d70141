// Load on the helper program, without PostgreSQL: threads and processes as clients, every answer compared with the same attention
// in this process.
//
//   helper_load check [--clients N] [--seconds S] [--memory MB]   random batches over more tiles than the cache holds
//   helper_load storm [--cancels N] [--client-kills N] [--helper-kills N] [--hangs N]
//                                                                 all of this at once; then nothing may be left behind
//   helper_load latency [--requests N]                            a cached request against the same attention in this process
//   helper_load throughput [--clients N] [--seconds S] [--launch-delay-us N]
//                                                                 against one client, where a launch has a fixed cost
// --helper PATH, --device NAME, --seed N for all. The exit status is 1 when an answer was wrong or something was left behind.
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <functional>
#include <mutex>

#include "raw_client.h"

namespace vkv::gpu {
namespace {

using offload::Client;
using offload::Fault;
using offload::Lost;
using offload::Refused;

struct Settings {
    std::string mode, helper = VKV_HELPER, device = "cpu", socket;
    uint64_t clients = 16, seconds = 5, memory = 2, delay_us = 1000, requests = 2000, seed = 1;
    uint64_t cancels = 1000, client_kills = 50, helper_kills = 20, hangs = 5;
};

Settings read_settings(int count, char **words)
{
    Settings s;
    if (count < 2) throw std::runtime_error("helper_load check | storm | latency | throughput");
    s.mode = words[1];
    for (int i = 2; i + 1 < count; i += 2) {
        const std::string name = words[i], value = words[i + 1];
        const auto number = [&](const char *option, uint64_t *to) {
            if (name != option) return false;
            *to = std::stoull(value);
            return true;
        };
        if (name == "--helper")
            s.helper = value;
        else if (name == "--device")
            s.device = value;
        else if (name == "--socket")
            s.socket = value;
        else if (!number("--clients", &s.clients) && !number("--seconds", &s.seconds) && !number("--memory", &s.memory) &&
                 !number("--launch-delay-us", &s.delay_us) && !number("--requests", &s.requests) && !number("--seed", &s.seed) &&
                 !number("--cancels", &s.cancels) && !number("--client-kills", &s.client_kills) &&
                 !number("--helper-kills", &s.helper_kills) && !number("--hangs", &s.hangs))
            throw std::runtime_error("unknown option " + name);
    }
    return s;
}

// Extents that all clients know; the same in every process.
std::vector<Extent> make_extents()
{
    std::vector<Extent> out;
    for (uint32_t i = 0; i < 24; i++)
        out.emplace_back(Shape{static_cast<kv::Codec>(i % kv::kCodecs), 2, 64, 64, 20, 0}, 0, 200 + 37 * static_cast<int>(i % 7), i,
                         i + 1);
    return out;
}

class Cancelled : public std::exception {};

Case random_case(const std::vector<Extent> &extents, std::mt19937 *random)
{
    Case c;
    const auto below = [&](uint32_t n) { return (*random)() % n; };
    c.rows = 4;
    c.q_len = below(4) ? 1 : 2;
    c.window = below(3) ? 0 : static_cast<int32_t>(below(200)) + 1;
    c.sinks = static_cast<int32_t>(below(10));
    for (uint32_t items = 1 + below(3); items; items--) {
        const uint32_t e = below(static_cast<uint32_t>(extents.size()));
        const int32_t end = extents[e].end(), cut = below(2) ? end : 1 + static_cast<int32_t>(below(static_cast<uint32_t>(end)));
        c.add_item(cut);
        c.add_span(extents[e], e, 0, cut, below(5) != 0, below(2) ? end : 0);
    }
    return c;
}

struct Tally {
    std::atomic<uint64_t> right{0}, wrong{0}, lost{0}, cancelled{0}, refused{0};
};

// Connects, again and again while the helper is away.
void reconnect(Client *client, const std::string &socket, const Client::Wait &wait)
{
    for (int i = 0;; i++) {
        try {
            client->connect(socket.c_str(), wait);
            return;
        } catch (const Lost &) {
            if (i == 3000) throw;
            ::usleep(5000);
        }
    }
}

// One request; with `patience_us` it is given up when that is over, wherever it is.
void one_request(Client *client, const std::string &socket, Case *c, uint64_t patience_us, Tally *tally, uint32_t seed)
{
    const uint64_t until = now_us() + patience_us;
    const Client::Wait wait = [&](int fd) {
        if (!patience_us) return wait_for_test(fd);
        const uint64_t now = now_us();
        const timespec left{0, static_cast<long>(until > now ? (until - now) * 1000 : 0)};
        pollfd p{fd, POLLIN, 0};
        if (::ppoll(&p, 1, &left, nullptr) == 0) throw Cancelled();
    };
    try {
        if (!client->connected() || patience_us) reconnect(client, socket, wait);
        const double error = c->error(client, seed);
        (error < kClose ? tally->right : tally->wrong)++;
        if (patience_us) client->close();  // its waiting ends with this call
        return;
    } catch (const Cancelled &) {
        tally->cancelled++;
    } catch (const Lost &) {
        tally->lost++;
    } catch (const Refused &refused) {
        std::fprintf(stderr, "refused: %s\n", refused.what());
        tally->refused++;
        return;
    }
    client->close();
}

// The helper is at rest, and every slot of its cache can be had: a request that needs all but a few of them is answered.
bool nothing_left(const std::string &socket, const Settings &s)
{
    Client client;
    reconnect(&client, socket, wait_for_test);
    bool good = at_rest(client.arena(), 1);
    const auto slots = static_cast<int>(std::min<uint64_t>(client.arena().slots, s.memory * (1 << 20) / offload::kSlabBytes));
    const Extent everything({kv::Codec::f16, 1, 16, 16, 1, 0}, 0, slots, 99);
    Case c = Case::over(everything, 9999, true);
    good = good && c.error(&client) < kClose && at_rest(client.arena(), 1);
    const offload::ArenaHeader h = snapshot(client.arena());
    std::printf("at the end: %s; slabs %llu, clients %llu, slots %llu of %llu, tables %llu; dropped %llu, evictions %llu\n",
                good ? "at rest" : "SOMETHING IS LEFT", static_cast<unsigned long long>(h.slabs_used),
                static_cast<unsigned long long>(h.clients), static_cast<unsigned long long>(h.slots_used),
                static_cast<unsigned long long>(h.slots), static_cast<unsigned long long>(h.tables),
                static_cast<unsigned long long>(h.dropped), static_cast<unsigned long long>(h.evictions));
    return good;
}

std::vector<std::string> helper_options(const Settings &s, std::vector<std::string> more = {})
{
    more.insert(more.end(), {"--device", s.device, "--memory", std::to_string(s.memory)});
    return more;
}

bool report(const Tally &t)
{
    std::printf("answers: %llu right, %llu wrong; %llu cancelled, %llu lost, %llu refused\n",
                static_cast<unsigned long long>(t.right.load()), static_cast<unsigned long long>(t.wrong.load()),
                static_cast<unsigned long long>(t.cancelled.load()), static_cast<unsigned long long>(t.lost.load()),
                static_cast<unsigned long long>(t.refused.load()));
    return t.wrong == 0 && t.right > 0 && t.refused == 0;
}

// ---- check -----------------------------------------------------------------------------------------------------------------

bool check(const Settings &s)
{
    const Folder folder;
    HelperProcess helper(s.helper, folder.socket(), helper_options(s));
    const std::vector<Extent> extents = make_extents();
    Tally tally;
    const uint64_t until = now_us() + s.seconds * 1000000;
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < s.clients; t++)
        threads.emplace_back([&, t] {
            std::mt19937 random(static_cast<uint32_t>(s.seed * 1000 + t));
            Client client;
            while (now_us() < until) {
                Case c = random_case(extents, &random);
                one_request(&client, folder.socket(), &c, 0, &tally, random());
            }
        });
    for (std::thread &thread : threads) thread.join();
    const bool right = report(tally) && tally.lost == 0;
    return nothing_left(folder.socket(), s) && right && helper.end(SIGTERM) == 0;
}

// ---- storm -----------------------------------------------------------------------------------------------------------------

// Keeps a helper running at its socket. One thread starts them all: a child goes with the thread that made it.
class Supervisor {
public:
    Supervisor(const Settings &s, const std::string &socket) : settings_(s), socket_(socket)
    {
        thread_ = std::thread([this] { keep(); });
    }
    ~Supervisor()
    {
        if (thread_.joinable()) end(SIGKILL);
    }
    // As a watchdog, or as fate, would.
    void kill_and_restart()
    {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return helper_ != nullptr; });
        helper_->kill(SIGKILL);
        const uint64_t killed = started_;
        changed_.wait(lock, [&] { return started_ != killed; });
    }
    int end(int signal)
    {
        {
            const std::lock_guard lock(mutex_);
            ending_ = true;
            if (helper_) helper_->kill(signal);
        }
        thread_.join();
        return status_;
    }

private:
    void keep()
    {
        std::unique_lock lock(mutex_);
        while (!ending_) {
            helper_ = std::make_unique<HelperProcess>(settings_.helper, socket_,
                                                      helper_options(settings_, {"--faults", "--arena", "16"}));
            started_++;
            changed_.notify_all();
            lock.unlock();
            helper_->wait_unreaped();  // its number stays its own while others may send it signals
            lock.lock();
            status_ = helper_->wait();
            helper_.reset();
        }
    }
    const Settings &settings_;
    std::string socket_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::unique_ptr<HelperProcess> helper_;
    uint64_t started_ = 0;
    bool ending_ = false;
    int status_ = -1;
    std::thread thread_;
};

// A launch that never ends: seen by its age, as the supervisor sees it.
void hang_once(Supervisor *supervisor, const std::string &socket, const std::vector<Extent> &extents)
{
    Client client;
    Case c = Case::over(extents[0], 0, false);
    c.fault = Fault::hang;
    Tally ignored;
    for (uint64_t age = 0; age < 300000;) {
        one_request(&client, socket, &c, 400000, &ignored, 1);
        try {
            RawClient watcher(socket);
            watcher.hello();
            watcher.send(offload::Verb::ping, 1);
            if (const auto pong = watcher.receive()) age = pong->b;
        } catch (const std::exception &) {
            ::usleep(10000);  // somebody else killed it
        }
    }
    supervisor->kill_and_restart();
}

// A client process, for being killed.
int victim(const Settings &s)
{
    const std::vector<Extent> extents = make_extents();
    std::mt19937 random(static_cast<uint32_t>(s.seed));
    Client client;
    Tally tally;
    while (tally.wrong == 0) {
        Case c = random_case(extents, &random);
        one_request(&client, s.socket, &c, 0, &tally, random());
    }
    return 1;
}

void kill_client(const std::string &self, const std::string &socket, std::mt19937 *random, Tally *tally)
{
    Child client(self, {"victim", "--socket", socket, "--seed", std::to_string((*random)())});
    ::usleep(20000 + (*random)() % 100000);
    if (client.end(SIGKILL) != 256 + SIGKILL) tally->wrong++;
}

bool storm(const Settings &s, const std::string &self)
{
    const Folder folder;
    const std::string socket = folder.socket();
    Supervisor supervisor(s, socket);
    const std::vector<Extent> extents = make_extents();
    Tally tally;
    std::atomic<uint64_t> troubles{0};
    const uint64_t wanted = s.client_kills + s.helper_kills + s.hangs;
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < s.clients; t++)
        threads.emplace_back([&, t] {
            std::mt19937 random(static_cast<uint32_t>(s.seed * 1000 + t));
            Client client;
            while (tally.cancelled < s.cancels || troubles < wanted) {
                Case c = random_case(extents, &random);
                const uint64_t patience_us = random() % 2 ? 1 + random() % (1u << (5 + random() % 8)) : 0;
                one_request(&client, socket, &c, patience_us, &tally, random());
            }
        });
    const auto trouble = [&](uint64_t times, const std::function<void(std::mt19937 *)> &make) {
        threads.emplace_back([&, times, make] {
            std::mt19937 random(static_cast<uint32_t>(s.seed + times));
            for (uint64_t i = 0; i < times; i++) {
                ::usleep(random() % 200000);
                make(&random);
                troubles++;
            }
        });
    };
    trouble(s.helper_kills, [&](std::mt19937 *) { supervisor.kill_and_restart(); });
    trouble(s.hangs, [&](std::mt19937 *) { hang_once(&supervisor, socket, extents); });
    trouble(s.client_kills, [&](std::mt19937 *random) { kill_client(self, socket, random, &tally); });
    for (std::thread &thread : threads) thread.join();
    const bool right = report(tally);
    return nothing_left(socket, s) && right && supervisor.end(SIGTERM) == 0;
}

// ---- figures ---------------------------------------------------------------------------------------------------------------

double median(std::vector<double> *v)
{
    std::nth_element(v->begin(), v->begin() + static_cast<ptrdiff_t>(v->size() / 2), v->end());
    return (*v)[v->size() / 2];
}

bool latency(const Settings &s)
{
    const Folder folder;
    HelperProcess helper(s.helper, folder.socket(), {"--device", s.device});
    Client client;
    connect_patiently(&client, folder.socket());
    ::usleep(500000);  // it measures itself
    bool right = true;
    for (const int tokens : {60, 500, 4000, 32000}) {
        const Extent extent({kv::Codec::f16, 8, 128, 128, 0, 0}, 0, tokens, 1);
        Case c = Case::over(extent, static_cast<uint64_t>(tokens), true, 0);
        c.rows = 4;
        right = right && c.error(&client) < kClose;
        Case cached = Case::over(extent, static_cast<uint64_t>(tokens), true, extent.end());
        cached.rows = 4;
        const std::vector<float> q = cached.queries(1);
        std::vector<double> by_helper, here, on_device;
        const uint64_t requests = std::max<uint64_t>(s.requests * 60 / static_cast<uint64_t>(tokens), 30);
        for (uint64_t i = 0; i < requests; i++) {
            uint64_t begun = now_us();
            cached.ask(&client, q);
            by_helper.push_back(static_cast<double>(now_us() - begun));
            on_device.push_back(static_cast<double>(client.figures().device_us));
            begun = now_us();
            cached.expected(q);
            here.push_back(static_cast<double>(now_us() - begun));
        }
        const double helper_us = median(&by_helper), device_us = median(&on_device);
        std::printf(
            "%6d tokens: helper %.0f us, of this the device %.0f us; in this process, one thread, %.0f us; overhead %.0f us\n",
            tokens, helper_us, device_us, median(&here), helper_us - device_us);
    }
    return right;
}

bool throughput(const Settings &s)
{
    const Folder folder;
    HelperProcess helper(s.helper, folder.socket(), {"--device", s.device, "--launch-delay-us", std::to_string(s.delay_us)});
    const Extent extent({kv::Codec::f16, 2, 64, 64, 0, 0}, 0, 60, 1);
    Tally tally;
    double one = 0;
    for (const uint64_t clients : {uint64_t{1}, s.clients}) {
        const uint64_t before = tally.right, begun = now_us(), until = begun + s.seconds * 1000000;
        std::vector<std::thread> threads;
        for (uint64_t t = 0; t < clients; t++)
            threads.emplace_back([&, t] {
                Client client;
                reconnect(&client, folder.socket(), wait_for_test);
                while (now_us() < until) {
                    Case c = Case::over(extent, 1, true, extent.end());
                    one_request(&client, folder.socket(), &c, 0, &tally, static_cast<uint32_t>(t));
                }
            });
        for (std::thread &thread : threads) thread.join();
        const double rate = static_cast<double>(tally.right - before) * 1e6 / static_cast<double>(now_us() - begun);
        if (clients == 1) one = rate;
        std::printf("%3llu clients: %.0f requests/s, %.1f times one client\n", static_cast<unsigned long long>(clients), rate,
                    rate / one);
    }
    return report(tally);
}

int run(int count, char **words)
{
    const Settings s = read_settings(count, words);
    ::setvbuf(stdout, nullptr, _IOLBF, 0);
    if (s.mode == "victim") return victim(s);
    if (s.mode == "check") return check(s) ? 0 : 1;
    if (s.mode == "storm") return storm(s, "/proc/self/exe") ? 0 : 1;
    if (s.mode == "latency") return latency(s) ? 0 : 1;
    if (s.mode == "throughput") return throughput(s) ? 0 : 1;
    throw std::runtime_error("unknown mode " + s.mode);
}

}  // namespace
}  // namespace vkv::gpu

int main(int count, char **words)
{
    try {
        return vkv::gpu::run(count, words);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "helper_load: %s\n", error.what());
        return 1;
    }
}
