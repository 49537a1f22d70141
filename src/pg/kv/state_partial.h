// Attention of one tensor of queries over tiles of one layer: what kv.partial computes from a tile and kv.attention keeps for a
// group.
//
// q is [q_heads, dim_k] or [q_heads, positions, dim_k]; a tile of KV head h of n serves the query heads h * q_heads / n and the
// q_heads / n - 1 behind it, whose rows are consecutive. Each KV head has its queries in the kernels' form, made when its first
// tile comes and again when q changes, and its sums. q and rope may be toasted: a pointer that was seen before is not followed
// again.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "core/kv/attend.h"
#include "pg/boundary/pg.h"
#include "pg/kv/values.h"

namespace vkv::kv {

struct Scaling {
    bool has_scale = false;  // else 1 / sqrt(dim_k)
    double scale = 0;
    double softcap = 0;  // 0: none
    bool operator==(const Scaling &) const = default;
};

// The arguments beside the tile.
struct QueryArguments {
    const varlena *q = nullptr;
    Scaling scaling;
    const varlena *rope = nullptr;  // of rope_argument; null: none
};

class PartialAttention {
public:
    // Throws Error when q or rope does not fit the tile or the tiles before, or, after the first tile, differs from what it was (q:
    // after the first of a KV head).
    void add(const QueryArguments &arguments, const TileView &tile);
    // Nothing seen; another q or geometry may follow.
    void clear();
    int rows() const { return rows_; }
    int dim() const { return dim_v_; }
    size_t bytes() const { return bytes_; }  // of memory, roughly
    // Adds what was seen to a state of the same rows and dim.
    void merge_into(StateHeader *state);

private:
    // Some of a head's rows: what is done for each of them takes a few milliseconds at most, whatever q is.
    struct Part {
        Queries queries;
        Accumulator sums;
    };
    struct Head {
        std::vector<Part> parts;
        bool seen = false;
        Scaling scaling;
        std::vector<uint8_t> values;   // of q: the rows of this head
        std::vector<uint8_t> pointer;  // q as it was given, if it was toasted
    };
    const Rope *rope_for(const varlena *given, const TileView &tile);
    void check_geometry(const TensorView &q, const TileView &tile);
    Head &head(const TileView &tile);
    int rows_of(size_t part) const;
    void take_queries(Head *head, const TileView &tile, const TensorView &q, const Scaling &scaling);

    int rows_ = 0, head_rows_ = 0, kv_heads_ = 0, dim_k_ = 0, dim_v_ = 0;
    size_t bytes_ = 0;
    bool seen_ = false;
    std::vector<std::unique_ptr<Head>> heads_;
    bool turned_ = false;  // by rope_; else there is none
    std::optional<Rope> rope_;
    std::vector<uint8_t> rope_value_;  // as it was given
    std::vector<float> scratch_;
};

// q at argument i; scale, softcap and rope from argument j on, where the function has them and they are not null. Raises.
QueryArguments query_arguments(FunctionCallInfo fcinfo, int i, int j);

// Lives as long as the function is called from the same place of a plan; what it holds is of the call before.
PartialAttention *call_attention(FunctionCallInfo fcinfo);

}  // namespace vkv::kv
