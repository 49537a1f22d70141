// Statements that are being run; see announce.h.

#include "pg/kv/announce.h"

#include "pg/kv/nested_calls.h"

namespace vkv::kv {

namespace {

constinit NestedCalls<Announced> running;

}  // namespace

void announce(const Announced &statement) { running.begin(statement, statement.cache->name); }

void withdraw() { running.end(); }

const Announced *announced() { return running.innermost(); }

}  // namespace vkv::kv
