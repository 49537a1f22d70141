// Who works on what: parts of heads to blocks, evenly, then the lists that kernels read.
#include "gpu/cuda/plan.h"

#include <algorithm>

namespace vkv::gpu::cu {

namespace {

constexpr uint64_t kLeastTilesOfBlock = 2 * kWarps;  // fewer, and blocks begin and end more than they work
constexpr uint64_t kTilesOfWave = 16 * kWarps;       // of a block: from here on there may be several blocks one after the other,
constexpr uint64_t kMostWaves = 4;                   // whose ends even out

uint32_t full_tile_bytes(kv::Codec codec, const Geometry &geometry)
{
    const kv::TileShape shape{codec, 0, static_cast<int>(geometry.dim_k), static_cast<int>(geometry.dim_v), 1};
    return static_cast<uint32_t>((kv::most_tile_bytes(shape, kv::most_tokens(shape)) + 15) / 16 * 16);
}

}  // namespace

uint32_t Plan::launch_of(kv::Codec codec, const Geometry &geometry)
{
    for (size_t i = 0; i < launches.size(); ++i)
        if (launches[i].codec == codec && launches[i].dim_v == geometry.dim_v) {
            launches[i].most_dim_k = std::max(launches[i].most_dim_k, geometry.dim_k);
            return static_cast<uint32_t>(i);
        }
    launches.push_back({codec, geometry.dim_v, geometry.dim_k, 0, 0});
    return static_cast<uint32_t>(launches.size() - 1);
}

// In the order of heads, row tiles and codecs, which is that of the partial states of a row.
void Plan::list_parts(const AttendBatch &batch)
{
    for (uint32_t h = 0; h < batch.heads.size(); ++h) {
        const HeadWork &head = batch.heads[h];
        const Geometry &geometry = batch.geometries[head.geometry];
        uint32_t tiles = 0;
        for (uint32_t s = 0; s < head.segments; ++s) tiles += batch.segments[head.first_segment + s].slots;
        for (uint32_t row = 0; row < geometry.rows && tiles > 0; row += kRowTile)
            for (int codec = 0; codec < kv::kCodecs; ++codec) {
                if (!(geometry.codecs >> codec & 1)) continue;
                const uint32_t launch = launch_of(static_cast<kv::Codec>(codec), geometry);
                const uint32_t bytes = full_tile_bytes(static_cast<kv::Codec>(codec), geometry);
                parts_.push_back({h, row, launch, tiles, 1, static_cast<uint32_t>(prepared_size), bytes, 0});
                prepares.push_back({h, row, static_cast<uint32_t>(codec), static_cast<uint32_t>(prepared_size)});
                prepared_size += prepared_bytes(geometry.dim_k);
            }
    }
}

uint64_t Plan::blocks_of(uint64_t tiles_of_block) const
{
    uint64_t blocks = 0;
    for (const Part &part : parts_) blocks += (part.tiles + tiles_of_block - 1) / tiles_of_block;
    return blocks;
}

// The least tiles a block that fill the device at most so many times as there is enough work for.
void Plan::split(uint32_t blocks)
{
    uint64_t tiles = 0, most = kLeastTilesOfBlock;
    for (const Part &part : parts_) {
        tiles += part.tiles;
        most = std::max<uint64_t>(most, part.tiles);
    }
    const uint64_t waves = std::clamp<uint64_t>(tiles / (std::max<uint64_t>(blocks, 1) * kTilesOfWave), 1, kMostWaves);
    uint64_t least = kLeastTilesOfBlock;
    while (least < most) {
        const uint64_t middle = (least + most) / 2;
        if (blocks_of(middle) <= waves * blocks)
            most = middle;
        else
            least = middle + 1;
    }
    for (Part &part : parts_) part.splits = static_cast<uint32_t>((part.tiles + least - 1) / least);
}

void Plan::place_units(const AttendBatch &batch)
{
    for (Part &part : parts_) {
        const Geometry &geometry = batch.geometries[batch.heads[part.head].geometry];
        part.partial_at = partial_size;
        partial_size += uint64_t{part.splits} * partial_floats(geometry.dim_v);
        launches[part.launch].units += part.splits;
    }
    uint32_t first = 0;
    for (AttendLaunch &launch : launches) {
        launch.first_unit = first;
        first += launch.units;
        launch.units = 0;
    }
    units.resize(first);
    for (const Part &part : parts_) {
        AttendLaunch &launch = launches[part.launch];
        const Geometry &geometry = batch.geometries[batch.heads[part.head].geometry];
        const bool several = (geometry.codecs & (geometry.codecs - 1)) != 0;
        for (uint32_t i = 0; i < part.splits; ++i) {
            const auto begin = static_cast<uint32_t>(uint64_t{part.tiles} * i / part.splits);
            const auto end = static_cast<uint32_t>(uint64_t{part.tiles} * (i + 1) / part.splits);
            units[launch.first_unit + launch.units++] = {
                part.head,        part.first_row, begin,           end - begin,
                part.prepared_at, several,        part.tile_bytes, part.partial_at + uint64_t{i} * partial_floats(geometry.dim_v)};
        }
    }
}

void Plan::list_merges(const AttendBatch &batch)
{
    size_t next = 0;
    for (uint32_t h = 0; h < batch.heads.size(); ++h) {
        const Geometry &geometry = batch.geometries[batch.heads[h].geometry];
        for (uint32_t row = 0; row < geometry.rows; row += kRowTile) {
            MergeUnit unit{h, row, next < parts_.size() ? parts_[next].partial_at : 0, 0, 0};
            for (; next < parts_.size() && parts_[next].head == h && parts_[next].first_row == row; ++next)
                (kv::is_rotated(launches[parts_[next].launch].codec) ? unit.rotated : unit.plain) += parts_[next].splits;
            for (; unit.row < std::min(row + kRowTile, geometry.rows); ++unit.row) merges.push_back(unit);
        }
    }
}

void Plan::make(const AttendBatch &batch, uint32_t blocks)
{
    prepares.clear();
    units.clear();
    merges.clear();
    launches.clear();
    parts_.clear();
    prepared_size = partial_size = 0;
    list_parts(batch);
    split(blocks);
    place_units(batch);
    list_merges(batch);
}

}  // namespace vkv::gpu::cu
