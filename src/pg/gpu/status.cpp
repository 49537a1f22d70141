// kv.gpu_status(), kv.gpu_stats, kv.gpu_session and kv.reset_gpu_stats(): what people see of the helper.

#include <string>

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/gpu/helper.h"
#include "pg/gpu/settings.h"
#include "pg/gpu/shared.h"

namespace vkv::helper {

namespace {

// A row, column by column.
template <int kColumns>
struct Row {
    Datum values[kColumns] = {};
    bool nulls[kColumns] = {};
    int n = 0;

    void add(Datum value) { values[n++] = value; }
    void none() { nulls[n++] = true; }
    void text(const char *value)
    {
        if (value == nullptr || value[0] == '\0')
            none();
        else
            add(CStringGetTextDatum(value));
    }
    void count(uint64_t value) { add(Int64GetDatum(static_cast<int64>(value))); }
    void count_if(bool known, uint64_t value)
    {
        if (known)
            count(value);
        else
            none();
    }
    void milliseconds(uint64_t us) { add(Float8GetDatum(static_cast<double>(us) * 1e-3)); }
    void time(TimestampTz value)
    {
        if (value == 0)
            none();
        else
            add(TimestampTzGetDatum(value));
    }
    Datum made(FunctionCallInfo fcinfo)
    {
        TupleDesc desc;
        if (get_call_result_type(fcinfo, nullptr, &desc) != TYPEFUNC_COMPOSITE) elog(ERROR, "return type must be a row type");
        if (desc->natts != n) elog(ERROR, "the row has %d columns, its type %d", n, desc->natts);
        return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
    }
};

struct Seen {
    Record record;
    offload::ArenaHeader arena;
};

// The supervisor is a client of the helper as well; its connection and its area are none of the user's.
constexpr uint64_t kOwnSlabs = offload::kFirstArea / offload::kSlabBytes;
uint64_t without(uint64_t all, uint64_t own) { return all > own ? all - own : 0; }

const char *setting_name() { return GetConfigOption("vectorkv.gpu", false, false); }

constexpr int kStatusColumns = 20;

Seen look()
{
    refresh();
    Seen seen{};
    if (shared() == nullptr) return seen;
    const Locked locked(LW_SHARED);
    seen.record = shared()->record;
    seen.arena = shared()->arena;
    return seen;
}

constexpr int kCounterColumns = 19;

struct Sums {
    Counters counters;
    uint64_t restarts, answered, waited_us, failures;
    TimestampTz since;
};

Sums sums()
{
    Sums s{};
    if (shared() == nullptr) return s;
    {
        const Locked locked(LW_SHARED);
        s.counters = shared()->ended;
        add(&s.counters, counters_of(shared()->arena));
        subtract(&s.counters, shared()->baseline);
        s.restarts = shared()->record.restarts - shared()->baseline_restarts;
        s.since = shared()->counted_since;
    }
    s.answered = pg_atomic_read_u64(&shared()->answered);
    s.waited_us = pg_atomic_read_u64(&shared()->waited_us);
    for (int i = 0; i < kFailures; ++i) s.failures += pg_atomic_read_u64(&shared()->causes[i]);
    return s;
}

// {"lost": 2, "slower": 17}; of names that need no escapes.
Datum causes_json()
{
    StringInfoData text;
    initStringInfo(&text);
    appendStringInfoChar(&text, '{');
    for (int i = 0; shared() != nullptr && i < kCauses; ++i) {
        const uint64_t n = pg_atomic_read_u64(&shared()->causes[i]);
        if (n == 0) continue;
        appendStringInfo(&text, "%s\"%s\": " UINT64_FORMAT, text.len > 1 ? ", " : "", cause_name(static_cast<Cause>(i)), n);
    }
    appendStringInfoChar(&text, '}');
    return DirectFunctionCall1(jsonb_in, CStringGetDatum(text.data));
}

}  // namespace

// Frames here hold trivial locals only.
SQL_FUNCTION(kv_gpu_status)
{
    const Seen seen = look();
    const Record &r = seen.record;
    const offload::ArenaHeader &a = seen.arena;
    const bool loaded = shared() != nullptr, ready = loaded && r.state == State::ready;
    const bool cpu = ready && pg_atomic_read_u32(&shared()->cpu_device) != 0;
    Row<kStatusColumns> row;
    row.text(setting_name());
    row.text(loaded ? state_name(r.state) : "absent");
    row.text(loaded ? r.reason : "vector is not in shared_preload_libraries");
    row.text(ready ? a.device : nullptr);
    row.text(!ready ? nullptr : cpu ? "cpu" : "cuda");
    if (loaded && r.pid != 0)
        row.add(Int32GetDatum(r.pid));
    else
        row.none();
    row.time(r.since);
    row.time(r.retry_at);
    row.count_if(loaded, r.restarts);
    row.text(r.last_error);
    row.count_if(ready, a.slots * offload::kSlabBytes);
    row.count_if(ready, a.slots);
    row.count_if(ready, a.slots_used);
    row.count_if(ready, a.arena_bytes);
    row.count_if(ready, without(a.slabs_used, kOwnSlabs) * offload::kSlabBytes);
    row.count_if(ready, without(a.clients, 1));
    row.count_if(ready, a.tables);
    row.count_if(ready, a.launch_ns);
    row.count_if(ready, a.bytes_per_second);
    row.count_if(ready, a.staging_per_second);
    return row.made(fcinfo);
}

SQL_FUNCTION(kv_gpu_counters)
{
    refresh();
    const Sums s = sums();
    const Counters &c = s.counters;
    Row<kCounterColumns> row;
    row.count(c.requests);
    row.count(c.batches);
    if (c.batches > 0)
        row.add(Float8GetDatum(static_cast<double>(c.requests) / static_cast<double>(c.batches)));
    else
        row.none();
    row.count(c.launches);
    row.count(c.hits);
    row.count(c.misses);
    row.count(c.evictions);
    row.count(c.staged_bytes);
    row.count(c.tile_bytes);
    row.milliseconds(c.queue_us);
    row.milliseconds(c.device_us);
    row.count(c.failed + c.expired);
    row.count(c.dropped);
    row.count(s.answered);
    row.milliseconds(s.waited_us);
    row.count(s.failures);
    row.add(causes_json());
    row.count(s.restarts);
    row.time(s.since);
    return row.made(fcinfo);
}

SQL_FUNCTION(kv_reset_gpu_stats)
{
    if (shared() == nullptr) PG_RETURN_VOID();
    refresh();
    {
        const Locked locked(LW_EXCLUSIVE);
        shared()->baseline = shared()->ended;
        add(&shared()->baseline, counters_of(shared()->arena));
        shared()->baseline_restarts = shared()->record.restarts;
        shared()->counted_since = GetCurrentTimestamp();
    }
    pg_atomic_write_u64(&shared()->answered, 0);
    pg_atomic_write_u64(&shared()->waited_us, 0);
    for (pg_atomic_uint64 &cause : shared()->causes) pg_atomic_write_u64(&cause, 0);
    PG_RETURN_VOID();
}

SQL_FUNCTION(kv_gpu_session)
{
    const SessionFigures &f = session_figures();
    Row<11> row;
    row.count(f.requests);
    row.count(f.batches);
    row.count(f.tiles);
    row.count(f.cached);
    row.count(f.staged);
    row.count(f.tile_bytes);
    row.milliseconds(f.device_us);
    row.milliseconds(f.waited_us);
    row.count(f.on_cpu);
    row.text(f.last_reason);
    row.text(session_line());
    return row.made(fcinfo);
}

}  // namespace vkv::helper
