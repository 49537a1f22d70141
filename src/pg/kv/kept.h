// What a session keeps to have it at hand, within a limit of memory: in order of use, so that the one to forget is found at once
// however many there are. Something that is held is not in line, and not forgotten; its bytes count all the same.
//
// Kept things lie in contexts of their own, where pg_backend_memory_contexts shows them.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <new>

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"

namespace vkv::kv {

// What so many bytes take up in a context: small chunks are powers of two.
constexpr size_t chunk_bytes(size_t bytes)
{
    constexpr size_t kHeader = 16, kSmall = 8192;
    return bytes == 0 ? 0 : kHeader + (bytes <= kSmall ? std::bit_ceil(bytes) : bytes + 2 * kHeader);
}

// T has the members `T *older, *newer`, null while it is not in line.
template <typename T>
class KeptInOrder {
public:
    bool within(int kilobytes) const { return bytes_ <= static_cast<size_t>(kilobytes) * 1024; }
    void count(size_t more) { bytes_ += more; }
    void discount(size_t less) { bytes_ -= less; }
    T *oldest() const { return oldest_; }

    // In line as the newest, wherever it was before.
    void use(T *kept)
    {
        if (kept == newest_) return;
        take_out(kept);
        kept->older = newest_;
        (newest_ ? newest_->newer : oldest_) = kept;
        newest_ = kept;
    }

    void take_out(T *kept)
    {
        if (!kept->older && !kept->newer && kept != newest_) return;
        (kept->newer ? kept->newer->older : newest_) = kept->older;
        (kept->older ? kept->older->newer : oldest_) = kept->newer;
        kept->older = kept->newer = nullptr;
    }

    // forget(oldest), which takes it out and discounts its bytes, until the rest is within the limit or there is none but `stays`.
    // Looks for interrupts, so it raises: an error leaves what is not forgotten yet as it is.
    template <typename F>
    void shrink(int kilobytes, const T *stays, F &&forget)
    {
        for (uint32_t n = 1; !within(kilobytes) && oldest_ && oldest_ != stays; ++n) {
            forget(oldest_);
            if (n % 256 == 0) pg_call([] { CHECK_FOR_INTERRUPTS(); });
        }
    }

private:
    T *oldest_ = nullptr, *newest_ = nullptr;
    size_t bytes_ = 0;
};

// Memory of a context for containers; the context is asked for at each allocation. Throws std::bad_alloc, raises nothing.
template <typename T, MemoryContext *context>
struct ContextAllocator {
    using value_type = T;
    template <typename U>
    struct rebind {
        using other = ContextAllocator<U, context>;
    };
    ContextAllocator() = default;
    template <typename U>
    explicit ContextAllocator(const ContextAllocator<U, context> &) noexcept
    {
    }
    T *allocate(size_t n)
    {
        constexpr size_t kSlack = alignof(T) > MAXIMUM_ALIGNOF ? alignof(T) : 0;
        if (n > (MaxAllocHugeSize - kSlack) / sizeof(T)) throw std::bad_alloc();
        auto *chunk =
            static_cast<char *>(MemoryContextAllocExtended(*context, n * sizeof(T) + kSlack, MCXT_ALLOC_HUGE | MCXT_ALLOC_NO_OOM));
        if (!chunk) throw std::bad_alloc();
        if constexpr (kSlack > 0) {
            // What begins on a boundary has the chunk's address right before it: chunks lie at multiples of MAXIMUM_ALIGNOF.
            char *at = chunk + (kSlack - reinterpret_cast<uintptr_t>(chunk) % kSlack);
            reinterpret_cast<char **>(at)[-1] = chunk;
            return reinterpret_cast<T *>(at);
        } else {
            return reinterpret_cast<T *>(chunk);
        }
    }
    void deallocate(T *at, size_t) noexcept
    {
        if constexpr (alignof(T) > MAXIMUM_ALIGNOF)
            pfree(reinterpret_cast<char **>(at)[-1]);
        else
            pfree(at);
    }
    template <typename U>
    bool operator==(const ContextAllocator<U, context> &) const noexcept
    {
        return true;
    }
};

}  // namespace vkv::kv
