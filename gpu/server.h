// The helper's main loop: the listening socket, its clients, the supervisor's control socket, and the device's threads, in one
// epoll.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>

#include "gpu/scheduler.h"

namespace vkv::gpu {

struct ServerOptions {
    std::string socket;   // path
    int control_fd = -1;  // of the supervisor; its end ends the helper
    int signal_fd = -1;   // readable when the helper shall end
    uint64_t arena = 256u << 20;
    bool measure = true;  // itself, when it has begun to listen
    SchedulerOptions scheduler;
};

enum class Exit : int { asked = 0, failed = 1, device = 3, no_device = 4 };

class Server {
public:
    // Listens from here on. Throws std::runtime_error.
    Server(std::unique_ptr<Device> device, const ServerOptions &options);
    ~Server();
    Server(const Server &) = delete;
    Server &operator=(const Server &) = delete;

    Exit run();
    void stop();  // from any thread: run() ends when what runs is answered
    const Arena &arena() const { return arena_; }
    // A launch that does not end keeps the device's thread: the destructor would wait for it.
    bool stuck() const { return scheduler_->running(); }
    void unlink_socket() const;

private:
    void listen();
    void watch(int fd, uint32_t events = 1 /* EPOLLIN */);
    void set_timer();
    bool handle(int fd);
    void accept_clients();
    void turn_one_away();
    void read_peer(Peer *peer);
    void take(Peer *peer, const offload::Message &message);
    void welcome(Peer *peer, const offload::Message &hello);
    void refuse(Peer *peer, const Failure &failure);
    void disconnect(Peer *peer);
    bool settle();
    bool read_control();
    offload::Message pong(const offload::Message &ping) const;
    void begin_to_end();
    bool may_end() const;

    ServerOptions options_;
    std::unique_ptr<Device> device_;
    Arena arena_;
    std::unique_ptr<Scheduler> scheduler_;
    std::unordered_map<int, std::unique_ptr<Peer>> peers_;  // by socket
    uint64_t greeted_ = 0;
    int epoll_ = -1, listener_ = -1, stop_event_ = -1, timer_ = -1;
    int spare_ = -1;  // given up to turn a client away when there is no descriptor left for it
    uint64_t timer_at_us_ = 0;
    std::pair<dev_t, ino_t> socket_file_{};  // ours, and not that of a helper that came after this one
    bool ending_ = false;
    uint64_t ending_since_us_ = 0;
    std::thread measuring_;
};

}  // namespace vkv::gpu
