// Reading the arguments of kv.create_cache and kv.adopt_cache.

#include "pg/kv/request.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/call.h"
#include "pg/kv/rope.h"

namespace vkv::kv {

namespace {

int positive(FunctionCallInfo fcinfo, int argument, const char *name, int most)
{
    if (PG_ARGISNULL(argument)) throw Error(Errc::null_not_allowed, message("%s must not be null", name));
    const int value = PG_GETARG_INT32(argument);
    if (value < 1 || value > most)
        throw Error(Errc::invalid_parameter, message("%s must be from 1 to %d, not %d", name, most, value));
    return value;
}

// One of two words.
bool is_first(FunctionCallInfo fcinfo, int argument, const char *name, const char *first, const char *second)
{
    const char *given = optional_text(fcinfo, argument);
    if (given && strcmp(given, first) == 0) return true;
    if (given && strcmp(given, second) == 0) return false;
    throw Error(Errc::invalid_parameter, message("%s must be '%s' or '%s', not '%s'", name, first, second, given ? given : "NULL"));
}

}  // namespace

void read_name(FunctionCallInfo fcinfo, Request *r)
{
    if (PG_ARGISNULL(kArgName)) throw Error(Errc::null_not_allowed, "name must not be null");
    List *parts = compat::qualified_name(text_to_cstring(PG_GETARG_TEXT_PP(kArgName)));
    RangeVar *range = makeRangeVarFromNameList(parts);
    r->namespace_oid = RangeVarGetCreationNamespace(range);
    r->schema = get_namespace_name(r->namespace_oid);
    r->name = range->relname;
    if (isTempNamespace(r->namespace_oid)) throw Error(Errc::not_supported, "a cache cannot be temporary");
    constexpr size_t kLongest = NAMEDATALEN - 1 - sizeof("_sealed_pkey") + 1;
    if (strlen(r->name) > kLongest)
        throw Error(Errc::invalid_parameter, message("name of cache \"%s\" is longer than %zu bytes", r->name, kLongest));
}

namespace {

void check_rope(FunctionCallInfo fcinfo, const Request &r)
{
    is_first(fcinfo, kArgRopePairing, "rope_pairing", "half", "interleaved");
    const bool listed = !PG_ARGISNULL(kArgRopeFrequencies);
    if (!PG_ARGISNULL(kArgRopeTheta)) {
        const double theta = PG_GETARG_FLOAT8(kArgRopeTheta);
        if (!(theta > 1) || !std::isfinite(theta))
            throw Error(Errc::invalid_parameter, message("rope_theta must be above 1, not %g", theta));
        if (listed) throw Error(Errc::invalid_parameter, "rope_theta and rope_frequencies exclude each other");
    } else if (r.before_rope && !listed) {
        throw Error(Errc::invalid_parameter, "keys before RoPE need rope_theta or rope_frequencies",
                    "They are rotated when they are read.");
    }
    int dims = r.head_dim;
    if (listed) {
        dims = 2 * frequency_list(PG_GETARG_ARRAYTYPE_P(kArgRopeFrequencies), "rope_frequencies").n;
    } else if (!PG_ARGISNULL(kArgRopeDims)) {
        dims = PG_GETARG_INT32(kArgRopeDims);
    }
    if (dims < 2 || dims > r.head_dim || dims % 2 != 0)
        if (listed || !PG_ARGISNULL(kArgRopeTheta))
            throw Error(Errc::invalid_parameter,
                        message("RoPE turns an even number of dimensions up to %d, not %d", r.head_dim, dims));
}

}  // namespace

void read_geometry(FunctionCallInfo fcinfo, Request *r)
{
    r->layers = positive(fcinfo, kArgLayers, "layers", 32767);
    r->kv_heads = positive(fcinfo, kArgKvHeads, "kv_heads", kMaxKvHeads);
    r->q_heads = positive(fcinfo, kArgQHeads, "q_heads", 1 << 20);
    r->head_dim = positive(fcinfo, kArgHeadDim, "head_dim", kMaxHeadDim);
    if (r->q_heads % r->kv_heads != 0)
        throw Error(Errc::invalid_parameter,
                    message("q_heads must be a multiple of kv_heads: %d is none of %d", r->q_heads, r->kv_heads));
    r->values_in_keys = !PG_ARGISNULL(kArgValuesInKeys) && PG_GETARG_BOOL(kArgValuesInKeys);
    r->value_dim = PG_ARGISNULL(kArgValueDim) ? r->head_dim : positive(fcinfo, kArgValueDim, "value_dim", kMaxHeadDim);
    if (r->values_in_keys && r->value_dim > r->head_dim)
        throw Error(Errc::invalid_parameter,
                    message("values of %d dimensions do not lie in keys of %d", r->value_dim, r->head_dim));
    if (PG_ARGISNULL(kArgCodec)) throw Error(Errc::null_not_allowed, "codec must not be null");
    r->codec = codec_named(text_to_cstring(PG_GETARG_TEXT_PP(kArgCodec)));
    // The table of a cache that is adopted says it.
    if (!r->adopted || !PG_ARGISNULL(kArgTail)) {
        const bool logged = is_first(fcinfo, kArgTail, "tail", "logged", "unlogged");
        if (r->adopted && logged != r->logged)
            throw Error(Errc::invalid_parameter,
                        message("the tail of cache \"%s\" is %s", r->name, r->logged ? "logged" : "unlogged"));
        r->logged = logged;
    }
    r->before_rope = is_first(fcinfo, kArgKeys, "keys", "before_rope", "after_rope");
    r->tail_tokens = PG_ARGISNULL(kArgTailTokens) ? 128 : PG_GETARG_INT32(kArgTailTokens);
    r->sink_tokens = PG_ARGISNULL(kArgSinkTokens) ? 4 : PG_GETARG_INT32(kArgSinkTokens);
    constexpr int kMostTail = 1 << 20;
    if (r->tail_tokens < 0 || r->tail_tokens > kMostTail)
        throw Error(Errc::invalid_parameter, message("tail_tokens must be from 0 to %d, not %d", kMostTail, r->tail_tokens));
    if (r->sink_tokens < 0 || r->sink_tokens > kMostTail)
        throw Error(Errc::invalid_parameter, message("sink_tokens must be from 0 to %d, not %d", kMostTail, r->sink_tokens));
    check_rope(fcinfo, *r);
    const int slot_values = r->head_dim + (r->values_in_keys ? 0 : r->value_dim);
    r->row_slots = row_slots_for(r->layers * r->kv_heads, r->kv_heads, slot_values);
    tile_capacity({r->codec, r->flags(), r->head_dim, r->value_dim, r->kv_heads});  // throws what it does not like
}

}  // namespace vkv::kv
