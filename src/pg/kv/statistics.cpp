// Counters of the session, in plain memory: no lock, nothing to clean up. A call that fails is not counted.

#include "pg/kv/statistics.h"

#include "core/simd/kernels.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"

namespace vkv::kv {

namespace {

using Clock = std::chrono::steady_clock;

struct Counter {
    const char *name;
    uint64_t calls, sequences, tokens, tiles, bytes;
    double milliseconds;
    Work last;
    double last_milliseconds;
    int64_t begun;
};

Counter counters[] = {
    {"attend", 0, 0, 0, 0, 0, 0, {}, 0, 0}, {"append", 0, 0, 0, 0, 0, 0, {}, 0, 0}, {"fetch", 0, 0, 0, 0, 0, 0, {}, 0, 0}};

int64_t now() { return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count(); }

}  // namespace

StatTimer::StatTimer(Operation operation) { counters[static_cast<int>(operation)].begun = now(); }

void count_work(Operation operation, const Work &work)
{
    Counter &c = counters[static_cast<int>(operation)];
    c.last = work;
    c.last_milliseconds = static_cast<double>(now() - c.begun) * 1e-6;
    ++c.calls;
    c.sequences += work.sequences;
    c.tokens += work.tokens;
    c.tiles += work.tiles;
    c.bytes += work.bytes;
    c.milliseconds += c.last_milliseconds;
}

SQL_FUNCTION(kv_session_stats)
{
    compat::init_materialized(fcinfo);
    auto *info = reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo);
    char backend[32];
    snprintf(backend, sizeof backend, "cpu %s", simd::level_name(simd::active_level()));
    for (const Counter &c : counters) {
        auto count = [](uint64_t n) { return Int64GetDatum(static_cast<int64>(n)); };
        Datum values[] = {CStringGetTextDatum(c.name),
                          count(c.calls),
                          count(c.sequences),
                          count(c.tokens),
                          count(c.tiles),
                          count(c.bytes),
                          Float8GetDatum(c.milliseconds),
                          count(c.last.tokens),
                          count(c.last.tiles),
                          count(c.last.bytes),
                          Float8GetDatum(c.last_milliseconds),
                          CStringGetTextDatum(backend)};
        bool nulls[12] = {};
        tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
    }
    return 0;
}

SQL_FUNCTION(kv_reset_stats)
{
    for (Counter &c : counters) c = Counter{c.name, 0, 0, 0, 0, 0, 0, {}, 0, c.begun};
    PG_RETURN_VOID();
}

}  // namespace vkv::kv
