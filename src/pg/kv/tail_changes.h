// Rows of a tail that are changed or deleted by hand, past the functions of schema kv. Sessions keep tails and look at the newest
// row only (tail_tiles.h), so a trigger on the table (kv.forget_tails) tells all of them to forget: by an invalidation message
// about its own function, which commits, aborts and reaches standbys with the change.
//
// A message may come before a snapshot that does not see the change yet has been used for the last time: what is read under such a
// snapshot must not be kept for the next.
#pragma once

#include "pg/boundary/pg.h"

namespace vkv::kv {

// What a snapshot was known to see is not known any more: rows may have been changed while nothing was listened for.
void doubt_snapshots();
// A number that is another one after each change by hand that this session has heard of. Raises.
uint64_t tail_changes();
// As if it had heard of one: where a change fired no trigger, or may have.
void note_tail_change();
// Whether the active snapshot sees all of these changes. Raises.
bool sees_tail_changes();
// Whether this is kv.forget_tails, once tail_changes was called.
bool is_forget_tails(Oid function);

}  // namespace vkv::kv
