// Extendible hashing: a directory of 2^depth block numbers, indexed by the low bits of the hash; a bucket knows how many bits its
// entries share. Changes of several pages are ordered so that a crash in between loses entries or leaks pages, and nothing else.

#include "pg/hnsw/hash_directory.h"

#include <algorithm>
#include <cstring>

#include "pg/hnsw/meta_page.h"

namespace vkv::hnsw {

namespace {

struct Directory {
    uint32_t depth;
    uint32_t pages;
    BlockNumber block[kMaxDirectoryPages];
};

Directory read_directory(Relation rel)
{
    ReadPage page(rel, kMetaBlock, PageKind::meta);
    const MetaPage *meta = meta_of(page.page());
    if (const char *fault = fault_of_directory(*meta)) corrupted(rel, kMetaBlock, fault);
    Directory d;
    d.depth = meta->hash_depth;
    d.pages = meta->directory_pages;
    std::memcpy(d.block, meta->directory, d.pages * sizeof(BlockNumber));
    return d;
}

BlockNumber *directory_entries(char *page) { return reinterpret_cast<BlockNumber *>(page + kPageBegin); }
const BlockNumber *directory_entries(const char *page) { return reinterpret_cast<const BlockNumber *>(page + kPageBegin); }
BucketHeader *bucket_of(char *page) { return reinterpret_cast<BucketHeader *>(page + kPageBegin); }
const BucketHeader *bucket_of(const char *page) { return reinterpret_cast<const BucketHeader *>(page + kPageBegin); }
template <class Header>
auto entries_of(Header *h)
{
    using Entry = std::conditional_t<std::is_const_v<Header>, const BucketEntry, BucketEntry>;
    return reinterpret_cast<Entry *>(h + 1);
}
uint32_t count_of(const BucketHeader *h) { return std::min(h->count, kBucketEntries); }

uint32_t slot_of(const Directory &d, uint32_t hash) { return d.depth == 0 ? 0 : hash & ((1u << d.depth) - 1); }

BlockNumber bucket_block(Relation rel, const Directory &d, uint32_t slot)
{
    ReadPage page(rel, d.block[slot / kDirectoryEntries], PageKind::hash_directory);
    return directory_entries(page.page())[slot % kDirectoryEntries];
}

// Under the exclusive hash lock: the first bucket and directory page.
void create(Relation rel)
{
    if (read_directory(rel).pages > 0) return;
    WritePages pages(rel);
    BlockNumber bucket, directory;
    *bucket_of(pages.extend(PageKind::hash_bucket, &bucket)) = BucketHeader{0, 0};
    char *page = pages.extend(PageKind::hash_directory, &directory);
    directory_entries(page)[0] = bucket;
    MetaPage *meta = meta_of(pages.lock(kMetaBlock, PageKind::meta));
    meta->hash_depth = 0;
    meta->directory_pages = 1;
    meta->directory[0] = directory;
    pages.commit();
}

// Doubles the directory: the new half points where the old one does. False when it cannot grow.
bool double_directory(Relation rel, const Directory &d)
{
    const uint32_t slots = 1u << d.depth;
    if (slots < kDirectoryEntries) {
        WritePages pages(rel);
        BlockNumber *entry = directory_entries(pages.lock(d.block[0], PageKind::hash_directory));
        std::memcpy(entry + slots, entry, slots * sizeof(BlockNumber));
        meta_of(pages.lock(kMetaBlock, PageKind::meta))->hash_depth++;
        pages.commit();
        return true;
    }
    if (d.pages * 2 > kMaxDirectoryPages) return false;
    // Copies first, the meta page last: a crash in between leaks pages and nothing else.
    std::vector<BlockNumber> added;
    for (uint32_t i = 0; i < d.pages; ++i) {
        std::vector<BlockNumber> entries(kDirectoryEntries);
        {
            ReadPage old(rel, d.block[i], PageKind::hash_directory);
            std::memcpy(entries.data(), directory_entries(old.page()), kDirectoryEntries * sizeof(BlockNumber));
        }
        WritePages pages(rel);
        BlockNumber block;
        std::memcpy(directory_entries(pages.extend(PageKind::hash_directory, &block)), entries.data(),
                    kDirectoryEntries * sizeof(BlockNumber));
        pages.commit();
        added.push_back(block);
    }
    WritePages pages(rel);
    MetaPage *meta = meta_of(pages.lock(kMetaBlock, PageKind::meta));
    std::memcpy(meta->directory + d.pages, added.data(), added.size() * sizeof(BlockNumber));
    meta->directory_pages = d.pages * 2;
    meta->hash_depth++;
    pages.commit();
    return true;
}

// Splits the bucket of the hash once. False when it cannot be split (all its hashes are equal, or the directory is at its limit).
bool split(Relation rel, uint32_t hash)
{
    Directory d = read_directory(rel);
    BlockNumber old_block = bucket_block(rel, d, slot_of(d, hash));
    BucketHeader header;
    std::vector<BucketEntry> entries;
    {
        ReadPage page(rel, old_block, PageKind::hash_bucket);
        header = *bucket_of(page.page());
        const BucketEntry *e = entries_of(bucket_of(page.page()));
        entries.assign(e, e + count_of(&header));
    }
    if (header.depth > d.depth) corrupted(rel, old_block, "a hash bucket deeper than its directory");
    if (header.count < kBucketEntries) return true;  // somebody else has split it
    if (header.depth >= 31) return false;
    if (header.depth == d.depth) {
        if (!double_directory(rel, d)) return false;
        d = read_directory(rel);
    }
    const uint32_t bit = 1u << header.depth;
    auto middle = std::stable_partition(entries.begin(), entries.end(), [&](const BucketEntry &e) { return (e.hash & bit) == 0; });
    BlockNumber new_block;
    {
        WritePages pages(rel);
        BucketHeader *added = bucket_of(pages.extend(PageKind::hash_bucket, &new_block));
        *added = {header.depth + 1, static_cast<uint32_t>(entries.end() - middle)};
        std::copy(middle, entries.end(), entries_of(added));
        pages.commit();
    }
    const uint32_t first = (hash & (bit - 1)) | bit;
    for (uint32_t page_no = 0; page_no < d.pages; ++page_no) {
        const uint32_t from = page_no * kDirectoryEntries;
        const uint32_t to = std::min(from + kDirectoryEntries, 1u << d.depth);
        uint32_t slot = first;
        while (slot < from) slot += std::max((from - slot) / (2 * bit), 1u) * 2 * bit;
        if (slot >= to) continue;
        WritePages pages(rel);
        BlockNumber *entry = directory_entries(pages.lock(d.block[page_no], PageKind::hash_directory));
        for (; slot < to; slot += 2 * bit) entry[slot - from] = new_block;
        pages.commit();
    }
    WritePages pages(rel);
    BucketHeader *old = bucket_of(pages.lock(old_block, PageKind::hash_bucket));
    *old = {header.depth + 1, static_cast<uint32_t>(middle - entries.begin())};
    std::copy(entries.begin(), middle, entries_of(old));
    pages.commit();
    return true;
}

}  // namespace

bool hash_find(Relation rel, uint64_t hash, const std::function<bool(uint32_t)> &found)
{
    const auto key = static_cast<uint32_t>(hash);
    std::vector<uint32_t> nodes;
    {
        PageLock lock(rel, kHashLock, ShareLock);
        const Directory d = read_directory(rel);
        if (d.pages == 0) return false;
        ReadPage page(rel, bucket_block(rel, d, slot_of(d, key)), PageKind::hash_bucket);
        const BucketHeader *header = bucket_of(page.page());
        const BucketEntry *e = entries_of(header);
        for (uint32_t i = 0; i < count_of(header); ++i)
            if (e[i].hash == key) nodes.push_back(e[i].node);
    }
    for (uint32_t node : nodes)
        if (found(node)) return true;
    return false;
}

void hash_insert(Relation rel, uint64_t hash, uint32_t node)
{
    const auto key = static_cast<uint32_t>(hash);
    for (;;) {
        bool missing = false;
        {
            PageLock lock(rel, kHashLock, ShareLock);
            const Directory d = read_directory(rel);
            missing = d.pages == 0;
            if (!missing) {
                WritePages pages(rel);
                BucketHeader *header = bucket_of(pages.lock(bucket_block(rel, d, slot_of(d, key)), PageKind::hash_bucket));
                if (count_of(header) < kBucketEntries) {
                    entries_of(header)[header->count++] = {key, node};
                    pages.commit();
                    return;
                }
            }
        }
        PageLock lock(rel, kHashLock, ExclusiveLock);
        if (missing)
            create(rel);
        else if (!split(rel, key))
            return;
    }
}

namespace {

// Under the hash lock.
void erase_from(Relation rel, BlockNumber bucket, const std::vector<BucketEntry> &gone)
{
    auto is_gone = [&](const BucketEntry &x) {
        return std::any_of(gone.begin(), gone.end(), [&](const BucketEntry &g) { return g.hash == x.hash && g.node == x.node; });
    };
    const std::vector<BucketEntry> now = hash_entries(rel, bucket);
    if (std::none_of(now.begin(), now.end(), is_gone)) return;
    WritePages pages(rel);
    BucketHeader *header = bucket_of(pages.lock(bucket, PageKind::hash_bucket));
    BucketEntry *e = entries_of(header);
    header->count = static_cast<uint32_t>(std::remove_if(e, e + count_of(header), is_gone) - e);
    pages.commit();
}

}  // namespace

void hash_erase(Relation rel, uint64_t hash, uint32_t node)
{
    const auto key = static_cast<uint32_t>(hash);
    PageLock lock(rel, kHashLock, ShareLock);
    const Directory d = read_directory(rel);
    if (d.pages > 0) erase_from(rel, bucket_block(rel, d, slot_of(d, key)), {{key, node}});
}

void hash_erase(Relation rel, BlockNumber bucket, const std::vector<BucketEntry> &gone)
{
    PageLock lock(rel, kHashLock, ShareLock);
    erase_from(rel, bucket, gone);
}

std::vector<BucketEntry> hash_entries(Relation rel, BlockNumber bucket)
{
    ReadPage page(rel, bucket, PageKind::hash_bucket);
    const BucketHeader *header = bucket_of(page.page());
    return {entries_of(header), entries_of(header) + count_of(header)};
}

std::unordered_set<BlockNumber> hash_blocks(Relation rel)
{
    const Directory d = read_directory(rel);
    std::unordered_set<BlockNumber> blocks(d.block, d.block + d.pages);
    for (uint32_t i = 0; i < d.pages; ++i) {
        poll_interrupts();
        ReadPage page(rel, d.block[i], PageKind::hash_directory);
        const BlockNumber *entry = directory_entries(page.page());
        blocks.insert(entry, entry + std::min(kDirectoryEntries, 1u << d.depth));
    }
    return blocks;
}

namespace {

// Nothing if a bucket is what this slot leads to.
const char *fault_of_bucket(Relation rel, const Directory &d, BlockNumber block, uint32_t slot)
{
    ReadPage page(rel, block, PageKind::hash_bucket);
    const BucketHeader *header = bucket_of(page.page());
    if (header->depth > d.depth) return "a hash bucket deeper than its directory";
    if (header->count > kBucketEntries) return "a hash bucket of more entries than there is room for";
    const uint32_t mask = (1u << header->depth) - 1;
    const BucketEntry *e = entries_of(header);
    const bool fits = std::all_of(e, e + header->count, [&](const BucketEntry &x) { return ((x.hash ^ slot) & mask) == 0; });
    return fits ? nullptr : "a hash bucket at another one's place in the directory";
}

}  // namespace

void hash_check(Relation rel, const std::function<void(BlockNumber, const std::string &)> &report)
{
    PageLock lock(rel, kHashLock, ShareLock);
    const Directory d = read_directory(rel);
    std::unordered_set<BlockNumber> seen;  // slots of one bucket differ in bits that it does not look at
    std::vector<BlockNumber> buckets;
    for (uint32_t i = 0; i < d.pages; ++i) {
        buckets.clear();
        try {
            ReadPage page(rel, d.block[i], PageKind::hash_directory);
            const BlockNumber *entry = directory_entries(page.page());
            buckets.assign(entry, entry + std::min(kDirectoryEntries, 1u << d.depth));
        } catch (const Error &e) {
            report(kMetaBlock, "page " + std::to_string(i) + " of the hash directory: " + e.message());
        }
        for (uint32_t k = 0; k < buckets.size(); ++k) {
            poll_interrupts();
            if (!seen.insert(buckets[k]).second) continue;
            try {
                if (const char *fault = fault_of_bucket(rel, d, buckets[k], i * kDirectoryEntries + k)) report(buckets[k], fault);
            } catch (const Error &e) {
                report(d.block[i], "entry " + std::to_string(k) + " of the hash directory: " + e.message());
            }
        }
    }
}

void hash_build(std::vector<BucketEntry> entries, BlockNumber first, MetaPage *meta,
                const std::function<void(const char *)> &append)
{
    // Deep enough that buckets are about half full; one that is still too full keeps what fits (the rest is only found by search).
    uint32_t depth = 0;
    while (depth < 20 && (static_cast<uint64_t>(entries.size()) >> depth) > kBucketEntries * 6 / 10) ++depth;
    const uint32_t buckets = 1u << depth, mask = buckets - 1;
    std::sort(entries.begin(), entries.end(), [mask](const BucketEntry &a, const BucketEntry &b) {
        poll_interrupts();
        return (a.hash & mask) < (b.hash & mask);
    });
    PGAlignedBlock block;
    size_t at = 0;
    for (uint32_t b = 0; b < buckets; ++b) {
        init_page(block.data, PageKind::hash_bucket);
        BucketHeader *header = bucket_of(block.data);
        *header = {depth, 0};
        for (; at < entries.size() && (entries[at].hash & mask) == b; ++at)
            if (header->count < kBucketEntries) entries_of(header)[header->count++] = entries[at];
        append(block.data);
    }
    meta->hash_depth = static_cast<uint8_t>(depth);
    meta->directory_pages = std::max(buckets / kDirectoryEntries, 1u);
    for (uint32_t p = 0; p < meta->directory_pages; ++p) {
        init_page(block.data, PageKind::hash_directory);
        for (uint32_t i = 0; i < std::min(buckets, kDirectoryEntries); ++i)
            directory_entries(block.data)[i] = first + p * kDirectoryEntries + i;
        meta->directory[p] = first + buckets + p;
        append(block.data);
    }
}

}  // namespace vkv::hnsw
