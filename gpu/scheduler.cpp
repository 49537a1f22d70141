// Requests on their way: admitted, staged, batched, answered. One thread owns all of it.
#include "gpu/scheduler.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace vkv::gpu {

using namespace offload;

Scheduler::Scheduler(Device *device, Arena *arena, const SchedulerOptions &options)
    : device_(device),
      arena_(arena),
      options_(options),
      slabs_(arena->slabs(), 1),
      cache_(device->facts().slots),
      tables_(&cache_),
      done_event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK))
{
    if (done_event_ < 0) throw std::runtime_error(std::string("could not make an eventfd: ") + std::strerror(errno));
    device_->attach_arena(arena->base(), arena->bytes());
    copier_ = std::make_unique<DeviceThread<CopyRound>>(done_event_, [device](CopyRound *round) { copy_round(device, round); });
    launcher_ = std::make_unique<DeviceThread<Launch>>(done_event_, [device](Launch *launch) { run_launch(device, launch); });
    std::strncpy(arena->header().device, device->facts().name.c_str(), sizeof(ArenaHeader::device) - 1);
    show_counters(0);
}

Scheduler::~Scheduler()
{
    copier_.reset();
    launcher_.reset();
    ::close(done_event_);
}

// ---- areas -----------------------------------------------------------------------------------------------------------------

Area Scheduler::take_area(uint64_t bytes)
{
    if (bytes == 0 || bytes > uint64_t{slabs_.most_in_runs()} * kSlabBytes)
        throw Failure(FailureCode::too_large,
                      "a request of " + std::to_string(bytes) + " bytes is larger than the arena's share of " +
                          std::to_string(uint64_t{slabs_.most_in_runs()} * kSlabBytes) + " bytes for requests");
    const auto count = static_cast<uint32_t>((bytes + kSlabBytes - 1) / kSlabBytes);
    const uint32_t first = slabs_.take_run(count);
    if (first == kNoSlab)
        throw Failure(FailureCode::no_room, "the arena has no room for " + std::to_string(bytes) + " bytes at present");
    std::memset(arena_->slab(first), 0, sizeof(AttendRequest));
    return {first, count};
}

void Scheduler::free_area(Area *area)
{
    if (area->slabs) slabs_.give_run(area->first, area->slabs);
    *area = {};
}

void Scheduler::hello(Peer *peer)
{
    peer->first = take_area(kFirstArea);
    peer->greeted = true;
}

bool Scheduler::area(Peer *peer, uint64_t bytes)
{
    if (!peer->greeted) throw Failure::of_protocol("an area was asked for before hello");
    const bool owed = std::exchange(peer->owes, false);
    if (owed && !peer->lent.empty()) throw Failure::of_protocol("an area was asked for while tiles were");
    if (owed && !peer->request) return false;  // it has been told that the request is no more, and reads that next
    if (peer->request) {
        if (!owed) throw Failure::of_protocol("an area was asked for while a request runs");
        end(peer->request.get());
    }
    peer->large_used = false;
    free_area(&peer->large);
    if (bytes == 0) return false;
    peer->large = take_area(bytes);
    return true;
}

// ---- requests --------------------------------------------------------------------------------------------------------------

bool Scheduler::busy(const Peer &peer)
{
    return peer.request && (peer.request->stage == Stage::running || peer.request->stage == Stage::ended);
}

void Scheduler::submit(Peer *peer, uint64_t bytes)
{
    if (!peer->greeted) throw Failure::of_protocol("a request was submitted before hello");
    const bool owed = std::exchange(peer->owes, false);
    if (owed && !peer->lent.empty()) throw Failure::of_protocol("a request was submitted while tiles were asked for");
    if (owed && !peer->request) return;
    if (peer->request && !owed) throw Failure::of_protocol("a request was submitted while another one runs");
    if (!owed && std::exchange(peer->large_used, false)) free_area(&peer->large);
    const uint64_t now = now_us();
    auto fresh = std::make_unique<Request>();
    if (peer->request) {  // entries were added
        remove_from_queues(peer->request.get());
        fresh->rounds_of_entries = peer->request->rounds_of_entries;
        fresh->submitted_us = peer->request->submitted_us;
        fresh->needed_us = peer->request->needed_us;
        peer->request.reset();
    } else {
        fresh->submitted_us = now;
    }
    const Area &area = peer->large.slabs ? peer->large : peer->first;
    peer->large_used = peer->large.slabs != 0;
    Request *r = fresh.get();
    r->peer = peer;
    r->area = arena_->slab(area.first);
    try {
        r->header = read_header(r->area, uint64_t{area.slabs} * kSlabBytes, bytes);
        if (r->header.fault != Fault::none && !options_.faults)
            throw Failure(FailureCode::not_supported, "a fault was asked for, and the helper was not started with --faults");
        if (!r->is_attend()) {
            r->nearest = read_nearest(r->area, r->header);
        } else {
            read_attend(r->area, r->header, &r->parts);
            const AttendRequest &head = r->parts.head;
            r->kind = {static_cast<uint16_t>(head.dim_k), static_cast<uint16_t>(head.dim_v), static_cast<uint16_t>(head.kv_heads),
                       static_cast<uint16_t>(head.tile_flags)};
            if (!cache_.remember(r->kind)) throw Failure(FailureCode::not_supported, "tiles of too many shapes");
            std::string why;
            if (!device_->supports(r->parts.geometry(), &why)) throw Failure(FailureCode::not_supported, why);
        }
    } catch (const Failure &failure) {
        write_failure(r->area, failure.what());
        throw;
    }
    peer->request = std::move(fresh);
    if (r->header.deadline_us) next_deadline_us_ = std::min(next_deadline_us_, r->header.deadline_us);
    if (r->is_attend()) {
        queued_.push_back(r);
    } else {
        make_ready(r);
    }
}

void Scheduler::remove_from_queues(Request *r)
{
    for (std::deque<Request *> *queue : {&queued_, &lenders_, &waiting_, &ready_}) std::erase(*queue, r);
    std::erase(asked_, r);
}

// In order of arrival, but the helper's own request is the last.
void Scheduler::make_ready(Request *r)
{
    r->stage = Stage::ready;
    r->ready_us = now_us();
    ready_.insert(!ready_.empty() && ready_.back()->peer->own ? ready_.end() - 1 : ready_.end(), r);
}

// The client is told that there will be no answer.
void Scheduler::fail(Request *r, FailureCode code, const std::string &text)
{
    write_failure(r->area, text);
    if (!r->peer->own) add(code == FailureCode::expired ? arena_->header().expired : arena_->header().failed, 1);
    if (!r->peer->gone) send_message(r->peer->fd, {Verb::failed, 0, static_cast<uint64_t>(code), 0, 0});
    end(r);
}

// The request is over; it goes when no copy is under way.
void Scheduler::end(Request *r)
{
    remove_from_queues(r);
    r->stage = Stage::ended;
    if (r->copying == 0) finish(r);
}

void Scheduler::finish(Request *r)
{
    unpin(r);
    drop_unfilled(r);
    Peer *peer = r->peer;
    peer->request.reset();
    settled_.push_back(peer);
    tiles_changed_ = true;
}

void Scheduler::expire(uint64_t now)
{
    if (now < next_deadline_us_) return;
    next_deadline_us_ = UINT64_MAX;
    std::vector<Request *> late;
    const auto look = [&](Request *r) {
        if (!r->header.deadline_us) return;
        if (r->header.deadline_us <= now)
            late.push_back(r);
        else
            next_deadline_us_ = std::min(next_deadline_us_, r->header.deadline_us);
    };
    for (const std::deque<Request *> *queue : {&queued_, &waiting_, &ready_}) std::for_each(queue->begin(), queue->end(), look);
    std::for_each(asked_.begin(), asked_.end(), look);
    for (Request *r : late) fail(r, FailureCode::expired, "the deadline passed before the request ran");
}

// ---- clients that leave ----------------------------------------------------------------------------------------------------

void Scheduler::leave(Peer *peer)
{
    peer->gone = true;
    Request *r = peer->request.get();
    if (!r) {
        settled_.push_back(peer);
        return;
    }
    if (r->stage == Stage::running || r->stage == Stage::ended) return;
    if (!peer->own) add(arena_->header().dropped, 1);
    end(r);
}

bool Scheduler::release(Peer *peer)
{
    if (!peer->gone || peer->request) return false;
    give_back(&peer->lent);
    free_area(&peer->first);
    free_area(&peer->large);
    for (const uint64_t id : peer->brought) {
        const uint32_t slot = cache_.find(id);
        if (slot < kReserved && cache_[slot].pins == 0) cache_.drop(slot);
    }
    return true;
}

// ---- turns -----------------------------------------------------------------------------------------------------------------

void Scheduler::turn()
{
    do {
        collect_copies();
        collect_launches();
        expire(now_us());
        admit_queued();
        lend_slabs();
        launch_ready();
        tables_.drop_emptied();
    } while (tiles_changed_);
}

uint64_t Scheduler::next_wake_us() const
{
    uint64_t at = next_deadline_us_;
    if (options_.batch_wait_us && !running_since_ && !ready_.empty())
        at = std::min(at, ready_.front()->ready_us + options_.batch_wait_us);
    return at;
}

void Scheduler::show_counters(uint64_t clients)
{
    ArenaHeader &head = arena_->header();
    set(head.slots, cache_.slots());
    set(head.slots_used, cache_.used());
    set(head.slabs, arena_->slabs());
    set(head.slabs_used, slabs_.used());
    set(head.clients, clients);
    set(head.tables, tables_.size());
    set(head.evictions, cache_.evictions());
}

}  // namespace vkv::gpu
