// kv.attend by the helper program: what is immutable and whole (sealed tiles, full blocks of the tail) is attended to there, what
// is not (the newest tokens of the tail, tokens that are not stored yet) here meanwhile; the states merge.
#pragma once

#include "pg/kv/attend_request.h"
#include "pg/kv/statistics.h"

namespace vkv::kv {

// True: answered, and *work counted up. False: the CPU has to answer, for a reason that was counted. Raises under vectorkv.gpu =
// require when the helper cannot answer. Needs an SPI connection and an active snapshot.
bool attend_by_helper(const AttendRequest &request, const AttendResult &result, Work *work);

}  // namespace vkv::kv
