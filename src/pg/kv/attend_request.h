// What a call of kv.attend asks for, once its arguments were read and checked.
#pragma once

#include "core/text/message.h"
#include "pg/kv/sequence.h"

namespace vkv::kv {

// Shapes: q [layers, batch, q_heads, q_len, dim_k], k and v [layers, batch, kv_heads, fresh, dim].
struct AttendRequest {
    Cache *cache;
    Sequence *sequences;
    int batch, layers, q_len, fresh;
    const int *layer;
    TensorView q;
    const float *queries;
    const uint16_t *k, *v;  // null: nothing fresh
    float scale, softcap;
    bool causal;
    int32_t window, sinks;  // window 0: none

    size_t heads() const { return static_cast<size_t>(cache->q_heads); }
    size_t rows() const { return static_cast<size_t>(cache->group()) * static_cast<size_t>(q_len); }
    size_t state_floats() const { return rows() * (2 + static_cast<size_t>(cache->dim_v)); }  // of a KV head
    size_t item(int l, int b) const { return static_cast<size_t>(l) * static_cast<size_t>(batch) + static_cast<size_t>(b); }
};

// Shapes: output [layers, batch, q_heads, q_len, dim_v], lse without the last dimension, or null.
struct AttendResult {
    float *output, *lse;
};

// A sequence cannot have more positions than there are numbers for.
inline void check_total(const AttendRequest &r, const Sequence &s, int32_t stored)
{
    if (r.fresh > INT32_MAX - stored)
        throw Error(Errc::limit_exceeded, message("sequence %lld of cache \"%s\" has %d tokens, %d more are too many",
                                                  static_cast<long long>(s.seq), r.cache->name, stored, r.fresh));
}

}  // namespace vkv::kv
