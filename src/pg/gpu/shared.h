// What the supervisor tells everybody about the helper, and what backends count about it, in shared memory. There is none where the
// library is not in shared_preload_libraries.
//
// The supervisor alone writes `record` and the counters of helpers, under the lock. The rest is atomic.
#pragma once
#include <cstdint>

#include "core/offload/protocol.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"

namespace vkv::helper {

// Relative to the data directory. Base backups leave out what is in this folder, and would warn of a socket elsewhere.
inline constexpr const char *kSocketPath = "pg_stat_tmp/vectorkv.sock";

enum class State : int { off, starting, ready, waiting, no_device };
const char *state_name(State state);

// Why a call was not answered by the helper, though vectorkv.gpu is not off.
enum class Cause : int {
    not_running,  // it is starting or waits to be started again, or there is no device
    unreachable,
    busy,    // the session waits for it already
    paused,  // it kept this session waiting too long a short while ago
    lost,
    timed_out,
    expired,
    not_supported,
    too_large,
    no_room,
    bad_tile,
    malformed,
    device,
    // What auto decides is no failure.
    unmeasured,
    slower,
    cpu_device,
};
inline constexpr int kCauses = static_cast<int>(Cause::cpu_device) + 1;
inline constexpr int kFailures = static_cast<int>(Cause::unmeasured);
const char *cause_name(Cause cause);  // in kv.gpu_stats
const char *cause_text(Cause cause);  // for people

// Counters of helpers, as in ArenaHeader.
struct Counters {
    uint64_t requests, batches, launches, hits, misses, evictions, staged_bytes, tile_bytes, queue_us, device_us, expired, failed,
        dropped;
};
Counters counters_of(const offload::ArenaHeader &arena);
void add(Counters *sum, const Counters &more);
void subtract(Counters *sum, const Counters &less);

struct Record {
    State state;
    int pid;               // 0: none runs
    uint64_t generation;   // of the helper that is ready or was last
    TimestampTz since;     // of this state
    TimestampTz retry_at;  // 0: not planned
    uint64_t restarts;
    char reason[256];      // why none is ready
    char last_error[256];  // what the last helper ended of, or the last error it said
};

struct Shared {
    LWLock *lock;
    Record record;
    Counters ended, baseline;    // of helpers that have ended; what kv.reset_gpu_stats() saw
    offload::ArenaHeader arena;  // of the one that runs, as of the last refresh
    uint64_t baseline_restarts;
    TimestampTz counted_since;
    Latch *supervisor;

    pg_atomic_uint64 ready;       // generation of the helper that takes calls; 0: none
    pg_atomic_uint64 killed;      // of the one that was killed last: whoever waits for it waits for nothing
    pg_atomic_uint32 cpu_device;  // that helper has no GPU
    pg_atomic_uint64 refreshes_wanted, refreshes_done;
    ConditionVariable refreshed;
    pg_atomic_uint64 answered, waited_us;
    pg_atomic_uint64 causes[kCauses];
};

// Null where the library is not in shared_preload_libraries.
Shared *shared();

// In _PG_init, while the postmaster loads the library.
void request_shared_memory();

class Locked {
public:
    explicit Locked(LWLockMode mode) { LWLockAcquire(shared()->lock, mode); }
    ~Locked()
    {
        if (LWLockHeldByMe(shared()->lock)) LWLockRelease(shared()->lock);
    }
    Locked(const Locked &) = delete;
    Locked &operator=(const Locked &) = delete;
};

// Asks the supervisor for the helper's counters of this moment; gives up after a while.
void refresh();

uint32 wait_event();

}  // namespace vkv::helper
