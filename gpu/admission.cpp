// The scheduler's part that finds what a request needs: page tables, present tiles, and slots for those that are missing.
#include <algorithm>
#include <cstring>

#include "gpu/scheduler.h"

namespace vkv::gpu {

using namespace offload;

// One that has no room holds up those that come after it, but not those that came back from waiting: these hold tiles, and it may
// be their tiles that it has no room for. They are the first of the queue.
void Scheduler::admit_queued()
{
    std::deque<Request *> held_up;
    while (!queued_.empty() && !stopping_) {
        Request *r = queued_.front();
        if (!held_up.empty() && r->tables.empty()) break;
        queued_.pop_front();
        try {
            if (!admit(r)) held_up.push_back(r);
        } catch (const Failure &failure) {
            fail(r, failure.code(), failure.what());
        }
    }
    queued_.insert(queued_.begin(), held_up.begin(), held_up.end());
}

// False: it has to wait until others let go of their tiles.
bool Scheduler::admit(Request *r)
{
    unpin(r);
    r->fills.clear();
    r->asked = 0;
    if (!find_tables(r)) return true;
    Scan found = scan(r);
    if (!r->counted) {
        r->counted = true;
        r->tiles = found.tiles;
        r->hits = found.hits;
    }
    if (found.missing.size() > cache_.available()) {
        give_up_reserved(found);
        unpin(r);
        if (cache_.pinned() > 0) {
            if (found.missing.size() > cache_.slots()) refuse_for_size(found);
            return false;
        }
        // Nobody else is in the way: it is this request's own tables, or it can never be done.
        if (!find_tables(r)) return true;
        trim(*r);
        found = scan(r);
        if (found.missing.size() > cache_.available()) {
            give_up_reserved(found);
            refuse_for_size(found);
        }
    }
    if (!found.missing.empty()) {
        take_slots(r, found);
        r->stage = Stage::staging;
        asked_.push_back(r);
        lenders_.push_back(r);
    } else if (found.filling) {
        r->stage = Stage::waiting;
        waiting_.push_back(r);
    } else {
        make_ready(r);
    }
    return true;
}

void Scheduler::refuse_for_size(const Scan &found) const
{
    throw Failure(FailureCode::too_large, "the request needs " + std::to_string(found.tiles) + " tiles, the cache has room for " +
                                              std::to_string(cache_.slots()));
}

// False: the client is asked for entries first.
bool Scheduler::find_tables(Request *r)
{
    const bool settle = r->rounds_of_entries >= 3;
    std::vector<Need> needs;
    r->tables.assign(r->parts.spans.size(), nullptr);
    for (uint32_t i = 0; i < r->parts.spans.size(); i++) {
        const Span &span = r->parts.spans[i];
        if (!(span.flags & kShared)) continue;
        const PageTables::Found found =
            tables_.find(span, {r->parts.entries.data() + span.first_entry, span.entries}, r->kind, settle);
        if (found.table) {
            cache_.pin(found.table);
            r->tables[i] = found.table;
        } else if (found.wants >= 0) {
            needs.push_back({Wanted::entries, i, 0, 0, found.wants, 0, 0});
        }
    }
    if (needs.empty()) return true;
    unpin(r);
    ask_for_entries(r, needs);
    return false;
}

void Scheduler::ask_for_entries(Request *r, const std::vector<Need> &needs)
{
    std::memcpy(r->area + r->parts.head.header.needs_at, needs.data(), needs.size() * sizeof(Need));
    r->stage = Stage::entries;
    r->rounds_of_entries++;
    if (!r->needed_us) r->needed_us = now_us();
    r->peer->owes = true;
    asked_.push_back(r);
    send_message(r->peer->fd, {Verb::need, 0, needs.size(), 0, 0});
}

// ---- what is there and what is not -----------------------------------------------------------------------------------------

Scheduler::Scan Scheduler::scan(Request *r)
{
    Scan out;
    r->private_slots.clear();
    r->private_at.assign(r->parts.spans.size() * r->heads() + 1, 0);
    for (uint32_t i = 0; i < r->parts.spans.size(); i++) {
        if (r->tables[i])
            scan_table(*r, i, &out);
        else
            scan_private(r, i, &out);
    }
    return out;
}

void Scheduler::scan_table(const Request &r, uint32_t i, Scan *out)
{
    const Span &span = r.parts.spans[i];
    Table *table = r.tables[i];
    for (Table::Head &head : table->heads) {
        const auto [begin, end] = head.range(span.from, span.to);
        out->tiles += end - begin;
        if (table->missing == 0) {
            out->hits += end - begin;
            continue;
        }
        for (uint32_t k = begin; k < end; k++) {
            uint32_t &slot = head.slots[k];
            if (slot == kNoSlot) {
                slot = kReserved;
                out->missing.push_back({i, head.entries[k], table, k});
            } else if (slot & kFilling) {
                out->filling = true;  // or reserved by a span before this one
            } else {
                out->hits++;
            }
        }
    }
}

void Scheduler::scan_private(Request *r, uint32_t i, Scan *out)
{
    const Span &span = r->parts.spans[i];
    const Entry *entries = r->parts.entries.data() + span.first_entry;
    const auto counts = [&](const Entry &e) { return e.first < span.to && e.first + e.tokens > span.from; };
    uint32_t *at = &r->private_at[size_t{i} * r->heads()];
    std::vector<uint32_t> next(r->heads());
    for (uint32_t k = 0; k < span.entries; k++) next[entries[k].head] += counts(entries[k]);
    auto begin = static_cast<uint32_t>(r->private_slots.size());
    for (uint32_t h = 0; h < r->heads(); h++) {
        at[h] = begin;
        begin += next[h];
        next[h] = at[h];
    }
    at[r->heads()] = begin;
    r->private_slots.resize(begin, kNoSlot);
    for (uint32_t k = 0; k < span.entries; k++) {
        const Entry &e = entries[k];
        if (!counts(e)) continue;
        uint32_t &place = r->private_slots[next[e.head]++];
        out->tiles++;
        const uint32_t slot = cache_.find(e.id);
        if (slot == kNoSlot) {
            cache_.reserve(e.id);
            out->missing.push_back({i, e, nullptr, 0});
        } else if (slot == kReserved || cache_[slot].filling) {
            out->filling = true;
        } else if (!cache_.is_kind(slot, r->kind)) {
            give_up_reserved(*out);
            throw Failure(FailureCode::malformed, "a tile's id is known with other dimensions");
        } else {
            place = slot;
            cache_.pin(slot);
            out->hits++;
        }
    }
}

void Scheduler::give_up_reserved(const Scan &found)
{
    for (const Missing &m : found.missing) {
        if (m.table)
            m.table->heads[m.entry.head].slots[m.index] = kNoSlot;
        else
            cache_.unreserve(m.entry.id);
    }
}

void Scheduler::take_slots(Request *r, const Scan &found)
{
    for (const Missing &m : found.missing) {
        const uint32_t slot = m.table ? cache_.take_page(m.table, m.entry.head, m.index) : cache_.take_private(m.entry.id, r->kind);
        if (slot == kNoSlot) throw std::logic_error("a slot that was counted as free is not");
        r->fills.push_back({slot, m.span, m.entry});
    }
}

// Tiles of the request's own tables that it does not need.
void Scheduler::trim(const Request &r)
{
    for (size_t i = 0; i < r.tables.size(); i++) {
        if (!r.tables[i] || std::find(r.tables.begin(), r.tables.begin() + static_cast<ptrdiff_t>(i), r.tables[i]) !=
                                r.tables.begin() + static_cast<ptrdiff_t>(i))
            continue;
        for (Table::Head &head : r.tables[i]->heads) {
            std::vector<bool> needed(head.slots.size());
            for (size_t j = i; j < r.tables.size(); j++) {
                if (r.tables[j] != r.tables[i]) continue;
                const auto [begin, end] = head.range(r.parts.spans[j].from, r.parts.spans[j].to);
                std::fill(needed.begin() + begin, needed.begin() + end, true);
            }
            for (size_t k = 0; k < head.slots.size(); k++)
                if (!needed[k] && head.slots[k] < kFilling) cache_.drop(head.slots[k]);
        }
    }
}

void Scheduler::unpin(Request *r)
{
    for (Table *table : r->tables)
        if (table) cache_.unpin(table);
    for (const uint32_t slot : r->private_slots)
        if (slot != kNoSlot) cache_.unpin(slot);
    for (const Fill &fill : r->fills)
        if (!cache_[fill.slot].table) cache_.unpin(fill.slot);
    r->tables.clear();
    r->private_slots.clear();
}

}  // namespace vkv::gpu
