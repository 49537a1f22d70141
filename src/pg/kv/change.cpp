// Calls that change a cache; see change.h.

#include "pg/kv/change.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/nested_calls.h"

namespace vkv::kv {

namespace {

// A sequence that is half written.
struct Unfinished {
    Oid cache;
    int64_t seq;
};
constinit NestedCalls<Unfinished> unfinished;

}  // namespace

void begin_change()
{
    SPI_connect();
    AfterTriggerBeginQuery();
}

void end_change()
{
    CommandCounterIncrement();
    PushActiveSnapshot(GetTransactionSnapshot());
    AfterTriggerEndQuery(nullptr);  // makes an executor state of its own when there is something to fire
    PopActiveSnapshot();
    SPI_finish();
}

void begin_writing(const Cache *c, int64_t seq) { unfinished.begin({c->header, seq}, c->name); }

void end_writing() { unfinished.end(); }

void refuse_half_written(const Cache *c, int64_t seq)
{
    if (unfinished.any([&](const Unfinished &u) { return u.cache == c->header && u.seq == seq; }))
        ereport(ERROR, errcode(ERRCODE_OBJECT_IN_USE),
                errmsg("sequence %lld of cache \"%s\" is being written", static_cast<long long>(seq), c->name),
                errhint("A BEFORE trigger on a table of the cache called back; AFTER triggers see the sequence whole."));
}

}  // namespace vkv::kv
