// A chain grows at its head and loses items that have run empty; both under the exclusive lock of the node's page, which is what
// serialises writers. Items double in size along a chain, so that a vector with a million duplicates takes a few hundred items.
// Their numbers fall along the chain: a reader that comes back to one that was erased meanwhile, or whose place was used again,
// looks for the first smaller number from the head.

#include "pg/hnsw/node_tids.h"

#include <algorithm>
#include <cstring>

#include "pg/hnsw/build_write.h"

namespace vkv::hnsw {

namespace {

constexpr size_t kFirstItemTids = 8;

size_t capacity_of(size_t item_bytes) { return (item_bytes - sizeof(TidsHeader)) / sizeof(ItemPointerData); }

ItemPointerData *tids_of(TidsHeader *h) { return reinterpret_cast<ItemPointerData *>(h + 1); }

enum class Added { yes, no, chain_full };

struct Item {
    TidsHeader header;
    const ItemPointerData *tids;
    size_t count;
};

// The item, if it is one of the node's chain; valid as long as the page is locked.
bool item_of(const ReadPage &page, const ItemPointerData &at, uint32_t node, Item *out)
{
    size_t bytes;
    if (!page_is(page, PageKind::tids)) return false;
    const char *item = find_item(page.page(), at, sizeof(TidsHeader), &bytes);
    if (!item) return false;
    const auto *h = reinterpret_cast<const TidsHeader *>(item);
    if (h->node != node) return false;
    *out = {*h, reinterpret_cast<const ItemPointerData *>(h + 1), std::min<size_t>(h->count, capacity_of(bytes))};
    return true;
}

// Where a node's chain begins now; invalid if there is none, or no such node.
ItemPointerData head_of(const Index &index, uint32_t node, uint64_t *hash = nullptr)
{
    const Shape &s = index.shape();
    ReadPage page(index.rel(), s.block_of(node), PageKind::nodes);
    const NodeHeader *n = node_in(page.page(), s, node);
    if (hash) *hash = n->hash;
    return node_answers(n) ? n->more_tids : no_item();
}

bool same_item(const ItemPointerData &a, const ItemPointerData &b)
{
    return is_item(a) == is_item(b) &&
           (!is_item(a) || ItemPointerEquals(const_cast<ItemPointerData *>(&a), const_cast<ItemPointerData *>(&b)));
}

// Walks the chain as it is now until stop(at, item) says true; false if it never does. The walk begins anew if the chain changes
// under it.
template <class Stop>
bool walk(const Index &index, uint32_t node, uint64_t hash, Stop &&stop)
{
    constexpr int kSame = 100;  // so often at the same head, and the chain is broken, not changing
    ItemPointerData last_head = no_item();
    for (int same = 0; same < kSame; ++same) {
        uint64_t hash_now;
        const ItemPointerData head = head_of(index, node, &hash_now);
        if (!is_item(head) || hash_now != hash) return false;
        if (!same_item(head, last_head)) same = 0;
        last_head = head;
        uint32_t below = UINT32_MAX;
        for (ItemPointerData at = head;;) {
            poll_interrupts();
            ReadPage page(index.rel(), ItemPointerGetBlockNumberNoCheck(&at));
            Item item;
            if (!item_of(page, at, node, &item) || item.header.number >= below) break;
            if (stop(at, item)) return true;
            if (!is_item(item.header.next)) return false;
            below = item.header.number;
            at = item.header.next;
        }
    }
    corrupted(index.rel(), index.shape().block_of(node), "a broken chain of heap tuples");
}

Added try_add(const Index &index, uint32_t node, uint64_t hash, const std::vector<uint8_t> &code, const ItemPointerData &tid,
              ItemPointerData *head, uint32_t *head_number, size_t *head_capacity)
{
    const Shape &s = index.shape();
    WritePages pages(index.rel());
    NodeHeader *n = node_in(pages.lock(s.block_of(node), PageKind::nodes), s, node);
    if (!node_answers(n) || node_pending(n) || n->hash != hash) return Added::no;
    if (!s.apart && std::memcmp(code_of(n), code.data(), s.code_bytes) != 0) return Added::no;
    if (n->tid_count < kInlineTids) {
        n->tids[n->tid_count++] = tid;
        pages.commit();
        return Added::yes;
    }
    *head = n->more_tids;
    *head_capacity = 0;
    *head_number = 0;
    if (!is_item(*head)) return Added::chain_full;
    char *page = pages.lock(ItemPointerGetBlockNumber(head), PageKind::tids);
    size_t bytes;
    item_in(index.rel(), static_cast<const char *>(page), *head, &bytes);
    auto *h = reinterpret_cast<TidsHeader *>(item_in(index.rel(), page, *head));
    *head_capacity = capacity_of(bytes);
    *head_number = h->number;
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
    if (!node_answers(n) || n->hash != hash || !same_item(n->more_tids, head)) return false;
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
        uint32_t number;
        const Added added = try_add(index, node, hash, code, tid, &head, &number, &capacity);
        if (added != Added::chain_full) return added == Added::yes;
        const size_t next_capacity = std::min(std::max(capacity * 2, kFirstItemTids), kMaxTidsPerItem);
        std::vector<uint8_t> bytes(sizeof(TidsHeader) + next_capacity * sizeof(ItemPointerData));
        auto *h = reinterpret_cast<TidsHeader *>(bytes.data());
        *h = {head, 1, node, number + 1};
        tids_of(h)[0] = tid;
        const ItemPointerData item = put_item(index.rel(), PageKind::tids, bytes.data(), bytes.size());
        if (try_prepend(index, node, hash, head, item)) return true;
        erase_item(index.rel(), PageKind::tids, item);
    }
}

bool TidReader::find_again(const Index &index)
{
    ItemPointerData found = no_item();
    walk(index, node_, hash_, [&](const ItemPointerData &at, const Item &item) {
        if (item.header.number >= below_) return false;
        found = at;
        return true;
    });
    next_ = found;
    return is_item(found);
}

bool TidReader::read(const Index &index, std::vector<ItemPointerData> *out, ItemPointerData *at)
{
    while (is_item(next_)) {
        {
            ReadPage page(index.rel(), ItemPointerGetBlockNumberNoCheck(&next_));
            Item item;
            if (item_of(page, next_, node_, &item) && item.header.number < below_) {
                out->insert(out->end(), item.tids, item.tids + item.count);
                if (at) *at = next_;
                below_ = item.header.number;
                next_ = item.header.next;
                return true;
            }
        }
        if (!find_again(index)) return false;
    }
    return false;
}

bool in_chain(const Index &index, uint32_t node, const ItemPointerData &item)
{
    uint64_t hash;
    head_of(index, node, &hash);
    return walk(index, node, hash, [&](const ItemPointerData &at, const Item &) { return same_item(at, item); });
}

namespace {

// The item before `at` in the chain, invalid if `at` is the head; false if it is not in the chain.
bool find_previous(const Index &index, uint32_t node, const ItemPointerData &at, ItemPointerData *previous)
{
    uint64_t hash;
    *previous = no_item();
    if (same_item(head_of(index, node, &hash), at)) return true;
    return walk(index, node, hash, [&](const ItemPointerData &item, const Item &i) {
        *previous = item;
        return same_item(i.header.next, at);
    });
}

TidsHeader *header_in(const Index &index, char *page, const ItemPointerData &at)
{
    return reinterpret_cast<TidsHeader *>(item_in(index.rel(), page, at));
}

// False: the item before it is another one now.
bool try_remove(const Index &index, uint32_t node, const ItemPointerData &at, const std::vector<uint64_t> &gone,
                ItemPointerData *previous)
{
    const Shape &s = index.shape();
    WritePages pages(index.rel());
    NodeHeader *n = node_in(pages.lock(s.block_of(node), PageKind::nodes), s, node);
    if (!node_answers(n)) return true;
    if (!is_item(*previous) && !same_item(n->more_tids, at)) return false;  // an insertion put an item before it
    char *page = pages.lock(ItemPointerGetBlockNumber(&at), PageKind::tids);
    TidsHeader *h = header_in(index, page, at);
    auto *end = std::remove_if(tids_of(h), tids_of(h) + h->count,
                               [&](const ItemPointerData &t) { return std::binary_search(gone.begin(), gone.end(), pack_tid(t)); });
    const auto count = static_cast<uint16_t>(end - tids_of(h));
    if (count > 0) {
        if (count != h->count) {
            h->count = count;
            pages.commit();
        }
        *previous = at;
        return true;
    }
    if (!is_item(*previous)) {
        n->more_tids = h->next;
    } else {
        const bool same_page = ItemPointerGetBlockNumber(previous) == ItemPointerGetBlockNumber(&at);
        char *other = same_page ? page : pages.lock(ItemPointerGetBlockNumber(previous), PageKind::tids);
        header_in(index, other, *previous)->next = h->next;
    }
    delete_item(page, ItemPointerGetOffsetNumber(&at));
    pages.commit();
    give_room(index.rel(), PageKind::tids, ItemPointerGetBlockNumber(&at));
    return true;
}

}  // namespace

void remove_from_item(const Index &index, uint32_t node, const ItemPointerData &at, const std::vector<uint64_t> &gone,
                      ItemPointerData *previous)
{
    while (!try_remove(index, node, at, gone, previous))
        if (!find_previous(index, node, at, previous)) return;
}

}  // namespace vkv::hnsw
