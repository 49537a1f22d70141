// Vacuum, first half: heap tuples that are gone, the nodes this leaves without any, and freeing those at the end. vacuum.h gives
// the order of all steps; what happens to the graph in between is in vacuum_repair.cpp.

#include "pg/hnsw/vacuum.h"

#include <algorithm>
#include <cstring>

#include "pg/hnsw/build_write.h"
#include "pg/hnsw/hash_directory.h"
#include "pg/hnsw/hnsw.h"
#include "pg/hnsw/meta_page.h"

namespace vkv::hnsw {

namespace {

constexpr int kPaceAt = 100;  // less than any sensible vacuum_cost_limit

bool contains(const std::vector<uint64_t> &sorted, const ItemPointerData &tid)
{
    return std::binary_search(sorted.begin(), sorted.end(), pack_tid(tid));
}

}  // namespace

Vacuum::Vacuum(Relation rel, IndexBulkDeleteResult *stats)
    : index_(rel), shape_(index_.shape()), view_(index_, nullptr), linker_(index_, view_), originals_(index_), stats_(stats)
{
    whole_ = read_meta(rel).paths == static_cast<uint8_t>(Paths::whole);
}

void Vacuum::run(IndexBulkDeleteCallback callback, void *state)
{
    sweep(callback, state);
    find_leaks();
    if (whole_ && dead_count_ == 0 && pending_.empty()) return;
    barrier();
    find_unfinished();
    if (whole_ && dead_count_ == 0 && unfinished_.empty()) return;
    if (!changing_) {
        WritePages pages(index_.rel());
        begin_changes(pages);
        pages.commit();
    }
    choose_entry();
    reach_all();
    if (dead_count_ > 0) {
        repair_nodes();
        reach_all();
    }
    for (uint32_t node : stale_) {
        pg_call([] { compat::vacuum_delay(); });
        strip_dead(node, 0);
    }
    for (uint32_t node : unfinished_) {
        pg_call([] { compat::vacuum_delay(); });
        finish(node);
    }
    if (dead_count_ > 0) {
        announce_free();
        barrier();
        free_nodes();
        retire_entry();
    }
    end_changes();
}

// With the change that may be the first after which a row can be lost.
void Vacuum::begin_changes(WritePages &pages)
{
    meta_of(pages.lock(kMetaBlock, PageKind::meta))->paths = static_cast<uint8_t>(Paths::unknown);
    changing_ = true;
}

void Vacuum::end_changes()
{
    if (some_cut_) return;
    WritePages pages(index_.rel());
    MetaPage *meta = meta_of(pages.lock(kMetaBlock, PageKind::meta));
    if (meta->paths != static_cast<uint8_t>(Paths::unknown)) return;  // an insertion has cut a path meanwhile
    meta->paths = static_cast<uint8_t>(Paths::whole);
    pages.commit();
}

// Pages that are read in place cost what a page found in shared buffers costs. False, for searches: go on.
bool Vacuum::pace()
{
    if (VacuumCostActive) VacuumCostBalance += VacuumCostPageHit;
    if (InterruptPending || VacuumCostBalance >= kPaceAt) pg_call([] { compat::vacuum_delay(); });
    return false;
}

void Vacuum::set_dead(uint32_t node)
{
    if (node >= dead_.size()) dead_.resize(node + 1);
    if (!dead_[node]) ++dead_count_;
    dead_[node] = true;
}

bool Vacuum::has_dead(const uint32_t *list, uint32_t n) const
{
    return std::any_of(list, list + n, [this](uint32_t id) { return dead(id); });
}

void Vacuum::sweep(IndexBulkDeleteCallback callback, void *state)
{
    // Pages that are added while this runs hold new tuples only, but CREATE INDEX CONCURRENTLY wants to see those too.
    for (BlockNumber block = 1;; ++block) {
        if (block >= blocks_) blocks_ = pg_call([&] { return RelationGetNumberOfBlocks(index_.rel()); });
        if (block >= blocks_) break;
        pg_call([] { compat::vacuum_delay(); });
        sweep_page(block, callback, state);
        check_items();
    }
}

// Which of the tuples are gone, sorted.
std::vector<uint64_t> Vacuum::judge(const std::vector<ItemPointerData> &tids, IndexBulkDeleteCallback callback, void *state)
{
    std::vector<uint64_t> gone;
    for (ItemPointerData tid : tids) {
        const bool dead_tuple = pg_call([&] { return callback(&tid, state); });
        if (dead_tuple) {
            gone.push_back(pack_tid(tid));
            stats_->tuples_removed += 1;
        } else {
            stats_->num_index_tuples += 1;
        }
    }
    std::sort(gone.begin(), gone.end());
    return gone;
}

void Vacuum::sweep_page(BlockNumber block, IndexBulkDeleteCallback callback, void *state)
{
    std::vector<ItemPointerData> tids;
    std::vector<std::pair<uint32_t, TidReader>> chains;
    std::vector<std::pair<int, uint32_t>> linked;  // level, node
    std::vector<uint32_t> pending;
    bool look = false;  // whether a node may have lost its last tuple
    {
        ReadPage page(index_.rel(), block);
        if (!page.blank() && page.opaque()->page_id != kPageId) corrupted(index_.rel(), block, "not a page of an hnsw index");
        note_leaks(page, block);
        if (!page_is(page, PageKind::nodes)) return;
        for (uint32_t slot = 0; slot < shape_.per_page; ++slot) {
            const uint32_t id = shape_.node_at(block, slot);
            const NodeHeader *n = node_in(page.page(), shape_, id);
            if (!node_used(n)) continue;
            if (n->flags & kNodeDead) {
                set_dead(id);  // left by a vacuum that did not end
                continue;
            }
            inline_tids(n, &tids);
            if (is_item(n->more_tids)) chains.emplace_back(id, TidReader(id, n));
            look |= n->tid_count == 0 && !is_item(n->more_tids);
            if (node_pending(n))
                pending.push_back(id);
            else
                linked.emplace_back(n->level, id);
        }
    }
    for (auto &[node, chain] : chains) look |= sweep_chain(node, &chain, callback, state);
    const std::vector<uint64_t> gone = judge(tids, callback, state);
    if (look || !gone.empty()) remove_tids(block, gone);
    for (const auto &[level, id] : linked)
        if (level > best_level_ && !dead(id)) {
            best_level_ = level;
            best_node_ = id;
        }
    for (uint32_t id : pending)
        if (!dead(id)) pending_.push_back(id);
}

// The tuples in a node's chain, an item at a time. True if any is gone.
bool Vacuum::sweep_chain(uint32_t node, TidReader *chain, IndexBulkDeleteCallback callback, void *state)
{
    bool any = false;
    std::vector<ItemPointerData> tids;
    ItemPointerData at, previous = no_item();
    while (tids.clear(), chain->read(index_, &tids, &at)) {
        pg_call([] { compat::vacuum_delay(); });
        if (TidsItems *items = tids_items_of(at)) items->chained.set(ItemPointerGetOffsetNumber(&at));
        const std::vector<uint64_t> gone = judge(tids, callback, state);
        if (gone.empty() && !tids.empty()) {
            previous = at;
            continue;
        }
        any = true;
        tell_old_snapshots();
        remove_from_item(index_, node, at, gone, &previous);
    }
    return any;
}

// Before the first tuple goes. What a snapshot taken after this sees, this vacuum does not remove. Searches go on: the page is as
// it was, but for its LSN.
void Vacuum::tell_old_snapshots()
{
    if (told_ || !compat::removes_early()) return;
    WritePages pages(index_.rel());
    pages.lock(kMetaBlock, PageKind::meta);
    pages.commit();
    told_ = true;
}

// Takes the gone tuples out of the page's nodes, and marks those that have none left.
void Vacuum::remove_tids(BlockNumber block, const std::vector<uint64_t> &gone)
{
    tell_old_snapshots();
    WritePages pages(index_.rel());
    char *page = pages.lock(block, PageKind::nodes);
    bool changed = false;
    for (uint32_t slot = 0; slot < shape_.per_page; ++slot) {
        const uint32_t id = shape_.node_at(block, slot);
        NodeHeader *n = node_in(page, shape_, id);
        if (!node_answers(n)) continue;
        const int before = n->tid_count;
        auto *end = std::remove_if(n->tids, n->tids + n->tid_count, [&](const ItemPointerData &t) { return contains(gone, t); });
        n->tid_count = static_cast<uint8_t>(end - n->tids);
        if (n->tid_count == 0 && !is_item(n->more_tids)) {
            n->flags |= kNodeDead;
            set_dead(id);
            if (!changing_) begin_changes(pages);
            changed = true;
        }
        changed |= n->tid_count != before;
    }
    if (changed) pages.commit();
}

void Vacuum::barrier() { PageLock lock(index_.rel(), kUpdateLock, ExclusiveLock); }

// What the sweep met lives on: nodes die by vacuum only. Higher nodes that were added since have become the entry themselves,
// unless the dead one was higher: their upper lists wait for the next vacuum.
void Vacuum::choose_entry()
{
    const Entry now = index_.entry();
    if (now.node == kNoNode ? best_node_ == kNoNode : !dead(now.node) && now.level >= best_level_) return;
    PageLock lock(index_.rel(), kUpdateLock, ExclusiveLock);  // no insertion runs
    WritePages pages(index_.rel());
    MetaPage *meta = meta_of(pages.lock(kMetaBlock, PageKind::meta));
    if (meta->entry != kNoNode && !dead(meta->entry) && meta->entry_level >= best_level_) return;
    if (best_node_ == kNoNode) {
        // Insertions since the sweep, if there were any, are linked from the entry: it is kept.
        kept_entry_ = meta->entry;
        dead_[kept_entry_] = false;
        return;
    }
    meta->entry = best_node_;
    meta->entry_level = best_level_;
    pages.commit();
}

// An entry point that was kept goes too, if no insertion has come to link from it.
void Vacuum::retire_entry()
{
    if (kept_entry_ == kNoNode) return;
    {
        PageLock lock(index_.rel(), kUpdateLock, ExclusiveLock);
        WritePages pages(index_.rel());
        const NodeHeader *n = node_in(pages.lock(shape_.block_of(kept_entry_), PageKind::nodes), shape_, kept_entry_);
        MetaPage *meta = meta_of(pages.lock(kMetaBlock, PageKind::meta));
        if (meta->entry != kept_entry_ || !node_used(n) || !(n->flags & kNodeDead) || n->links > 0) return;
        meta->entry = kNoNode;
        meta->entry_level = -1;
        meta->free_epoch++;
        pages.commit();
    }
    set_dead(kept_entry_);
    free_page(shape_.block_of(kept_entry_));
}

void Vacuum::announce_free()
{
    WritePages pages(index_.rel());
    meta_of(pages.lock(kMetaBlock, PageKind::meta))->free_epoch++;
    pages.commit();
}

void Vacuum::free_nodes()
{
    for (BlockNumber block = 1; block < blocks_; ++block) {
        bool any = false;
        for (uint32_t slot = 0; slot < shape_.per_page; ++slot) any |= dead(shape_.node_at(block, slot));
        poll_interrupts();
        if (!any) continue;
        pg_call([] { compat::vacuum_delay(); });
        free_page(block);
    }
}

void Vacuum::free_page(BlockNumber block)
{
    struct Freed {
        uint64_t hash;
        uint32_t node;
        ItemPointerData upper, payload;
    };
    std::vector<Freed> freed;
    {
        WritePages pages(index_.rel());
        char *page = pages.lock(block, PageKind::nodes);
        for (uint32_t slot = 0; slot < shape_.per_page; ++slot) {
            const uint32_t id = shape_.node_at(block, slot);
            NodeHeader *n = node_in(page, shape_, id);
            if (!dead(id) || !node_used(n) || !(n->flags & kNodeDead)) continue;
            freed.push_back({n->hash, id, n->upper, n->payload});
            std::memset(n, 0, shape_.node_size);
        }
        if (freed.empty()) return;
        pages.commit();
    }
    for (const Freed &f : freed) free_parts(f.hash, f.node, f.upper, f.payload);
    give_room(index_.rel(), PageKind::nodes, block);
}

void Vacuum::free_parts(uint64_t hash, uint32_t node, const ItemPointerData &upper, const ItemPointerData &payload)
{
    hash_erase(index_.rel(), hash, node);
    if (is_item(upper)) erase_item(index_.rel(), PageKind::upper, upper);
    for (ItemPointerData at = payload; is_item(at);) {
        ItemPointerData next;
        {
            ReadPage page(index_.rel(), ItemPointerGetBlockNumber(&at), PageKind::payload);
            const auto *h = reinterpret_cast<const PayloadHeader *>(item_in(index_.rel(), page.page(), at));
            if (h->node != node) corrupted(index_.rel(), ItemPointerGetBlockNumber(&at), "the payload of another node");
            next = h->next;
        }
        erase_item(index_.rel(), PageKind::payload, at);
        at = next;
    }
}

IndexBulkDeleteResult *bulk_delete(IndexVacuumInfo *info, IndexBulkDeleteResult *stats, IndexBulkDeleteCallback callback,
                                   void *state)
{
    if (!stats) stats = static_cast<IndexBulkDeleteResult *>(palloc0(sizeof(IndexBulkDeleteResult)));
    stats->num_index_tuples = 0;
    Vacuum(info->index, stats).run(callback, state);
    return stats;
}

namespace {

bool is_dead(ItemPointer, void *) { return false; }

// Whether there is something to mend for a vacuum without dead rows: the graph, or a page that was added and never written. An
// index of another format is left to who uses it.
bool wants_mending(Relation rel)
{
    {
        ReadPage page(rel, kMetaBlock);
        if (!page_is(page, PageKind::meta)) return false;
        const MetaPage *meta = meta_of(page.page());
        if (meta->magic != kMagic || meta->version != kVersion) return false;
        if (meta->paths != static_cast<uint8_t>(Paths::whole)) return true;
    }
    const BlockNumber blocks = pg_call([&] { return RelationGetNumberOfBlocks(rel); });
    return ReadPage(rel, blocks - 1).blank();
}

}  // namespace

IndexBulkDeleteResult *vacuum_cleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats)
{
    if (info->analyze_only) return stats;
    if (!stats) {
        if (!wants_mending(info->index)) return nullptr;
        stats = bulk_delete(info, nullptr, is_dead, nullptr);
    }
    stats->num_pages = RelationGetNumberOfBlocks(info->index);
    return stats;
}

}  // namespace vkv::hnsw
