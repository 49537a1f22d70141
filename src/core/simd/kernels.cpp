// The scalar level, which is the truth for all others (its float sums are made in double), and the choice of a level.
//
// The choice asks the processor what it can do (cpuid) and the system which registers it saves (xgetbv). It is made on the first
// call of kernels(), or by set_level; after that kernels() is one load and one branch. No static constructors.
#include "core/simd/kernels.h"

#include <atomic>
#include <string>

#include "core/error.h"
#include "core/simd/cosine.h"
#include "core/simd/half.h"
#include "core/simd/tables.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace vkv::simd {
namespace {

using Sum = double;
inline float load_half(uint16_t half) { return half_to_float(half); }
inline uint16_t store_half(float value) { return float_to_half(value); }

#include "core/simd/kernels_body.inl"

constexpr Kernels kScalarKernels = {
    .l2_f32 = plain_l2<float>,
    .ip_f32 = plain_ip<float>,
    .l1_f32 = plain_l1<float>,
    .cosine_f32 = cosine_scalar,
    .l2_f16 = plain_l2<uint16_t>,
    .ip_f16 = plain_ip<uint16_t>,
    .l1_f16 = plain_l1<uint16_t>,
    .cosine_f16 = cosine_scalar,
    .f16_to_f32 = plain_f16_to_f32,
    .f32_to_f16 = plain_f32_to_f16,
    .hamming = plain_hamming,
    .and_or_count = plain_and_or_count,
    .dot_u8_s16 = plain_dot_u8_s16,
    .dot_u4_s16 = plain_dot_u4_s16,
    .dot_u8_u8 = plain_dot_u8_u8,
    .dot_u4_u4 = plain_dot_u4_u4,
    .min_max = plain_min_max,
    .quantize_u8 = plain_quantize_u8,
};

#if defined(__x86_64__)

uint64_t saved_registers()
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<uint64_t>(high) << 32) | low;
}

struct Cpu {
    bool avx2 = false, avx512 = false;
};

Cpu ask_cpu()
{
    uint32_t a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return {};
    constexpr uint32_t kFirstNeeds = bit_FMA | bit_POPCNT | bit_OSXSAVE | bit_AVX | bit_F16C;
    if ((c & kFirstNeeds) != kFirstNeeds) return {};
    constexpr uint64_t kYmm = 0x06, kZmm = 0xE6;  // XCR0: SSE and AVX; those, opmask and both ZMM parts
    const uint64_t saved = saved_registers();
    if ((saved & kYmm) != kYmm || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return {};
    constexpr uint32_t kAvx512Needs = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
    Cpu cpu;
    cpu.avx2 = (b & bit_AVX2) != 0;
    cpu.avx512 = cpu.avx2 && (b & kAvx512Needs) == kAvx512Needs && (c & bit_AVX512VNNI) && (saved & kZmm) == kZmm;
    return cpu;
}

#endif

const Kernels *table_of(Level level)
{
    switch (level) {
#if defined(__x86_64__)
        case Level::avx2:
            return &kAvx2Kernels;
        case Level::avx512:
            return &kAvx512Kernels;
#elif defined(__aarch64__)
        case Level::neon:
            return &kNeonKernels;
#endif
        case Level::scalar:
            return &kScalarKernels;
        default:
            return nullptr;
    }
}

constinit std::atomic<const Kernels *> active{nullptr};

const Kernels *choose()
{
    const Kernels *table = table_of(best_level());
    active.store(table, std::memory_order_relaxed);
    return table;
}

}  // namespace

const char *level_name(Level level)
{
    switch (level) {
        case Level::scalar:
            return "scalar";
        case Level::neon:
            return "neon";
        case Level::avx2:
            return "avx2";
        case Level::avx512:
            return "avx512";
    }
    return "unknown";
}

bool supported(Level level)
{
    if (level == Level::scalar) return true;
#if defined(__x86_64__)
    if (level == Level::avx2) return ask_cpu().avx2;
    if (level == Level::avx512) return ask_cpu().avx512;
#elif defined(__aarch64__)
    if (level == Level::neon) return true;
#endif
    return false;
}

Level best_level()
{
    for (Level level : {Level::avx512, Level::avx2, Level::neon})
        if (supported(level)) return level;
    return Level::scalar;
}

Level active_level()
{
    const Kernels *table = &kernels();
    for (Level level : {Level::avx512, Level::avx2, Level::neon})
        if (table == table_of(level)) return level;
    return Level::scalar;
}

const Kernels &kernels(Level level)
{
    if (!supported(level))
        throw Error(Errc::not_supported, std::string("instruction set \"") + level_name(level) + "\" is not supported here",
                    std::string("The highest level of this processor and this build is \"") + level_name(best_level()) + "\".");
    return *table_of(level);
}

void set_level(Level level) { active.store(&kernels(level), std::memory_order_relaxed); }

const Kernels &kernels()
{
    const Kernels *table = active.load(std::memory_order_relaxed);
    return *(table ? table : choose());
}

}  // namespace vkv::simd
