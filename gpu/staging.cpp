// The scheduler's part that lends slabs to clients and has copied what they put there.
#include <algorithm>
#include <cstring>

#include "gpu/scheduler.h"

namespace vkv::gpu {

using namespace offload;

namespace {
constexpr size_t kMostLent = 256;  // in a round: enough to make the messages cheap, few enough to copy one while the next is filled
}

void Scheduler::give_back(std::vector<uint32_t> *slabs)
{
    for (const uint32_t slab : *slabs) slabs_.give_one(slab);
    slabs->clear();
}

void Scheduler::lend_slabs()
{
    while (!lenders_.empty() && slabs_.free_singles() > 0) {
        Request *r = lenders_.front();
        lenders_.pop_front();
        lend(r);
    }
}

// The next round; nothing is lent to the client now.
void Scheduler::lend(Request *r)
{
    Peer *peer = r->peer;
    const size_t left = r->fills.size() - r->asked;
    const size_t most = std::min({left, kMostLent, size_t{r->parts.head.header.needs_room}});
    while (peer->lent.size() < most) {
        const uint32_t slab = slabs_.take_one();
        if (slab == kNoSlab) break;
        const Fill &fill = r->fills[r->asked];
        const Need need{Wanted::tile,     fill.span,       fill.entry.id,    uint64_t{slab} * kSlabBytes,
                        fill.entry.first, fill.entry.head, fill.entry.tokens};
        std::memcpy(r->area + r->parts.head.header.needs_at + peer->lent.size() * sizeof need, &need, sizeof need);
        peer->lent.push_back(slab);
        peer->lent_for.push_back(fill);
        r->asked++;
    }
    if (peer->lent.empty()) {
        lenders_.push_front(r);
        return;
    }
    if (!r->needed_us) r->needed_us = now_us();
    peer->owes = true;
    send_message(peer->fd, {Verb::need, 0, peer->lent.size(), r->fills.size() - r->asked, 0});
}

void Scheduler::staged(Peer *peer)
{
    if (!peer->owes || peer->lent.empty()) throw Failure::of_protocol("tiles were staged that nobody asked for");
    peer->owes = false;
    Request *r = peer->request.get();
    if (!r || r->stage != Stage::staging) {
        give_back(&peer->lent);
        peer->lent_for.clear();
        return;
    }
    auto round = std::make_unique<CopyRound>();
    round->request = r;
    round->kind = r->kind;
    round->fills = std::exchange(peer->lent_for, {});
    round->slabs = std::exchange(peer->lent, {});
    for (size_t i = 0; i < round->fills.size(); i++) round->copies.push_back({arena_->slab(round->slabs[i]), round->fills[i].slot});
    r->copying++;
    copier_->give(std::move(round));
    if (r->asked < r->fills.size()) lenders_.push_back(r);
}

void Scheduler::collect_copies()
{
    for (const std::unique_ptr<CopyRound> &round : copier_->take_done()) finish_round(round.get());
    if (!std::exchange(tiles_changed_, false)) return;
    // Tiles came, or will not come: those who wait for them are looked at again, in the order they came.
    while (!waiting_.empty()) {
        queued_.push_front(waiting_.back());
        waiting_.back()->stage = Stage::queued;
        waiting_.pop_back();
    }
}

void Scheduler::finish_round(CopyRound *round)
{
    give_back(&round->slabs);
    Request *r = round->request;
    r->copying--;
    const bool good = round->bad_tile.empty() && round->device_error.empty();
    for (size_t i = 0; good && i < round->fills.size(); i++) {
        const CopyRound::Facts &facts = round->facts[i];
        cache_.filled(round->fills[i].slot, facts.bytes, facts.codec);
        r->staged_bytes += facts.bytes;
        if (r->peer->own) r->peer->brought.push_back(round->fills[i].entry.id);
    }
    tiles_changed_ = true;
    if (!round->device_error.empty()) device_error_ = round->device_error;
    if (r->stage == Stage::ended) {
        if (r->copying == 0) finish(r);
    } else if (!good) {
        fail(r, round->device_error.empty() ? FailureCode::bad_tile : FailureCode::device, round->bad_tile + round->device_error);
    } else if (r->copying == 0 && r->asked == r->fills.size() && !r->peer->owes) {
        std::erase(asked_, r);
        r->stage = Stage::waiting;
        waiting_.push_front(r);
    }
}

// What was to be filled and is not.
void Scheduler::drop_unfilled(Request *r)
{
    for (const Fill &fill : r->fills)
        if (cache_[fill.slot].filling) cache_.drop(fill.slot);
    r->fills.clear();
}

}  // namespace vkv::gpu
