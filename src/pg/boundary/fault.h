// A fault point for tests: vectorkv.fault_after = n makes the n-th call into PostgreSQL from then on fail, with SQLSTATE VKF01.
//
// Counted are all guarded calls (pg_call) and the places that say fault_point(): code that calls PostgreSQL bare does. A test walks
// n = 1, 2, 3, ... until its statement succeeds, and so fails it at every place where PostgreSQL could.
//
// And a point to wait at: vectorkv.wait_after = n makes the n-th of those calls that hold no lightweight lock wait until nobody
// holds the advisory lock 11 exclusively. A test stops a session there, and lets another one change what the first has just read.
#pragma once

#include <cstdint>

namespace vkv {

namespace detail {
extern constinit int32_t calls_to_fault, calls_to_wait;  // 0: none will fail, or wait
void fault_or_wait();
}  // namespace detail

// Raises a PostgreSQL error: call it guarded, or where a PostgreSQL call may be bare.
inline void fault_point()
{
    if (__builtin_expect((detail::calls_to_fault | detail::calls_to_wait) != 0, 0)) detail::fault_or_wait();
}

// Defines vectorkv.fault_after and vectorkv.wait_after.
void init_fault_setting();

}  // namespace vkv
