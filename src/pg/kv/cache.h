// What a cache is: the row of kv.caches, looked up once a backend and kept until one of its tables changes.
//
//   NAME          one row a sequence: seq, length, sealed, epoch, forks (unused), extents[], stops[] and whatever the owner adds
//   NAME_sealed   extent, layer, head, pos, tile: tiles in the cache's codec; never updated
//   NAME_tail     extent, chunk, pos, kv: the newest tokens as packed halves, each token row_slots (layer, head) slots to a row
//   NAME_tile     the view over both
//
// Tokens 0 .. sealed-1 of a sequence are in tiles, sealed .. length-1 in the tail. Tiles belong to extents, and a sequence is a
// list of extents: extent i holds the tiles that start before stops[i] (and after the stop before it). The last extent is the
// sequence's own, with stop 2^31 - 1; the others came by kv.fork or were cut by kv.truncate. Within an extent there is at most one
// tile, ever, at a position of a head of a layer; what changes tokens that were there makes a new extent and a new epoch. So
// (extent, position) names content that never changes, and sequences share tiles by naming the same extents.
//
// No stop lies within a tile: a fork or a truncation there puts the tokens before it into a tile of the new extent, so that no
// sequence reaches tokens that are not its own.
//
// LOCKS: writers lock the header row of their sequence. A fork locks nothing, and tiles are freed without locks: naming.h.
#pragma once

#include "core/kv/rope.h"
#include "pg/kv/statements.h"
#include "pg/kv/trust.h"
#include "pg/kv/values.h"

namespace vkv::kv {

inline constexpr int32_t kOpenStop = INT32_MAX;

// Whom the tables were found to run nobody else's code for, and when; see owner_code.h.
struct Belief {
    Oid user;
    LocalTransactionId transaction;  // that locked the tables
    SubTransactionId subtransaction;
    uint64_t tables;  // changes of them
    TrustChanges trust;
    bool more;  // the user may do what an owner may not: the tables must stay locked

    bool is_of(const Belief &b) const { return user == b.user && tables == b.tables && trust == b.trust; }
    bool same_transaction(const Belief &b) const { return transaction == b.transaction && subtransaction == b.subtransaction; }
};

// For whom their triggers were found to do no more than they say, and which of header, sealed and tail he may change.
struct TriggerBelief {
    Oid user;
    uint64_t tables;
    TrustChanges trust;
    bool changes[3];
};

// Statements on a table above change a tail, too, and fire no trigger of it. The stamp is another one after each change of what it
// inherits.
struct TailParents {
    bool any;
    uint64_t stamp;
};

struct Cache {
    Oid header, sealed, tail, tiles;
    Oid tile_type;
    const char *name;                                // for messages
    const char *header_sql, *sealed_sql, *tail_sql;  // qualified and quoted
    uint32 schemas[3];                               // by the hashes that changes of them are told with
    int layers, q_heads, kv_heads, dim_k, dim_v;
    bool values_in_keys, before_rope, tail_logged;
    Codec codec;
    int tail_tokens, sink_tokens, row_slots;
    const char *model, *revision;  // null: not said
    const Rope *rope;              // null: none needed
    bool stale, in_doubt, said_rounding;
    TailParents parents;
    uint64_t changes;  // of the tables, as far as this backend has heard
    Belief believed;
    TriggerBelief triggers;
    SPIPlanPtr plans[kPlans];
    Cache *next_left;  // of those that wait to be freed; see cache.cpp

    int group() const { return q_heads / kv_heads; }
    int slots() const { return layers * kv_heads; }
    int slot_values() const { return dim_k + (values_in_keys ? 0 : dim_v); }
    int chunks() const { return (slots() + row_slots - 1) / row_slots; }
    uint8_t flags() const
    {
        return static_cast<uint8_t>((values_in_keys ? kValuesInKeys : 0) | (before_rope ? kKeysBeforeRope : 0));
    }
    TileShape shape(Codec c) const { return {c, flags(), dim_k, dim_v, kv_heads}; }
    // Tokens behind the newest that stay halves in the tail; halves are exact already in an f16 cache.
    int exact_tail() const { return codec == Codec::f16 ? 0 : tail_tokens; }
};

// Raises undefined_table, or wrong_object_type when the relation is no cache or its columns have other types than they were made
// with. Needs an SPI connection.
Cache *cache_of(Oid header);

// The tables alone, which may have been dropped; raises like cache_of when the relation is no cache.
struct CacheTables {
    Oid sealed, tail, tiles;
};
CacheTables tables_of(Oid header);

// Raises unless the caller's model, when it names one, is the cache's.
void check_model(const Cache *cache, const char *model, const char *revision);

// Tail rows hold at most this many bytes of values, so that one that cannot be packed fits a page: 8160 - tuple header 24 - key 16
// - header of a bytea 4 - of packed halves 8.
inline constexpr int kTailRowBytes = 8108;
int row_slots_for(int slots, int kv_heads, int slot_values);

}  // namespace vkv::kv
