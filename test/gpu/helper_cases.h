// What tests of the helper share: sequences of tiles with the answer computed in this process, a server in a thread, and the real
// program as a child.
#pragma once
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/kv/attend.h"
#include "core/kv/sight.h"
#include "core/kv/tile.h"
#include "core/offload/client.h"
#include "core/simd/half.h"
#include "gpu/jobs.h"
#include "gpu/server.h"

namespace vkv::gpu {

// A folder of its own for the socket.
class Folder {
public:
    Folder()
    {
        std::string name = (std::filesystem::temp_directory_path() / "helper.XXXXXX").string();
        if (!::mkdtemp(name.data())) throw std::runtime_error("mkdtemp");
        path_ = name;
    }
    ~Folder() { std::filesystem::remove_all(path_); }
    std::string socket() const { return path_ + "/socket"; }

private:
    std::string path_;
};

// ---- sequences -------------------------------------------------------------------------------------------------------------

struct Shape {
    kv::Codec codec = kv::Codec::f16;
    int heads = 2, dim_k = 64, dim_v = 64, a_tile = 0;  // 0: full tiles
    uint8_t flags = 0;
    float bias = 0;  // of a channel of the keys, and of one of the values
    kv::TileShape tile() const { return {codec, flags, dim_k, dim_v, heads}; }
};

// Tiles of positions [first, first + tokens) of one layer, all heads.
class Extent {
public:
    // `ids`: the same ids in every process, so that processes are as one about an extent; 0: new ones.
    Extent(const Shape &shape, int32_t first, int tokens, uint32_t seed, uint64_t ids = 0)
        : shape_(shape), first_(first), random_(seed), ids_(ids)
    {
        extend(tokens);
    }
    void extend(int tokens)
    {
        const int most = shape_.a_tile ? shape_.a_tile : kv::tile_capacity(shape_.tile());
        for (const int32_t end = first_ + tokens_ + tokens; first_ + tokens_ < end;) {
            const int n = std::min(most, end - first_ - tokens_);
            for (int h = 0; h < shape_.heads; h++) add(h, first_ + tokens_, n);
            tokens_ += n;
        }
    }
    const std::vector<offload::Entry> &entries() const { return entries_; }
    int32_t first() const { return first_; }
    int32_t end() const { return first_ + tokens_; }
    const Shape &shape() const { return shape_; }
    kv::TileView view(size_t i) const { return kv::view_tile(tiles_[i].data(), bytes_[i]); }
    size_t tiles() const { return tiles_.size(); }
    void copy(uint64_t id, void *slab) const
    {
        const size_t i = by_id_.at(id);
        std::memcpy(slab, tiles_[i].data(), bytes_[i]);
    }
    void damage(size_t i) { tiles_[i].back() ^= 1; }
    uint64_t *header_id(size_t i) { return &reinterpret_cast<kv::TileHeader *>(tiles_[i].data())->id; }

private:
    void add(int head, int32_t first, int n)
    {
        std::normal_distribution<float> normal;
        std::vector<uint16_t> k(static_cast<size_t>(n * shape_.dim_k)), v(static_cast<size_t>(n * shape_.dim_v));
        for (uint16_t &x : k) x = float_to_half(normal(random_));
        for (uint16_t &x : v) x = float_to_half(normal(random_));
        if (shape_.bias != 0) {  // as keys of models have it, and some values
            for (size_t i = 5; i < k.size(); i += static_cast<size_t>(shape_.dim_k))
                k[i] = float_to_half(half_to_float(k[i]) + shape_.bias);
            for (size_t i = 3; i < v.size(); i += static_cast<size_t>(shape_.dim_v))
                v[i] = float_to_half(half_to_float(v[i]) - shape_.bias);
        }
        std::vector<uint64_t> tile((kv::most_tile_bytes(shape_.tile(), n) + 7) / 8);
        const size_t bytes = kv::encode_tile(
            shape_.tile(), head, first, n, {k.data(), static_cast<size_t>(shape_.dim_k)},
            {shape_.flags & kv::kValuesInKeys ? nullptr : v.data(), static_cast<size_t>(shape_.dim_v)}, tile.data());
        tile.resize((bytes + 7) / 8);
        uint64_t &id = reinterpret_cast<kv::TileHeader *>(tile.data())->id;
        if (ids_) id = ids_ << 32 | tiles_.size();
        by_id_[id] = tiles_.size();
        entries_.push_back({id, first, static_cast<uint16_t>(n), static_cast<uint16_t>(head)});
        tiles_.push_back(std::move(tile));
        bytes_.push_back(bytes);
    }

    Shape shape_;
    int32_t first_;
    int tokens_ = 0;
    std::mt19937 random_;
    uint64_t ids_;
    std::vector<std::vector<uint64_t>> tiles_;
    std::vector<size_t> bytes_;
    std::vector<offload::Entry> entries_;
    std::map<uint64_t, size_t> by_id_;
};

// One request, and what it must answer.
class Case : public offload::TileSource {
public:
    int rows = 2, q_len = 1;
    float scale = 0.125f, softcap = 0;
    bool causal = true;
    int32_t window = 0, sinks = 0;
    uint64_t deadline_us = 0;
    offload::Fault fault = offload::Fault::none;
    uint64_t copied = 0, listed = 0, meanwhile = 0;  // calls

    // Names of extents: tests give the number that the helper's table has.
    void add_item(int32_t total) { items_.push_back({static_cast<uint32_t>(spans_.size()), 0, total, 0}); }
    void add_span(const Extent &extent, uint64_t number, int32_t from, int32_t to, bool shared, int32_t believed = 0)
    {
        offload::Span span{};
        span.space = 7;
        span.extent = number;
        span.layer = 3;
        span.flags = shared ? uint32_t{offload::kShared} : 0;
        span.from = from;
        span.to = to;
        spans_.push_back(span);
        extents_.push_back(&extent);
        believed_.push_back(believed);
        items_.back().spans++;
    }
    // One item over the whole extent.
    static Case over(const Extent &extent, uint64_t number, bool shared, int32_t believed = 0)
    {
        Case c;
        c.add_item(extent.end());
        c.add_span(extent, number, extent.first(), extent.end(), shared, believed);
        return c;
    }

    void entries(size_t index, int32_t from, std::vector<offload::Entry> *out) override
    {
        for (const offload::Entry &e : extents_[index]->entries())
            if (e.first + e.tokens > from && e.first < spans_[index].to) {
                out->push_back(e);
                listed++;
            }
    }
    void copy(size_t index, const offload::Entry &tile, void *slab) override
    {
        extents_[index]->copy(tile.id, slab);
        std::atomic_ref<uint64_t>(copied)++;
    }

    const Shape &shape() const { return extents_.front()->shape(); }
    size_t state_floats() const { return static_cast<size_t>(rows) * (2 + static_cast<size_t>(shape().dim_v)); }
    std::vector<float> queries(uint32_t seed) const
    {
        std::mt19937 random(seed);
        std::normal_distribution<float> normal;
        std::vector<float> q(items_.size() * static_cast<size_t>(shape().heads * rows * shape().dim_k));
        for (float &x : q) x = normal(random);
        return q;
    }

    // [items][heads] of states.
    std::vector<float> ask(offload::Client *client, const std::vector<float> &q)
    {
        offload::AttendCall call;
        call.kv_heads = static_cast<uint32_t>(shape().heads);
        call.rows = static_cast<uint32_t>(rows);
        call.q_len = static_cast<uint32_t>(q_len);
        call.dim_k = static_cast<uint32_t>(shape().dim_k);
        call.dim_v = static_cast<uint32_t>(shape().dim_v);
        call.tile_flags = shape().flags;
        call.scale = scale;
        call.softcap = softcap;
        call.causal = causal;
        call.window = window;
        call.sinks = sinks;
        call.items = items_;
        call.spans = spans_;
        call.believed = believed_;
        call.deadline_us = deadline_us;
        call.fault = fault;
        call.write_queries = [&](float *to) { std::copy(q.begin(), q.end(), to); };
        call.meanwhile = [this] { meanwhile++; };
        const float *states = client->attend(call, this);
        return {states, states + items_.size() * static_cast<size_t>(shape().heads) * state_floats()};
    }

    std::vector<float> expected(const std::vector<float> &q) const
    {
        std::vector<float> out;
        const size_t q_floats = static_cast<size_t>(rows * shape().dim_k);
        const float *at = q.data();
        for (const offload::Item &item : items_)
            for (int h = 0; h < shape().heads; h++, at += q_floats) {
                kv::Queries queries;
                queries.set(at, rows, shape().dim_k, scale, softcap);
                kv::Accumulator sum;
                sum.reset(rows, shape().dim_v);
                std::vector<kv::Sight> sights;
                const kv::SightRule rule{item.total, q_len, window, causal};
                for (int r = 0; r < rows; r++) sights.push_back(rule.of(r % q_len));
                for (uint32_t s = item.first_span; s < item.first_span + item.spans; s++) {
                    const kv::Selection selection{spans_[s].from,         spans_[s].to, sights.data(),
                                                  window > 0 ? sinks : 0, nullptr,      nullptr};
                    for (size_t i = 0; i < extents_[s]->tiles(); i++)
                        if (const kv::TileView view = extents_[s]->view(i); view.head == h) sum.add(queries, view, selection);
                }
                out.resize(out.size() + state_floats());
                float *m = out.data() + out.size() - state_floats();
                sum.state(m, m + rows, m + 2 * rows);
            }
        return out;
    }

    // The largest difference of outputs and of log-sum-exps; rows that saw nothing must be exactly that.
    double difference(const std::vector<float> &got, const std::vector<float> &wanted) const
    {
        double worst = 0;
        const auto r = static_cast<size_t>(rows), dims = static_cast<size_t>(shape().dim_v);
        for (size_t base = 0; base < wanted.size(); base += state_floats())
            for (size_t row = 0; row < r; row++) {
                const float *a = &got[base], *b = &wanted[base];
                if (b[r + row] == 0) {
                    if (a[r + row] != 0 || a[row] != -std::numeric_limits<float>::infinity()) return 1;
                    continue;
                }
                const double lse_a = std::log(static_cast<double>(a[r + row])) + static_cast<double>(a[row]);
                const double lse_b = std::log(static_cast<double>(b[r + row])) + static_cast<double>(b[row]);
                if (std::isnan(lse_a)) return 1;
                worst = std::max(worst, std::fabs(lse_a - lse_b));
                for (size_t d = 0; d < dims; d++) {
                    const double x = static_cast<double>(a[2 * r + row * dims + d] / a[r + row]);
                    const double y = static_cast<double>(b[2 * r + row * dims + d] / b[r + row]);
                    if (std::isnan(x)) return 1;
                    worst = std::max(worst, std::fabs(x - y));
                }
            }
        return worst;
    }

    double error(offload::Client *client, uint32_t seed = 1)
    {
        const std::vector<float> q = queries(seed);
        return difference(ask(client, q), expected(q));
    }

    std::vector<offload::Item> &items() { return items_; }
    std::vector<offload::Span> &spans() { return spans_; }

private:
    std::vector<offload::Item> items_;
    std::vector<offload::Span> spans_;
    std::vector<const Extent *> extents_;
    std::vector<int32_t> believed_;
};

inline constexpr double kClose = 1e-4;

// Gives up after a minute, so that a helper that forgets an answer fails a test and does not hang it.
inline void wait_for_test(int socket)
{
    pollfd p{socket, POLLIN, 0};
    if (::poll(&p, 1, 60000) == 0) throw std::runtime_error("no answer within a minute");
}

// ---- helpers ---------------------------------------------------------------------------------------------------------------

inline uint64_t counter(const uint64_t &x) { return std::atomic_ref<uint64_t>(const_cast<uint64_t &>(x)).load(); }

inline offload::ArenaHeader snapshot(const offload::ArenaHeader &header)
{
    static_assert(sizeof header % sizeof(uint64_t) == 0);
    offload::ArenaHeader copy;
    for (size_t i = 0; i < sizeof header / sizeof(uint64_t); i++)
        reinterpret_cast<uint64_t *>(&copy)[i] = counter(reinterpret_cast<const uint64_t *>(&header)[i]);
    return copy;
}

// The server in a thread of the test.
class ServerThread {
public:
    explicit ServerThread(std::unique_ptr<Device> device, ServerOptions options = {})
    {
        options.socket = folder_.socket();
        options.measure = false;
        server_ = std::make_unique<Server>(std::move(device), options);
        thread_ = std::thread([this] { code_ = server_->run(); });
    }
    ~ServerThread() { end(); }
    Exit end()
    {
        server_->stop();
        return wait();
    }
    Exit wait()
    {
        if (thread_.joinable()) thread_.join();
        return code_;
    }
    std::string socket() const { return folder_.socket(); }
    const offload::ArenaHeader &header() const { return server_->arena().header(); }
    // What they are when no launch runs: the helper answers first and keeps its books then.
    offload::ArenaHeader counters() const
    {
        const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strcpy(address.sun_path, socket().c_str());
        offload::Message message{offload::Verb::ping, 0, 1, 1, 0};
        bool good = ::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0;
        for (int i = 0; good && message.b != 0 && i < 6000; i++) {
            if (i) ::usleep(10000);
            message = {offload::Verb::ping, 0, 1, 1, 0};
            good = ::send(fd, &message, sizeof message, MSG_NOSIGNAL) == sizeof message;
            wait_for_test(fd);
            good = good && ::recv(fd, &message, sizeof message, 0) == sizeof message;
        }
        ::close(fd);
        if (!good || message.b != 0) throw std::runtime_error("a launch does not end, or nobody says so");
        return snapshot(header());
    }

private:
    Folder folder_;
    std::unique_ptr<Server> server_;
    Exit code_ = Exit::failed;
    std::thread thread_;
};

inline std::unique_ptr<Device> cpu_device(uint64_t slots, unsigned threads = 2, uint64_t delay_us = 0)
{
    return open_cpu_device({"cpu", slots * offload::kSlabBytes, threads, delay_us});
}

// A CPU device whose launches wait while they are held, so that what happens beside one does not depend on how long it takes.
class HeldDevice : public Device {
public:
    HeldDevice(uint64_t slots, const std::atomic<bool> *held) : device_(cpu_device(slots)), held_(held) {}
    const DeviceFacts &facts() const override { return device_->facts(); }
    bool supports(const Geometry &geometry, std::string *why) const override { return device_->supports(geometry, why); }
    void attach_arena(void *arena, size_t bytes) override { device_->attach_arena(arena, bytes); }
    void copy(std::span<const Copy> copies) override { device_->copy(copies); }
    void attend(AttendBatch *batch) override
    {
        for (int i = 0; *held_ && i < 60000; i++) ::usleep(1000);  // a test that failed meanwhile ends nevertheless
        device_->attend(batch);
    }
    void nearest(const offload::NearestRequest &request, const float *queries, const float *vectors,
                 offload::Neighbor *results) override
    {
        device_->nearest(request, queries, vectors, results);
    }

private:
    std::unique_ptr<Device> device_;
    const std::atomic<bool> *held_;
};

// A program as a child; it does not outlive the thread that made it.
class Child {
public:
    Child(const std::string &program, std::vector<std::string> words)
    {
        words.insert(words.begin(), program);
        std::vector<char *> arguments;
        for (std::string &w : words) arguments.push_back(w.data());
        arguments.push_back(nullptr);
        const pid_t parent = ::getpid();
        pid_ = ::fork();
        if (pid_ == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (::getppid() == parent) ::execv(program.c_str(), arguments.data());
            ::_exit(127);
        }
    }
    ~Child()
    {
        if (pid_ > 0) end(SIGKILL);
    }
    Child(const Child &) = delete;
    Child &operator=(const Child &) = delete;
    void kill(int signal) const { ::kill(pid_, signal); }
    void wait_unreaped() const
    {
        siginfo_t ended;
        while (::waitid(P_PID, static_cast<id_t>(pid_), &ended, WEXITED | WNOWAIT) != 0 && errno == EINTR) continue;
    }
    // As waitpid: the exit code, or 256 + the signal.
    int wait()
    {
        int status = 0;
        ::waitpid(pid_, &status, 0);
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
    }
    int end(int signal)
    {
        kill(signal);
        return wait();
    }
    pid_t pid() const { return pid_; }

private:
    pid_t pid_ = -1;
};

// The real program.
class HelperProcess : public Child {
public:
    HelperProcess(const std::string &program, const std::string &socket, std::vector<std::string> options)
        : Child(program, words(socket, std::move(options)))
    {
    }

private:
    static std::vector<std::string> words(const std::string &socket, std::vector<std::string> options)
    {
        ::unlink(socket.c_str());
        options.insert(options.begin(), {"--socket", socket, "--device", "cpu"});
        return options;
    }
};

// A new helper may not listen yet.
inline void connect_patiently(offload::Client *client, const std::string &socket, offload::Client::Wait wait = wait_for_test)
{
    for (int i = 0;; i++) {
        try {
            client->connect(socket.c_str(), wait);
            return;
        } catch (const offload::Lost &) {
            if (i == 6000) throw;
            ::usleep(10000);
        }
    }
}

}  // namespace vkv::gpu
