// Decode steps for timing: batches of sequences of one length, over more tiles than any cache holds. Every head has the same tiles
// and queries, in slots of its own, so that one answer in float64 checks all of them.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "gpu/device.h"
#include "kv_attend_cases.h"

namespace vkv::gpu {

struct TimedShape {
    kv::Codec codec = kv::Codec::f16;
    uint32_t dim = 128, batch = 1;  // sequences
    uint32_t kv_heads = 8, rows = 4;
    int32_t tokens = 8192;  // of a sequence
};

class TimedBatches {
public:
    // As many batches as take least_bytes of slots, one at least.
    TimedBatches(const TimedShape &s, uint64_t least_bytes) : s_(s), shape_{s.codec, 0, int(s.dim), int(s.dim), int(s.kv_heads)}
    {
        const kv::KvData data(s.tokens, shape_.dim_k, shape_.dim_v, 1);
        tiles_ = kv::make_tiles(shape_, s.tokens, data);
        pattern_.assign(tiles_.size() * offload::kSlabBytes, 0xFF);
        for (size_t i = 0; i < tiles_.size(); i++) {
            std::memcpy(&pattern_[i * offload::kSlabBytes], tiles_[i].bytes.data(), tiles_[i].size);
            head_bytes_ += tiles_[i].size;
        }
        const uint64_t batch_bytes = uint64_t{heads()} * pattern_.size();
        count_ = static_cast<uint32_t>(std::max<uint64_t>(1, (least_bytes + batch_bytes - 1) / batch_bytes));
        queries_ = kv::random_queries(int(s.rows), int(s.dim), 2);
    }

    const std::vector<uint8_t> &pattern() const { return pattern_; }  // what the slots of each head hold
    uint32_t repeats() const { return count_ * heads(); }             // of the pattern, in all slots
    uint32_t count() const { return count_; }                         // of different batches
    uint64_t tile_bytes() const { return heads() * head_bytes_; }     // that a batch has to read

    // Queries and states of a batch.
    std::vector<float> floats() const
    {
        std::vector<float> all(size_t{heads()} * stride(), std::numeric_limits<float>::quiet_NaN());
        for (uint32_t h = 0; h < heads(); h++) std::copy(queries_.begin(), queries_.end(), &all[size_t{h} * stride()]);
        return all;
    }
    // floats: where the device has them.
    AttendBatch batch(uint32_t number, float *floats) const
    {
        AttendBatch batch;
        Geometry g;
        g.rows = s_.rows, g.dim_k = g.dim_v = s_.dim, g.scale = scale(), g.codecs = 1u << static_cast<int>(s_.codec);
        batch.geometries = {g};
        const auto tiles = static_cast<uint32_t>(tiles_.size());
        for (uint32_t h = 0; h < heads(); h++) {
            float *const own = floats + size_t{h} * stride();
            const auto first = static_cast<uint32_t>(batch.slots.size());
            batch.heads.push_back({0, s_.tokens, h, 1, own, own + size_t{s_.rows} * s_.dim});
            batch.segments.push_back({first, tiles, 0, s_.tokens});
            for (uint32_t i = 0; i < tiles; i++) batch.slots.push_back((number * heads() + h) * tiles + i);
        }
        batch.tile_bytes = tile_bytes();
        return batch;
    }
    // The largest error of all heads.
    double error(const std::vector<float> &floats) const
    {
        kv::Reference reference(int(s_.rows), int(s_.dim));
        const std::vector<kv::Sight> sights(s_.rows, kv::Sight{0, s_.tokens});
        kv::Selection selection;
        selection.sights = sights.data();
        for (const kv::Tile &tile : tiles_) reference.add(queries_.data(), static_cast<double>(scale()), 0, tile.view(), selection);
        double worst = 0;
        for (uint32_t h = 0; h < heads(); h++) {
            const float *m = &floats[size_t{h} * stride() + size_t{s_.rows} * s_.dim];
            worst = std::max(worst, reference.error(m, m + s_.rows, m + 2 * s_.rows));
        }
        return worst;
    }

private:
    uint32_t heads() const { return s_.batch * s_.kv_heads; }
    size_t stride() const { return (size_t{s_.rows} * (2 + 2 * s_.dim) + 15) / 16 * 16; }
    float scale() const { return 1 / std::sqrt(static_cast<float>(s_.dim)); }

    TimedShape s_;
    kv::TileShape shape_;
    std::vector<kv::Tile> tiles_;
    std::vector<uint8_t> pattern_;
    std::vector<float> queries_;
    uint64_t head_bytes_ = 0;
    uint32_t count_ = 1;
};

}  // namespace vkv::gpu
