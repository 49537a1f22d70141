// Batches of attention for tests of a device's kernels: random tiles in slots in random order, and the answer in float64.
#pragma once
#include <algorithm>
#include <cstring>
#include <deque>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/kv/sight.h"
#include "gpu/device.h"
#include "kv_attend_cases.h"

namespace vkv::gpu {

// Tiles of consecutive positions and the slots they are in.
struct TileRun {
    std::vector<kv::Tile> tiles;
    std::vector<uint32_t> slots;
};

// Positions [from, to) of a run.
struct Part {
    const TileRun *run;
    int32_t from, to;
};

struct AsksFor {
    uint32_t rows = 4, q_len = 1, dim_k = 128, dim_v = 128;
    std::vector<kv::Codec> codecs = {kv::Codec::f16};
    float softcap = 0, scale = 0;  // scale 0: 1 / sqrt(dim_k)
    bool causal = true;
    int32_t window = 0, sinks = 0;
    float bias = 0;  // of a few channels of keys and values
};

class Work {
public:
    explicit Work(uint32_t slots, uint32_t seed = 1) : random_(seed), memory_(size_t{slots} * offload::kSlabBytes, 0xFF)
    {
        for (uint32_t i = 0; i < slots; i++) free_.push_back(i);
        std::shuffle(free_.begin(), free_.end(), random_);
    }

    // a_tile 0: full tiles. sizes: of keys and values.
    const TileRun &run(kv::Codec codec, const AsksFor &asks, int32_t first, int tokens, int a_tile = 0, float k_size = 1,
                       float v_size = 1)
    {
        const kv::TileShape shape{codec, 0, static_cast<int>(asks.dim_k), static_cast<int>(asks.dim_v), 1};
        const int most = a_tile ? a_tile : kv::tile_capacity(shape);
        kv::KvData data(tokens, shape.dim_k, shape.dim_v, static_cast<uint32_t>(random_()), k_size, asks.bias);
        for (uint16_t &v : data.v) v = float_to_half(v_size * half_to_float(v));
        TileRun &run = runs_.emplace_back();
        for (int t = 0; t < tokens; t += most) {
            const int n = std::min(most, tokens - t);
            run.tiles.push_back(kv::make_tile(shape, first + t, n, &data.k[static_cast<size_t>(t) * asks.dim_k],
                                              &data.v[static_cast<size_t>(t) * asks.dim_v]));
            run.slots.push_back(free_.at(free_.size() - 1));
            free_.pop_back();
            std::memcpy(&memory_[size_t{run.slots.back()} * offload::kSlabBytes], run.tiles.back().bytes.data(),
                        run.tiles.back().size);
        }
        return run;
    }

    void head(const AsksFor &asks, int32_t total, const std::vector<Part> &parts, float q_size = 1)
    {
        Geometry g;
        g.rows = asks.rows, g.q_len = asks.q_len, g.dim_k = asks.dim_k, g.dim_v = asks.dim_v;
        g.scale = asks.scale != 0 ? asks.scale : 1 / std::sqrt(static_cast<float>(asks.dim_k));
        g.softcap = asks.softcap, g.causal = asks.causal, g.window = asks.window, g.sinks = asks.sinks;
        for (const kv::Codec codec : asks.codecs) g.codecs |= 1u << static_cast<int>(codec);
        Head &head = heads_.emplace_back();
        head.parts = parts;
        head.total = total;
        head.queries =
            kv::random_queries(static_cast<int>(asks.rows), static_cast<int>(asks.dim_k), static_cast<uint32_t>(random_()), q_size);
        head.state.assign(size_t{asks.rows} * (2 + asks.dim_v), std::numeric_limits<float>::quiet_NaN());
        const auto first = static_cast<uint32_t>(batch_.segments.size());
        for (const Part &part : parts) {
            batch_.segments.push_back(
                {static_cast<uint32_t>(batch_.slots.size()), static_cast<uint32_t>(part.run->slots.size()), part.from, part.to});
            batch_.slots.insert(batch_.slots.end(), part.run->slots.begin(), part.run->slots.end());
        }
        batch_.tile_bytes = batch_.slots.size() * offload::kSlabBytes;
        batch_.heads.push_back({static_cast<uint32_t>(batch_.geometries.size()), total, first, static_cast<uint32_t>(parts.size()),
                                head.queries.data(), head.state.data()});
        batch_.geometries.push_back(g);
    }

    // An element of each row of queries of the newest head stands out, not the same in all rows.
    void spikes(float factor)
    {
        Head &head = heads_.back();
        const Geometry &g = batch_.geometries.back();
        for (uint32_t row = 0; row < g.rows; row++) head.queries[row * g.dim_k + row * 37 % g.dim_k] *= factor;
    }

    AttendBatch &batch() { return batch_; }
    std::vector<uint8_t> &memory() { return memory_; }
    // Where a device cannot read queries and write states in this object: moved to `arena`.
    void move_to(float *arena)
    {
        for (size_t i = 0; i < heads_.size(); i++) {
            std::copy(heads_[i].queries.begin(), heads_[i].queries.end(), arena);
            batch_.heads[i].queries = arena;
            arena += (heads_[i].queries.size() + 15) / 16 * 16;
            std::copy(heads_[i].state.begin(), heads_[i].state.end(), arena);
            batch_.heads[i].state = arena;
            arena += (heads_[i].state.size() + 15) / 16 * 16;
        }
    }
    size_t arena_floats() const
    {
        size_t n = 0;
        for (const Head &head : heads_) n += (head.queries.size() + 15) / 16 * 16 + (head.state.size() + 15) / 16 * 16;
        return n;
    }

    // The largest error of all states (kv::Reference::error).
    double error() const
    {
        double worst = 0;
        for (size_t i = 0; i < heads_.size(); i++) worst = std::max(worst, error_of(i));
        return worst;
    }

private:
    struct Head {
        std::vector<Part> parts;
        int32_t total;
        std::vector<float> queries, state;
    };

    double error_of(size_t i) const
    {
        const Geometry &g = batch_.geometries[batch_.heads[i].geometry];
        const float *got = batch_.heads[i].state;
        kv::Reference reference(static_cast<int>(g.rows), static_cast<int>(g.dim_v));
        const kv::SightRule rule{heads_[i].total, static_cast<int32_t>(g.q_len), g.window, g.causal};
        std::vector<kv::Sight> sights;
        for (uint32_t r = 0; r < g.rows; r++) sights.push_back(rule.of(static_cast<int>(r % g.q_len)));
        for (const Part &part : heads_[i].parts)
            for (const kv::Tile &tile : part.run->tiles) {
                kv::Selection selection;
                selection.from = part.from, selection.to = part.to, selection.sights = sights.data(), selection.sinks = g.sinks;
                reference.add(heads_[i].queries.data(), static_cast<double>(g.scale), static_cast<double>(g.softcap), tile.view(),
                              selection);
            }
        return reference.error(got, got + g.rows, got + 2 * g.rows);
    }

    std::mt19937 random_;
    std::vector<uint8_t> memory_;
    std::vector<uint32_t> free_;
    std::deque<TileRun> runs_;
    std::deque<Head> heads_;
    AttendBatch batch_;
};

inline constexpr kv::Codec kEveryCodec[] = {kv::Codec::f16,      kv::Codec::int8,     kv::Codec::uniform4, kv::Codec::uniform3,
                                            kv::Codec::uniform2, kv::Codec::rotated4, kv::Codec::rotated3, kv::Codec::rotated2};

}  // namespace vkv::gpu
