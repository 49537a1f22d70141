// A client that says what it likes, for what the real one never does.
#pragma once
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <optional>

#include "core/offload/layout.h"
#include "helper_cases.h"

namespace vkv::gpu {

class RawClient {
public:
    explicit RawClient(const std::string &path)
    {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::strcpy(address.sun_path, path.c_str());
        fd_ = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (::connect(fd_, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) throw std::runtime_error("connect");
    }
    ~RawClient()
    {
        if (map_) ::munmap(map_, map_bytes_);
        close();
    }
    void close()
    {
        if (fd_ >= 0) ::close(fd_);
        fd_ = -1;
    }
    void send(offload::Verb verb, uint64_t a, uint64_t b = 0)
    {
        const offload::Message message{verb, 0, a, b, 0};
        send_bytes(&message, sizeof message);
    }
    void send_bytes(const void *data, size_t bytes) { [[maybe_unused]] const ssize_t n = ::send(fd_, data, bytes, MSG_NOSIGNAL); }

    // Nothing: the helper has closed the connection.
    std::optional<offload::Message> receive()
    {
        wait_for_test(fd_);
        offload::Message message{};
        iovec part{&message, sizeof message};
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
        msghdr header{};
        header.msg_iov = &part;
        header.msg_iovlen = 1;
        header.msg_control = control;
        header.msg_controllen = sizeof control;
        if (::recvmsg(fd_, &header, MSG_CMSG_CLOEXEC) != sizeof message) return std::nullopt;
        if (const cmsghdr *c = CMSG_FIRSTHDR(&header)) std::memcpy(&arena_fd_, CMSG_DATA(c), sizeof(int));
        return message;
    }
    offload::Message hello()
    {
        send(offload::Verb::hello, offload::kVersion, 1);
        const offload::Message welcome = receive().value();
        map_bytes_ = welcome.a;
        map_ = ::mmap(nullptr, map_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, arena_fd_, 0);
        ::close(arena_fd_);
        area_ = static_cast<uint8_t *>(map_) + welcome.b;
        return welcome;
    }
    uint8_t *area() const { return area_; }
    uint8_t *arena() const { return static_cast<uint8_t *>(map_); }

    // A good request over the whole extent as a private span; returns its bytes.
    uint64_t write_request(const Extent &extent, uint32_t rows = 1)
    {
        offload::AttendRequest r{};
        const Shape &shape = extent.shape();
        r.header.version = offload::kVersion;
        r.header.kind = offload::Kind::attend;
        r.header.needs_room = 64;
        r.kv_heads = static_cast<uint32_t>(shape.heads);
        r.rows = rows;
        r.q_len = 1;
        r.dim_k = static_cast<uint32_t>(shape.dim_k);
        r.dim_v = static_cast<uint32_t>(shape.dim_v);
        r.tile_flags = shape.flags;
        r.scale = 0.1f;
        r.causal = 1;
        r.items = r.spans = 1;
        r.entries = static_cast<uint32_t>(extent.entries().size());
        const offload::AttendLayout at = offload::attend_layout(r);
        r.header.bytes = at.bytes;
        r.header.needs_at = at.needs_at;
        r.items_at = at.items_at;
        r.spans_at = at.spans_at;
        r.entries_at = at.entries_at;
        r.queries_at = at.queries_at;
        r.states_at = at.states_at;
        const offload::Item item{0, 1, extent.end(), 0};
        offload::Span span{};
        span.from = span.entries_from = extent.first();
        span.to = extent.end();
        span.entries = r.entries;
        std::memset(area_ + at.queries_at, 0, at.states_at - at.queries_at);
        std::memcpy(area_, &r, sizeof r);
        std::memcpy(area_ + at.items_at, &item, sizeof item);
        std::memcpy(area_ + at.spans_at, &span, sizeof span);
        std::memcpy(area_ + at.entries_at, extent.entries().data(), r.entries * sizeof(offload::Entry));
        return at.bytes;
    }
    offload::AttendRequest &request() const { return *reinterpret_cast<offload::AttendRequest *>(area_); }
    offload::Span &span() const { return *reinterpret_cast<offload::Span *>(area_ + request().spans_at); }
    offload::Item &item() const { return *reinterpret_cast<offload::Item *>(area_ + request().items_at); }
    offload::Entry *entries() const { return reinterpret_cast<offload::Entry *>(area_ + request().entries_at); }
    const offload::Need *needs() const { return reinterpret_cast<const offload::Need *>(area_ + request().header.needs_at); }
    void fill(const Extent &extent, uint64_t count) const
    {
        for (uint64_t i = 0; i < count; i++) extent.copy(needs()[i].id, arena() + needs()[i].slab_at);
    }

private:
    int fd_ = -1, arena_fd_ = -1;
    void *map_ = nullptr;
    size_t map_bytes_ = 0;
    uint8_t *area_ = nullptr;
};

// Until a launch has run for so long; false if none ran for a minute.
inline bool wait_for_launch(const std::string &socket, uint64_t us = 0)
{
    RawClient watch(socket);
    watch.hello();
    for (const uint64_t end = now_us() + 60000000; now_us() < end; ::usleep(1000)) {
        watch.send(offload::Verb::ping, 1);
        if (watch.receive().value().b > us) return true;
    }
    return false;
}

// Until the counters of a helper say that nothing is under way; the clients that the test still has stay.
inline bool at_rest(const offload::ArenaHeader &h, uint64_t clients)
{
    for (int i = 0; i < 6000; i++) {
        if (counter(h.clients) == clients && counter(h.slabs_used) == clients * (offload::kFirstArea / offload::kSlabBytes))
            return true;
        ::usleep(10000);
    }
    return false;
}

}  // namespace vkv::gpu
