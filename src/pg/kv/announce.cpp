// Statements that are being run; see announce.h.

#include "pg/kv/announce.h"

#include "pg/kv/nested_calls.h"

namespace vkv::kv {

namespace {

constinit NestedCalls<Announced> running;

}  // namespace

int trigger_depth()
{
    LOCAL_FCINFO(fcinfo, 0);
    InitFunctionCallInfoData(*fcinfo, nullptr, 0, InvalidOid, nullptr, nullptr);
    return DatumGetInt32(pg_trigger_depth(fcinfo));
}

void announce(const Announced &statement)
{
    Announced begun = statement;
    begun.depth = trigger_depth();
    running.begin(begun, statement.cache->name);
}

void withdraw() { running.end(); }

const Announced *announced() { return running.innermost(); }

}  // namespace vkv::kv
