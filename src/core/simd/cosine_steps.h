// Both vectors, sixteen values a step, the last ones with zeros behind them. A step's type is its file's own, and so is the code
// made of this: files of different instruction sets share none.
#pragma once
#include <cstddef>

namespace vkv::simd {

template <class T, class Step>
[[gnu::always_inline]] inline void each_sixteen(const T *a, const T *b, size_t n, const Step &step)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) step(a + i, b + i);
    if (i == n) return;
    T p[16] = {}, q[16] = {};
    __builtin_memcpy(p, a + i, (n - i) * sizeof(T));
    __builtin_memcpy(q, b + i, (n - i) * sizeof(T));
    step(p, q);
}

}  // namespace vkv::simd
