// What kv.create_cache and kv.adopt_cache are asked for, and the parts of making a cache that they share.
#pragma once

#include "pg/kv/cache.h"

namespace vkv::kv {

// The arguments of both functions, in order.
enum Argument {
    kArgName,
    kArgLayers,
    kArgQHeads,
    kArgKvHeads,
    kArgHeadDim,
    kArgCodec,
    kArgTail,
    kArgTailTokens,
    kArgSinkTokens,
    kArgValueDim,
    kArgValuesInKeys,
    kArgModel,
    kArgRevision,
    kArgKeys,
    kArgRopeTheta,
    kArgRopeDims,
    kArgRopePairing,
    kArgRopeFrequencies,
};

struct Request {
    const char *schema, *name;
    Oid namespace_oid;
    int layers, q_heads, kv_heads, head_dim, value_dim;
    bool values_in_keys, logged, before_rope, adopted;
    Codec codec;
    int tail_tokens, sink_tokens, row_slots;
    uint8_t flags() const
    {
        return static_cast<uint8_t>((values_in_keys ? kValuesInKeys : 0) | (before_rope ? kKeysBeforeRope : 0));
    }
};

// The name, for kv.create_cache: where a new table would be made. Then all the rest.
void read_name(FunctionCallInfo fcinfo, Request *r);
void read_geometry(FunctionCallInfo fcinfo, Request *r);

// Runs a command through SPI.
void execute(const char *format, ...) __attribute__((format(printf, 1, 2)));
// NAME and a suffix, qualified and quoted.
const char *quoted(const Request &r, const char *suffix);
Oid relation_named(const Request &r, const char *suffix);

// What NAME_tail is besides its columns and key.
void finish_tail(const Request &r);
// NAME_tile; that of a cache that is adopted is made anew.
void make_view(const Request &r);
// The row of kv.caches, written by the extension's owner: nobody else may say what is a cache.
void register_cache(FunctionCallInfo fcinfo, const Request &r);

}  // namespace vkv::kv
