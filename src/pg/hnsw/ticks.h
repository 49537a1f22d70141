// A clock that is read in a few nanoseconds, to tell whether little time has passed (resident.h). Ticks are about as long as a
// cycle of a processor, or are counted as if they were.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <x86intrin.h>
#else
#include <ctime>
#endif

namespace vkv::hnsw {

inline constexpr uint64_t kTicksPerStep = 16;  // no step of the clock sweep is done in less

#if defined(__x86_64__)
inline uint64_t ticks() { return __rdtsc(); }
// How many ticks that many steps of the clock sweep take at the least.
inline uint64_t ticks_of(uint64_t steps) { return steps * kTicksPerStep; }
#elif defined(__aarch64__)
inline uint64_t ticks()
{
    uint64_t t;
    asm volatile("isb; mrs %0, cntvct_el0" : "=r"(t)::"memory");
    return t;
}
// The counter has a frequency of its own; a processor has at most 4 GHz.
inline uint64_t ticks_of(uint64_t steps)
{
    uint64_t frequency;
    asm volatile("mrs %0, cntfrq_el0" : "=r"(frequency));
    return steps * kTicksPerStep * (frequency / 1000) / 4000000;
}
#else
inline uint64_t ticks()
{
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1000000000 + static_cast<uint64_t>(now.tv_nsec);
}
inline uint64_t ticks_of(uint64_t steps) { return steps * kTicksPerStep / 4; }
#endif

}  // namespace vkv::hnsw
