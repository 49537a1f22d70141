// Makes and names what shared.h declares.

#include "pg/gpu/shared.h"

#include <iterator>

namespace vkv::helper {

namespace {

constexpr const char *kTranche = "vectorkv gpu";
constexpr int64_t kRefreshMs = 500;

Shared *memory = nullptr;
shmem_request_hook_type next_request = nullptr;
shmem_startup_hook_type next_startup = nullptr;

struct CauseWords {
    const char *name, *text;
};
constexpr CauseWords kCauseWords[] = {
    {"not_running", "the GPU helper is not running"},
    {"unreachable", "the GPU helper cannot be reached"},
    {"busy", "the session waits for the GPU helper already"},
    {"paused", "the GPU helper kept this session waiting too long"},
    {"lost", "the GPU helper was lost"},
    {"timed_out", "the GPU helper did not answer in time"},
    {"expired", "the GPU helper did not come to it in time"},
    {"not_supported", "the GPU helper does not support the call"},
    {"too_large", "the call is too large for the GPU helper"},
    {"no_room", "the GPU helper has no room"},
    {"bad_tile", "the GPU helper found a damaged tile"},
    {"malformed", "the GPU helper could not read the request"},
    {"device", "the device of the GPU helper failed"},
    {"unmeasured", "this session's own speed is not measured yet"},
    {"slower", "the CPU is faster for a call of this size"},
    {"cpu_device", "the GPU helper runs on the CPU"},
};
static_assert(std::size(kCauseWords) == kCauses);

constexpr uint64_t Counters::*kCounters[] = {
    &Counters::requests,  &Counters::batches,      &Counters::launches,   &Counters::hits,     &Counters::misses,
    &Counters::evictions, &Counters::staged_bytes, &Counters::tile_bytes, &Counters::queue_us, &Counters::device_us,
    &Counters::expired,   &Counters::failed,       &Counters::dropped};
static_assert(sizeof(Counters) == std::size(kCounters) * sizeof(uint64_t));

void on_request()
{
    if (next_request != nullptr) next_request();
    RequestAddinShmemSpace(sizeof(Shared));
    RequestNamedLWLockTranche(kTranche, 1);
}

void on_startup()
{
    if (next_startup != nullptr) next_startup();
    LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
    bool found;
    memory = static_cast<Shared *>(ShmemInitStruct("vectorkv gpu", sizeof(Shared), &found));
    if (!found) {
        memset(static_cast<void *>(memory), 0, sizeof(Shared));
        memory->lock = &GetNamedLWLockTranche(kTranche)->lock;
        memory->record.state = State::starting;
        memory->record.since = memory->counted_since = GetCurrentTimestamp();
        strlcpy(memory->record.reason, "the supervisor has not started it yet", sizeof memory->record.reason);
        pg_atomic_uint64 *atomics[] = {&memory->ready,          &memory->killed,   &memory->refreshes_wanted,
                                       &memory->refreshes_done, &memory->answered, &memory->waited_us};
        for (pg_atomic_uint64 *atomic : atomics) pg_atomic_init_u64(atomic, 0);
        pg_atomic_init_u32(&memory->cpu_device, 0);
        for (pg_atomic_uint64 &cause : memory->causes) pg_atomic_init_u64(&cause, 0);
        ConditionVariableInit(&memory->refreshed);
    }
    LWLockRelease(AddinShmemInitLock);
}

}  // namespace

Shared *shared() { return memory; }

void request_shared_memory()
{
    next_request = shmem_request_hook;
    shmem_request_hook = entry<on_request>;
    next_startup = shmem_startup_hook;
    shmem_startup_hook = entry<on_startup>;
}

const char *state_name(State state)
{
    switch (state) {
        case State::off:
            return "off";
        case State::starting:
            return "starting";
        case State::ready:
            return "ready";
        case State::waiting:
            return "waiting";
        case State::no_device:
            return "no device";
    }
    return "";
}

const char *cause_name(Cause cause) { return kCauseWords[static_cast<int>(cause)].name; }
const char *cause_text(Cause cause) { return kCauseWords[static_cast<int>(cause)].text; }

Counters counters_of(const offload::ArenaHeader &a)
{
    auto load = [](const uint64_t &n) { return __atomic_load_n(&n, __ATOMIC_RELAXED); };
    return {load(a.requests),  load(a.batches),      load(a.launches),   load(a.hits),     load(a.misses),
            load(a.evictions), load(a.staged_bytes), load(a.tile_bytes), load(a.queue_us), load(a.device_us),
            load(a.expired),   load(a.failed),       load(a.dropped)};
}

void add(Counters *sum, const Counters &more)
{
    for (auto member : kCounters) sum->*member += more.*member;
}

void subtract(Counters *sum, const Counters &less)
{
    for (auto member : kCounters) sum->*member -= less.*member;
}

uint32 wait_event()
{
    static uint32 event = 0;
    if (event == 0) event = compat::new_wait_event("VectorkvGpu");
    return event;
}

// Trivial locals only.
void refresh()
{
    if (memory == nullptr || pg_atomic_read_u64(&memory->ready) == 0) return;
    LWLockAcquire(memory->lock, LW_SHARED);
    Latch *supervisor = memory->supervisor;
    LWLockRelease(memory->lock);
    if (supervisor == nullptr) return;
    const uint64_t wanted = pg_atomic_add_fetch_u64(&memory->refreshes_wanted, 1);
    SetLatch(supervisor);
    ConditionVariablePrepareToSleep(&memory->refreshed);
    const TimestampTz until = GetCurrentTimestamp() + kRefreshMs * 1000;
    while (pg_atomic_read_u64(&memory->refreshes_done) < wanted) {
        const long left = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);
        if (left <= 0 || ConditionVariableTimedSleep(&memory->refreshed, left, wait_event())) break;
    }
    ConditionVariableCancelSleep();
}

}  // namespace vkv::helper
