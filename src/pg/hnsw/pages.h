// Pages under locks: reading one, writing a few in one WAL record, and keeping lists of the pages that have room.
#pragma once

#include <functional>

#include "pg/boundary/boundary.h"
#include "pg/hnsw/format.h"

namespace vkv::hnsw {

[[noreturn]] void corrupted(Relation rel, BlockNumber block, const char *what);
void init_page(char *page, PageKind kind);
// Raises index_corrupted unless the page is one of ours, of this kind.
void check_page(Relation rel, BlockNumber block, const char *page, PageKind kind);

// Is there such a block? Block numbers come from pages, which may be damaged, or read in the middle of a change.
bool block_exists(Relation rel, BlockNumber block);

// For loops that hold no page: false, or the error that an interrupt asks for.
inline bool poll_interrupts()
{
    if (InterruptPending) pg_call([] { CHECK_FOR_INTERRUPTS(); });
    return false;
}

// A page under a share lock; released when it goes out of scope.
class ReadPage {
public:
    ReadPage(Relation rel, BlockNumber block, PageKind kind, ForkNumber fork = MAIN_FORKNUM);
    ReadPage(Relation rel, BlockNumber block);  // of any kind, also a page that was never written
    ~ReadPage() { close(); }
    ReadPage(const ReadPage &) = delete;
    ReadPage &operator=(const ReadPage &) = delete;
    const char *page() const { return page_; }
    Buffer buffer() const { return buffer_; }
    const Opaque *opaque() const { return opaque_of(page_); }
    bool blank() const { return PageIsNew(const_cast<char *>(page_)); }
    void close() noexcept;

private:
    Buffer buffer_ = InvalidBuffer;
    const char *page_ = nullptr;
};

// Up to four pages changed by one WAL record. Nothing happens to the pages before commit(); without it everything is left as it
// was.
class WritePages {
public:
    explicit WritePages(Relation rel);
    ~WritePages();
    WritePages(const WritePages &) = delete;
    WritePages &operator=(const WritePages &) = delete;

    // Waits for the exclusive lock. A page that is locked here already is returned again: damaged links may lead back to it.
    char *lock(BlockNumber block, PageKind kind);
    char *lock_whole(BlockNumber block);  // to write it anew: unchecked
    char *extend(PageKind kind, BlockNumber *block);
    void commit();

private:
    char *add(Buffer buffer, int flags);
    Relation rel_;
    GenericXLogState *state_ = nullptr;
    Buffer buffers_[MAX_GENERIC_XLOG_PAGES] = {};
    char *pages_[MAX_GENERIC_XLOG_PAGES] = {};
    int count_ = 0;
};

// A heavyweight lock on a page number of the index; released with the object, or with the transaction.
class PageLock {
public:
    PageLock(Relation rel, BlockNumber what, LOCKMODE mode) : rel_(rel), what_(what), mode_(mode)
    {
        pg_call([&] { LockPage(rel, what, mode); });
    }
    ~PageLock() { UnlockPage(rel_, what_, mode_); }
    PageLock(const PageLock &) = delete;
    PageLock &operator=(const PageLock &) = delete;

private:
    Relation rel_;
    BlockNumber what_;
    LOCKMODE mode_;
};

// Finds a page of this kind with room, as use(page, block) judges: it returns true once it has taken what it needs. Pages that have
// none left leave the list; if there is no other, the index grows. The change and what use() did are one WAL record.
void with_room(Relation rel, PageKind kind, const std::function<bool(char *page, BlockNumber block)> &use);
// Puts a page into its kind's list, unless it is there. For vacuum.
void give_room(Relation rel, PageKind kind, BlockNumber block);
// Makes a page that was never written, or that nothing leads to any more, an empty page of a kind. For vacuum.
void renew_page(Relation rel, BlockNumber block, PageKind kind, bool (*may)(const char *page));

// Items: variable-sized records in pages of a kind. An item's place is used again once it is erased, its number too.
ItemPointerData put_item(Relation rel, PageKind kind, const void *data, size_t bytes);
char *item_in(Relation rel, char *page, const ItemPointerData &at);
const char *item_in(Relation rel, const char *page, const ItemPointerData &at, size_t *bytes = nullptr);
void erase_item(Relation rel, PageKind kind, const ItemPointerData &at);
// Within a page that is being changed.
void delete_item(char *page, OffsetNumber offset);
// For items that may have gone since their address was read: null unless there is one of that size.
const char *find_item(const char *page, const ItemPointerData &at, size_t min_bytes, size_t *bytes);
// Is it of this kind, whatever it was when its number was read?
inline bool page_is(const ReadPage &page, PageKind kind)
{
    return !page.blank() && page.opaque()->page_id == kPageId && page.opaque()->kind == static_cast<uint8_t>(kind);
}

inline ItemPointerData no_item()
{
    ItemPointerData p;
    ItemPointerSetInvalid(&p);
    return p;
}
inline bool is_item(const ItemPointerData &p) { return ItemPointerIsValid(&p); }

}  // namespace vkv::hnsw
