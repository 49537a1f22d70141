// The border between PostgreSQL, whose errors are long jumps, and C++, whose errors are exceptions.
//
//   SQL_FUNCTION(name) { ... }    defines the exported C symbol of a SQL function; the body sees fcinfo
//   WORKER_MAIN(name) { ... }     defines the exported C symbol of a background worker, called vkv_worker_...
//   entry<fn>                     a pointer that PostgreSQL may call (AM routines, hooks), made of the C++ function fn
//   pg_call([&] { ... })          runs PostgreSQL code that may raise, while objects with destructors are alive
//   own<T>(context, args...)      an object that lives as long as a memory context
//
// An exception never leaves an entry point: it is caught, everything is destroyed, and only then an error is raised. A PostgreSQL
// error passes C++ frames as PgError, which is no std::exception and must not be swallowed. Frames that hold only trivial
// locals may call PostgreSQL bare. Only the main thread may use any of this.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "core/error.h"
#include "pg/boundary/pg.h"

namespace vkv {

// A PostgreSQL error on its way to the boundary. The data lie in PostgreSQL's memory; null if there was no memory to copy them.
class PgError {
public:
    explicit PgError(ErrorData *data) noexcept : data_(data) {}
    ErrorData *data() const noexcept { return data_; }

private:
    ErrorData *data_;
};

int sqlstate_of(Errc code) noexcept;

void look_for_interrupts();  // what core calls now and then (core/poll.h)

namespace detail {

// An error that waits until all destructors have run. Trivial, so that a long jump may pass it.
struct PendingError {
    ErrorData *pg_error;
    int sqlstate;
    const char *message, *hint, *detail;
};

// Call in a catch block: describes the current exception. Raises nothing.
void capture_exception(PendingError *pending) noexcept;
[[noreturn]] void raise_pending(const PendingError &pending);
// Runs body(argument); an error it raises is thrown as PgError.
void run_guarded(void (*body)(void *), void *argument);

template <typename F>
auto at_boundary(F &&body) -> std::invoke_result_t<F &>
{
    PendingError pending;
    try {
        return body();
    } catch (...) {
        capture_exception(&pending);
    }
    raise_pending(pending);
}

template <auto fn>
struct Entry;

template <typename R, typename... Args, R (*fn)(Args...)>
struct Entry<fn> {
    static R call(Args... args)
    {
        return at_boundary([&]() -> R { return fn(args...); });
    }
};

}  // namespace detail

template <typename F>
auto pg_call(F &&body) -> std::invoke_result_t<F &>
{
    using Body = std::remove_reference_t<F>;
    using Result = std::invoke_result_t<F &>;
    if constexpr (std::is_void_v<Result>) {
        detail::run_guarded([](void *argument) { (*static_cast<Body *>(argument))(); }, std::addressof(body));
    } else {
        static_assert(std::is_trivially_copyable_v<Result>, "a value from PostgreSQL code must be trivial");
        struct Frame {
            Body *body;
            Result result;
        } frame{std::addressof(body), {}};
        detail::run_guarded(
            [](void *argument) {
                auto *f = static_cast<Frame *>(argument);
                f->result = (*f->body)();
            },
            &frame);
        return frame.result;
    }
}

template <auto fn>
inline constexpr auto entry = &detail::Entry<fn>::call;

// The destructor runs when the context is reset or deleted; it must not throw, nor use what the same context holds.
template <typename T, typename... Args>
T *own(MemoryContext context, Args &&...args)
{
    static_assert(std::is_nothrow_destructible_v<T>);
    constexpr size_t kSlack = alignof(T) > MAXIMUM_ALIGNOF ? alignof(T) : 0;
    constexpr size_t kHeader = MAXALIGN(sizeof(MemoryContextCallback));
    char *block = pg_call([&] { return static_cast<char *>(MemoryContextAlloc(context, kHeader + sizeof(T) + kSlack)); });
    void *place = block + kHeader;
    size_t space = sizeof(T) + kSlack;
    T *object = new (std::align(alignof(T), sizeof(T), place, space)) T(std::forward<Args>(args)...);
    auto *callback = reinterpret_cast<MemoryContextCallback *>(block);
    callback->func = [](void *argument) { static_cast<T *>(argument)->~T(); };
    callback->arg = object;
    MemoryContextRegisterResetCallback(context, callback);  // raises nothing
    return object;
}

}  // namespace vkv

#define VKV_EXPORT __attribute__((visibility("default")))

// The record says "version 1"; both symbols are exported although everything else is hidden.
#define SQL_FUNCTION(name)                                                             \
    static Datum vkv_body_of_##name(FunctionCallInfo fcinfo);                          \
    extern "C" {                                                                       \
    VKV_EXPORT const Pg_finfo_record *pg_finfo_##name(void);                           \
    VKV_EXPORT const Pg_finfo_record *pg_finfo_##name(void)                            \
    {                                                                                  \
        static constexpr Pg_finfo_record kRecord = {1};                                \
        return &kRecord;                                                               \
    }                                                                                  \
    VKV_EXPORT Datum name(FunctionCallInfo fcinfo);                                    \
    VKV_EXPORT Datum name(FunctionCallInfo fcinfo)                                     \
    {                                                                                  \
        return ::vkv::detail::at_boundary([&] { return vkv_body_of_##name(fcinfo); }); \
    }                                                                                  \
    }                                                                                  \
    static Datum vkv_body_of_##name([[maybe_unused]] FunctionCallInfo fcinfo)

#define WORKER_MAIN(name)                                         \
    static void vkv_body_of_##name();                             \
    extern "C" {                                                  \
    VKV_EXPORT void name(Datum argument);                         \
    VKV_EXPORT void name(Datum)                                   \
    {                                                             \
        ::vkv::detail::at_boundary([] { vkv_body_of_##name(); }); \
    }                                                             \
    }                                                             \
    static void vkv_body_of_##name()
