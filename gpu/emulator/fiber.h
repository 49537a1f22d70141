// Fibers for the emulator: a stack and a saved stack pointer each, switched without the kernel's help (x86-64: our own assembly;
// elsewhere ucontext). Under the address sanitizer every switch is announced to it. A fiber never moves to another OS thread.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#if defined(__SANITIZE_ADDRESS__)
#define VKV_EMULATOR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define VKV_EMULATOR_ASAN 1
#endif
#endif
#ifndef VKV_EMULATOR_ASAN
#define VKV_EMULATOR_ASAN 0
#endif

namespace vkv::gpu::cu::emulated {

inline constexpr size_t kStackBytes = VKV_EMULATOR_ASAN ? size_t{256} << 10 : size_t{64} << 10;

struct Fiber {
    void *saved = nullptr;  // stack pointer (x86-64) or ucontext_t
    const uint8_t *bottom = nullptr;
    size_t bytes = 0;
    void *fake_stack = nullptr;  // the address sanitizer's
};

// Memory for stacks, mapped once, an unreadable page below each.
class Stacks {
public:
    explicit Stacks(int count);
    ~Stacks();
    Stacks(const Stacks &) = delete;
    Stacks &operator=(const Stacks &) = delete;
    uint8_t *bottom(int index) const;
    void forget_frames();  // after fibers were abandoned in the middle of their work

private:
    uint8_t *memory_ = nullptr;
    size_t bytes_ = 0;
    [[maybe_unused]] int count_ = 0;  // used under the address sanitizer only
};

// The fiber will start with entry(), which must never return. color: fibers of different color do not share cache sets.
void prepare(Fiber *fiber, uint8_t *stack, int color, void (*entry)());
// Goes on with `to`; returns when something switches back to `from`. A null `from` is never come back to.
void switch_fiber(Fiber *from, Fiber *to);
// The first call of an entry function. previous, where not null, gets the bounds of the stack that was left.
void entered(Fiber *previous);
// Frees what prepare or a switch has made.
void release(Fiber *fiber);

}  // namespace vkv::gpu::cu::emulated
