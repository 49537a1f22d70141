// The kernels of attention, run by the emulator (gpu/emulator): the cases of attend_suite.h.
#include <gtest/gtest.h>

#include "attend_suite.h"
#include "device_emulated.h"
#include "timed_batches.h"

namespace vkv::gpu::cu {

AttendKernel *attend_kernel_64(kv::Codec codec) { return attend_kernel_of<64>(codec); }
AttendKernel *attend_kernel_96(kv::Codec codec) { return attend_kernel_of<96>(codec); }
AttendKernel *attend_kernel_128(kv::Codec codec) { return attend_kernel_of<128>(codec); }
AttendKernel *attend_kernel_256(kv::Codec codec) { return attend_kernel_of<256>(codec); }

namespace {

constexpr double kBudget = 1e-5;

void on_emulator(void (*cases)(const suite::Bench &))
{
    double worst = 0;
    cases({run, [&](double error, const std::string &what) {
               EXPECT_LE(error, kBudget) << what;
               worst = std::max(worst, error);
           }});
    testing::Test::RecordProperty("largest_error", std::to_string(worst * 1e9) + "e-9");
}

TEST(Kernels, EveryCodecAndDimension) { on_emulator(suite::every_codec_and_dimension); }
TEST(Kernels, EveryNumberOfRows) { on_emulator(suite::every_number_of_rows); }
TEST(Kernels, EveryNumberOfTokens) { on_emulator(suite::every_number_of_tokens); }
TEST(Kernels, CausalOrder) { on_emulator(suite::causal_order); }
TEST(Kernels, WindowAndSinks) { on_emulator(suite::window_and_sinks); }
TEST(Kernels, SoftCapAndLargeLogits) { on_emulator(suite::soft_cap_and_large_logits); }
TEST(Kernels, ValuesOfEverySize) { on_emulator(suite::values_of_every_size); }
TEST(Kernels, BiasedChannels) { on_emulator(suite::biased_channels); }
TEST(Kernels, ManySplitsAndOne) { on_emulator(suite::many_splits_and_one); }
TEST(Kernels, SeveralCodecsInAHead) { on_emulator(suite::several_codecs_in_a_head); }
TEST(Kernels, MixedBatch) { on_emulator(suite::mixed_batch); }
TEST(Kernels, EmptyBatch) { on_emulator(suite::empty_batch); }

// A tile's last chunk may read scales of tokens that it has not: not beyond the buffer.
template <kv::Codec codec, int dim_v>
void expect_reads_in_buffer()
{
    constexpr int kChunk = Chunk<codec, dim_v>::kTokens;
    for (const int dim_k : {64, 96, 128, 256}) {
        const kv::TileShape shape{codec, 0, dim_k, dim_v, 1};
        for (int tokens = 1; tokens <= kv::tile_capacity(shape); tokens++) {
            const int rows = kv::scale_rows(codec, dim_v), end = (tokens + kChunk - 1) / kChunk * kChunk;
            const size_t scales = kv::kTileHeaderBytes + kv::tile_layout(shape, tokens).v_scale;
            EXPECT_LE(scales + 2 * static_cast<size_t>((rows - 1) * tokens + end), kBufferBytes);
        }
    }
}
template <int dim_v>
void expect_reads_of_all_in_buffer()
{
    expect_reads_in_buffer<kv::Codec::int8, dim_v>();
    expect_reads_in_buffer<kv::Codec::uniform4, dim_v>();
    expect_reads_in_buffer<kv::Codec::uniform3, dim_v>();
    expect_reads_in_buffer<kv::Codec::uniform2, dim_v>();
    expect_reads_in_buffer<kv::Codec::rotated4, dim_v>();
    expect_reads_in_buffer<kv::Codec::rotated3, dim_v>();
    expect_reads_in_buffer<kv::Codec::rotated2, dim_v>();
}
TEST(Kernels, ReadsStayInTheirBuffer)
{
    expect_reads_of_all_in_buffer<64>();
    expect_reads_of_all_in_buffer<96>();
    expect_reads_of_all_in_buffer<128>();
    expect_reads_of_all_in_buffer<256>();
}

// What cuda_test times gives right answers, each batch from slots of its own.
TEST(Kernels, TimedBatches)
{
    for (const kv::Codec codec : {kv::Codec::f16, kv::Codec::rotated3}) {
        const TimedBatches batches({codec, 64, 2, 2, 4, 300}, 1 << 20);
        EXPECT_GT(batches.count(), 1u);
        std::vector<uint8_t> memory;
        for (uint32_t i = 0; i < batches.repeats(); i++)
            memory.insert(memory.end(), batches.pattern().begin(), batches.pattern().end());
        EXPECT_GE(memory.size(), 1u << 20);
        for (uint32_t i = 0; i < batches.count(); i++) {
            std::vector<float> floats = batches.floats();
            EXPECT_GT(batches.error(floats), kBudget) << "states that nobody wrote";
            const AttendBatch batch = batches.batch(i, floats.data());
            run_batch(batch, memory, 8);
            EXPECT_LE(batches.error(floats), kBudget);
            EXPECT_EQ(*std::min_element(batch.slots.begin(), batch.slots.end()), i * batch.slots.size());
        }
    }
}

}  // namespace
}  // namespace vkv::gpu::cu
