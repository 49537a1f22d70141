// What backends and the helper program say to each other: 32-byte messages over a Unix socket (SOCK_SEQPACKET), and requests in a
// memory that both map.
//
// The helper makes the arena (an anonymous file, so that nothing is left behind when it dies), listens, and hands every client the
// arena's descriptor and an area of it. The arena is divided into slabs of 8 KiB; an area is a run of them. The helper alone says
// who owns a slab, in memory of its own, so a client can neither lose nor steal one: what it owned is free when its socket closes
// and nothing of it is running any more. One request of a client is under way at a time.
//
//   client                                      helper
//   hello (version, pid)                   ->
//                                          <-   welcome (arena's bytes and descriptor, area's offset and bytes)
//   area (bytes)                           ->                                        only for a request that needs more room
//                                          <-   area_granted (offset, bytes) | failed
//   submit (bytes of the request)          ->
//                                          <-   need (count of Need records)         tiles or entries that the helper lacks
//   staged | submit                        ->                                        slabs are filled | entries were added
//                                          <-   done | failed (Failure)
//
// A client that no longer wants the answer closes its socket; what is queued is dropped, what runs is finished and forgotten. The
// end of the helper is the end of the socket, too: the client computes the answer itself.
//
// Requests of attention name tiles by content id, never by what they hold: the client has read the rows that carry the ids under
// its own snapshot and privileges. What the helper remembers under an id never changes. Nothing here is trusted by the helper: it
// copies a request before it reads it, and checks every count, offset and tile.
#pragma once
#include <cstddef>
#include <cstdint>

namespace vkv::offload {

inline constexpr uint32_t kVersion = 1;
inline constexpr size_t kSlabBytes = 8192;        // holds one tile, varlena word included; slots of the device's cache are as large
inline constexpr size_t kFirstArea = 256 * 1024;  // of a new client
inline constexpr size_t kAlignment = 64;          // of everything a request points to, from the area's start
inline constexpr uint32_t kMostClients = 4096;
inline constexpr uint32_t kMostRows = 1u << 20;  // of queries that share a head, in a request

enum class Verb : uint32_t {
    hello = 1,  // a: kVersion, b: process id
    area,    // a: bytes wanted for the next request; also in answer to a need of entries, which ends that request. The larger area
             // is taken back by the next submit or area after that request; 0 bytes: it is given back now, without an answer
    submit,  // a: bytes of the request
    staged,  // the slabs that `need` named are filled
    ping,    // a: anything; answered at once by `pong`, also while requests run
    stall,   // only with --faults: see Fault

    welcome = 32,  // a: arena bytes, b: area offset, c: area bytes; the arena's descriptor comes with it (SCM_RIGHTS)
    area_granted,  // a: offset, b: bytes
    need,    // a: count of Need records at RequestHeader::needs_at, all of one kind; b: how many tiles will be asked for later
    done,    // the answer is in place
    failed,  // a: FailureCode; the text is in RequestHeader::failure
    pong,    // a: as in ping, b: microseconds that the oldest running launch has taken so far (0: nothing runs), c: launches
};

struct Message {
    Verb verb;
    uint32_t reserved;
    uint64_t a, b, c;
};
static_assert(sizeof(Message) == 32);

enum class FailureCode : uint32_t {
    none = 0,
    malformed,      // the request cannot be read: a fault of the client
    not_supported,  // this device has no kernel for the geometry, codec or option
    too_large,      // more tiles than the cache or more bytes than the arena can ever hold
    no_room,        // no room in the arena at present
    expired,        // the deadline passed before the request ran
    bad_tile,       // a staged tile is damaged or is not the one that was named
    device,         // the device failed; the helper ends after it has said so
};

enum class Kind : uint32_t { attend = 1, nearest = 2 };

// What tests may ask of a helper that was started with --faults.
enum class Fault : uint32_t { none = 0, hang, crash, device_error, slow };

// Of an answered request: what the helper did for it.
struct Figures {
    uint32_t batch;         // requests that were launched together with it
    uint32_t launches;      // of kernels
    uint64_t tiles, hits;   // tiles it asked for, and those that were in the cache
    uint64_t staged_bytes;  // copied through slabs
    uint64_t tile_bytes;    // read by kernels
    uint64_t queued_us, staged_us, device_us;
};

// At the start of the area. The helper writes needs, figures, failure and the states, nothing else.
struct RequestHeader {
    uint32_t version;
    Kind kind;
    Fault fault;
    uint32_t reserved;
    uint64_t deadline_us;  // CLOCK_MONOTONIC; 0: none
    uint64_t bytes;        // of the request, all parts; at most the area
    uint64_t needs_at;     // room for Need records
    uint32_t needs_room;   // records
    uint32_t reserved2;
    Figures figures;
    char failure[128];
};

// A batch of attention. Every query row sees tiles of one item only. Parts lie at multiples of kAlignment from the area's start.
struct AttendRequest {
    RequestHeader header;
    uint32_t kv_heads, rows, q_len;  // rows of queries that share a KV head; the last q_len-many query positions of each query head
    uint32_t dim_k, dim_v, tile_flags;  // as kv::TileView::flags
    float scale, softcap;
    uint32_t causal;
    int32_t window, sinks;  // window 0: none
    uint32_t items, spans, entries;
    uint64_t items_at, spans_at, entries_at;
    uint64_t queries_at;  // float [items][kv_heads][rows][dim_k], finite
    uint64_t states_at;   // float [items][kv_heads] of {m [rows], l [rows], o [rows][dim_v]}: written by the helper
};

// The queries of one layer of one sequence.
struct Item {
    uint32_t first_span, spans;
    int32_t total;  // tokens of the sequence with those not stored yet: what the newest query position follows from (kv/sight.h)
    uint32_t reserved;
};

enum SpanFlags : uint32_t {
    // The span's tiles, and those of every other position of the extent below `to`, belong to committed rows; the helper may keep a
    // table of (space, extent, layer), so that later requests name the span only.
    kShared = 1,
};

// Tiles of an extent that cover positions [from, to) of the sequence without a gap, all KV heads. A tile may begin before `from`
// or end behind `to`; what lies outside does not count. Entries brought along cover [entries_from, to): a shared span need not
// bring those that the helper's table has.
struct Span {
    uint64_t space;  // what tells apart extents of the same number: database and file of the table
    uint64_t extent;
    uint32_t layer, flags;
    int32_t from, to;
    int32_t entries_from;
    uint32_t first_entry, entries;
    uint32_t reserved;
};

// A tile: in order of `first`, then head.
struct Entry {
    uint64_t id;
    int32_t first;
    uint16_t tokens, head;
};
static_assert(sizeof(Entry) == 16 && sizeof(Span) == 48 && sizeof(Item) == 16);

enum class Wanted : uint32_t { entries = 1, tile = 2 };

// entries: the table of span `span` knows tiles below position `first` only; submit again with entries_from <= first.
// tile: copy this tile to the slab at `slab_at` of the arena. Its content id, from the entry or the table, is `id`.
struct Need {
    Wanted wanted;
    uint32_t span;
    uint64_t id;
    uint64_t slab_at;
    int32_t first;
    uint16_t head, tokens;
};
static_assert(sizeof(Need) == 32);

enum class Metric : uint32_t { l2_squared = 1, negative_inner_product = 2, l1 = 3 };

// The k nearest of `rows` vectors to each of `queries` vectors, exactly.
struct NearestRequest {
    RequestHeader header;
    Metric metric;
    uint32_t dim, queries, rows, k;
    uint32_t reserved;
    uint64_t queries_at;  // float [queries][dim]
    uint64_t vectors_at;  // float [rows][dim]
    uint64_t results_at;  // Neighbor [queries][k], nearest first, ties by row; row UINT32_MAX where there are fewer than k
};

struct Neighbor {
    float distance;
    uint32_t row;
};

// At the arena's start: counters that anybody may read, written by the helper (each is a 64-bit atomic).
struct ArenaHeader {
    uint64_t version, arena_bytes, helper_pid;
    char device[96];  // its name, zero-terminated
    uint64_t slots, slots_used, slabs, slabs_used, clients, tables;
    uint64_t requests, batches, launches, hits, misses, evictions, staged_bytes, tile_bytes;
    uint64_t queue_us, device_us, expired, failed, dropped;  // dropped: the client had gone
    // Measured when the helper started: what `auto` compares with the backend's own speed.
    uint64_t launch_ns;           // of a request whose tiles are cached, from the socket to the answer, smallest batch
    uint64_t bytes_per_second;    // of tiles, a large batch
    uint64_t staging_per_second;  // bytes from slabs to the cache
};

}  // namespace vkv::offload
