// Arguments that the functions on caches share.
#pragma once

#include "core/error.h"
#include "core/text/message.h"
#include "pg/boundary/pg.h"
#include "pg/kv/cache.h"

namespace vkv::kv {

// The first n arguments must not be null.
inline void require_arguments(FunctionCallInfo fcinfo, const char *const *names, int n)
{
    for (int i = 0; i < n; ++i)
        if (PG_ARGISNULL(i)) throw Error(Errc::null_not_allowed, message("%s must not be null", names[i]));
}

inline const char *optional_text(FunctionCallInfo fcinfo, int i)
{
    return PG_ARGISNULL(i) ? nullptr : text_to_cstring(PG_GETARG_TEXT_PP(i));
}

inline void check_layer(const Cache *c, int layer)
{
    if (layer >= 0 && layer < c->layers) return;
    throw Error(Errc::invalid_parameter, message("layer %d is out of range", layer),
                message("Cache \"%s\" has layers 0 to %d.", c->name, c->layers - 1));
}

}  // namespace vkv::kv
