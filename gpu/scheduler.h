// Leads requests from a client's submit to its answer. Belongs to the helper's main thread.
//
//   submit -> queued -> (entries) -> staging -> (waiting) -> ready -> running -> answered
//
// Admission is in order of arrival: everything that a request needs is pinned and every slot that it lacks is taken before its
// first tile is asked for, so two requests never wait for each other's half. Slabs are lent in rounds, as they are free. A launch
// takes whatever is ready when the one before has ended.
//
// What a client holds is freed when nothing of it is copied or launched any more, whatever became of the client.
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "gpu/arena.h"
#include "gpu/device_thread.h"
#include "gpu/jobs.h"
#include "gpu/page_tables.h"
#include "gpu/peer.h"
#include "gpu/slab_pool.h"
#include "gpu/tile_cache.h"

namespace vkv::gpu {

struct SchedulerOptions {
    uint32_t max_launch_tiles = 65536;
    uint64_t batch_wait_us = 0;
    bool faults = false;
};

class Scheduler {
public:
    Scheduler(Device *device, Arena *arena, const SchedulerOptions &options);
    ~Scheduler();

    // Messages of clients. Throw Failure.
    void hello(Peer *peer);
    bool area(Peer *peer, uint64_t bytes);  // false: nothing is to be answered
    void submit(Peer *peer, uint64_t bytes);
    void staged(Peer *peer);
    // True when a message has to wait until the device is done with the peer's last request.
    static bool busy(const Peer &peer);
    // The client has gone. release() says whether it is forgotten, too.
    void leave(Peer *peer);
    bool release(Peer *peer);

    // Everything that can go on goes on. To be called when done_event() can be read, next_wake_us() has come, and after messages.
    void turn();
    int done_event() const { return done_event_; }
    uint64_t next_wake_us() const;  // CLOCK_MONOTONIC; UINT64_MAX: nothing to wait for

    uint64_t running_us() const { return running_since_ ? now_us() - running_since_ : 0; }
    bool running() const { return running_since_ != 0; }
    bool device_failed() const { return !device_error_.empty(); }
    const std::string &device_error() const { return device_error_; }
    // Peers whose request ended in a turn and who may go on (or be released).
    std::vector<Peer *> take_settled() { return std::exchange(settled_, {}); }
    void stop_launching() { stopping_ = true; }
    void show_counters(uint64_t clients);

private:
    // admission.cpp
    void admit_queued();
    bool admit(Request *r);
    bool find_tables(Request *r);
    struct Missing {
        uint32_t span;
        offload::Entry entry;
        Table *table;
        uint32_t index;
    };
    // What a request lacks, and whether others are filling something that it needs. Marks what is missing as reserved.
    struct Scan {
        std::vector<Missing> missing;
        bool filling = false;
        uint64_t tiles = 0, hits = 0;
    };
    Scan scan(Request *r);
    void scan_table(const Request &r, uint32_t span, Scan *out);
    void scan_private(Request *r, uint32_t span, Scan *out);
    void take_slots(Request *r, const Scan &found);
    void give_up_reserved(const Scan &found);
    [[noreturn]] void refuse_for_size(const Scan &found) const;
    void trim(const Request &r);
    void ask_for_entries(Request *r, const std::vector<offload::Need> &needs);
    void unpin(Request *r);

    // staging.cpp
    void lend(Request *r);
    void lend_slabs();
    void collect_copies();
    void finish_round(CopyRound *round);
    void give_back(std::vector<uint32_t> *slabs);
    void drop_unfilled(Request *r);

    // batches.cpp
    void collect_launches();
    void count(const Launch &launch);
    void launch_ready();
    void add_to(Launch *launch, Request *r);
    std::vector<Segment> add_slots(Request *r, AttendBatch *batch, Geometry *geometry);
    static void add_heads(const Request &r, uint32_t geometry, const std::vector<Segment> &of_spans, AttendBatch *batch);

    void make_ready(Request *r);
    void expire(uint64_t now);
    void fail(Request *r, offload::FailureCode code, const std::string &text);
    void end(Request *r);
    void finish(Request *r);
    void remove_from_queues(Request *r);
    void free_area(Area *area);
    Area take_area(uint64_t bytes);

    Device *device_;
    Arena *arena_;
    SchedulerOptions options_;
    SlabPool slabs_;
    TileCache cache_;
    PageTables tables_;
    std::deque<Request *> queued_, lenders_, waiting_, ready_;
    std::vector<Request *> asked_;  // for entries, or for tiles
    std::vector<Peer *> settled_;
    uint64_t next_deadline_us_ = UINT64_MAX;
    uint64_t running_since_ = 0;
    bool stopping_ = false, tiles_changed_ = false;
    std::string device_error_;
    int done_event_;
    std::unique_ptr<DeviceThread<CopyRound>> copier_;
    std::unique_ptr<DeviceThread<Launch>> launcher_;
};

}  // namespace vkv::gpu
