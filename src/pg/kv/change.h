// What a call that changes a cache puts around its statements.
//
// Header, tail and tiles are changed one after the other, and triggers of the owner's may look at them or call back meanwhile.
// AFTER triggers wait until the call's last statement, when everything fits together again. BEFORE triggers cannot wait: what they
// ask of a sequence that is half written is refused.
#pragma once

#include "pg/kv/cache.h"

namespace vkv::kv {

// An SPI connection, in whose memory the call works, and a level of its own for AFTER triggers, which fire at the end.
void begin_change();
void end_change();

// From the change of the header on until the tail and the tiles agree with it. An error ends it, too.
void begin_writing(const Cache *cache, int64_t seq);
void end_writing();
// Raises object_in_use when the sequence is between the two: a trigger called back.
void refuse_half_written(const Cache *cache, int64_t seq);

}  // namespace vkv::kv
