// Vacuum, first half: heap tuples that are gone, the nodes this leaves without any, and freeing those at the end. vacuum.h gives
// the order of all steps; what happens to the graph in between is in vacuum_repair.cpp.

#include "pg/hnsw/vacuum.h"

#include <algorithm>
#include <cstring>

#include "pg/hnsw/build_write.h"
#include "pg/hnsw/hash_directory.h"
#include "pg/hnsw/hnsw.h"

namespace vkv::hnsw {

namespace {

bool contains(const std::vector<uint64_t> &sorted, const ItemPointerData &tid)
{
    return std::binary_search(sorted.begin(), sorted.end(), pack_tid(tid));
}

TidsHeader *tids_item(Relation rel, char *page, const ItemPointerData &at)
{
    return reinterpret_cast<TidsHeader *>(item_in(rel, page, at));
}
ItemPointerData *tids_of(TidsHeader *h) { return reinterpret_cast<ItemPointerData *>(h + 1); }

}  // namespace

Vacuum::Vacuum(Relation rel, IndexBulkDeleteResult *stats)
    : index_(rel), shape_(index_.shape()), view_(index_, nullptr), linker_(index_, view_), stats_(stats)
{
}

void Vacuum::run(IndexBulkDeleteCallback callback, void *state)
{
    sweep(callback, state);
    if (dead_count_ == 0) return;
    barrier();
    choose_entry();
    reach_all();
    repair_nodes();
    reach_all();
    announce_free();
    barrier();
    free_nodes();
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
    }
}

void Vacuum::sweep_page(BlockNumber block, IndexBulkDeleteCallback callback, void *state)
{
    std::vector<uint64_t> gone;
    std::vector<ItemPointerData> tids;
    {
        ReadPage page(index_.rel(), block);
        if (page.blank()) return;
        if (page.opaque()->page_id != kPageId) corrupted(index_.rel(), block, "not a page of an hnsw index");
        if (page.opaque()->kind != static_cast<uint8_t>(PageKind::nodes)) return;
        for (uint32_t slot = 0; slot < shape_.per_page; ++slot) {
            const uint32_t id = shape_.node_at(block, slot);
            const NodeHeader *n = node_in(page.page(), shape_, id);
            if (!node_used(n)) continue;
            if (n->flags & kNodeDead) {
                set_dead(id);  // left by a vacuum that did not end
                continue;
            }
            const size_t from = tids.size();
            collect_tids(index_.rel(), n, &tids);
            if (tids.size() == from) gone.push_back(0);  // a node without tuples: look at the page again
        }
    }
    for (ItemPointerData &tid : tids) {
        const bool dead_tuple = pg_call([&] { return callback(&tid, state); });
        if (dead_tuple) {
            gone.push_back(pack_tid(tid));
            stats_->tuples_removed += 1;
        } else {
            stats_->num_index_tuples += 1;
        }
    }
    if (!gone.empty()) {
        std::sort(gone.begin(), gone.end());
        remove_tids(block, gone);
    }
}

// Takes the gone tuples out of the page's nodes: chains first, one item at a time, then what lies in the nodes.
void Vacuum::remove_tids(BlockNumber block, const std::vector<uint64_t> &gone)
{
    for (uint32_t slot = 0; slot < shape_.per_page; ++slot)
        while (remove_from_chain(shape_.node_at(block, slot), gone)) {
        }
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
            changed = true;
        }
        changed |= n->tid_count != before;
    }
    if (changed) pages.commit();
}

// Cleans the chain of a node up to the first item that runs empty, and unlinks that one. True if it must be called again.
bool Vacuum::remove_from_chain(uint32_t node, const std::vector<uint64_t> &gone)
{
    ItemPointerData at;
    {
        ReadPage page(index_.rel(), shape_.block_of(node), PageKind::nodes);
        const NodeHeader *n = node_in(page.page(), shape_, node);
        if (!node_answers(n) || !is_item(n->more_tids)) return false;
        at = n->more_tids;
    }
    ItemPointerData previous = no_item();
    while (is_item(at)) {
        WritePages pages(index_.rel());
        // The node's page is locked first whatever changes: it is what serialises writers of the chain.
        NodeHeader *n = node_in(pages.lock(shape_.block_of(node), PageKind::nodes), shape_, node);
        if (!is_item(previous) && !ItemPointerEquals(&n->more_tids, &at)) return true;  // an insertion put an item before it
        char *page = pages.lock(ItemPointerGetBlockNumber(&at), PageKind::tids);
        TidsHeader *h = tids_item(index_.rel(), page, at);
        auto *end = std::remove_if(tids_of(h), tids_of(h) + h->count, [&](const ItemPointerData &t) { return contains(gone, t); });
        const auto count = static_cast<uint16_t>(end - tids_of(h));
        const ItemPointerData next = h->next;
        if (count > 0) {
            if (count != h->count) {
                h->count = count;
                pages.commit();
            }
            previous = at;
            at = next;
            continue;
        }
        if (!is_item(previous)) {
            n->more_tids = next;
        } else if (ItemPointerGetBlockNumber(&previous) == ItemPointerGetBlockNumber(&at)) {
            tids_item(index_.rel(), page, previous)->next = next;
        } else {
            char *other = pages.lock(ItemPointerGetBlockNumber(&previous), PageKind::tids);
            tids_item(index_.rel(), other, previous)->next = next;
        }
        PageIndexTupleDeleteNoCompact(page, ItemPointerGetOffsetNumber(&at));
        pages.commit();
        give_room(index_.rel(), PageKind::tids, ItemPointerGetBlockNumber(&at));
        return true;
    }
    return false;
}

void Vacuum::barrier() { PageLock lock(index_.rel(), kUpdateLock, ExclusiveLock); }

void Vacuum::find_highest()
{
    for (BlockNumber block = 1; block < blocks_; ++block) {
        ReadPage page(index_.rel(), block);
        if (page.blank() || page.opaque()->kind != static_cast<uint8_t>(PageKind::nodes)) continue;
        for (uint32_t slot = 0; slot < shape_.per_page; ++slot) {
            const uint32_t id = shape_.node_at(block, slot);
            const NodeHeader *n = node_in(page.page(), shape_, id);
            if (node_answers(n) && n->level > best_level_) {
                best_level_ = n->level;
                best_node_ = id;
            }
        }
    }
}

void Vacuum::choose_entry()
{
    if (!dead(index_.entry().node)) return;
    PageLock lock(index_.rel(), kUpdateLock, ExclusiveLock);  // no insertion runs: every live node is whole, and none is added
    blocks_ = pg_call([&] { return RelationGetNumberOfBlocks(index_.rel()); });
    find_highest();
    WritePages pages(index_.rel());
    MetaPage *meta = meta_of(pages.lock(kMetaBlock, PageKind::meta));
    if (!dead(meta->entry)) return;
    meta->entry = best_node_;
    meta->entry_level = best_level_;
    pages.commit();
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
            next = reinterpret_cast<const PayloadHeader *>(item_in(index_.rel(), page.page(), at))->next;
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

IndexBulkDeleteResult *vacuum_cleanup(IndexVacuumInfo *info, IndexBulkDeleteResult *stats)
{
    if (info->analyze_only || !stats) return stats;
    stats->num_pages = RelationGetNumberOfBlocks(info->index);
    return stats;
}

}  // namespace vkv::hnsw
