// The emulator itself: programs with a mistake are caught, each by the means meant for it, and the same programs without it pass;
// the arithmetic of the emulated instructions is compared with plain loops.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "gpu/cuda/target.h"

namespace {

using namespace vkv::gpu::cu;

constexpr int kThreads = 128;
constexpr int kSeeds = 20;

struct Arrays {
    const float *in;
    float *out;
    int count;
};

float *shared_floats() { return reinterpret_cast<float *>(shared_memory()); }

// Each thread passes a value to a thread of another warp, `rounds` times through the same place.
template <bool before, bool after>
VKV_KERNEL void pass_on(Arrays arrays)
{
    float *shared = shared_floats();
    float value = arrays.in[block() * block_threads() + thread()];
    for (int round = 0; round < arrays.count; ++round) {
        shared[thread()] = value;
        if (before) block_barrier();
        value = shared[(thread() + 37) % block_threads()] + 1;
        if (after) block_barrier();
    }
    arrays.out[block() * block_threads() + thread()] = value;
}

template <bool barrier>
VKV_KERNEL void pass_in_warp(Arrays arrays)
{
    float *shared = shared_floats();
    shared[thread()] = arrays.in[thread()];
    if (barrier) warp_barrier();
    arrays.out[thread()] = shared[thread() ^ 5];
}

enum class Copying { right, no_wait, no_commit, waits_for_one, no_barrier, written_while_copied };

// Reverses its numbers through shared memory, copied there in two groups.
template <Copying how>
VKV_KERNEL void copied(Arrays arrays)
{
    float *shared = shared_floats();
    const int half = 4 * block_threads();
    copy_async(shared + 4 * thread(), arrays.in + 4 * thread());
    copy_commit();
    copy_async(shared + half + 4 * thread(), arrays.in + half + 4 * thread());
    if (how != Copying::no_commit) copy_commit();
    if (how == Copying::written_while_copied) shared[4 * thread()] = 7;
    if (how == Copying::waits_for_one) copy_wait<1>();
    if (how != Copying::no_wait && how != Copying::waits_for_one) copy_wait<0>();
    if (how != Copying::no_barrier) block_barrier();
    for (int i = thread(); i < 2 * half; i += block_threads()) arrays.out[i] = shared[2 * half - 1 - i];
    if (how == Copying::no_commit) copy_commit();
    if (how != Copying::right) copy_wait<0>();
}

std::vector<float> numbers(size_t count)
{
    std::vector<float> values(count);
    for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i) + 0.5F;
    return values;
}

// How many of kSeeds runs give what is expected; a KernelError counts as not.
int right_runs(const std::function<std::vector<float>()> &run, const std::vector<float> &expected)
{
    int right = 0;
    const uint64_t seed_before = emulated::seed();
    for (int i = 0; i < kSeeds; ++i) {
        emulated::set_seed(seed_before + static_cast<uint64_t>(i));
        right += run() == expected;
    }
    emulated::set_seed(seed_before);
    return right;
}

template <bool before, bool after>
int right_passes()
{
    const int rounds = 3, blocks = 2;
    const std::vector<float> in = numbers(kThreads * blocks);
    std::vector<float> expected(in.size());
    for (int i = 0; i < static_cast<int>(in.size()); ++i) {
        expected[i] = in[i / kThreads * kThreads + (i % kThreads + 37 * rounds) % kThreads] + rounds;
    }
    return right_runs(
        [&] {
            std::vector<float> out(in.size());
            launch(pass_on<before, after>, blocks, kThreads, kThreads * sizeof(float), nullptr,
                   Arrays{in.data(), out.data(), rounds});
            return out;
        },
        expected);
}

TEST(Emulator, BarriersMakeARightProgram) { EXPECT_EQ((right_passes<true, true>()), kSeeds); }
TEST(Emulator, MissingBarrierBeforeReading) { EXPECT_EQ((right_passes<false, true>()), 0); }
TEST(Emulator, MissingBarrierBeforeWritingAgain) { EXPECT_EQ((right_passes<true, false>()), 0); }

template <bool barrier>
int right_warp_passes()
{
    const std::vector<float> in = numbers(32);
    std::vector<float> expected(32);
    for (size_t i = 0; i < 32; ++i) expected[i] = in[i ^ 5];
    return right_runs(
        [&] {
            std::vector<float> out(32);
            launch(pass_in_warp<barrier>, 1, 32, 32 * sizeof(float), nullptr, Arrays{in.data(), out.data(), 0});
            return out;
        },
        expected);
}

TEST(Emulator, WarpBarrier)
{
    EXPECT_EQ(right_warp_passes<true>(), kSeeds);
    EXPECT_EQ(right_warp_passes<false>(), 0);
}

template <Copying how>
int right_copies()
{
    const std::vector<float> in = numbers(8 * kThreads);
    const std::vector<float> expected(in.rbegin(), in.rend());
    return right_runs(
        [&] {
            std::vector<float> out(in.size());
            launch(copied<how>, 1, kThreads, in.size() * sizeof(float), nullptr, Arrays{in.data(), out.data(), 0});
            return out;
        },
        expected);
}

TEST(Emulator, CopiesThatAreWaitedFor) { EXPECT_EQ(right_copies<Copying::right>(), kSeeds); }
TEST(Emulator, MissingWait) { EXPECT_EQ(right_copies<Copying::no_wait>(), 0); }
TEST(Emulator, MissingCommit) { EXPECT_EQ(right_copies<Copying::no_commit>(), 0); }
TEST(Emulator, WaitForTooFewGroups) { EXPECT_EQ(right_copies<Copying::waits_for_one>(), 0); }
TEST(Emulator, MissingBarrierAfterWait) { EXPECT_EQ(right_copies<Copying::no_barrier>(), 0); }
// What is written to the target of a copy before the wait is lost: that program is right, but only so.
TEST(Emulator, CopyEndsAfterAWrite) { EXPECT_EQ(right_copies<Copying::written_while_copied>(), kSeeds); }

// ---- mistakes that end a launch -----------------------------------------------------------------------------------------

std::string error_of(const std::function<void()> &run)
{
    try {
        run();
    } catch (const emulated::KernelError &error) {
        return error.what();
    }
    return "no error";
}

struct Nothing {};

void expect_error(void (*kernel)(Nothing), const std::string &first, const std::string &second)
{
    const std::string error = error_of([&] { launch(kernel, 3, 64, 1024, nullptr, Nothing{}); });
    EXPECT_NE(error.find(first), std::string::npos) << error;
    EXPECT_NE(error.find(second), std::string::npos) << error;
    EXPECT_NE(error.find("VKV_EMULATOR_SEED=" + std::to_string(emulated::seed())), std::string::npos) << error;
}

constexpr int kEarlyLine = __LINE__ + 4;
VKV_KERNEL void early_return(Nothing)
{
    if (thread() == 41) return;
    block_barrier();
}

constexpr int kDivergentLine = __LINE__ + 3;
VKV_KERNEL void divergent_shuffle(Nothing)
{
    if (thread() % 32 < 7) static_cast<void>(shuffle(1.0F, 0));
    block_barrier();
}

constexpr int kTwoLine = __LINE__ + 4;
VKV_KERNEL void two_shuffles(Nothing)
{
    if (thread() % 2) {
        static_cast<void>(shuffle_xor(1.0F, 1));
    } else {
        static_cast<void>(warp_any(true));
    }
}

VKV_KERNEL void two_barriers(Nothing)
{
    if (thread() < 32) {
        block_barrier();
    } else {
        block_barrier();
    }
}

VKV_KERNEL void missing_lane(Nothing)
{
    float d[4] = {};
    const uint32_t a[4] = {}, b[2] = {};
    if (thread() != 50) mma_m16n8k16(d, a, b);
}

VKV_KERNEL void copies_past_shared(Nothing)
{
    alignas(16) static const float numbers[4] = {};
    copy_async(shared_memory() + 1024, numbers);
}

VKV_KERNEL void copies_unaligned(Nothing)
{
    alignas(16) static const float numbers[8] = {};
    copy_async(shared_memory(), numbers + 1);
}

VKV_KERNEL void copies_and_ends(Nothing)
{
    alignas(16) static const float numbers[4] = {};
    copy_async(shared_memory() + 16 * thread(), numbers);
    copy_commit();
}

std::string line_text(int line) { return "emulator_test.cpp:" + std::to_string(line); }

TEST(Emulator, ThreadThatReturnedEarly)
{
    expect_error(early_return, "block_barrier at " + line_text(kEarlyLine), "63 of 64 threads: thread 41 has returned");
}
TEST(Emulator, DivergentShuffle)
{
    expect_error(divergent_shuffle, "shuffle at " + line_text(kDivergentLine) + " was reached by 7 of 32 lanes",
                 "waits in block_barrier");
}
TEST(Emulator, LanesInDifferentCollectives)
{
    const std::string error = error_of([] { launch(two_shuffles, 1, 32, 0, nullptr, Nothing{}); });
    EXPECT_TRUE(error.find("while others wait in shuffle at " + line_text(kTwoLine)) != std::string::npos ||
                error.find("while others wait in warp_any at " + line_text(kTwoLine + 2)) != std::string::npos)
        << error;
}
TEST(Emulator, ThreadsInDifferentBarriers) { expect_error(two_barriers, "while other threads wait in another block_barrier", ""); }
TEST(Emulator, LaneMissingInAProduct)
{
    expect_error(missing_lane, "mma_m16n8k16 at", "31 of 32 lanes of warp 1: thread 50 has returned");
}
TEST(Emulator, CopyPastSharedMemory) { expect_error(copies_past_shared, "what is not shared memory", "emulator_test.cpp:"); }
TEST(Emulator, CopyUnaligned) { expect_error(copies_unaligned, "not 16-aligned", "emulator_test.cpp:"); }
TEST(Emulator, CopyNeverWaitedFor) { expect_error(copies_and_ends, "a copy_async was never waited for", "emulator_test.cpp:"); }

TEST(Emulator, LaunchesThatNoDeviceTakes)
{
    EXPECT_NE(error_of([] { launch(two_barriers, 1, 33, 0, nullptr, Nothing{}); }).find("33 threads"), std::string::npos);
    EXPECT_NE(error_of([] { launch(two_barriers, 0, 32, 0, nullptr, Nothing{}); }).find("0 blocks"), std::string::npos);
    EXPECT_NE(error_of([] { launch(two_barriers, 1, 32, 1 << 20, nullptr, Nothing{}); }).find("shared memory"), std::string::npos);
}

// A launch after one that failed finds clean stacks and memory.
TEST(Emulator, GoesOnAfterAnError)
{
    expect_error(early_return, "block_barrier", "");
    EXPECT_EQ((right_passes<true, true>()), kSeeds);
}

// ---- shared memory --------------------------------------------------------------------------------------------------------

// shared_bytes is given; the byte at `count` of shared memory is read or written.
VKV_KERNEL void reads_at(Arrays arrays)
{
    if (thread() == 0) arrays.out[0] = shared_memory()[arrays.count];
}
VKV_KERNEL void writes_at(Arrays arrays)
{
    if (thread() == 0) shared_memory()[arrays.count] = 1;
}

TEST(EmulatorDeathTest, ReadBeyondSharedMemory)
{
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    std::vector<float> out(1);
    launch(reads_at, 1, 32, 1024, nullptr, Arrays{nullptr, out.data(), 1023});
    EXPECT_EQ(out[0], 127.0F) << "the last byte can be read, and is poisoned";
    EXPECT_DEATH(launch(reads_at, 1, 32, 1024, nullptr, Arrays{nullptr, out.data(), 1024}), "");
    EXPECT_DEATH(launch(reads_at, 1, 32, 1024, nullptr, Arrays{nullptr, out.data(), 5000}), "");
}

// Not a multiple of 128: the end is guarded to the byte for writes, by the address sanitizer or by canaries.
TEST(EmulatorDeathTest, WriteBesideSharedMemory)
{
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    for (const int at : {1000, 1023, -1}) {
#if VKV_EMULATOR_ASAN
        EXPECT_DEATH(launch(writes_at, 1, 32, 1000, nullptr, Arrays{nullptr, nullptr, at}), "AddressSanitizer") << at;
#else
        const std::string error = error_of([&] { launch(writes_at, 1, 32, 1000, nullptr, Arrays{nullptr, nullptr, at}); });
        EXPECT_NE(error.find(at < 0 ? "before its beginning" : "beyond its end"), std::string::npos) << error;
#endif
    }
}

VKV_KERNEL void shows_poison(Arrays arrays)
{
    for (int i = thread(); i < arrays.count; i += block_threads()) {
        const uint16_t half = static_cast<uint16_t>(shared_memory()[4 * i] * 257);
        arrays.out[block() * arrays.count + i] = std::isnan(shared_floats()[i]) && std::isnan(half_to_float(half));
        shared_floats()[i] = 1;
    }
}

TEST(Emulator, SharedMemoryIsPoisonedBeforeEachBlock)
{
    std::vector<float> out(40 * 256);
    launch(shows_poison, 40, 64, 1024, nullptr, Arrays{nullptr, out.data(), 256});
    for (const float poisoned : out) ASSERT_EQ(poisoned, 1.0F);
}

}  // namespace
