// The tail of a layer as tiles of the moment, kept by the backend from call to call: a decode step reads new tokens only.
//
// Tokens at a position of an extent do not change while the epoch of the sequence is the same, except that an append may be rolled
// back and another put in its place: what this backend has kept is forgotten when one of its transactions or subtransactions
// aborts; what others have not committed it never saw. Kept tokens are given only to who may read the table as a whole.
#pragma once

#include "pg/kv/source.h"

namespace vkv::kv {

// Tokens of the tail that are there: fewer than s->length - s->sealed only when an unlogged tail was lost. use(argument, tile) is
// called for tiles that together hold positions s->sealed .. s->sealed + tokens - 1 of every head, and may hold some before them.
using TailVisitor = void (*)(void *argument, const TileView &tile);
struct TailTiles;
TailTiles *open_tail(Cache *cache, const Sequence *s, int layer, int32_t *tokens);
void visit_tail(Cache *cache, TailTiles *tail, TailVisitor visit, void *argument);

}  // namespace vkv::kv
