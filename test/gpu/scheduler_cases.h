// What tests of the scheduler alone share: no server and no real client, but a device whose copies and launches wait until the test
// lets them go, and clients that say what the test says. So the test chooses what happens before what.
#pragma once
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "core/offload/layout.h"
#include "gpu/scheduler.h"
#include "helper_cases.h"

namespace vkv::gpu {

// Open, unless it is held; then every pass needs to be let through.
class Gate {
public:
    void hold() { set(false, 0); }
    void let(int more) { set(false, more); }
    void open() { set(true, 0); }
    void pass()
    {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return open_ || passes_ > 0; });
        if (!open_) passes_--;
    }

private:
    void set(bool open, int more)
    {
        const std::lock_guard lock(mutex_);
        open_ = open;
        passes_ += more;
        changed_.notify_all();
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    bool open_ = true;
    int passes_ = 0;
};

// What a tile with this id adds to the answer of the device below; small, so that floats sum it exactly.
inline float worth(uint64_t id) { return static_cast<float>(id >> 32) * 256 + static_cast<float>(id & 0xFF); }

// Remembers the ids of what is copied to it. Its answer to a query is the sum of what the tiles are worth that it was told to read.
class GatedDevice : public Device {
public:
    explicit GatedDevice(uint32_t slots) : contents_(slots)
    {
        facts_.name = "device of a test";
        facts_.backend = "test";
        facts_.slots = slots;
    }
    const DeviceFacts &facts() const override { return facts_; }
    bool supports(const Geometry &, std::string *) const override { return true; }
    void attach_arena(void *, size_t) override {}
    void copy(std::span<const Copy> all) override
    {
        copies.pass();
        const std::lock_guard lock(mutex_);
        for (const Copy &c : all) {
            if (read_.contains(c.slot)) overwritten_ = true;
            kv::TileHeader header;
            std::memcpy(&header, c.slab, sizeof header);
            contents_.at(c.slot) = header.id;
        }
    }
    void attend(AttendBatch *batch) override
    {
        {
            const std::lock_guard lock(mutex_);
            read_.insert(batch->slots.begin(), batch->slots.end());
        }
        launches.pass();
        const std::lock_guard lock(mutex_);
        batch->launches = 1;
        codecs_ = batch->geometries.at(0).codecs;
        for (const HeadWork &head : batch->heads) {
            *head.state = 0;
            for (uint32_t s = head.first_segment; s < head.first_segment + head.segments; s++) {
                const Segment &segment = batch->segments.at(s);
                for (uint32_t i = 0; i < segment.slots; i++)
                    *head.state += worth(contents_.at(batch->slots.at(segment.first_slot + i)));
            }
        }
        read_.clear();
    }
    void nearest(const offload::NearestRequest &, const float *, const float *, offload::Neighbor *) override {}
    // What the last launch was told of its tiles.
    uint32_t codecs() const
    {
        const std::lock_guard lock(mutex_);
        return codecs_;
    }
    // A slot was written while a launch read it.
    bool overwritten() const
    {
        const std::lock_guard lock(mutex_);
        return overwritten_;
    }

    Gate copies, launches;

private:
    DeviceFacts facts_;
    mutable std::mutex mutex_;
    std::vector<uint64_t> contents_;
    std::set<uint32_t> read_;
    uint32_t codecs_ = 0;
    bool overwritten_ = false;
};

// Positions of an extent of one head; shared ones name entries from `known` on only.
struct Part {
    const Extent *extent;
    uint64_t number;  // 0: private
    int32_t from, to, known = 0;
};

// A client, as the scheduler sees one.
class Asker {
public:
    Asker(Scheduler *scheduler, Arena *arena) : scheduler_(scheduler), arena_(arena)
    {
        int both[2];
        if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, both) != 0) throw std::runtime_error("socketpair");
        peer.fd = both[0];
        fd_ = both[1];
        scheduler->hello(&peer);
        next_area_ = area_ = peer.first.first;
    }
    ~Asker()
    {
        ::close(peer.fd);
        ::close(fd_);
    }
    Asker(const Asker &) = delete;
    Asker &operator=(const Asker &) = delete;

    // The next request, and no other, lies in a larger area.
    void take_large_area()
    {
        scheduler_->area(&peer, 2 * offload::kFirstArea);
        next_area_ = peer.large.first;
    }
    void submit(std::vector<Part> parts, uint64_t deadline_us = 0, uint32_t needs_room = 64)
    {
        parts_ = std::move(parts);
        area_ = std::exchange(next_area_, peer.first.first);
        offload::AttendRequest r{};
        std::vector<offload::Span> spans;
        std::vector<offload::Entry> entries;
        for (const Part &part : parts_) {
            offload::Span span{};
            span.extent = part.number;
            span.flags = part.number ? uint32_t{offload::kShared} : 0;
            span.from = part.from;
            span.to = part.to;
            span.entries_from = std::max(part.from, part.known);
            span.first_entry = static_cast<uint32_t>(entries.size());
            for (const offload::Entry &e : part.extent->entries())
                if (e.first < span.to && e.first + e.tokens > span.entries_from && span.entries_from < span.to)
                    entries.push_back(e);
            span.entries = static_cast<uint32_t>(entries.size()) - span.first_entry;
            spans.push_back(span);
        }
        const Shape &shape = parts_.front().extent->shape();
        r.header = {offload::kVersion, offload::Kind::attend, offload::Fault::none, 0, deadline_us, 0, 0, needs_room, 0, {}, {}};
        r.kv_heads = r.rows = r.q_len = r.items = 1;
        r.dim_k = static_cast<uint32_t>(shape.dim_k);
        r.dim_v = static_cast<uint32_t>(shape.dim_v);
        r.spans = static_cast<uint32_t>(spans.size());
        r.entries = static_cast<uint32_t>(entries.size());
        const offload::AttendLayout at = offload::attend_layout(r);
        r.header.bytes = at.bytes;
        r.header.needs_at = at.needs_at;
        r.items_at = at.items_at;
        r.spans_at = at.spans_at;
        r.entries_at = at.entries_at;
        r.queries_at = at.queries_at;
        r.states_at = at.states_at;
        const offload::Item item{0, r.spans, 1 << 20, 0};
        std::memset(area(), 0, at.bytes);
        std::memcpy(area(), &r, sizeof r);
        std::memcpy(area() + at.items_at, &item, sizeof item);
        std::memcpy(area() + at.spans_at, spans.data(), spans.size() * sizeof(offload::Span));
        if (!entries.empty()) std::memcpy(area() + at.entries_at, entries.data(), entries.size() * sizeof(offload::Entry));
        scheduler_->submit(&peer, at.bytes);
    }
    // The next message, if there is one.
    offload::Message message()
    {
        offload::Message m{};
        if (::recv(fd_, &m, sizeof m, MSG_DONTWAIT) != sizeof m) return {};
        return m;
    }
    // It is told that there will be no answer.
    offload::FailureCode refusal()
    {
        const offload::Message m = message();
        return m.verb == offload::Verb::failed ? static_cast<offload::FailureCode>(m.a) : offload::FailureCode::none;
    }
    // Tiles that it was asked for, filled; how many: 0 when it was asked for none.
    uint64_t bring()
    {
        const offload::Message m = message();
        if (m.verb != offload::Verb::need) return 0;
        for (uint64_t i = 0; i < m.a; i++) {
            const offload::Need need = needs()[i];
            parts_.at(need.span).extent->copy(need.id, arena_->base() + need.slab_at);
        }
        scheduler_->staged(&peer);
        brought += m.a;
        return m.a;
    }
    const offload::Need *needs() const
    {
        return reinterpret_cast<const offload::Need *>(area() + reinterpret_cast<offload::RequestHeader *>(area())->needs_at);
    }
    offload::Figures figures() const { return reinterpret_cast<offload::RequestHeader *>(area())->figures; }
    // The device read each tile of the request once, and nothing else.
    bool right() const
    {
        float want = 0;
        for (const Part &part : parts_)
            for (const offload::Entry &e : part.extent->entries())
                if (e.first < part.to && e.first + e.tokens > part.from) want += worth(e.id);
        return *reinterpret_cast<const float *>(area() + reinterpret_cast<const offload::AttendRequest *>(area())->states_at) ==
               want;
    }
    Stage stage() const { return peer.request ? peer.request->stage : Stage::ended; }

    Peer peer;
    uint64_t brought = 0;  // tiles, all in all

private:
    uint8_t *area() const { return arena_->slab(area_); }

    Scheduler *scheduler_;
    Arena *arena_;
    int fd_ = -1;
    uint32_t area_, next_area_;
    std::vector<Part> parts_;
};

// All of it together, in the order in which it may go.
class Desk {
public:
    explicit Desk(uint32_t slots, SchedulerOptions options = {}, size_t arena = 4u << 20)
        : device(slots), arena_(arena), scheduler_(std::make_unique<Scheduler>(&device, &arena_, options))
    {
    }
    ~Desk()
    {
        device.copies.open();
        device.launches.open();
        scheduler_.reset();
    }
    Asker &asker() { return *askers_.emplace_back(std::make_unique<Asker>(scheduler_.get(), &arena_)); }
    Scheduler &scheduler() { return *scheduler_; }

    // As the server does it. Clients that have gone are forgotten as soon as they may be.
    void turn()
    {
        do scheduler_->turn();
        while (settle());
    }
    // Goes on as the device does, until the condition holds; false after a minute, in which something must have gone wrong.
    bool until(const std::function<bool()> &holds)
    {
        const uint64_t end = now_us() + 60000000;
        for (;;) {
            turn();
            if (holds()) return true;
            const uint64_t now = now_us();
            if (now >= end) return false;
            pollfd p{scheduler_->done_event(), POLLIN, 0};
            ::poll(&p, 1, static_cast<int>((end - now) / 1000 + 1));
            uint64_t count;
            [[maybe_unused]] const ssize_t got = ::read(scheduler_->done_event(), &count, sizeof count);
        }
    }
    // Until the request has its answer, which is right. Brings what it is asked for.
    bool answered(Asker *a)
    {
        return until([&] {
                   if (a->peer.owes) a->bring();
                   return !a->peer.request;
               }) &&
               a->message().verb == offload::Verb::done && a->right();
    }
    offload::ArenaHeader counters()
    {
        scheduler_->show_counters(0);
        return snapshot(arena_.header());
    }
    // Nobody has anything: a request that needs every slot is answered, and the slabs are those of areas.
    bool at_rest()
    {
        const Extent all({kv::Codec::int8, 1, 64, 64, 1}, 0, static_cast<int>(device.facts().slots), 99, 99);
        Asker &last = asker();
        last.submit({{&all, 0, 0, all.end()}});
        uint64_t areas = 0;
        const bool good = answered(&last);
        for (const auto &a : askers_) areas += a->peer.first.slabs + a->peer.large.slabs;
        return good && counters().slabs_used == areas && !device.overwritten();
    }

    GatedDevice device;

private:
    bool settle()
    {
        const std::vector<Peer *> settled = scheduler_->take_settled();
        for (Peer *peer : settled) scheduler_->release(peer);
        return !settled.empty();
    }

    Arena arena_;
    std::vector<std::unique_ptr<Asker>> askers_;  // their requests are the device's until the scheduler has gone
    std::unique_ptr<Scheduler> scheduler_;
};

}  // namespace vkv::gpu
