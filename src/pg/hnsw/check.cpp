// hnsw_check, one walk over all pages and then over what they say about each other. It reads under share locks
// of pages, reports whatever it finds instead of stopping at the first fault, and changes nothing.

#include "pg/hnsw/check.h"

#include <algorithm>

#include "pg/hnsw/build_write.h"
#include "pg/hnsw/hash_directory.h"
#include "pg/hnsw/hnsw.h"
#include "pg/hnsw/inspect.h"
#include "pg/hnsw/meta_page.h"
#include "pg/hnsw/node_tids.h"

namespace vkv::hnsw {

Checker::Checker(Relation heap, Relation index, Report report)
    : heap_(heap), index_(index), shape_(index_.shape()), meta_(read_meta(index)), report_(std::move(report))
{
}

void Checker::report_node(uint32_t id, const std::string &problem)
{
    report_(shape_.block_of(id), static_cast<int>(id % shape_.per_page), problem);
}

void Checker::run(bool heap_all, bool searches)
{
    // Rows that a snapshot from before the walk sees are in the index then, whoever writes meanwhile.
    if (heap_all) rows_ = pg_call([] { return RegisterSnapshot(GetTransactionSnapshot()); });
    blocks_ = pg_call([&] { return RelationGetNumberOfBlocks(index_.rel()); });
    level_.assign(static_cast<size_t>(blocks_) * shape_.per_page, -1);
    dead_.assign(level_.size(), false);
    pending_.assign(level_.size(), false);
    read_pages();
    settle_pending();
    check_links();
    check_entry();
    check_reach();
    check_hash();
    check_free_lists();
    check_heap_tids();
    if (heap_all) check_heap_all();
    if (searches) check_searches();
}

void Checker::read_pages()
{
    for (BlockNumber block = 0; block < blocks_; ++block) {
        pg_call([] { CHECK_FOR_INTERRUPTS(); });
        ReadPage page(index_.rel(), block);
        if (page.blank()) continue;  // added by a transaction that did not live to use it
        const uint8_t kind = page.opaque()->kind;
        try {
            check_page(index_.rel(), block, page.page(), static_cast<PageKind>(kind));
        } catch (const Error &e) {
            report_(block, -1, e.message());
            continue;
        }
        if (kind == 0 || kind >= kPageKinds)
            report_(block, -1, "unknown kind of page: " + std::to_string(kind));
        else if (kind == static_cast<uint8_t>(PageKind::nodes))
            read_nodes(page.page(), block);
        else if (kind == static_cast<uint8_t>(PageKind::upper))
            read_upper_page(page.page(), block);
        page.close();
        // A vector may have a million duplicates: its chain is read by pieces, without a lock on the node.
        for (const auto &[slot, header] : headers_) check_tids(&header, block, slot);
        headers_.clear();
    }
}

void Checker::read_nodes(const char *page, BlockNumber block)
{
    for (uint32_t slot = 0; slot < shape_.per_page; ++slot) {
        const uint32_t id = shape_.node_at(block, slot);
        const NodeHeader *n = node_in(page, shape_, id);
        if (n->flags == 0) continue;
        if (!node_used(n)) {
            report_(block, static_cast<int>(slot), "a slot that is neither free nor a node");
            continue;
        }
        level_[id] = static_cast<int8_t>(std::min<int>(n->level, graph::kMaxLevel));
        dead_[id] = n->flags & kNodeDead;
        pending_[id] = n->flags & kNodePending;
        check_node(n, block, static_cast<int>(slot));
        headers_.emplace_back(static_cast<int>(slot), *n);
    }
}

void Checker::check_node(const NodeHeader *n, BlockNumber block, int slot)
{
    if (n->level > graph::kMaxLevel) report_(block, slot, "level " + std::to_string(n->level) + " is too high");
    if (n->links > shape_.max_links(0)) report_(block, slot, std::to_string(n->links) + " links, more than there is room for");
    if (n->level > 0 && !(n->flags & kNodePending) && !is_item(n->upper)) report_(block, slot, "no upper lists");
    if (!shape_.has_payload() || (n->flags & (kNodeDead | kNodePending))) return;
    const uint32_t id = shape_.node_at(block, static_cast<uint32_t>(slot));
    std::vector<uint8_t> payload;
    const bool read = is_item(n->payload) && read_payload(index_.rel(), {id, n}, shape_.most_payload() + 1, &payload);
    size_t first = 0;
    const bool whole =
        read && (!shape_.apart || code_is_whole(shape_, payload, &first)) && payload.size() == first + shape_.second_bytes;
    if (!whole) report_(block, slot, "its payload is missing or not whole");
}

void Checker::check_tids(const NodeHeader *n, BlockNumber block, int slot)
{
    if (n->tid_count > kInlineTids) {
        report_(block, slot, "a count of heap tuples that makes no sense");
        return;
    }
    std::vector<ItemPointerData> tids;
    try {
        inline_tids(n, &tids);
        for (TidReader chain(shape_.node_at(block, static_cast<uint32_t>(slot)), n); chain.read(index_, &tids);) poll_interrupts();
    } catch (const Error &e) {
        report_(block, slot, "its chain of heap tuples is broken: " + e.message());
        return;
    }
    if (n->flags & kNodeDead) {
        if (!tids.empty()) report_(block, slot, "marked dead, but it has heap tuples");
        return;
    }
    if (tids.empty()) report_(block, slot, "no heap tuple, but not marked dead");
    const uint32_t id = shape_.node_at(block, static_cast<uint32_t>(slot));
    for (const ItemPointerData &tid : tids) tids_.emplace_back(pack_tid(tid), id);
}

void Checker::read_upper_page(const char *page, BlockNumber block)
{
    char *p = const_cast<char *>(page);
    for (OffsetNumber o = FirstOffsetNumber; o <= PageGetMaxOffsetNumber(p); ++o) {
        ItemId id = PageGetItemId(p, o);
        if (!ItemIdIsUsed(id)) continue;
        const auto *u = reinterpret_cast<const UpperHeader *>(PageGetItem(p, id));
        if (ItemIdGetLength(id) < sizeof(UpperHeader) || u->level > static_cast<uint32_t>(graph::kMaxLevel) ||
            shape_.upper_size(static_cast<int>(u->level)) > ItemIdGetLength(id))
            report_(block, o, "upper lists that are not whole");
    }
}

// A pending node with a row that somebody can see is to be found as any other: its own insertion would have ended.
void Checker::settle_pending()
{
    IndexFetchTableData *fetch = nullptr;
    TupleTableSlot *slot = nullptr;
    Snapshot snapshot = nullptr;
    for (const auto &[packed, id] : tids_) {
        poll_interrupts();
        if (!pending_[id]) continue;
        ItemPointerData tid;
        ItemPointerSet(&tid, static_cast<BlockNumber>(packed >> 16), static_cast<OffsetNumber>(packed & 0xFFFF));
        const bool seen = pg_call([&] {
            if (!fetch) {
                snapshot = RegisterSnapshot(GetLatestSnapshot());
                slot = table_slot_create(heap_, nullptr);
                fetch = table_index_fetch_begin(heap_);
            }
            if (ItemPointerGetBlockNumberNoCheck(&tid) >= RelationGetNumberOfBlocks(heap_)) return false;
            bool again = false, all_dead = false;
            return table_index_fetch_tuple(fetch, &tid, snapshot, slot, &again, &all_dead);
        });
        if (seen) pending_[id] = false;
    }
    if (fetch)
        pg_call([&] {
            table_index_fetch_end(fetch);
            ExecDropSingleTupleTableSlot(slot);
            UnregisterSnapshot(snapshot);
        });
}

void Checker::check_list(uint32_t node, int level, const uint32_t *list, uint32_t n)
{
    std::vector<uint32_t> sorted(list, list + n);
    std::sort(sorted.begin(), sorted.end());
    const std::string where = " (level " + std::to_string(level) + ")";
    if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) report_node(node, "links twice to the same node" + where);
    for (uint32_t to : sorted) {
        if (to == node)
            report_node(node, "links to itself" + where);
        else if (!is_node(to))
            report_node(node, "links to node " + std::to_string(to) + ", which is not there" + where);
        else if (level_[to] < level)
            report_node(node, "links to node " + std::to_string(to) + ", which is not on that level" + where);
    }
}

void Checker::check_links()
{
    std::vector<uint32_t> list(shape_.max_links(0));
    for (uint32_t id = 0; id < level_.size(); ++id) {
        poll_interrupts();
        if (!is_node(id) || dead_[id]) continue;
        ItemPointerData upper;
        uint32_t n = 0;
        {
            ReadPage page(index_.rel(), shape_.block_of(id), PageKind::nodes);
            const NodeHeader *header = node_in(page.page(), shape_, id);
            n = std::min<uint32_t>(header->links, shape_.max_links(0));
            std::copy(links_of(header, shape_), links_of(header, shape_) + n, list.begin());
            upper = header->upper;
        }
        check_list(id, 0, list.data(), n);
        if (pending_[id]) continue;
        for (int level = 1; level <= level_[id]; ++level) {
            if (!read_upper(index_, upper, id, level, list.data(), &n)) {
                report_node(id, "its upper lists are missing");
                break;
            }
            check_list(id, level, list.data(), n);
        }
    }
}

void Checker::check_entry()
{
    const bool any = std::any_of(level_.begin(), level_.end(), [](int8_t l) { return l >= 0; });
    if (meta_.entry == kNoNode) {
        for (uint32_t id = 0; any && id < level_.size(); ++id)
            if (is_node(id) && !dead_[id] && !pending_[id]) {
                report_(kMetaBlock, -1, "no entry point, but there are nodes");
                return;
            }
        return;
    }
    if (!is_node(meta_.entry))
        report_(kMetaBlock, -1, "the entry point is not a node");
    else if (const char *fault = fault_of_entry(meta_))
        report_(kMetaBlock, -1, fault);
    else if (level_[meta_.entry] < meta_.entry_level)
        report_(kMetaBlock, -1, "the entry point is not on its level");
}

void Checker::check_reach()
{
    std::vector<bool> reached(level_.size());
    std::vector<uint32_t> queue, links(shape_.max_links(0));
    PageView view(index_, nullptr);
    if (is_node(meta_.entry)) {
        queue.push_back(meta_.entry);
        reached[meta_.entry] = true;
    }
    for (size_t head = 0; head < queue.size(); ++head) {
        poll_interrupts();
        const uint32_t n = view.neighbors(queue[head], 0, links.data());
        for (uint32_t i = 0; i < n; ++i)
            if (is_node(links[i]) && !reached[links[i]]) {
                reached[links[i]] = true;
                queue.push_back(links[i]);
            }
    }
    for (uint32_t id = 0; id < level_.size(); ++id)
        if (is_node(id) && !dead_[id] && !pending_[id] && !reached[id]) report_node(id, "no path leads to it");
}

void Checker::check_hash()
{
    if (const char *fault = fault_of_directory(meta_))
        report_(kMetaBlock, -1, fault);
    else
        hash_check(index_.rel(), [this](BlockNumber block, const std::string &problem) { report_(block, -1, problem); });
}

void Checker::check_free_lists()
{
    for (int kind = 0; kind < kPageKinds; ++kind) {
        BlockNumber steps = 0;
        for (BlockNumber block = meta_.free_list[kind]; BlockNumberIsValid(block); ++steps) {
            poll_interrupts();
            if (block >= blocks_ || steps > blocks_) {
                report_(kMetaBlock, -1, "a list of pages with room is broken (kind " + std::to_string(kind) + ")");
                break;
            }
            ReadPage page(index_.rel(), block);
            if (page.blank() || page.opaque()->kind != kind || !(page.opaque()->flags & kInFreeList)) {
                report_(block, -1, "a page that does not belong into its list of pages with room");
                break;
            }
            block = page.opaque()->next;
        }
    }
}

// Heap tuples: each once, and each with a line pointer in the table. (A dead one is fine: vacuum has not come yet.)
void Checker::check_heap_tids()
{
    std::sort(tids_.begin(), tids_.end(), [](const auto &a, const auto &b) {
        poll_interrupts();
        return a < b;
    });
    for (size_t i = 1; i < tids_.size(); ++i)
        if (tids_[i].first == tids_[i - 1].first) report_node(tids_[i].second, "a heap tuple that another node has too");
    if (heap_->rd_tableam != GetHeapamTableAmRoutine()) return;
    const BlockNumber heap_blocks = pg_call([&] { return RelationGetNumberOfBlocks(heap_); });
    for (size_t i = 0; i < tids_.size();) {
        const auto block = static_cast<BlockNumber>(tids_[i].first >> 16);
        size_t end = i;
        while (end < tids_.size() && static_cast<BlockNumber>(tids_[end].first >> 16) == block) ++end;
        std::vector<bool> there(end - i);
        if (block < heap_blocks) {
            ReadPage page(heap_, block);
            char *p = const_cast<char *>(page.page());
            const OffsetNumber max = page.blank() ? 0 : PageGetMaxOffsetNumber(p);
            for (size_t k = i; k < end; ++k) {
                const auto offset = static_cast<OffsetNumber>(tids_[k].first & 0xFFFF);
                there[k - i] = offset >= FirstOffsetNumber && offset <= max && ItemIdIsUsed(PageGetItemId(p, offset));
            }
        }
        for (size_t k = i; k < end; ++k)
            if (!there[k - i])
                report_node(tids_[k].second, "heap tuple (" + std::to_string(block) + "," +
                                                 std::to_string(tids_[k].first & 0xFFFF) + ") is not in the table");
        i = end;
        pg_call([] { CHECK_FOR_INTERRUPTS(); });
    }
}

namespace {

struct HeapAll {
    const Shape *shape;
    const std::vector<std::pair<uint64_t, uint32_t>> *tids;
    std::vector<uint64_t> *missing;
    MemoryContext context;
};

void heap_row(Relation, ItemPointer tid, Datum *values, bool *isnull, bool, void *state)
{
    auto *h = static_cast<HeapAll *>(state);
    if (isnull[0]) return;
    const std::pair<uint64_t, uint32_t> key{pack_tid(*tid), 0};
    auto at = std::lower_bound(h->tids->begin(), h->tids->end(), key);
    if (at != h->tids->end() && at->first == key.first) return;
    MemoryContext old = MemoryContextSwitchTo(h->context);
    VectorView view;
    if (view_value(*h->shape, values[0], &view)) h->missing->push_back(key.first);
    MemoryContextSwitchTo(old);
    MemoryContextReset(h->context);
}

}  // namespace

void Checker::check_heap_all()
{
    std::vector<uint64_t> missing;
    HeapAll state{&shape_, &tids_, &missing, nullptr};
    pg_call([&] {
        state.context = AllocSetContextCreate(CurrentMemoryContext, "hnsw check", ALLOCSET_DEFAULT_SIZES);
        IndexInfo *info = BuildIndexInfo(index_.rel());
        info->ii_Concurrent = true;  // rows that a snapshot sees
        TableScanDesc scan = table_beginscan_strat(heap_, rows_, 0, nullptr, true, true);
        table_index_build_scan(heap_, index_.rel(), info, true, false, entry<heap_row>, &state, scan);
        UnregisterSnapshot(rows_);
    });
    for (uint64_t tid : missing) {
        poll_interrupts();
        report_(InvalidBlockNumber, -1,
                "row (" + std::to_string(tid >> 16) + "," + std::to_string(tid & 0xFFFF) + ") of the table is not in the index");
    }
}

namespace {

Datum check(FunctionCallInfo fcinfo)
{
    pg_call([&] { compat::init_materialized(fcinfo); });
    auto *result = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
    OpenedIndex opened(PG_GETARG_OID(0), true);
    bool sound = true;
    Checker checker(opened.heap(), opened.index(), [&](BlockNumber block, int slot, const std::string &problem) {
        sound = false;
        pg_call([&] {
            Datum values[] = {Int64GetDatum(static_cast<int64>(block)), Int32GetDatum(slot), CStringGetTextDatum(problem.c_str())};
            bool nulls[] = {!BlockNumberIsValid(block), slot < 0, false};
            tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
        });
    });
    checker.run(PG_GETARG_BOOL(1), PG_NARGS() > 2 && PG_GETARG_BOOL(2));
    if (!sound && !opened.keeps_writers_out())
        pg_call([] {
            ereport(NOTICE, errmsg("changes that were made during the check may be among what it reports"),
                    errhint("It keeps writers out for a role that may LOCK TABLE IN SHARE MODE, on a primary."));
        });
    return static_cast<Datum>(0);
}

}  // namespace

}  // namespace vkv::hnsw

SQL_FUNCTION(hnsw_check) { return vkv::hnsw::check(fcinfo); }
