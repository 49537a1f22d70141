// The loop over the sockets: clients come, ask and go; the supervisor pings.
#include "gpu/server.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "gpu/log.h"
#include "gpu/measure.h"

namespace vkv::gpu {

using namespace offload;

namespace {

constexpr size_t kMostHeld = 4;            // messages: a client may give back its area and submit before the books are closed
constexpr uint64_t kPatienceUs = 3000000;  // with what runs when the helper shall end

std::runtime_error failed(const std::string &what) { return std::runtime_error("could not " + what + ": " + std::strerror(errno)); }

}  // namespace

Server::Server(std::unique_ptr<Device> device, const ServerOptions &options)
    : options_(options),
      device_(std::move(device)),
      arena_(options.arena),
      scheduler_(std::make_unique<Scheduler>(device_.get(), &arena_, options.scheduler))
{
    epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
    stop_event_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    timer_ = ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    spare_ = ::eventfd(0, EFD_CLOEXEC);
    if (epoll_ < 0 || stop_event_ < 0 || timer_ < 0 || spare_ < 0) throw failed("make an epoll");
    listen();
    for (const int fd : {listener_, stop_event_, timer_, scheduler_->done_event(), options_.control_fd, options_.signal_fd})
        if (fd >= 0) watch(fd);
    if (options_.measure) measuring_ = std::thread([this] { measure(options_.socket, &arena_); });
}

Server::~Server()
{
    for (const auto &[fd, peer] : peers_) ::shutdown(fd, SHUT_RDWR);
    ::close(listener_);
    unlink_socket();
    if (measuring_.joinable()) measuring_.join();
    scheduler_.reset();
    for (const auto &[fd, peer] : peers_) ::close(fd);
    for (const int fd : {epoll_, stop_event_, timer_, spare_}) ::close(fd);
}

void Server::listen()
{
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (options_.socket.empty() || options_.socket.size() >= sizeof address.sun_path)
        throw std::runtime_error("the socket's path has " + std::to_string(options_.socket.size()) + " bytes, should have 1 to " +
                                 std::to_string(sizeof address.sun_path - 1));
    std::memcpy(address.sun_path, options_.socket.data(), options_.socket.size());
    listener_ = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener_ < 0) throw failed("make a socket");
    ::unlink(address.sun_path);
    const mode_t before = ::umask(0177);
    const int bound = ::bind(listener_, reinterpret_cast<sockaddr *>(&address), sizeof address);
    ::umask(before);
    if (bound != 0 || ::listen(listener_, SOMAXCONN) != 0) {
        const std::runtime_error error = failed("listen at \"" + options_.socket + "\"");
        ::close(listener_);
        throw error;
    }
    struct stat file {};
    if (::stat(address.sun_path, &file) == 0) socket_file_ = {file.st_dev, file.st_ino};
}

void Server::unlink_socket() const
{
    struct stat file {};
    if (::stat(options_.socket.c_str(), &file) == 0 && socket_file_ == std::pair(file.st_dev, file.st_ino))
        ::unlink(options_.socket.c_str());
}

void Server::watch(int fd, uint32_t events)
{
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    if (::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event) != 0) throw failed("watch a descriptor");
}

void Server::stop()
{
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = ::write(stop_event_, &one, sizeof one);
}

void Server::set_timer()
{
    uint64_t at = scheduler_->next_wake_us();
    if (ending_) at = std::min(at, ending_since_us_ + kPatienceUs);
    if (at == std::exchange(timer_at_us_, at)) return;
    itimerspec when{};
    if (at != UINT64_MAX) when.it_value = {static_cast<time_t>(at / 1000000), static_cast<long>(at % 1000000 * 1000 + 1)};
    ::timerfd_settime(timer_, TFD_TIMER_ABSTIME, &when, nullptr);
}

Exit Server::run()
{
    log("ready: %s, %u slots of %zu bytes, arena of %zu bytes", device_->facts().name.c_str(), device_->facts().slots, kSlabBytes,
        arena_.bytes());
    epoll_event events[64];
    while (!may_end()) {
        set_timer();
        const int count = ::epoll_wait(epoll_, events, 64, -1);
        if (count < 0 && errno != EINTR) throw failed("wait for messages");
        for (int i = 0; i < count; i++)
            if (!handle(events[i].data.fd)) {
                ::epoll_ctl(epoll_, EPOLL_CTL_DEL, events[i].data.fd, nullptr);
                begin_to_end();
            }
        do scheduler_->turn();
        while (settle());
        scheduler_->show_counters(greeted_);
    }
    if (!scheduler_->device_failed()) return Exit::asked;
    log_as(Level::error, "the device failed: %s", scheduler_->device_error().c_str());
    return Exit::device;
}

void Server::begin_to_end()
{
    if (!std::exchange(ending_, true)) ending_since_us_ = now_us();
    scheduler_->stop_launching();
}

bool Server::may_end() const
{
    if (scheduler_->device_failed()) return true;
    return ending_ && (!scheduler_->running() || now_us() > ending_since_us_ + kPatienceUs);
}

// False: the helper shall end.
bool Server::handle(int fd)
{
    uint64_t value;
    if (fd == listener_) {
        accept_clients();
    } else if (fd == stop_event_ || fd == options_.signal_fd) {
        return false;
    } else if (fd == options_.control_fd) {
        return read_control();
    } else if (fd == timer_) {
        timer_at_us_ = 0;
        [[maybe_unused]] const ssize_t got = ::read(fd, &value, sizeof value);
    } else if (fd == scheduler_->done_event()) {
        [[maybe_unused]] const ssize_t got = ::read(fd, &value, sizeof value);
    } else if (const auto peer = peers_.find(fd); peer != peers_.end()) {
        read_peer(peer->second.get());
    }
    return true;
}

// ---- clients ---------------------------------------------------------------------------------------------------------------

void Server::accept_clients()
{
    for (;;) {
        const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE) turn_one_away();
            return;
        }
        ucred who{};
        socklen_t size = sizeof who;
        if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0 || who.uid != ::geteuid() ||
            peers_.size() >= kMostClients) {
            log_as(Level::warning, "a client was turned away: process %d of user %u", static_cast<int>(who.pid), who.uid);
            ::close(fd);
            continue;
        }
        auto peer = std::make_unique<Peer>();
        peer->fd = fd;
        peer->pid = who.pid;
        watch(fd);
        peers_[fd] = std::move(peer);
    }
}

void Server::turn_one_away()
{
    log_as(Level::warning, "a client was turned away: too many open files");
    ::close(spare_);
    ::close(::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC));
    spare_ = ::eventfd(0, EFD_CLOEXEC);
}

void Server::read_peer(Peer *peer)
{
    Message message;
    const ssize_t got = ::recv(peer->fd, &message, sizeof message, MSG_DONTWAIT | MSG_TRUNC);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got != sizeof message) {
        if (got > 0) log_as(Level::warning, "process %d sent %zd bytes that are no message", static_cast<int>(peer->pid), got);
        disconnect(peer);
        return;
    }
    take(peer, message);
}

void Server::take(Peer *peer, const Message &message)
{
    if (message.verb == Verb::ping) {
        if (!send_message(peer->fd, pong(message))) disconnect(peer);
        return;
    }
    if (Scheduler::busy(*peer)) {
        if (peer->held.size() >= kMostHeld) {
            log_as(Level::warning, "process %d does not wait for answers", static_cast<int>(peer->pid));
            disconnect(peer);
        } else {
            peer->held.push_back(message);
        }
        return;
    }
    try {
        switch (message.verb) {
            case Verb::hello:
                welcome(peer, message);
                break;
            case Verb::area:
                if (scheduler_->area(peer, message.a))
                    send_message(peer->fd, {Verb::area_granted, 0, uint64_t{peer->large.first} * kSlabBytes,
                                            uint64_t{peer->large.slabs} * kSlabBytes, 0});
                break;
            case Verb::submit:
                scheduler_->submit(peer, message.a);
                break;
            case Verb::staged:
                scheduler_->staged(peer);
                break;
            case Verb::stall:
                if (!options_.scheduler.faults) throw Failure::of_protocol("stalled without --faults");
                ::usleep(static_cast<useconds_t>(std::min<uint64_t>(message.a, 10000000)));
                break;
            default:
                throw Failure::of_protocol("unknown message " + std::to_string(static_cast<uint32_t>(message.verb)));
        }
    } catch (const Failure &failure) {
        refuse(peer, failure);
    }
}

void Server::welcome(Peer *peer, const Message &hello)
{
    if (peer->greeted) throw Failure::of_protocol("a second hello");
    if (hello.a != kVersion)
        throw Failure::of_protocol("version " + std::to_string(hello.a) + " of the protocol, not " + std::to_string(kVersion));
    scheduler_->hello(peer);
    peer->own = peer->pid == ::getpid() && options_.measure && hello.b == kMeasuring;
    if (!peer->own) greeted_++;
    Message answer{Verb::welcome, 0, arena_.bytes(), uint64_t{peer->first.first} * kSlabBytes,
                   uint64_t{peer->first.slabs} * kSlabBytes};
    iovec part{&answer, sizeof answer};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr *c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = arena_.fd();
    std::memcpy(CMSG_DATA(c), &fd, sizeof fd);
    if (::sendmsg(peer->fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof answer) disconnect(peer);
}

// Messages out of order end the connection; what cannot be done is answered.
void Server::refuse(Peer *peer, const Failure &failure)
{
    if (peer->greeted) {
        write_failure(arena_.slab(peer->large.slabs ? peer->large.first : peer->first.first), failure.what());
        if (!peer->own) add(arena_.header().failed, 1);
    }
    send_message(peer->fd, {Verb::failed, 0, static_cast<uint64_t>(failure.code()), 0, 0});
    if (peer->greeted && !failure.ends_connection()) return;
    log_as(Level::warning, "process %d: %s", static_cast<int>(peer->pid), failure.what());
    disconnect(peer);
}

void Server::disconnect(Peer *peer)
{
    if (peer->gone) return;
    ::epoll_ctl(epoll_, EPOLL_CTL_DEL, peer->fd, nullptr);
    if (peer->greeted && !peer->own) greeted_--;
    scheduler_->leave(peer);
}

// Clients whose request has ended: the next message, or good-bye. True: there may be something to go on with.
bool Server::settle()
{
    std::vector<Peer *> settled = scheduler_->take_settled();
    std::sort(settled.begin(), settled.end());
    settled.erase(std::unique(settled.begin(), settled.end()), settled.end());
    for (Peer *peer : settled) {
        if (scheduler_->release(peer)) {
            const int fd = peer->fd;
            peers_.erase(fd);
            ::close(fd);
            continue;
        }
        while (!peer->gone && !peer->held.empty() && !Scheduler::busy(*peer)) {
            const Message message = peer->held.front();
            peer->held.pop_front();
            take(peer, message);
        }
    }
    return !settled.empty();
}

// ---- supervisor ------------------------------------------------------------------------------------------------------------

Message Server::pong(const Message &ping) const
{
    return {Verb::pong, 0, ping.a, scheduler_->running_us(), arena_.header().launches};
}

bool Server::read_control()
{
    Message message;
    const ssize_t got = ::recv(options_.control_fd, &message, sizeof message, MSG_DONTWAIT);
    if (got < 0) return errno == EAGAIN || errno == EINTR;
    if (got == 0) {
        log_as(Level::log, "the supervisor has gone");
        return false;
    }
    if (got == sizeof message && message.verb == Verb::ping) send_message(options_.control_fd, pong(message));
    return true;
}

}  // namespace vkv::gpu
