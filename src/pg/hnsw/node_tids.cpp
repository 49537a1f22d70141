// Adding to a node's heap tuples under its page's exclusive lock, and reading them all. Items double in size along a chain, so that
// a vector with a million duplicates takes a few hundred items.

#include "pg/hnsw/node_tids.h"

#include <algorithm>
#include <cstring>

namespace vkv::hnsw {

namespace {

constexpr size_t kFirstItemTids = 8;

size_t capacity_of(size_t item_bytes) { return (item_bytes - sizeof(TidsHeader)) / sizeof(ItemPointerData); }

ItemPointerData *tids_of(TidsHeader *h) { return reinterpret_cast<ItemPointerData *>(h + 1); }

enum class Added { yes, no, chain_full };

Added try_add(const Index &index, uint32_t node, uint64_t hash, const std::vector<uint8_t> &code, const ItemPointerData &tid,
              ItemPointerData *head, size_t *head_capacity)
{
    const Shape &s = index.shape();
    WritePages pages(index.rel());
    NodeHeader *n = node_in(pages.lock(s.block_of(node), PageKind::nodes), s, node);
    if (!node_answers(n) || n->hash != hash) return Added::no;
    if (!s.apart && std::memcmp(code_of(n), code.data(), s.code_bytes) != 0) return Added::no;
    if (n->tid_count < kInlineTids) {
        n->tids[n->tid_count++] = tid;
        pages.commit();
        return Added::yes;
    }
    *head = n->more_tids;
    *head_capacity = 0;
    if (!is_item(*head)) return Added::chain_full;
    char *page = pages.lock(ItemPointerGetBlockNumber(head), PageKind::tids);
    size_t bytes;
    item_in(index.rel(), static_cast<const char *>(page), *head, &bytes);
    auto *h = reinterpret_cast<TidsHeader *>(item_in(index.rel(), page, *head));
    *head_capacity = capacity_of(bytes);
    if (h->count >= *head_capacity) return Added::chain_full;
    tids_of(h)[h->count++] = tid;
    pages.commit();
    return Added::yes;
}

// Puts a new item with this tid before the chain's head; false if the head is no longer what it was.
bool try_prepend(const Index &index, uint32_t node, uint64_t hash, const ItemPointerData &head, const ItemPointerData &item)
{
    const Shape &s = index.shape();
    WritePages pages(index.rel());
    NodeHeader *n = node_in(pages.lock(s.block_of(node), PageKind::nodes), s, node);
    const bool same_head = is_item(head) == is_item(n->more_tids) &&
                           (!is_item(head) || ItemPointerEquals(&n->more_tids, const_cast<ItemPointerData *>(&head)));
    if (!node_answers(n) || n->hash != hash || !same_head) return false;
    n->more_tids = item;
    pages.commit();
    return true;
}

}  // namespace

bool add_tid(const Index &index, uint32_t node, uint64_t hash, const std::vector<uint8_t> &code, const ItemPointerData &tid)
{
    for (;;) {
        ItemPointerData head;
        size_t capacity;
        const Added added = try_add(index, node, hash, code, tid, &head, &capacity);
        if (added != Added::chain_full) return added == Added::yes;
        const size_t next_capacity = std::min(std::max(capacity * 2, kFirstItemTids), kMaxTidsPerItem);
        std::vector<uint8_t> bytes(sizeof(TidsHeader) + next_capacity * sizeof(ItemPointerData));
        auto *h = reinterpret_cast<TidsHeader *>(bytes.data());
        *h = {head, 1};
        tids_of(h)[0] = tid;
        const ItemPointerData item = put_item(index.rel(), PageKind::tids, bytes.data(), bytes.size());
        if (try_prepend(index, node, hash, head, item)) return true;
        erase_item(index.rel(), PageKind::tids, item);
    }
}

void collect_tids(Relation rel, const NodeHeader *node, std::vector<ItemPointerData> *out)
{
    const int inline_count = std::min<int>(node->tid_count, kInlineTids);
    out->insert(out->end(), node->tids, node->tids + inline_count);
    for (ItemPointerData at = node->more_tids; is_item(at);) {
        ReadPage page(rel, ItemPointerGetBlockNumber(&at), PageKind::tids);
        size_t bytes;
        const auto *h = reinterpret_cast<const TidsHeader *>(item_in(rel, page.page(), at, &bytes));
        const auto *tids = reinterpret_cast<const ItemPointerData *>(h + 1);
        out->insert(out->end(), tids, tids + std::min<size_t>(h->count, capacity_of(bytes)));
        at = h->next;
    }
}

}  // namespace vkv::hnsw
