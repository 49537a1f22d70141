// Attention of one decode step over a cached context: every codec and instruction set, for the heads of two models.
//
// An item is a step of a whole layer: all queries against all tokens of all KV heads. Tiles lie 8 kB apart, one a page, as in
// shared buffers, those of a head one after the other. Bytes are those of the tiles. Before anything is timed the states are
// compared with attention in float64 over the decoded tiles; a wrong one is reported instead of timed.
#include <benchmark/benchmark.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/kv/attend.h"
#include "core/simd/kernels.h"
#include "kv_attend_cases.h"

namespace vkv::kv {
namespace {

constexpr double kBudget = 1e-5;
constexpr size_t kPage = 8192, kTileAt = 64;  // where heap tuples start in pages

struct Model {
    int q_heads, kv_heads, dim;
};

// The cache of one layer: pages [sequence][head][tile].
struct Layer {
    Layer(const Model &m, Codec codec, int tokens, int sequences) : model(m), batch(sequences)
    {
        const TileShape shape{codec, 0, m.dim, m.dim, m.kv_heads};
        const int full = tile_capacity(shape);
        tiles_a_head = static_cast<size_t>((tokens + full - 1) / full);
        pages.reset(new (std::align_val_t{4096}) uint8_t[static_cast<size_t>(batch * m.kv_heads) * tiles_a_head * kPage]);
        // The values of one head serve all: what is measured does not depend on them, and making millions of them takes long.
        const KvData data(tokens, m.dim, m.dim, 7);
        const std::vector<Tile> tiles = make_tiles(shape, tokens, data);
        for (size_t head = 0; head < static_cast<size_t>(batch * m.kv_heads); head++)
            for (size_t i = 0; i < tiles_a_head; i++) {
                uint8_t *at = pages.get() + (head * tiles_a_head + i) * kPage + kTileAt;
                std::memcpy(at, tiles[i].bytes.data(), tiles[i].size);
                views.push_back(view_tile(at, tiles[i].size));
                bytes += tiles[i].size;
            }
        rows = m.q_heads / m.kv_heads;
        scale = 1 / std::sqrt(static_cast<float>(m.dim));
        q = random_queries(rows, m.dim, 8);
        queries.resize(static_cast<size_t>(batch * m.kv_heads));
        sums.resize(queries.size());
        outputs.resize(queries.size() * static_cast<size_t>(rows * m.dim));
    }
    void step()
    {
        for (size_t head = 0; head < queries.size(); head++) {
            queries[head].set(q.data(), rows, model.dim, scale, 0);
            sums[head].reset(rows, model.dim);
            const TileView *view = &views[head * tiles_a_head];
            for (size_t i = 0; i < tiles_a_head; i++) {
                Selection selection;
                selection.next = i + 1 < tiles_a_head ? view[i + 1].k - kTileHeaderBytes : nullptr;
                sums[head].add(queries[head], view[i], selection);
            }
            sums[head].finish(&outputs[head * static_cast<size_t>(rows * model.dim)], nullptr);
        }
    }
    bool right()
    {
        step();
        Reference reference(rows, model.dim);
        for (size_t i = 0; i < tiles_a_head; i++) reference.add(q.data(), static_cast<double>(scale), 0, views[i], {});
        for (const Accumulator &sum : sums) {
            const State state(sum, rows, model.dim);
            if (reference.error(state.m.data(), state.l.data(), state.o.data()) > kBudget) return false;
        }
        return true;
    }

    struct FreePages {
        void operator()(uint8_t *p) const { ::operator delete[](p, std::align_val_t{4096}); }
    };
    Model model;
    int batch, rows = 0;
    float scale = 1;
    size_t tiles_a_head = 0, bytes = 0;
    std::unique_ptr<uint8_t[], FreePages> pages;
    std::vector<TileView> views;
    std::vector<float> q, outputs;
    std::vector<Queries> queries;
    std::vector<Accumulator> sums;
};

struct Shape {
    Model model;
    Codec codec;
    int tokens, batch;
};

void time_shape(benchmark::State &state, const Shape &shape, simd::Level level)
{
    const simd::Level before = simd::active_level();
    simd::set_level(level);
    Layer layer(shape.model, shape.codec, shape.tokens, shape.batch);
    if (layer.right())
        for (auto _ : state) layer.step();
    else
        state.SkipWithError("wrong result");
    simd::set_level(before);
    const auto steps = static_cast<int64_t>(state.iterations()) * shape.batch;
    state.SetItemsProcessed(steps);
    state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * static_cast<int64_t>(layer.bytes));
}

void add_shapes()
{
    constexpr const char *kNames[kCodecs] = {"f16",          "int8",         "int4_uniform", "int3_uniform",
                                             "int2_uniform", "int4_rotated", "int3_rotated", "int2_rotated"};
    for (const simd::Level level : {simd::Level::avx512, simd::Level::avx2, simd::Level::neon, simd::Level::scalar}) {
        if (!simd::supported(level)) continue;
        for (const Model model : {Model{9, 3, 64}, Model{32, 8, 128}})
            for (const int tokens : {4096, 32768})
                for (const int batch : {1, 8})
                    for (int codec = 0; codec < kCodecs; codec++) {
                        const Shape shape{model, static_cast<Codec>(codec), tokens, batch};
                        const std::string title = std::string("attend/") + simd::level_name(level) +
                                                  "/heads:" + std::to_string(model.q_heads) + "/" + std::to_string(model.kv_heads) +
                                                  "x" + std::to_string(model.dim) + "/tokens:" + std::to_string(tokens) +
                                                  "/batch:" + std::to_string(batch) + "/" + kNames[codec];
                        benchmark::RegisterBenchmark(title.c_str(), [=](benchmark::State &state) {
                            time_shape(state, shape, level);
                        })->Unit(benchmark::kMillisecond);
                    }
    }
}

}  // namespace
}  // namespace vkv::kv

int main(int argc, char **argv)
{
    vkv::kv::add_shapes();
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}
