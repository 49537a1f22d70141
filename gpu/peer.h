// A client as the helper knows it, and the one request that it may have under way.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "gpu/page_tables.h"
#include "gpu/request.h"
#include "gpu/slab_pool.h"

namespace vkv::gpu {

struct Peer;

// A tile that the client has to bring.
struct Fill {
    uint32_t slot = kNoSlot, span = 0;
    offload::Entry entry{};
};

enum class Stage {
    queued,   // for room in the cache
    entries,  // the client was asked for entries
    staging,  // slots are taken, the client brings tiles or they are copied
    waiting,  // for tiles that another request brings
    ready,
    running,
    ended,  // answered, but copies are under way
};

struct Request {
    Peer *peer = nullptr;
    uint8_t *area = nullptr;
    Stage stage = Stage::queued;
    offload::RequestHeader header{};
    AttendParts parts;
    offload::NearestRequest nearest{};
    TileKind kind;
    int rounds_of_entries = 0;

    // What it has pinned. tables [spans]: null for a private span; its slots begin at private_slots[private_at[span * heads +
    // head]], with kNoSlot for a tile that is not there yet.
    std::vector<Table *> tables;
    std::vector<uint32_t> private_slots, private_at;
    bool counted = false;  // its tiles and hits
    std::vector<Fill> fills;
    size_t asked = 0;      // of fills: the client was asked for
    uint32_t copying = 0;  // rounds that the copier has

    uint64_t tiles = 0, hits = 0, staged_bytes = 0, tile_bytes = 0;
    uint64_t submitted_us = 0, needed_us = 0, ready_us = 0;

    bool is_attend() const { return header.kind == offload::Kind::attend; }
    uint32_t heads() const { return parts.head.kv_heads; }
};

struct Area {
    uint32_t first = 0, slabs = 0;
};

struct Peer {
    int fd = -1;
    pid_t pid = 0;
    bool greeted = false;
    bool gone = false;  // its socket is at its end; kept while the device works for it
    bool own = false;   // the helper measures itself: not counted, and its tiles go with it
    Area first, large;
    bool large_used = false;  // a request has lain in the large area
    std::unique_ptr<Request> request;
    bool owes = false;                  // an answer to a need
    std::vector<uint32_t> lent;         // slabs that this need named
    std::vector<Fill> lent_for;         // what is to be in them
    std::deque<offload::Message> held;  // came while the device worked for the request before
    std::vector<uint64_t> brought;      // ids of private tiles, of `own` only
};

// Sends a message to a client; false: it does not read, or has gone.
bool send_message(int fd, const offload::Message &message);

}  // namespace vkv::gpu
