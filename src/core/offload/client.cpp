// The client's side of the protocol. What the helper says is checked before it is used as an offset or a count: a helper that makes
// no sense is lost, it does not harm the process that asks it.
#include "core/offload/client.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/offload/layout.h"

namespace vkv::offload {

namespace {

constexpr uint32_t kMostNeeds = 256;  // of a round, as many as a helper fills while the next ones are copied

std::string text_of(const char *what, int error) { return std::string(what) + ": " + std::strerror(error); }

int connected_socket(const char *path)
{
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (std::strlen(path) >= sizeof address.sun_path) throw Lost(std::string("the socket's path is too long: ") + path);
    std::strcpy(address.sun_path, path);
    const int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) throw Lost(text_of("could not make a socket", errno));
    if (::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) {
        const int error = errno;
        ::close(fd);
        throw Lost(text_of("could not connect to the helper", error));
    }
    return fd;
}

struct Received {
    Message message;
    ssize_t bytes;
    int fd = -1;
};

Received receive_with_fd(int socket)
{
    Received got{};
    iovec part{&got.message, sizeof got.message};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    got.bytes = ::recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    got.fd = -1;
    if (got.bytes < 0) return got;
    for (cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
            std::memcpy(&got.fd, CMSG_DATA(c), sizeof(int));
    return got;
}

bool again(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

void wait_to_read(int socket)
{
    pollfd p{socket, POLLIN, 0};
    ::poll(&p, 1, -1);
}

bool inside(uint64_t at, uint64_t bytes, uint64_t end) { return at <= end && bytes <= end - at; }

}  // namespace

// ---- connection ------------------------------------------------------------------------------------------------------------

void Client::connect(const char *path, Wait wait, uint64_t name)
{
    close();
    wait_ = wait ? std::move(wait) : Wait(wait_to_read);
    try {
        socket_ = connected_socket(path);
        send(Verb::hello, kVersion, name ? name : static_cast<uint64_t>(::getpid()));
        for (;;) {
            const Received got = receive_with_fd(socket_);
            if (got.bytes < 0 && again(errno)) {
                wait_(socket_);
                continue;
            }
            if (got.bytes == sizeof(Message) && got.message.verb == Verb::welcome && got.fd >= 0) {
                take_welcome(got.message, got.fd);
                return;
            }
            if (got.fd >= 0) ::close(got.fd);
            if (got.bytes == sizeof(Message) && got.message.verb == Verb::failed) {
                const auto code = static_cast<FailureCode>(got.message.a);
                throw Lost(code == FailureCode::no_room ? "the helper has no room for another client"
                                                        : "the helper speaks another version of the protocol");
            }
            throw Lost("the helper closed the connection before it said anything");
        }
    } catch (...) {
        close();
        throw;
    }
}

void Client::take_welcome(const Message &welcome, int arena)
{
    struct stat facts {};
    const bool sane = ::fstat(arena, &facts) == 0 && static_cast<uint64_t>(facts.st_size) == welcome.a &&
                      welcome.a >= sizeof(ArenaHeader) && inside(welcome.b, welcome.c, welcome.a) && welcome.b % kAlignment == 0 &&
                      welcome.c >= sizeof(AttendRequest);
    void *map = sane ? ::mmap(nullptr, welcome.a, PROT_READ | PROT_WRITE, MAP_SHARED, arena, 0) : MAP_FAILED;
    ::close(arena);
    if (map == MAP_FAILED) throw Lost("the helper's memory cannot be mapped");
    arena_ = map;
    arena_bytes_ = welcome.a;
    first_ = area_ = {welcome.b, welcome.c};
}

void Client::close() noexcept
{
    if (socket_ >= 0) ::close(socket_);
    if (arena_) ::munmap(arena_, arena_bytes_);
    socket_ = -1;
    arena_ = nullptr;
    arena_bytes_ = 0;
    first_ = area_ = {};
}

void Client::send(Verb verb, uint64_t a, uint64_t b)
{
    const Message message{verb, 0, a, b, 0};
    for (;;) {
        const ssize_t sent = ::send(socket_, &message, sizeof message, MSG_NOSIGNAL);
        if (sent == sizeof message) return;
        if (sent >= 0 || !again(errno)) throw Lost("the helper has gone");
        pollfd p{socket_, POLLOUT, 0};
        ::poll(&p, 1, 1000);
    }
}

Message Client::receive()
{
    for (;;) {
        Message message;
        const ssize_t got = ::recv(socket_, &message, sizeof message, MSG_DONTWAIT);
        if (got == sizeof message) {
            if (message.verb == Verb::pong) continue;
            return message;
        }
        if (got >= 0 || !again(errno)) throw Lost("the helper has gone");
        wait_(socket_);
    }
}

// ---- areas -----------------------------------------------------------------------------------------------------------------

void Client::use_area(uint64_t bytes)
{
    if (bytes <= area_.bytes) return;
    area_ = first_;
    send(Verb::area, bytes);
    const Message answer = receive();
    if (answer.verb == Verb::failed) refused(answer);
    if (answer.verb != Verb::area_granted || answer.b < bytes || answer.a % kAlignment || !inside(answer.a, answer.b, arena_bytes_))
        throw Lost("the helper grants an area that makes no sense");
    area_ = {answer.a, answer.b};
}

void Client::refused(const Message &message)
{
    char text[sizeof(RequestHeader::failure) + 1] = {};
    std::memcpy(text, area() + offsetof(RequestHeader, failure), sizeof(RequestHeader::failure));
    const auto code = static_cast<FailureCode>(message.a);
    if (area_.at != first_.at) {
        send(Verb::area, 0);
        area_ = first_;
    }
    throw Refused(code, text[0] ? text : "the helper refused the request");
}

// ---- attention -------------------------------------------------------------------------------------------------------------

void Client::bring_entries(const AttendCall &call, TileSource *source)
{
    spans_.assign(call.spans.begin(), call.spans.end());
    entries_.resize(std::max(entries_.size(), spans_.size()));
    for (size_t i = 0; i < spans_.size(); i++) {
        Span &span = spans_[i];
        entries_[i].clear();
        const bool known = (span.flags & kShared) && i < call.believed.size();
        span.entries_from = known ? std::max(span.from, call.believed[i]) : span.from;
        if (span.entries_from < span.to) source->entries(i, span.entries_from, &entries_[i]);
    }
}

// Writes everything but the queries where they lie already.
void Client::lay_out(const AttendCall &call)
{
    AttendRequest &r = request_;
    uint64_t entries = 0;
    for (size_t i = 0; i < spans_.size(); i++) {
        spans_[i].first_entry = static_cast<uint32_t>(entries);
        spans_[i].entries = static_cast<uint32_t>(entries_[i].size());
        entries += entries_[i].size();
    }
    if (entries > UINT32_MAX || call.items.size() > UINT32_MAX || spans_.size() > UINT32_MAX)
        throw Refused(FailureCode::too_large, "the request names too many tiles");
    const uint64_t queries_before = r.queries_at;
    const Area area_before = area_;
    r.entries = static_cast<uint32_t>(entries);
    const AttendLayout at = attend_layout(r);
    use_area(at.bytes);
    r.header.bytes = at.bytes;
    r.header.needs_at = at.needs_at;
    r.items_at = at.items_at;
    r.spans_at = at.spans_at;
    r.entries_at = at.entries_at;
    r.queries_at = at.queries_at;
    r.states_at = at.states_at;
    uint8_t *to = area();
    std::memcpy(to, &r, sizeof r);
    if (!call.items.empty()) std::memcpy(to + at.items_at, call.items.data(), call.items.size_bytes());
    if (!spans_.empty()) std::memcpy(to + at.spans_at, spans_.data(), spans_.size() * sizeof(Span));
    for (size_t i = 0; i < spans_.size(); i++)
        if (spans_[i].entries)
            std::memcpy(to + at.entries_at + uint64_t{spans_[i].first_entry} * sizeof(Entry), entries_[i].data(),
                        spans_[i].entries * sizeof(Entry));
    if (queries_before != at.queries_at || area_before.at != area_.at)
        call.write_queries(reinterpret_cast<float *>(to + at.queries_at));
}

void Client::ask_for_entries(const AttendCall &call, TileSource *source, uint64_t count)
{
    const auto *needs = reinterpret_cast<const Need *>(area() + request_.header.needs_at);
    for (uint64_t i = 0; i < count; i++) {
        const Need need = needs[i];
        if (need.wanted != Wanted::entries || need.span >= spans_.size()) throw Lost("the helper asks for entries of no span");
        Span &span = spans_[need.span];
        const int32_t from = std::max(span.from, std::min(need.first, span.to));
        entries_[need.span].clear();
        span.entries_from = from;
        if (from < span.to) source->entries(need.span, from, &entries_[need.span]);
    }
    lay_out(call);
    send(Verb::submit, request_.header.bytes);
}

// Fills the slabs that the helper names.
uint64_t Client::stage(const AttendCall &, TileSource *source, uint64_t count)
{
    const auto *needs = reinterpret_cast<const Need *>(area() + request_.header.needs_at);
    for (uint64_t i = 0; i < count; i++) {
        const Need need = needs[i];
        if (need.wanted != Wanted::tile || need.span >= spans_.size() || need.slab_at % kSlabBytes ||
            !inside(need.slab_at, kSlabBytes, arena_bytes_))
            throw Lost("the helper asks for a tile where there is no slab");
        const Entry entry{need.id, need.first, need.tokens, need.head};
        source->copy(need.span, entry, static_cast<uint8_t *>(arena_) + need.slab_at);
    }
    send(Verb::staged, count);
    return count;
}

const float *Client::finish(const AttendCall &call)
{
    std::memcpy(&figures_, area() + offsetof(RequestHeader, figures), sizeof figures_);
    const auto *states = reinterpret_cast<const float *>(area() + request_.states_at);
    if (area_.at == first_.at) return states;
    const uint64_t floats = call.items.size() * call.kv_heads * state_floats(call.rows, call.dim_v);
    states_.assign(states, states + floats);
    send(Verb::area, 0);
    area_ = first_;
    return states_.data();
}

const float *Client::attend(const AttendCall &call, TileSource *source)
{
    if (!connected()) throw Lost("there is no connection to the helper");
    request_ = {};
    AttendRequest &r = request_;
    r.header.version = kVersion;
    r.header.kind = Kind::attend;
    r.header.fault = call.fault;
    r.header.deadline_us = call.deadline_us;
    r.kv_heads = call.kv_heads;
    r.rows = call.rows;
    r.q_len = call.q_len;
    r.dim_k = call.dim_k;
    r.dim_v = call.dim_v;
    r.tile_flags = call.tile_flags;
    r.scale = call.scale;
    r.softcap = call.softcap;
    r.causal = call.causal;
    r.window = call.window;
    r.sinks = call.sinks;
    r.items = static_cast<uint32_t>(call.items.size());
    r.spans = static_cast<uint32_t>(call.spans.size());
    r.header.needs_room = std::max(kMostNeeds, r.spans);
    bring_entries(call, source);
    lay_out(call);
    // Where entries come along tiles will be asked for, and what waits for them is not kept waiting.
    bool meanwhile_due = static_cast<bool>(call.meanwhile);
    const auto meanwhile = [&] {
        if (std::exchange(meanwhile_due, false)) call.meanwhile();
    };
    send(Verb::submit, r.header.bytes);
    if (r.entries == 0) meanwhile();
    for (;;) {
        const Message message = receive();
        if (message.verb == Verb::need) {
            if (message.a == 0 || message.a > r.header.needs_room) throw Lost("the helper asks for more than there is room for");
            const auto wanted = reinterpret_cast<const Need *>(area() + r.header.needs_at)->wanted;
            if (wanted == Wanted::entries)
                ask_for_entries(call, source, message.a);
            else if (stage(call, source, message.a) && message.b == 0)
                meanwhile();
            continue;
        }
        if (message.verb == Verb::failed) refused(message);
        if (message.verb != Verb::done) throw Lost("the helper answers with something else");
        meanwhile();
        return finish(call);
    }
}

// ---- nearest ---------------------------------------------------------------------------------------------------------------

const Neighbor *Client::nearest(const NearestCall &call)
{
    if (!connected()) throw Lost("there is no connection to the helper");
    NearestRequest r{};
    r.header.version = kVersion;
    r.header.kind = Kind::nearest;
    r.header.deadline_us = call.deadline_us;
    r.metric = call.metric;
    r.dim = call.dim;
    r.queries = call.queries;
    r.rows = call.rows;
    r.k = call.k;
    r.queries_at = aligned(sizeof r);
    r.vectors_at = aligned(r.queries_at + uint64_t{call.queries} * call.dim * sizeof(float));
    r.results_at = aligned(r.vectors_at + uint64_t{call.rows} * call.dim * sizeof(float));
    r.header.bytes = r.header.needs_at = aligned(r.results_at + uint64_t{call.queries} * call.k * sizeof(Neighbor));
    use_area(r.header.bytes);
    std::memcpy(area(), &r, sizeof r);
    call.write(reinterpret_cast<float *>(area() + r.queries_at), reinterpret_cast<float *>(area() + r.vectors_at));
    send(Verb::submit, r.header.bytes);
    const Message message = receive();
    if (message.verb == Verb::failed) refused(message);
    if (message.verb != Verb::done) throw Lost("the helper answers with something else");
    std::memcpy(&figures_, area() + offsetof(RequestHeader, figures), sizeof figures_);
    const auto *results = reinterpret_cast<const Neighbor *>(area() + r.results_at);
    if (area_.at == first_.at) return results;
    neighbors_.assign(results, results + uint64_t{call.queries} * call.k);
    send(Verb::area, 0);
    area_ = first_;
    return neighbors_.data();
}

}  // namespace vkv::offload
