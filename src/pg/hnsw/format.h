// The bytes of an hnsw index. Everything that is on disk is drawn here, and here only.
//
//   block 0        meta page
//   other blocks   pages of one kind each, in any order; the last 8 bytes of every page are
//
//        next u32 | kind u8 | flags u8 | page id u16 = 0xFFB1
//
//   next chains pages: the model's pages, or the pages of a kind that have room (head in the meta page, flag kInFreeList).
//
//   kNodes         per_page slots of node_size bytes from the page header on; a node's id is block * per_page + slot
//
//        NodeHeader (56) | code[code_bytes] | links u32[2 m]            (the code only if it fits: Shape::apart)
//
//   kUpper         items: UpperHeader | { count u32 | links u32[m] } for levels 1 .. level
//   kTids          items: TidsHeader | tids[count], linked: the heap tuples of a node beyond its first four
//   kPayload       items: PayloadHeader | bytes, linked: [the code, if it is kept apart][the second level, if there is one]
//   kHashDirectory 1,024 block numbers of buckets; page i holds the entries of hashes with (hash mod 2^depth) / 1,024 = i
//   kHashBucket    BucketHeader | entries { hash u32, node u32 }: where an equal vector is found without a search
//   kModel         the codec's model, in pieces
//
// Everything is native-endian, as in all of PostgreSQL's files. A page of another version raises an error that says REINDEX.
//
// LOCKS. Content locks are taken in this order: node page -> item page (upper, tids, payload) -> free-list page -> meta page; at
// most one of each kind, but for two node pages, the lower number first, and two pages of tids, in any order: only vacuum locks
// two, of which one runs at a time, and under the lock of the node's page. Bucket pages and directory pages are locked alone.
// Searches lock nothing (resident.h); what they return is read again under a share lock. Heavyweight page locks of the index:
// kUpdateLock: every insertion holds it in share mode while it runs; vacuum takes it exclusively for a moment, so that no insertion
// is left that has seen the state before. kHashLock: share for a look-up or an entry, exclusive to split a bucket or double the
// directory.
#pragma once

#include <cstdint>

#include "core/codec/codec.h"
#include "core/value.h"
#include "pg/boundary/pg.h"

namespace vkv::hnsw {

inline constexpr uint32_t kMagic = 0x31564B56;          // "VKV1"
inline constexpr uint32_t kPgvectorMagic = 0xA953A953;  // the meta page of pgvector's own hnsw
inline constexpr uint32_t kVersion = 2;                 // 2: items of tids and payload say whose they are
inline constexpr uint16_t kPageId = 0xFFB1;
inline constexpr BlockNumber kMetaBlock = 0;
inline constexpr BlockNumber kUpdateLock = 0;  // heavyweight page locks
inline constexpr BlockNumber kHashLock = 1;
inline constexpr uint32_t kNoNode = UINT32_MAX;

enum class PageKind : uint8_t {  // never reuse a number
    meta = 1,
    model = 2,
    nodes = 3,
    upper = 4,
    tids = 5,
    payload = 6,
    hash_directory = 7,
    hash_bucket = 8,
};
inline constexpr int kPageKinds = 9;

// Which distance neighbours are chosen by: the operator class's own, or that of directions (core/codec/whiten.h).
enum class Linking : uint8_t { distance = 0, direction = 1 };

// What is known of the paths on level 0.
enum class Paths : uint8_t {
    unknown = 0,  // a vacuum is changing the graph, or did not end; or an index older than this
    whole = 1,    // one leads to every row
    cut = 2,      // an insertion could not but cut one, after vacuum had begun
};

inline constexpr uint8_t kInFreeList = 1;

struct Opaque {
    BlockNumber next;
    uint8_t kind;
    uint8_t flags;
    uint16_t page_id;
};
static_assert(sizeof(Opaque) == 8);

inline constexpr size_t kPageBegin = MAXALIGN(SizeOfPageHeaderData);
inline constexpr size_t kPageEnd = BLCKSZ - sizeof(Opaque);
inline constexpr size_t kPageRoom = kPageEnd - kPageBegin;
inline constexpr size_t kItemRoom = (kPageRoom - sizeof(ItemIdData)) / MAXIMUM_ALIGNOF * MAXIMUM_ALIGNOF;  // the largest item

// Node flags. The high half is a mark: a slot that was never used has none.
inline constexpr uint8_t kNodeMark = 0xA0;
inline constexpr uint8_t kNodeMarkMask = 0xF0;
inline constexpr uint8_t kNodeDead = 1;     // no heap tuple any more: leads on, is no answer; vacuum will free it
inline constexpr uint8_t kNodePending = 2;  // its insertion has not made all its links yet (or never did: crash); takes no tuples

inline constexpr int kInlineTids = 4;

// What a search looks at, flags and code, lies together.
struct NodeHeader {
    uint64_t hash;  // keyed hash of the vector's bytes
    ItemPointerData tids[kInlineTids];
    ItemPointerData more_tids;  // invalid if there are none
    ItemPointerData payload;    // code and second level kept apart; invalid if neither is
    ItemPointerData upper;      // its links above level 0; invalid on level 0
    uint8_t tid_count;
    uint8_t level;
    uint8_t links;
    uint8_t flags;  // 0: free slot
    uint16_t unused;
};
static_assert(sizeof(ItemPointerData) == 6 && sizeof(NodeHeader) == 56 && offsetof(NodeHeader, flags) == 53);

struct UpperHeader {
    uint32_t node;
    uint32_t level;
};
static_assert(sizeof(UpperHeader) == 8);

struct TidsHeader {
    ItemPointerData next;
    uint16_t count;
    uint32_t node;    // whose chain this is
    uint32_t number;  // greater than that of the next item: a reader between two items knows what it has had
};
static_assert(sizeof(TidsHeader) == 16);
inline constexpr size_t kMaxTidsPerItem = (kItemRoom - sizeof(TidsHeader)) / sizeof(ItemPointerData);

struct PayloadHeader {
    ItemPointerData next;
    uint16_t bytes;
    uint32_t node;  // whose payload this is
    uint32_t hash;  // and the low half of its hash: of the vector that it is made of
};
static_assert(sizeof(PayloadHeader) == 16);
inline constexpr size_t kMaxPayloadPerItem = (kItemRoom - sizeof(PayloadHeader)) / 8 * 8;

inline constexpr uint32_t kDirectoryEntries = 1024;
inline constexpr uint32_t kMaxDirectoryPages = 1024;

struct BucketHeader {
    uint32_t depth;
    uint32_t count;
};
struct BucketEntry {
    uint32_t hash;
    uint32_t node;
};
inline constexpr uint32_t kBucketEntries = (kPageRoom - sizeof(BucketHeader)) / sizeof(BucketEntry);

struct MetaPage {
    uint32_t magic;
    uint32_t version;
    uint32_t dim;
    uint16_t m;
    uint16_t ef_construction;
    uint8_t codec;
    uint8_t scalar;
    uint8_t metric;
    uint8_t hash_depth;  // directory size is 2^depth; 0 with no directory page: no directory yet
    uint32_t entry;      // node id, kNoNode while the graph is empty
    uint64_t hash_seed;
    int32_t entry_level;
    uint32_t model_bytes;     // 0: the model of no sample
    BlockNumber model_first;  // chain of model pages
    uint32_t directory_pages;
    BlockNumber free_list[kPageKinds];
    float scored_base;  // distances evaluated by a search, measured when the index was built: base + slope * ef
    float scored_slope;
    uint64_t built_nodes;
    uint64_t free_epoch;  // how often vacuum has freed nodes: a search during which it changes is repeated
    BlockNumber directory[kMaxDirectoryPages];
    uint8_t linking;  // Linking; 0 in indexes older than it
    uint8_t paths;    // Paths
    uint8_t unused[2];
    uint32_t checksum;  // of what never changes (seal_meta); 0 in indexes older than it
    uint32_t model_checksum;
    uint32_t unused_too;
};
static_assert(sizeof(MetaPage) == 4224 && sizeof(MetaPage) <= kPageRoom);

inline Opaque *opaque_of(char *page) { return reinterpret_cast<Opaque *>(page + kPageEnd); }
inline const Opaque *opaque_of(const char *page) { return reinterpret_cast<const Opaque *>(page + kPageEnd); }
inline MetaPage *meta_of(char *page) { return reinterpret_cast<MetaPage *>(page + kPageBegin); }
inline const MetaPage *meta_of(const char *page) { return reinterpret_cast<const MetaPage *>(page + kPageBegin); }

// What follows from the meta page and never changes in an index's life.
struct Shape {
    uint32_t dim;
    uint32_t m;
    uint32_t ef_construction;
    CodecId codec;
    Scalar scalar;
    Metric metric;
    Linking linking;
    uint32_t code_bytes;    // first level; 0: varies from vector to vector
    uint32_t second_bytes;  // second level, in the payload
    bool apart;             // the first level is in the payload too
    uint32_t links_offset;  // within a node
    uint32_t node_size;
    uint32_t per_page;
    uint64_t hash_seed;
    uint32_t model_bytes;

    uint32_t max_links(int level) const { return level == 0 ? 2 * m : m; }
    // Links are chosen by another distance than queries ask by.
    bool links_by_direction() const { return linking == Linking::direction || (metric == Metric::ip && scalar == Scalar::sparse); }
    BlockNumber block_of(uint32_t node) const { return node / per_page; }
    size_t offset_of(uint32_t node) const { return kPageBegin + static_cast<size_t>(node % per_page) * node_size; }
    uint32_t node_at(BlockNumber block, uint32_t slot) const { return block * per_page + slot; }
    size_t upper_size(int level) const { return sizeof(UpperHeader) + static_cast<size_t>(level) * (1 + m) * sizeof(uint32_t); }
    bool has_payload() const { return apart || second_bytes > 0; }
    size_t most_payload() const
    {
        const size_t varying = sizeof(uint32_t) + size_t{kMaxSparseNnz} * (sizeof(int32_t) + sizeof(float));
        return (!apart ? 0 : code_bytes > 0 ? code_bytes : varying) + second_bytes;
    }
};

inline NodeHeader *node_in(char *page, const Shape &s, uint32_t node)
{
    return reinterpret_cast<NodeHeader *>(page + s.offset_of(node));
}
inline const NodeHeader *node_in(const char *page, const Shape &s, uint32_t node)
{
    return reinterpret_cast<const NodeHeader *>(page + s.offset_of(node));
}
inline uint32_t *links_of(NodeHeader *n, const Shape &s)
{
    return reinterpret_cast<uint32_t *>(reinterpret_cast<char *>(n) + s.links_offset);
}
inline const uint32_t *links_of(const NodeHeader *n, const Shape &s)
{
    return reinterpret_cast<const uint32_t *>(reinterpret_cast<const char *>(n) + s.links_offset);
}
inline uint8_t *code_of(NodeHeader *n) { return reinterpret_cast<uint8_t *>(n + 1); }
inline const uint8_t *code_of(const NodeHeader *n) { return reinterpret_cast<const uint8_t *>(n + 1); }
inline bool node_used(const NodeHeader *n) { return (n->flags & kNodeMarkMask) == kNodeMark; }
inline bool node_pending(const NodeHeader *n) { return n->flags & kNodePending; }
inline bool node_answers(const NodeHeader *n) { return (n->flags & (kNodeMarkMask | kNodeDead)) == kNodeMark; }

// The list of one level in an upper item: [0] is the count.
inline uint32_t *upper_list(UpperHeader *u, const Shape &s, int level)
{
    return reinterpret_cast<uint32_t *>(u + 1) + static_cast<size_t>(level - 1) * (1 + s.m);
}
inline const uint32_t *upper_list(const UpperHeader *u, const Shape &s, int level)
{
    return reinterpret_cast<const uint32_t *>(u + 1) + static_cast<size_t>(level - 1) * (1 + s.m);
}

}  // namespace vkv::hnsw
