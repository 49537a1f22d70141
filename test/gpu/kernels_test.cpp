// The kernels of attention, run by the emulator (gpu/emulator): every codec, dimension and option against float64 on decoded tiles.
// Outputs, scratch memory and what lies behind tiles in their slots is poisoned with NaN patterns.
#include <gtest/gtest.h>

#include <cstdlib>
#include <memory>
#include <new>

#include "gpu/cuda/run.h"
#include "kernel_cases.h"

namespace vkv::gpu::cu {
namespace {

constexpr double kBudget = 1e-5;

// Bytes at a multiple of 16, poisoned.
class Buffer {
public:
    explicit Buffer(size_t bytes) : memory_(static_cast<uint8_t *>(std::aligned_alloc(128, (bytes + 127) / 128 * 128 + 128)))
    {
        if (!memory_) throw std::bad_alloc();
        std::memset(memory_.get(), 0xFF, bytes);
    }
    uint8_t *data() const { return memory_.get(); }

private:
    struct Free {
        void operator()(uint8_t *p) const { std::free(p); }
    };
    std::unique_ptr<uint8_t, Free> memory_;
};

// Runs the batch as a device would that has room for `blocks` blocks at once; returns the largest error.
double run(Work *work, uint32_t blocks = 8)
{
    const AttendBatch &batch = work->batch();
    Plan plan;
    plan.make(batch, blocks);
    const Buffer slots(work->memory().size()), prepared(plan.prepared_size), partials(plan.partial_size * sizeof(float));
    std::memcpy(slots.data(), work->memory().data(), work->memory().size());
    const PlacedBatch at{batch.heads.data(),    batch.geometries.data(),
                         batch.segments.data(), batch.slots.data(),
                         plan.prepares.data(),  plan.units.data(),
                         plan.merges.data(),    slots.data(),
                         prepared.data(),       reinterpret_cast<float *>(partials.data())};
    attend_on(Stream{}, plan, at);
    return work->error();
}

std::string text(const AsksFor &asks)
{
    std::string out;
    for (const kv::Codec codec : asks.codecs)
        out += std::string(kv::codec_name(codec)) + "(" + std::to_string(static_cast<int>(codec)) + ") ";
    return out + "dims " + std::to_string(asks.dim_k) + "/" + std::to_string(asks.dim_v) + " rows " + std::to_string(asks.rows) +
           " q_len " + std::to_string(asks.q_len);
}

// A few heads: full tiles, tiles of few tokens, one token.
double ragged(const AsksFor &asks, int tiles = 5, uint32_t blocks = 8)
{
    Work work(400, 7);
    const kv::Codec codec = asks.codecs[0];
    const int full = kv::tile_capacity({codec, 0, static_cast<int>(asks.dim_k), static_cast<int>(asks.dim_v), 1});
    const Run &whole = work.run(codec, asks, 0, full * tiles + full / 2 + 1);
    const Run &few = work.run(codec, asks, 0, 31, 3);
    const Run &one = work.run(codec, asks, 0, 1);
    const int32_t length = full * tiles + full / 2 + 1;
    work.head(asks, length, {{&whole, 0, length}});
    work.head(asks, 31, {{&few, 0, 31}});
    work.head(asks, 1, {{&one, 0, 1}});
    work.head(asks, length - 3, {{&whole, 2, length - 5}});
    return run(&work, blocks);
}

TEST(Kernels, SmallEveryCodec)
{
    for (const kv::Codec codec : kEveryCodec) {
        AsksFor asks;
        asks.codecs = {codec};
        asks.dim_k = asks.dim_v = 64;
        EXPECT_LE(ragged(asks, 3), kBudget) << text(asks);
    }
}

TEST(Kernels, EveryCodecAndDimension)
{
    double worst[kv::kCodecs] = {};
    for (const kv::Codec codec : kEveryCodec)
        for (const uint32_t dim_k : {64u, 96u, 128u, 256u})
            for (const uint32_t dim_v : {64u, 96u, 128u, 256u}) {
                AsksFor asks;
                asks.codecs = {codec};
                asks.dim_k = dim_k, asks.dim_v = dim_v;
                const double error = ragged(asks);
                EXPECT_LE(error, kBudget) << text(asks);
                worst[static_cast<int>(codec)] = std::max(worst[static_cast<int>(codec)], error);
            }
    for (const kv::Codec codec : kEveryCodec)
        RecordProperty(std::string("largest error, codec ") + std::to_string(static_cast<int>(codec)),
                       std::to_string(worst[static_cast<int>(codec)] * 1e9) + "e-9");
}

}  // namespace
}  // namespace vkv::gpu::cu
