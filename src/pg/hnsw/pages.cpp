// Buffers under locks. Every constructor here either has its buffer pinned and locked or throws with nothing held; every destructor
// lets go. A page is checked when it is locked: header, page id, kind.

#include "pg/hnsw/pages.h"

#include <string>

namespace vkv::hnsw {

void corrupted(Relation rel, BlockNumber block, const char *what)
{
    throw Error(
        Errc::index_corrupted,
        "index \"" + std::string(RelationGetRelationName(rel)) + "\" is corrupted: block " + std::to_string(block) + ": " + what,
        "Rebuild it: REINDEX INDEX.");
}

void init_page(char *page, PageKind kind)
{
    PageInit(page, BLCKSZ, sizeof(Opaque));
    *opaque_of(page) = Opaque{InvalidBlockNumber, static_cast<uint8_t>(kind), 0, kPageId};
    // All but item pages are used whole: nothing is a hole that WAL may leave out.
    if (kind != PageKind::upper && kind != PageKind::tids && kind != PageKind::payload)
        reinterpret_cast<PageHeader>(page)->pd_lower = reinterpret_cast<PageHeader>(page)->pd_upper;
}

void check_page(Relation rel, BlockNumber block, const char *page, PageKind kind)
{
    auto *header = reinterpret_cast<const PageHeaderData *>(page);
    if (PageIsNew(const_cast<char *>(page))) corrupted(rel, block, "the page is empty");
    if (header->pd_special != kPageEnd || opaque_of(page)->page_id != kPageId) {
        if (block == kMetaBlock && meta_of(page)->magic == kPgvectorMagic)
            throw Error(Errc::index_corrupted,
                        "index \"" + std::string(RelationGetRelationName(rel)) + "\" has the page format of pgvector",
                        "Rebuild it: REINDEX INDEX.");
        corrupted(rel, block, "not a page of an hnsw index");
    }
    if (opaque_of(page)->kind != static_cast<uint8_t>(kind)) corrupted(rel, block, "a page of another kind than expected");
    if (header->pd_lower > header->pd_upper || header->pd_upper > kPageEnd || header->pd_lower < SizeOfPageHeaderData)
        corrupted(rel, block, "a page header that makes no sense");
}

// The length of the index last worked on is remembered: asking the system costs as much as reading the page.
bool block_exists(Relation rel, BlockNumber block)
{
    static constinit compat::Storage storage{};
    static constinit BlockNumber blocks = 0;
    if (storage == compat::relation_storage(rel) && block < blocks) return true;
    blocks = pg_call([&] { return RelationGetNumberOfBlocks(rel); });
    storage = compat::relation_storage(rel);
    return block < blocks;
}

namespace {

void require_block(Relation rel, BlockNumber block)
{
    if (!block_exists(rel, block)) corrupted(rel, block, "a link leads beyond the end");
}

}  // namespace

ReadPage::ReadPage(Relation rel, BlockNumber block, PageKind kind, ForkNumber fork)
{
    if (fork == MAIN_FORKNUM) require_block(rel, block);
    buffer_ = pg_call([&] {
        Buffer b = ReadBufferExtended(rel, fork, block, RBM_NORMAL, nullptr);
        LockBuffer(b, BUFFER_LOCK_SHARE);
        return b;
    });
    page_ = BufferGetPage(buffer_);
    try {
        check_page(rel, block, page_, kind);
    } catch (...) {
        close();
        throw;
    }
}

ReadPage::ReadPage(Relation rel, BlockNumber block)
{
    require_block(rel, block);
    buffer_ = pg_call([&] {
        Buffer b = ReadBuffer(rel, block);
        LockBuffer(b, BUFFER_LOCK_SHARE);
        return b;
    });
    page_ = BufferGetPage(buffer_);
}

void ReadPage::close() noexcept
{
    if (BufferIsValid(buffer_)) UnlockReleaseBuffer(buffer_);
    buffer_ = InvalidBuffer;
}

WritePages::WritePages(Relation rel) : rel_(rel)
{
    state_ = pg_call([&] { return GenericXLogStart(rel); });
}

WritePages::~WritePages()
{
    if (state_) GenericXLogAbort(state_);
    for (int i = count_ - 1; i >= 0; --i) UnlockReleaseBuffer(buffers_[i]);
}

char *WritePages::add(Buffer buffer, int flags)
{
    const int i = count_++;
    buffers_[i] = buffer;
    pages_[i] = pg_call([&] { return static_cast<char *>(GenericXLogRegisterBuffer(state_, buffer, flags)); });
    return pages_[i];
}

char *WritePages::lock(BlockNumber block, PageKind kind)
{
    for (int i = 0; i < count_; ++i)
        if (BufferGetBlockNumber(buffers_[i]) == block) {
            check_page(rel_, block, pages_[i], kind);
            return pages_[i];
        }
    require_block(rel_, block);
    if (count_ == MAX_GENERIC_XLOG_PAGES) throw Error(Errc::internal, "too many pages of an hnsw index in one change");
    Buffer buffer = pg_call([&] {
        Buffer b = ReadBuffer(rel_, block);
        LockBuffer(b, BUFFER_LOCK_EXCLUSIVE);
        return b;
    });
    char *page = add(buffer, 0);
    check_page(rel_, block, page, kind);
    return page;
}

char *WritePages::lock_whole(BlockNumber block)
{
    require_block(rel_, block);
    Buffer buffer = pg_call([&] {
        Buffer b = ReadBuffer(rel_, block);
        LockBuffer(b, BUFFER_LOCK_EXCLUSIVE);
        return b;
    });
    return add(buffer, GENERIC_XLOG_FULL_IMAGE);
}

char *WritePages::extend(PageKind kind, BlockNumber *block)
{
    Buffer buffer = pg_call([&] { return compat::extend_relation(rel_, MAIN_FORKNUM); });
    *block = BufferGetBlockNumber(buffer);
    char *page = add(buffer, GENERIC_XLOG_FULL_IMAGE);
    init_page(page, kind);
    return page;
}

void WritePages::commit()
{
    pg_call([&] { GenericXLogFinish(state_); });
    state_ = nullptr;
    while (count_ > 0) UnlockReleaseBuffer(buffers_[--count_]);
}

void with_room(Relation rel, PageKind kind, const std::function<bool(char *, BlockNumber)> &use)
{
    const int list = static_cast<int>(kind);
    for (;;) {
        BlockNumber head;
        {
            ReadPage meta(rel, kMetaBlock, PageKind::meta);
            head = meta_of(meta.page())->free_list[list];
        }
        WritePages pages(rel);
        if (BlockNumberIsValid(head)) {
            char *page = pages.lock(head, kind);
            if ((opaque_of(page)->flags & kInFreeList) && use(page, head)) {
                pages.commit();
                return;
            }
            MetaPage *meta = meta_of(pages.lock(kMetaBlock, PageKind::meta));
            if (meta->free_list[list] == head) {  // else another backend was faster
                meta->free_list[list] = opaque_of(page)->next;
                opaque_of(page)->flags &= static_cast<uint8_t>(~kInFreeList);
                opaque_of(page)->next = InvalidBlockNumber;
                pages.commit();
            }
            continue;
        }
        BlockNumber block;
        char *page = pages.extend(kind, &block);
        if (!use(page, block)) throw Error(Errc::internal, "a new page of an hnsw index has no room");
        MetaPage *meta = meta_of(pages.lock(kMetaBlock, PageKind::meta));
        opaque_of(page)->next = meta->free_list[list];
        opaque_of(page)->flags |= kInFreeList;
        meta->free_list[list] = block;
        pages.commit();
        return;
    }
}

void give_room(Relation rel, PageKind kind, BlockNumber block)
{
    WritePages pages(rel);
    char *page = pages.lock(block, kind);
    if (opaque_of(page)->flags & kInFreeList) return;
    MetaPage *meta = meta_of(pages.lock(kMetaBlock, PageKind::meta));
    opaque_of(page)->next = meta->free_list[static_cast<int>(kind)];
    opaque_of(page)->flags |= kInFreeList;
    meta->free_list[static_cast<int>(kind)] = block;
    pages.commit();
}

void renew_page(Relation rel, BlockNumber block, PageKind kind, bool (*may)(const char *))
{
    {
        WritePages pages(rel);
        char *page = pages.lock_whole(block);
        if (!may(page)) return;
        init_page(page, kind);
        pages.commit();
    }
    give_room(rel, kind, block);
}

ItemPointerData put_item(Relation rel, PageKind kind, const void *data, size_t bytes)
{
    ItemPointerData at;
    with_room(rel, kind, [&](char *page, BlockNumber block) {
        if (PageGetFreeSpace(page) < MAXALIGN(bytes)) return false;
        OffsetNumber offset =
            PageAddItem(page, static_cast<Item>(const_cast<void *>(data)), bytes, InvalidOffsetNumber, false, false);
        if (offset == InvalidOffsetNumber) return false;
        ItemPointerSet(&at, block, offset);
        return true;
    });
    return at;
}

const char *item_in(Relation rel, const char *page, const ItemPointerData &at, size_t *bytes)
{
    char *p = const_cast<char *>(page);
    const OffsetNumber offset = ItemPointerGetOffsetNumberNoCheck(&at);
    const BlockNumber block = ItemPointerGetBlockNumberNoCheck(&at);
    if (offset < FirstOffsetNumber || offset > PageGetMaxOffsetNumber(p))
        corrupted(rel, block, "a link to an item that is not there");
    ItemId id = PageGetItemId(p, offset);
    if (!ItemIdIsUsed(id) || static_cast<size_t>(ItemIdGetOffset(id)) + ItemIdGetLength(id) > kPageEnd)
        corrupted(rel, block, "a link to an item that is not there");
    if (bytes) *bytes = ItemIdGetLength(id);
    return page + ItemIdGetOffset(id);
}

char *item_in(Relation rel, char *page, const ItemPointerData &at)
{
    return const_cast<char *>(item_in(rel, const_cast<const char *>(page), at));
}

const char *find_item(const char *page, const ItemPointerData &at, size_t min_bytes, size_t *bytes)
{
    char *p = const_cast<char *>(page);
    const OffsetNumber offset = ItemPointerGetOffsetNumberNoCheck(&at);
    if (offset < FirstOffsetNumber || offset > PageGetMaxOffsetNumber(p)) return nullptr;
    ItemId id = PageGetItemId(p, offset);
    if (!ItemIdIsUsed(id) || static_cast<size_t>(ItemIdGetOffset(id)) + ItemIdGetLength(id) > kPageEnd ||
        ItemIdGetLength(id) < min_bytes)
        return nullptr;
    *bytes = ItemIdGetLength(id);
    return page + ItemIdGetOffset(id);
}

// PageAddItem takes an unused line pointer only on a page that is marked to have one, and the marks of unused ones at the end would
// never go: for heap pages others see to both.
void delete_item(char *page, OffsetNumber offset)
{
    PageIndexTupleDeleteNoCompact(page, offset);
    OffsetNumber last = PageGetMaxOffsetNumber(page);
    for (; last >= FirstOffsetNumber && !ItemIdIsUsed(PageGetItemId(page, last)); --last)
        reinterpret_cast<PageHeader>(page)->pd_lower -= sizeof(ItemIdData);
    if (offset < last) PageSetHasFreeLinePointers(page);
}

void erase_item(Relation rel, PageKind kind, const ItemPointerData &at)
{
    {
        WritePages pages(rel);
        char *page = pages.lock(ItemPointerGetBlockNumber(&at), kind);
        item_in(rel, page, at);
        delete_item(page, ItemPointerGetOffsetNumber(&at));
        pages.commit();
    }
    give_room(rel, kind, ItemPointerGetBlockNumber(&at));
}

}  // namespace vkv::hnsw
