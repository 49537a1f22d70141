// Attention on a device: every codec, dimension and option, against float64 on decoded tiles. The same cases are run by the
// emulator (kernels_test.cpp) and on a real device (cuda_test.cu), which has no GoogleTest.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "kernel_cases.h"

namespace vkv::gpu::suite {

// Computes the states of the work's batch, on a device that runs `blocks` blocks at once where that can be chosen.
using Run = std::function<void(Work *work, uint32_t blocks)>;
// Is told the largest error of a case, and what case it was.
using Check = std::function<void(double error, const std::string &what)>;

struct Bench {
    Run run;
    Check check;
    void expect_right(Work *work, const std::string &what, uint32_t blocks = 8) const
    {
        run(work, blocks);
        check(work->error(), what);
    }
};

inline std::string text(const AsksFor &asks)
{
    std::string out;
    for (const kv::Codec codec : asks.codecs) out += std::string(kv::codec_name(codec)) + " ";
    return out + "dims " + std::to_string(asks.dim_k) + "/" + std::to_string(asks.dim_v) + " rows " + std::to_string(asks.rows) +
           " q_len " + std::to_string(asks.q_len) + (asks.causal ? "" : " not causal") + " window " + std::to_string(asks.window) +
           " sinks " + std::to_string(asks.sinks) + " softcap " + std::to_string(asks.softcap);
}

inline int capacity(const AsksFor &asks, kv::Codec codec)
{
    return kv::tile_capacity({codec, 0, static_cast<int>(asks.dim_k), static_cast<int>(asks.dim_v), 1});
}

// A few heads: full tiles, tiles of few tokens, one token, and a part of tiles that another head has, too.
inline void ragged(const Bench &bench, const AsksFor &asks, int tiles = 5, uint32_t blocks = 8)
{
    Work work(400, 7);
    const kv::Codec codec = asks.codecs[0];
    const int32_t length = capacity(asks, codec) * tiles + capacity(asks, codec) / 2 + 1;
    const TileRun &whole = work.run(codec, asks, 0, length);
    const TileRun &few = work.run(codec, asks, 0, 31, 3);
    const TileRun &one = work.run(codec, asks, 0, 1);
    work.head(asks, length, {{&whole, 0, length}});
    work.head(asks, 31, {{&few, 0, 31}});
    work.head(asks, 1, {{&one, 0, 1}});
    work.head(asks, length - 3, {{&whole, 2, length - 5}});
    bench.expect_right(&work, text(asks) + " blocks " + std::to_string(blocks), blocks);
}

inline void every_codec_and_dimension(const Bench &bench)
{
    for (const kv::Codec codec : kEveryCodec)
        for (const uint32_t dim_k : {64u, 96u, 128u, 256u})
            for (const uint32_t dim_v : {64u, 96u, 128u, 256u}) {
                AsksFor asks;
                asks.codecs = {codec};
                asks.dim_k = dim_k, asks.dim_v = dim_v;
                ragged(bench, asks);
            }
}

inline void every_number_of_rows(const Bench &bench)
{
    for (const kv::Codec codec : kEveryCodec)
        for (const uint32_t rows : {1u, 3u, 7u, 8u, 9u, 16u, 33u}) {
            AsksFor asks;
            asks.codecs = {codec};
            asks.rows = rows, asks.dim_k = asks.dim_v = 64;
            ragged(bench, asks, 2);
        }
}

inline void every_number_of_tokens(const Bench &bench)
{
    for (const kv::Codec codec : kEveryCodec) {
        AsksFor asks;
        asks.codecs = {codec};
        asks.rows = 2, asks.dim_k = asks.dim_v = 64;
        Work work(400, 11);
        for (int tokens = 1; tokens <= capacity(asks, codec); tokens += tokens < 70 ? 1 : 13)
            work.head(asks, 1000 + tokens, {{&work.run(codec, asks, 1000, tokens), 0, INT32_MAX}});
        bench.expect_right(&work, text(asks));
    }
}

// The head of one token has rows that see nothing.
inline void causal_order(const Bench &bench)
{
    for (const kv::Codec codec : {kv::Codec::f16, kv::Codec::int8, kv::Codec::uniform2, kv::Codec::rotated4})
        for (const uint32_t q_len : {2u, 5u, 40u})
            for (const bool causal : {true, false}) {
                AsksFor asks;
                asks.codecs = {codec};
                asks.q_len = q_len, asks.rows = 3 * q_len, asks.causal = causal;
                ragged(bench, asks, 3);
            }
}

inline void window_and_sinks(const Bench &bench)
{
    for (const kv::Codec codec : {kv::Codec::f16, kv::Codec::uniform3, kv::Codec::rotated2})
        for (const int32_t window : {1, 20, 100, 100000})
            for (const int32_t sinks : {0, 1, 70})
                for (const uint32_t q_len : {1u, 3u}) {
                    AsksFor asks;
                    asks.codecs = {codec};
                    asks.q_len = q_len, asks.rows = 2 * q_len, asks.window = window, asks.sinks = sinks;
                    ragged(bench, asks, 4);
                }
}

inline void soft_cap_and_large_logits(const Bench &bench)
{
    for (const kv::Codec codec : kEveryCodec)
        for (const float softcap : {0.0f, 0.5f, 30.0f})
            for (const float q_size : {0.0f, 1e-6f, 1.0f, 30.0f})
                for (const float scale : {0.0f, -0.1f}) {
                    AsksFor asks;
                    asks.codecs = {codec};
                    asks.rows = 3, asks.dim_k = asks.dim_v = 64, asks.softcap = softcap, asks.scale = scale;
                    Work work(40, 5);
                    const TileRun &tiles = work.run(codec, asks, 0, 2 * capacity(asks, codec));
                    work.head(asks, 2 * capacity(asks, codec), {{&tiles, 0, INT32_MAX}}, q_size);
                    bench.expect_right(
                        &work, text(asks) + " size of queries " + std::to_string(q_size) + " scale " + std::to_string(scale));
                }
}

// Large channels in some tiles, none in others, which take none of them off.
inline void biased_channels(const Bench &bench)
{
    for (const kv::Codec codec : kEveryCodec)
        for (const uint32_t dim : {64u, 96u, 128u, 256u})
            for (const float bias : {6.0f, 40.0f}) {
                AsksFor asks, biased;
                asks.codecs = biased.codecs = {codec};
                asks.dim_k = asks.dim_v = biased.dim_k = biased.dim_v = dim;
                biased.bias = bias;
                const int full = capacity(asks, codec);
                Work work(60, 6);
                const TileRun &plain = work.run(codec, asks, 0, 2 * full), &more = work.run(codec, biased, 2 * full, 7 * full + 3),
                              &few = work.run(codec, biased, 9 * full + 3, 9, 2);
                work.head(asks, 9 * full + 12, {{&plain, 0, INT32_MAX}, {&more, 0, INT32_MAX}, {&few, 0, INT32_MAX}});
                bench.expect_right(&work, text(asks) + " bias " + std::to_string(bias));
            }
}

// Scales that grow and shrink from tile to tile, down to the smallest halves and up to the largest.
inline void values_of_every_size(const Bench &bench)
{
    for (const kv::Codec codec : kEveryCodec) {
        AsksFor asks;
        asks.codecs = {codec};
        asks.dim_k = asks.dim_v = 64;
        Work work(200, 9);
        const int full = capacity(asks, codec);
        for (const std::vector<float> &sizes :
             {std::vector<float>{1e-6f, 1e-3f, 1, 1e4f}, {1e4f, 1e-4f}, {1e-6f}, {1e4f}, {0}, {0, 1}}) {
            std::vector<gpu::Part> parts;
            int32_t at = 0;
            for (const float size : sizes)
                for (int i = 0; i < 2; i++, at += full)
                    parts.push_back({&work.run(codec, asks, at, full, 0, 1, size), 0, INT32_MAX});
            work.head(asks, at, parts);
        }
        bench.expect_right(&work, text(asks), 1);
    }
}

inline void many_splits_and_one(const Bench &bench)
{
    for (const kv::Codec codec : {kv::Codec::f16, kv::Codec::uniform4, kv::Codec::rotated4})
        for (const uint32_t blocks : {1u, 2u, 30u, 1000u}) {
            AsksFor asks;
            asks.codecs = {codec};
            ragged(bench, asks, 50, blocks);
        }
}

// A cache that was coded anew in part: tiles of several codecs in one head, in one segment and in several.
inline void several_codecs_in_a_head(const Bench &bench)
{
    AsksFor asks;
    asks.codecs = {kv::Codec::f16, kv::Codec::int8, kv::Codec::uniform4, kv::Codec::rotated4, kv::Codec::rotated2};
    asks.rows = 9, asks.dim_k = 128, asks.dim_v = 96;
    Work work(300, 13);
    TileRun mixed;
    int32_t at = 0;
    for (int i = 0; i < 30; i++) {
        const kv::Codec codec = asks.codecs[static_cast<size_t>(i * i) % asks.codecs.size()];
        const int tokens = capacity(asks, codec) - i % 3;
        const TileRun &one = work.run(codec, asks, at, tokens);
        mixed.tiles.insert(mixed.tiles.end(), one.tiles.begin(), one.tiles.end());
        mixed.slots.insert(mixed.slots.end(), one.slots.begin(), one.slots.end());
        at += tokens;
    }
    const TileRun &more = work.run(kv::Codec::rotated2, asks, at, 200);
    work.head(asks, at, {{&mixed, 0, at}});
    work.head(asks, at + 150, {{&mixed, 40, at - 2}, {&more, at, at + 150}});
    work.head(asks, at + 200, {{&more, at, at + 200}});
    bench.expect_right(&work, text(asks));
}

// Requests of different shapes in one batch, and a head without tiles.
inline void mixed_batch(const Bench &bench)
{
    Work work(400, 17);
    for (const kv::Codec codec : kEveryCodec)
        for (const uint32_t dim : {64u, 128u}) {
            AsksFor asks;
            asks.codecs = {codec};
            asks.dim_k = dim, asks.dim_v = 192 - dim, asks.rows = 1 + static_cast<uint32_t>(codec);
            work.head(asks, 300, {{&work.run(codec, asks, 0, 150), 0, 150}, {&work.run(codec, asks, 150, 150, 11), 150, 300}});
            work.head(asks, 0, {});
        }
    bench.expect_right(&work, "mixed batch");
}

inline void empty_batch(const Bench &bench)
{
    Work work(1);
    bench.expect_right(&work, "empty batch");
}

struct Group {
    const char *name;
    void (*cases)(const Bench &);
};
inline constexpr Group kGroups[] = {
    {"every codec and dimension", every_codec_and_dimension},
    {"every number of rows", every_number_of_rows},
    {"every number of tokens", every_number_of_tokens},
    {"causal order", causal_order},
    {"window and sinks", window_and_sinks},
    {"soft cap and large logits", soft_cap_and_large_logits},
    {"values of every size", values_of_every_size},
    {"biased channels", biased_channels},
    {"many splits and one", many_splits_and_one},
    {"several codecs in a head", several_codecs_in_a_head},
    {"mixed batch", mixed_batch},
    {"empty batch", empty_batch},
};

}  // namespace vkv::gpu::suite
