// A batch of attention as flat arrays for a device: which blocks work on which tiles, and how their results are put together.
//
// Rows of queries that share a KV head are taken eight at a time (a row tile). For each row tile and codec of its geometry a block
// of the first kernel brings the queries into the codec's form; blocks of the second kernel each work on a run of the head's tiles
// and leave a partial state; the third kernel merges the partial states of each row. With several codecs in a geometry each codec
// has its own blocks, which skip tiles of the others (what a tile is stands in its header on the device).
#pragma once
#include <cstdint>
#include <vector>

#include "core/kv/tile.h"
#include "gpu/device.h"

namespace vkv::gpu::cu {

inline constexpr uint32_t kRowTile = 8;
inline constexpr uint32_t kWarps = 4;  // of a block of attention; each works on tiles of its own
inline constexpr uint32_t kMostDim = 256;

constexpr bool dim_has_kernel(uint32_t dim) { return dim == 64 || dim == 96 || dim == 128 || dim == 256; }

// Prepared queries of a row tile: operand A of mma, 16 bytes for each lane and step of 16 dims, then PreparedRows; then, for tiles
// with means of keys alone, the rows as they are (but for the sign of the scale), float [kRowTile][dim_k].
struct PreparedRows {
    float factor[kRowTile];  // of a sum of products, to the logit in powers of two (or, with a soft cap, of e over the cap)
    float sums[kRowTile][kMostDim / 64];  // of the row's elements in each group of a uniform codec, / 2^24
    float units[kRowTile];                // of a product of the row as it is, to what factor is for
};
constexpr uint32_t plain_rows_at(uint32_t dim_k) { return dim_k * 32 + static_cast<uint32_t>(sizeof(PreparedRows)); }
constexpr uint32_t prepared_bytes(uint32_t dim_k) { return plain_rows_at(dim_k) + kRowTile * dim_k * 4; }

// A partial state: m [8] in powers of two, l [8], o [8][dim_v], floats.
constexpr uint32_t partial_floats(uint32_t dim_v) { return kRowTile * (2 + dim_v); }

struct PrepareUnit {
    uint32_t head, first_row, codec;
    uint32_t prepared_at;  // bytes
};

struct AttendUnit {
    uint32_t head, first_row;
    uint32_t first_tile, tiles;  // of the head's, all segments together
    uint32_t prepared_at;        // bytes
    uint32_t several_codecs;
    uint32_t tile_bytes;  // the most of a tile, a multiple of 16: what is copied of a slot
    uint64_t partial_at;  // floats
};

struct MergeUnit {
    uint32_t head, row;
    uint64_t partial_at;      // floats, of the first
    uint32_t plain, rotated;  // partial states one behind the other: those in the caller's basis first
};

// The second kernel's launches: one for each codec and dimension of values.
struct AttendLaunch {
    kv::Codec codec;
    uint32_t dim_v, most_dim_k;
    uint32_t first_unit, units;
};

struct Plan {
    std::vector<PrepareUnit> prepares;
    std::vector<AttendUnit> units;  // in order of launches
    std::vector<MergeUnit> merges;
    std::vector<AttendLaunch> launches;
    uint64_t prepared_size = 0;  // bytes
    uint64_t partial_size = 0;   // floats

    // Buffers are kept. blocks: how many blocks of attention the device runs at once.
    void make(const AttendBatch &batch, uint32_t blocks);

private:
    struct Part {  // tiles of a row tile for one codec, divided evenly among `splits` blocks
        uint32_t head, first_row, launch, tiles, splits, prepared_at, tile_bytes;
        uint64_t partial_at;
    };
    void list_parts(const AttendBatch &batch);
    uint32_t launch_of(kv::Codec codec, const Geometry &geometry);
    uint64_t blocks_of(uint64_t tiles_of_block) const;
    void split(uint32_t blocks);
    void place_units(const AttendBatch &batch);
    void list_merges(const AttendBatch &batch);
    std::vector<Part> parts_;
};

}  // namespace vkv::gpu::cu
