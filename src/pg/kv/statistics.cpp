// Counters of the session, in plain memory: no lock, nothing to clean up. A call that fails is not counted.

#include "pg/kv/statistics.h"

#include "core/simd/kernels.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/gpu/helper.h"

namespace vkv::kv {

namespace {

using Clock = std::chrono::steady_clock;

// What the helper did.
struct Share {
    uint64_t requests = 0, tiles = 0, cached = 0, staged = 0, bytes = 0, device_us = 0, waited_us = 0;
};

struct Counter {
    const char *name = nullptr;
    uint64_t calls = 0, sequences = 0, tokens = 0, tiles = 0, bytes = 0;
    double milliseconds = 0;
    Share share = {};
    Work last = {};
    Share last_share = {};
    double last_milliseconds = 0;
    int64_t begun = 0;
    Share share_before = {};
};

Counter counters[] = {{"attend"}, {"append"}, {"fetch"}};

int64_t now() { return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch()).count(); }

Share share_now()
{
    const helper::SessionFigures &f = helper::session_figures();
    return {f.requests, f.tiles, f.cached, f.staged, f.tile_bytes, f.device_us, f.waited_us};
}

constexpr uint64_t Share::*kShares[] = {&Share::requests, &Share::tiles,     &Share::cached,   &Share::staged,
                                        &Share::bytes,    &Share::device_us, &Share::waited_us};

double milliseconds(uint64_t us) { return static_cast<double>(us) * 1e-3; }

void name_backend(const Counter &c, char (&name)[32])
{
    if (c.last_share.requests > 0)
        snprintf(name, sizeof name, "%s", helper::answered_by());
    else
        snprintf(name, sizeof name, "cpu %s", simd::level_name(simd::active_level()));
}

// The last call in one line: "attend: backend=helper cuda batches=3 tiles=4682 cached=4650 staged=32 read=38.0 MB device=0.04 ms
// wait=0.11 ms time=0.30 ms".
Datum line_of(const Counter &c)
{
    const Share &s = c.last_share;
    const uint64_t bytes = s.requests > 0 ? s.bytes : c.last.bytes;
    const double megabytes = static_cast<double>(bytes) * 1e-6;
    char read[200], backend[32];
    auto number = [](uint64_t n) { return static_cast<unsigned long long>(n); };
    if (s.requests > 0)
        snprintf(read, sizeof read, "batches=%llu tiles=%llu cached=%llu staged=%llu read=%.1f MB device=%.2f ms wait=%.2f ms",
                 number(s.requests), number(s.tiles), number(s.cached), number(s.staged), megabytes, milliseconds(s.device_us),
                 milliseconds(s.waited_us));
    else
        snprintf(read, sizeof read, "tiles=%llu read=%.1f MB", number(c.last.tiles), megabytes);
    name_backend(c, backend);
    char line[300];
    snprintf(line, sizeof line, "%s: backend=%s %s time=%.2f ms", c.name, backend, read, c.last_milliseconds);
    return CStringGetTextDatum(line);
}

}  // namespace

StatTimer::StatTimer(Operation operation)
{
    Counter &c = counters[static_cast<int>(operation)];
    c.begun = now();
    c.share_before = share_now();
}

void count_work(Operation operation, const Work &work)
{
    Counter &c = counters[static_cast<int>(operation)];
    c.last = work;
    c.last_milliseconds = static_cast<double>(now() - c.begun) * 1e-6;
    c.last_share = share_now();
    for (auto member : kShares) {
        c.last_share.*member -= c.share_before.*member;
        c.share.*member += c.last_share.*member;
    }
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
    for (const Counter &c : counters) {
        auto count = [](uint64_t n) { return Int64GetDatum(static_cast<int64>(n)); };
        char backend[32];
        name_backend(c, backend);
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
                          CStringGetTextDatum(backend),
                          count(c.share.requests),
                          count(c.share.cached),
                          count(c.share.staged),
                          Float8GetDatum(milliseconds(c.share.device_us)),
                          Float8GetDatum(milliseconds(c.share.waited_us)),
                          c.calls > 0 ? line_of(c) : Datum{0}};
        bool nulls[18] = {};
        nulls[17] = c.calls == 0;
        tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
    }
    return 0;
}

SQL_FUNCTION(kv_reset_stats)
{
    for (Counter &c : counters) {
        const Counter was = c;
        c = Counter{};
        c.name = was.name;
        c.begun = was.begun;
        c.share_before = was.share_before;
    }
    PG_RETURN_VOID();
}

}  // namespace vkv::kv
