// Vacuum: what a crash, or an insertion that failed, left behind. Items that no node points to, pages with room that are in no
// list, pages that were added but never written, entries of the hash table for nodes that are gone, pages of the hash table that
// the directory does not know.
//
// The sweep notes what looks so. An insertion at work leaves the same traces for a moment: what still looks so when none is at
// work, under the update lock, is freed. That lock is held for a few dozen items at a time.

#include <algorithm>
#include <unordered_set>

#include "pg/hnsw/build_write.h"
#include "pg/hnsw/hash_directory.h"
#include "pg/hnsw/vacuum.h"

namespace vkv::hnsw {

namespace {

static_assert(sizeof(TidsHeader) == sizeof(PayloadHeader));

constexpr size_t kAtOnce = 64;  // things looked at and freed under one update lock

size_t free_space(const ReadPage &page) { return PageGetFreeSpace(const_cast<char *>(page.page())); }

bool page_of_kind(const char *page, PageKind kind)
{
    return opaque_of(page)->page_id == kPageId && opaque_of(page)->kind == static_cast<uint8_t>(kind);
}

uint32_t owner_of(PageKind kind, const char *item)
{
    if (kind == PageKind::upper) return reinterpret_cast<const UpperHeader *>(item)->node;
    if (kind == PageKind::tids) return reinterpret_cast<const TidsHeader *>(item)->node;
    return reinterpret_cast<const PayloadHeader *>(item)->node;
}

}  // namespace

// Pages that hold one more item of the common size belong into their list; of kinds whose items differ in size, those that are
// half empty.
bool Vacuum::has_room(const ReadPage &page, PageKind kind) const
{
    switch (kind) {
        case PageKind::nodes:
            for (uint32_t slot = 0; slot < shape_.per_page; ++slot)
                if (node_in(page.page(), shape_, slot)->flags == 0) return true;
            return false;
        case PageKind::upper:
            return free_space(page) >= std::max(shape_.upper_size(2), kItemRoom / 8);
        case PageKind::payload:
            if (!shape_.apart || shape_.code_bytes > 0) {
                const size_t bytes = (shape_.apart ? shape_.code_bytes : 0) + shape_.second_bytes;
                return free_space(page) >= MAXALIGN(sizeof(PayloadHeader) + std::min(bytes, kMaxPayloadPerItem));
            }
            return free_space(page) >= kItemRoom / 2;
        case PageKind::tids:
            return free_space(page) >= kItemRoom / 2;
        default:
            return false;
    }
}

void Vacuum::note_leaks(const ReadPage &page, BlockNumber block)
{
    if (page.blank()) {
        blank_pages_.push_back(block);
        return;
    }
    const auto kind = static_cast<PageKind>(page.opaque()->kind);
    if (kind == PageKind::hash_bucket || kind == PageKind::hash_directory) {
        hash_pages_.emplace_back(kind, block);
        return;
    }
    if (!(page.opaque()->flags & kInFreeList) && has_room(page, kind)) roomy_pages_.emplace_back(kind, block);
    if (kind == PageKind::upper || kind == PageKind::tids || kind == PageKind::payload) note_items(page, block, kind);
}

void Vacuum::note_items(const ReadPage &page, BlockNumber block, PageKind kind)
{
    char *p = const_cast<char *>(page.page());
    for (OffsetNumber o = FirstOffsetNumber; o <= PageGetMaxOffsetNumber(p); ++o) {
        ItemPointerData at;
        ItemPointerSet(&at, block, o);
        size_t bytes;
        const char *item = find_item(page.page(), at, kind == PageKind::upper ? sizeof(UpperHeader) : sizeof(TidsHeader), &bytes);
        if (!item) continue;
        if (kind == PageKind::tids) {
            if (TidsItems *items = tids_items_of(at)) items->there.set(o);
        } else {
            seen_items_.push_back({kind, at, owner_of(kind, item)});
        }
    }
}

// Where it is noted that there is such an item, or that a chain leads to it. Null: not in this vacuum. Of an index whose pages of
// tids are so many that the notes take too much memory, one in so many pages is looked at, and other ones by the next vacuum.
Vacuum::TidsItems *Vacuum::tids_items_of(const ItemPointerData &at)
{
    constexpr size_t kEach = sizeof(TidsItems) + 32;  // of memory, about
    const BlockNumber block = ItemPointerGetBlockNumberNoCheck(&at);
    if (ItemPointerGetOffsetNumberNoCheck(&at) >= kMaxTidsItems || block % tids_share_ != tids_turn_) return nullptr;
    TidsItems *items = &tids_items_[block];
    if (tids_items_.size() * kEach <= memory_for_notes()) return items;
    tids_turn_ += tids_share_ * static_cast<BlockNumber>(pg_prng_uint32(&pg_global_prng_state) & 1);
    tids_share_ *= 2;
    std::erase_if(tids_items_, [this](const auto &noted) {
        poll_interrupts();
        return noted.first % tids_share_ != tids_turn_;
    });
    return block % tids_share_ == tids_turn_ ? &tids_items_[block] : nullptr;
}

// What there is no room for, the next vacuum finds.
void Vacuum::note_loose(PageKind kind, const ItemPointerData &at)
{
    if (loose_items_.size() * sizeof(loose_items_[0]) < memory_for_notes()) loose_items_.emplace_back(kind, at);
}

// The items of the page that the sweep has just read, mostly by a glance at their nodes.
void Vacuum::check_items()
{
    for (const SeenItem &seen : seen_items_) {
        poll_interrupts();
        bool same = false;
        if (shape_.block_of(seen.node) != kMetaBlock)
            view_.peek(seen.node, [&](const NodeHeader *n, const uint8_t *) {
                ItemPointerData at = seen.kind == PageKind::upper ? n->upper : n->payload;
                same = is_item(at) && pack_tid(at) == pack_tid(seen.at);
            });
        if (!same && !belongs(seen.kind, seen.at)) note_loose(seen.kind, seen.at);
    }
    seen_items_.clear();
}

// Does the node that the item names point to it?
bool Vacuum::belongs(PageKind kind, const ItemPointerData &at)
{
    uint32_t node = kNoNode;
    {
        ReadPage page(index_.rel(), ItemPointerGetBlockNumber(&at));
        if (!page_is(page, kind)) return true;
        size_t bytes;
        const char *item = find_item(page.page(), at, kind == PageKind::upper ? sizeof(UpperHeader) : sizeof(TidsHeader), &bytes);
        if (!item) return true;  // gone meanwhile
        node = owner_of(kind, item);
    }
    const BlockNumber blocks = pg_call([&] { return RelationGetNumberOfBlocks(index_.rel()); });
    if (shape_.block_of(node) == kMetaBlock || shape_.block_of(node) >= blocks) return false;
    NodeHeader header;
    {
        ReadPage page(index_.rel(), shape_.block_of(node));
        if (!page_is(page, PageKind::nodes)) return false;
        header = *node_in(page.page(), shape_, node);
    }
    if (!node_used(&header)) return false;
    auto same = [&](ItemPointerData other) {
        return is_item(other) && ItemPointerEquals(&other, const_cast<ItemPointerData *>(&at));
    };
    if (kind == PageKind::upper) return same(header.upper);
    if (kind == PageKind::tids) return in_chain(index_, node, at);
    if (same(header.payload)) return true;
    size_t pieces = 0;
    for (ItemPointerData piece = header.payload; is_item(piece);) {
        if (++pieces > shape_.most_payload() / kMaxPayloadPerItem + 1)
            corrupted(index_.rel(), shape_.block_of(node), "a payload that has no end");
        ReadPage page(index_.rel(), ItemPointerGetBlockNumber(&piece));
        size_t bytes;
        const char *item =
            page_is(page, PageKind::payload) ? find_item(page.page(), piece, sizeof(PayloadHeader), &bytes) : nullptr;
        if (!item || reinterpret_cast<const PayloadHeader *>(item)->node != node) return false;
        piece = reinterpret_cast<const PayloadHeader *>(item)->next;
        if (same(piece)) return true;
    }
    return false;
}

void Vacuum::find_leaks()
{
    free_items();
    forget_stale_hashes();
    free_pages();
    for (const auto &[kind, block] : roomy_pages_) {
        pg_call([] { compat::vacuum_delay(); });
        give_room(index_.rel(), kind, block);
    }
    roomy_pages_.clear();
}

// Items that the sweep met on a page, but in no chain: what insertions have added since is in one by now.
void Vacuum::find_loose_tids()
{
    while (!tids_items_.empty()) {
        poll_interrupts();
        const auto noted = tids_items_.begin();
        const std::bitset<kMaxTidsItems> loose = noted->second.there & ~noted->second.chained;
        for (OffsetNumber o = FirstOffsetNumber; loose.any() && o < kMaxTidsItems; ++o) {
            if (!loose[o]) continue;
            ItemPointerData at;
            ItemPointerSet(&at, noted->first, o);
            pace();
            if (!belongs(PageKind::tids, at)) note_loose(PageKind::tids, at);
        }
        tids_items_.erase(noted);
    }
}

// A chain of tids may be long, and is read for each of its items: those are freed one at a time, so that no insertion waits for
// more.
void Vacuum::free_items()
{
    find_loose_tids();
    for (size_t i = 0; i < loose_items_.size();) {
        pg_call([] { compat::vacuum_delay(); });
        PageLock lock(index_.rel(), kUpdateLock, ExclusiveLock);
        for (size_t end = std::min(i + kAtOnce, loose_items_.size()); i < end;) {
            const auto &[kind, at] = loose_items_[i++];
            if (!belongs(kind, at)) erase_item(index_.rel(), kind, at);
            if (kind == PageKind::tids) break;
        }
    }
    loose_items_.clear();
}

// No page is locked while an entry's node is looked at: a damaged one may name any page, the bucket itself too.
void Vacuum::forget_stale_hashes()
{
    auto fresh = [this](const BucketEntry &e) {
        poll_interrupts();
        bool is_its = false;
        view_.peek(e.node, [&](const NodeHeader *n, const uint8_t *) { is_its = static_cast<uint32_t>(n->hash) == e.hash; });
        return is_its;
    };
    for (const auto &[kind, block] : hash_pages_) {
        if (kind != PageKind::hash_bucket) continue;
        pg_call([] { compat::vacuum_delay(); });
        std::vector<BucketEntry> stale = hash_entries(index_.rel(), block);
        std::erase_if(stale, fresh);
        for (size_t from = 0; from < stale.size(); from += kAtOnce) {
            pg_call([] { compat::vacuum_delay(); });
            std::vector<BucketEntry> some(stale.begin() + static_cast<ptrdiff_t>(from),
                                          stale.begin() + static_cast<ptrdiff_t>(std::min(from + kAtOnce, stale.size())));
            PageLock lock(index_.rel(), kUpdateLock, ExclusiveLock);
            std::erase_if(some, fresh);
            hash_erase(index_.rel(), block, some);
        }
    }
}

// Pages that nothing can find become pages of nodes. One that was blank when the sweep came by may have been on its way into use:
// what it is when no insertion is at work counts.
void Vacuum::free_pages()
{
    const auto is_loose = [](const char *page) {
        return PageIsNew(const_cast<char *>(page)) || page_of_kind(page, PageKind::hash_bucket) ||
               page_of_kind(page, PageKind::hash_directory);
    };
    const std::unordered_set<BlockNumber> known = hash_blocks(index_.rel());
    std::vector<BlockNumber> loose = blank_pages_;
    for (const auto &[kind, block] : hash_pages_)
        if (!known.count(block)) loose.push_back(block);
    for (size_t from = 0; from < loose.size(); from += kAtOnce) {
        pg_call([] { compat::vacuum_delay(); });
        PageLock lock(index_.rel(), kUpdateLock, ExclusiveLock);
        const std::unordered_set<BlockNumber> now = hash_blocks(index_.rel());
        for (size_t i = from; i < std::min(from + kAtOnce, loose.size()); ++i)
            if (!now.count(loose[i])) renew_page(index_.rel(), loose[i], PageKind::nodes, is_loose);
    }
    hash_pages_.clear();
    blank_pages_.clear();
}

}  // namespace vkv::hnsw
