// Statements that are being run; see announce.h.

#include "pg/kv/announce.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"

namespace vkv::kv {

namespace {

struct Running {
    Announced statement;
    SubTransactionId subtransaction;
};
constexpr int kDeepest = 64;
Running running[kDeepest];
int depth = 0;

void at_end(XactEvent, void *) { depth = 0; }

void at_subabort(SubXactEvent event, SubTransactionId id, SubTransactionId, void *)
{
    if (event != SUBXACT_EVENT_ABORT_SUB) return;
    while (depth > 0 && running[depth - 1].subtransaction >= id) --depth;
}

}  // namespace

void announce(const Announced &statement)
{
    static bool registered = false;
    if (!registered) {
        RegisterXactCallback(entry<at_end>, nullptr);
        RegisterSubXactCallback(entry<at_subabort>, nullptr);
        registered = true;
    }
    if (depth == kDeepest)
        ereport(
            ERROR, errcode(ERRCODE_STATEMENT_TOO_COMPLEX),
            errmsg("triggers on cache \"%s\" call the functions of schema kv more than %d deep", statement.cache->name, kDeepest));
    running[depth++] = {statement, GetCurrentSubTransactionId()};
}

void withdraw() { --depth; }

const Announced *announced() { return depth > 0 ? &running[depth - 1].statement : nullptr; }

}  // namespace vkv::kv
