// The types of schema kv as C++ sees them: PostgreSQL's copies of core's tensors, tiles and states. All are 8-aligned varlenas.
// What is made here lies in the current memory context. Everything may raise: use inside pg_call where objects with destructors
// are alive, unless it says that it throws.
#pragma once

#include "core/kv/state.h"
#include "core/kv/tensor.h"
#include "core/kv/tile.h"
#include "pg/boundary/pg.h"

namespace vkv::kv {

// Detoasted; points into the datum or a copy in the current memory context.
inline const TensorHeader *datum_tensor(Datum datum) { return reinterpret_cast<const TensorHeader *>(PG_DETOAST_DATUM(datum)); }
inline const TileHeader *datum_tile(Datum datum) { return reinterpret_cast<const TileHeader *>(PG_DETOAST_DATUM(datum)); }
inline const StateHeader *datum_state(Datum datum) { return reinterpret_cast<const StateHeader *>(PG_DETOAST_DATUM(datum)); }

// Throw Error: data_corrupted when the bytes are not what they should be. They raise nothing.
TensorView view_of(const TensorHeader *tensor);
TileView view_of(const TileHeader *tile);
StateView view_of(const StateHeader *state);

// Uninitialised data, everything else set. Throws Error(limit_exceeded) above kMaxTensorBytes.
TensorHeader *make_tensor(Dtype dtype, int dims, const uint32_t *shape);
inline void *tensor_data(TensorHeader *tensor) { return tensor + 1; }
StateHeader *make_state(int rows, int dim);  // nothing seen yet
// Room for a tile of that many tokens, varlena word set; to be filled by encode_tile.
TileHeader *make_tile(const TileShape &shape, int tokens);

}  // namespace vkv::kv
