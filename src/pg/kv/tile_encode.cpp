// Tiles made of tensors: kv.encode, and kv.token_tile for the rows of a cache's tail.
//
// kv.encode cuts the tokens of every head into full tiles and what is left. It returns them one call at a time, head by head in
// order of position; the values are made halves once, on the first call.

#include <algorithm>

#include "core/error.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/arguments.h"
#include "pg/kv/packed_row.h"

namespace vkv::kv {
namespace {

// Trivial: it lives in the memory of a set-returning function.
struct Encoding {
    TileShape shape;
    int tokens, capacity, first;
    int head, token;  // where the next tile starts
    const uint16_t *k, *v;
};

// [heads, tokens, dim], or [tokens, dim] of one head.
struct HeadRows {
    HeadRows(const TensorView &tensor, const char *name)
    {
        if (tensor.dims != 2 && tensor.dims != 3) {
            throw Error(Errc::data_exception,
                        message("%s must be [tokens, dim] or [heads, tokens, dim], not %s", name, shape_text(tensor).c_str()));
        }
        heads = tensor.dims == 3 ? tensor.shape[0] : 1;
        tokens = tensor.shape[tensor.dims - 2];
        dim = tensor.shape[tensor.dims - 1];
    }
    uint32_t heads, tokens, dim;
};

// A dimension of a head as an int: what is too large for one is too large for a tile.
int head_dim(uint32_t dim) { return static_cast<int>(std::min<uint32_t>(dim, kMaxHeadDim + 1)); }

void check_heads(uint32_t heads)
{
    if (heads < 1 || heads > static_cast<uint32_t>(kMaxKvHeads)) {
        throw Error(Errc::data_exception, message("number of heads must be between 1 and %d, not %u", kMaxKvHeads, heads));
    }
}

void check_positions(int64_t first, int64_t tokens)
{
    if (first < 0) throw Error(Errc::invalid_parameter, message("position must not be negative: %ld", static_cast<long>(first)));
    if (first + tokens > INT32_MAX) {
        throw Error(Errc::limit_exceeded, message("%ld tokens from position %ld pass the last position, %d",
                                                  static_cast<long>(tokens), static_cast<long>(first), INT32_MAX - 1));
    }
}

int value_dim_argument(FunctionCallInfo fcinfo, int i, int dim_k)
{
    if (PG_ARGISNULL(i)) return dim_k;
    const int dim = PG_GETARG_INT32(i);
    if (dim < 1 || dim > dim_k) {
        throw Error(Errc::invalid_parameter, message("values of %d dimensions cannot lie in keys of %d", dim, dim_k));
    }
    return dim;
}

// encode(k, v, codec, first_position, keys_before_rope, value_dim): the arguments, checked; values in the current context.
Encoding start_encoding(FunctionCallInfo fcinfo)
{
    const TensorView k = tensor_argument(fcinfo, 0);
    const HeadRows rows(k, "k");
    Encoding e{};
    e.shape.codec = codec_named(text_argument(fcinfo, 2));
    e.first = PG_GETARG_INT32(3);
    e.shape.flags = PG_GETARG_BOOL(4) ? kKeysBeforeRope : 0;
    check_heads(rows.heads);
    check_positions(e.first, rows.tokens);
    e.shape.heads = static_cast<int>(rows.heads);
    e.shape.dim_k = head_dim(rows.dim);
    e.tokens = static_cast<int>(rows.tokens);
    if (PG_ARGISNULL(1)) {
        e.shape.flags |= kValuesInKeys;
        e.shape.dim_v = value_dim_argument(fcinfo, 5, e.shape.dim_k);
    } else {
        const TensorView v = tensor_argument(fcinfo, 1);
        const HeadRows value_rows(v, "v");
        if (value_rows.heads != rows.heads || value_rows.tokens != rows.tokens) {
            throw Error(Errc::data_exception,
                        message("k and v differ in heads or tokens: %s and %s", shape_text(k).c_str(), shape_text(v).c_str()));
        }
        if (!PG_ARGISNULL(5) && PG_GETARG_INT32(5) != head_dim(value_rows.dim)) {
            throw Error(Errc::invalid_parameter,
                        message("value_dim is %d, but v is %s", PG_GETARG_INT32(5), shape_text(v).c_str()));
        }
        e.shape.dim_v = head_dim(value_rows.dim);
        e.v = finite_halves(v, "v");
    }
    e.capacity = tile_capacity(e.shape);
    e.k = finite_halves(k, "k");
    return e;
}

// The next tile, null when there is none.
TileHeader *next_tile(Encoding *e)
{
    if (e->token >= e->tokens) {
        e->token = 0;
        ++e->head;
    }
    if (e->head >= e->shape.heads || e->tokens == 0) return nullptr;
    const int count = std::min(e->capacity, e->tokens - e->token);
    const size_t row = static_cast<size_t>(e->head) * static_cast<size_t>(e->tokens) + static_cast<size_t>(e->token);
    const auto width_k = static_cast<size_t>(e->shape.dim_k), width_v = static_cast<size_t>(e->shape.dim_v);
    const Rows k{e->k + row * width_k, width_k};
    const Rows v = e->v == nullptr ? Rows{} : Rows{e->v + row * width_v, width_v};
    TileHeader *tile = make_tile(e->shape, count);
    SET_VARSIZE(tile, encode_tile(e->shape, e->head, e->first + e->token, count, k, v, tile));
    e->token += count;
    return tile;
}

// token_tile(kv, slot, position, head, heads, dim_k, flags, dim_v)
struct TokenArguments {
    TokenArguments(FunctionCallInfo fcinfo, const PackedRow &packed)
        : row(packed),
          slot(PG_GETARG_INT32(1)),
          position(PG_GETARG_INT32(2)),
          head(PG_GETARG_INT32(3)),
          heads(PG_GETARG_INT32(4)),
          dim_k(PG_GETARG_INT32(5)),
          flags(PG_GETARG_INT32(6))
    {
    }
    PackedRow row;
    int slot, position, head, heads, dim_k, flags;
};

void check_token(const TokenArguments &a)
{
    if (a.slot < 0 || a.slot >= a.row.shape().slots) {
        throw Error(Errc::array_subscript, message("slot %d is out of range for %d slots", a.slot, a.row.shape().slots),
                    "Slots count from 0.");
    }
    if (a.heads < 1 || a.heads > kMaxKvHeads || a.head < 0 || a.head >= a.heads) {
        throw Error(Errc::invalid_parameter, message("head %d is out of range for %d heads", a.head, a.heads),
                    "Heads count from 0.");
    }
    if (a.flags < 0 || (a.flags & ~(kValuesInKeys | kKeysBeforeRope)) != 0) {
        throw Error(Errc::invalid_parameter, message("unknown flags %d", a.flags));
    }
    check_positions(a.position, 1);
}

// One token of a tail row as a tile of one token. dim_v null: what is left of the row, or all of K when V lies in K.
Datum token_tile(FunctionCallInfo fcinfo, const PackedRow &packed)
{
    const TokenArguments a(fcinfo, packed);
    check_token(a);
    const bool in_keys = (a.flags & kValuesInKeys) != 0;
    const int width = a.row.shape().width;
    const int dim_v = PG_ARGISNULL(7) ? (in_keys ? a.dim_k : width - a.dim_k) : PG_GETARG_INT32(7);
    const bool fits = a.dim_k >= 1 && dim_v >= 1 && width == a.dim_k + (in_keys ? 0 : dim_v);
    if (!fits) {
        throw Error(Errc::data_exception,
                    message("rows of %d values do not hold keys of %d and values of %d dimensions", width, a.dim_k, dim_v));
    }
    const TileShape shape{Codec::f16, static_cast<uint8_t>(a.flags), a.dim_k, dim_v, a.heads};
    tile_capacity(shape);  // refuses dimensions that no tile has
    const auto stride = static_cast<size_t>(width);
    uint16_t row[2 * kMaxHeadDim];  // more fit no tile
    a.row.read(a.slot, 1, row);
    if (first_not_finite_f16(Dtype::f16, row, stride) < stride) {
        throw Error(Errc::data_exception, message("NaN or infinite value in slot %d", a.slot));
    }
    TileHeader *tile = make_tile(shape, 1);
    SET_VARSIZE(tile,
                encode_tile(shape, a.head, a.position, 1, Rows{row, stride}, in_keys ? Rows{} : Rows{row + a.dim_k, stride}, tile));
    return PointerGetDatum(tile);
}

}  // namespace

SQL_FUNCTION(kv_encode)
{
    if (SRF_IS_FIRSTCALL()) {
        FuncCallContext *first = SRF_FIRSTCALL_INIT();
        if (PG_ARGISNULL(0) || PG_ARGISNULL(2) || PG_ARGISNULL(3) || PG_ARGISNULL(4)) SRF_RETURN_DONE(first);
        MemoryContext before = MemoryContextSwitchTo(first->multi_call_memory_ctx);
        first->user_fctx = palloc(sizeof(Encoding));
        *static_cast<Encoding *>(first->user_fctx) = start_encoding(fcinfo);
        MemoryContextSwitchTo(before);
    }
    FuncCallContext *call = SRF_PERCALL_SETUP();
    TileHeader *tile = next_tile(static_cast<Encoding *>(call->user_fctx));
    if (tile == nullptr) SRF_RETURN_DONE(call);
    SRF_RETURN_NEXT(call, PointerGetDatum(tile));
}

SQL_FUNCTION(kv_token_tile)
{
    for (int i = 0; i < 7; ++i) {
        if (PG_ARGISNULL(i)) PG_RETURN_NULL();
    }
    return with_packed_argument(fcinfo, [fcinfo](const PackedRow &row) { return token_tile(fcinfo, row); });
}

}  // namespace vkv::kv
