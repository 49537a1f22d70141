// Stacks and the switch itself.
#include "gpu/emulator/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>

#if VKV_EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace vkv::gpu::cu::emulated {

namespace {

size_t page_bytes()
{
    static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return bytes;
}

// Holds the frames that are left behind when a fiber ends.
[[maybe_unused]] constexpr size_t kTopBytes = 32 << 10;

size_t stride() { return kStackBytes + page_bytes(); }

}  // namespace

Stacks::Stacks(int count) : bytes_(stride() * static_cast<size_t>(count)), count_(count)
{
    void *memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<uint8_t *>(memory);
    for (int i = 0; i < count; ++i) {
        if (mprotect(memory_ + stride() * static_cast<size_t>(i), page_bytes(), PROT_NONE) != 0) throw std::bad_alloc();
    }
}

Stacks::~Stacks()
{
    forget_frames();
    munmap(memory_, bytes_);
}

uint8_t *Stacks::bottom(int index) const { return memory_ + stride() * static_cast<size_t>(index) + page_bytes(); }

void Stacks::forget_frames()
{
#if VKV_EMULATOR_ASAN
    for (int i = 0; i < count_; ++i) __asan_unpoison_memory_region(bottom(i), kStackBytes);
#endif
}

#if defined(__x86_64__)

// The registers that a called function must keep, then the stack pointers change places.
extern "C" void vkv_emulator_switch(void **save, void *to);
asm(R"(
    .text
    .p2align 4
    .globl vkv_emulator_switch
    .hidden vkv_emulator_switch
    .type vkv_emulator_switch,@function
vkv_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size vkv_emulator_switch,.-vkv_emulator_switch
)");

void prepare(Fiber *fiber, uint8_t *stack, int color, void (*entry)())
{
#if VKV_EMULATOR_ASAN
    __asan_unpoison_memory_region(stack + kStackBytes - kTopBytes, kTopBytes);  // of the fiber that ended here before
#endif
    // 16-aligned top, moved by a few cache lines for each color; entry finds the stack as after a call.
    uint8_t *top = stack + kStackBytes - 64 - static_cast<size_t>(color % 59) * 192;
    auto words = reinterpret_cast<uintptr_t *>(top) - 8;
    std::memset(words, 0, 8 * sizeof *words);
    words[6] = reinterpret_cast<uintptr_t>(entry);
    *fiber = {words, stack, kStackBytes, nullptr};
}

void release(Fiber *) {}

static void change(Fiber *from, Fiber *to)
{
    void *nowhere;
    vkv_emulator_switch(from ? &from->saved : &nowhere, to->saved);
}

#else

void prepare(Fiber *fiber, uint8_t *stack, int, void (*entry)())
{
    auto *context = static_cast<ucontext_t *>(fiber->saved ? fiber->saved : new ucontext_t);
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = kStackBytes;
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
    *fiber = {context, stack, kStackBytes, nullptr};
}

void release(Fiber *fiber)
{
    delete static_cast<ucontext_t *>(fiber->saved);
    fiber->saved = nullptr;
}

static void change(Fiber *from, Fiber *to)
{
    ucontext_t nowhere;
    if (from && !from->saved) from->saved = new ucontext_t;
    swapcontext(from ? static_cast<ucontext_t *>(from->saved) : &nowhere, static_cast<ucontext_t *>(to->saved));
}

#endif

void switch_fiber(Fiber *from, Fiber *to)
{
#if VKV_EMULATOR_ASAN
    __sanitizer_start_switch_fiber(from ? &from->fake_stack : nullptr, to->bottom, to->bytes);
    change(from, to);
    __sanitizer_finish_switch_fiber(from ? from->fake_stack : nullptr, nullptr, nullptr);
#else
    change(from, to);
#endif
}

void entered(Fiber *previous)
{
#if VKV_EMULATOR_ASAN
    const void *bottom = nullptr;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
    if (previous) {
        previous->bottom = static_cast<const uint8_t *>(bottom);
        previous->bytes = bytes;
    }
#else
    static_cast<void>(previous);
#endif
}

}  // namespace vkv::gpu::cu::emulated
