// Calls that change a cache; see change.h.

#include "pg/kv/change.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"

namespace vkv::kv {

namespace {

// A sequence that is half written; calls nest through triggers.
struct Unfinished {
    Oid cache;
    int64_t seq;
    SubTransactionId subtransaction;
};

constexpr int kDeepest = 64;
Unfinished unfinished[kDeepest];
int depth = 0;

void at_end(XactEvent, void *) { depth = 0; }

void at_subabort(SubXactEvent event, SubTransactionId id, SubTransactionId, void *)
{
    if (event != SUBXACT_EVENT_ABORT_SUB) return;
    while (depth > 0 && unfinished[depth - 1].subtransaction >= id) --depth;
}

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

void begin_writing(const Cache *c, int64_t seq)
{
    static bool registered = false;
    if (!registered) {
        RegisterXactCallback(entry<at_end>, nullptr);
        RegisterSubXactCallback(entry<at_subabort>, nullptr);
        registered = true;
    }
    if (depth == kDeepest)
        ereport(ERROR, errcode(ERRCODE_STATEMENT_TOO_COMPLEX),
                errmsg("triggers on cache \"%s\" call the functions of schema kv more than %d deep", c->name, kDeepest));
    unfinished[depth++] = {c->header, seq, GetCurrentSubTransactionId()};
}

void end_writing() { --depth; }

void refuse_half_written(const Cache *c, int64_t seq)
{
    for (int i = 0; i < depth; ++i)
        if (unfinished[i].cache == c->header && unfinished[i].seq == seq)
            ereport(ERROR, errcode(ERRCODE_OBJECT_IN_USE),
                    errmsg("sequence %lld of cache \"%s\" is being written", static_cast<long long>(seq), c->name),
                    errhint("A BEFORE trigger on a table of the cache called back; AFTER triggers see the sequence whole."));
}

}  // namespace vkv::kv
