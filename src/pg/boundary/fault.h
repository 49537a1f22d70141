// A fault point for tests: vectorkv.fault_after = n makes the n-th call into PostgreSQL from then on fail, with SQLSTATE VKF01.
//
// Counted are all guarded calls (pg_call) and the places that say fault_point(): code that calls PostgreSQL bare does. A test walks
// n = 1, 2, 3, ... until its statement succeeds, and so fails it at every place where PostgreSQL could.
#pragma once

#include <cstdint>

namespace vkv {

namespace detail {
extern constinit int32_t calls_to_fault;  // 0: none will fail
[[noreturn]] void raise_fault();
}  // namespace detail

// Raises a PostgreSQL error: call it guarded, or where a PostgreSQL call may be bare.
inline void fault_point()
{
    if (__builtin_expect(detail::calls_to_fault != 0, 0) && --detail::calls_to_fault == 0) detail::raise_fault();
}

// Defines vectorkv.fault_after.
void init_fault_setting();

}  // namespace vkv
