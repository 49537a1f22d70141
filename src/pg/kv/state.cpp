// kv.state: text and binary form, merging, finishing, and kv.partial. A state may be given as an expanded object (aggregate.cpp);
// datum_state makes it flat.

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/kv/wire.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/arguments.h"
#include "pg/kv/state_partial.h"

namespace vkv::kv {
namespace {

Datum read_state_datum(Bytes wire)
{
    const size_t bytes = state_bytes_of_wire(wire);
    auto *state = pg_call([&] { return static_cast<StateHeader *>(palloc(bytes)); });
    SET_VARSIZE(state, bytes);
    read_state(wire, state, look_for_interrupts);
    return PointerGetDatum(state);
}

// The first argument, to be changed: in place where an aggregate owns it, else a copy.
StateHeader *writable_state(FunctionCallInfo fcinfo)
{
    const auto *given = reinterpret_cast<const StateHeader *>(PG_GETARG_POINTER(0));
    StateHeader *state = const_cast<StateHeader *>(datum_state(PG_GETARG_DATUM(0)));
    if (state != given || AggCheckCallContext(fcinfo, nullptr) != 0) return state;
    auto *copy = static_cast<StateHeader *>(palloc(VARSIZE(state)));
    copy_data(copy, state, VARSIZE(state));
    return copy;
}

float *values_of(StateHeader *state) { return reinterpret_cast<float *>(state + 1); }

// o / l; a row that saw nothing is 0.
TensorHeader *output_of(const StateView &state)
{
    const uint32_t shape[2] = {state.rows, state.dim};
    TensorHeader *output = make_tensor(Dtype::f32, 2, shape);
    auto *out = static_cast<float *>(tensor_data(output));
    const float *o = state.o;
    by_pieces(state.rows, piece_of(sizeof(double) * state.dim), look_for_interrupts, [&](size_t first, size_t rows) {
        for (size_t row = first; row < first + rows; ++row, out += state.dim, o += state.dim) {
            const double l = static_cast<double>(state.l[row]);
            for (uint32_t d = 0; d < state.dim; ++d) out[d] = l > 0 ? static_cast<float>(static_cast<double>(o[d]) / l) : 0;
        }
    });
    return output;
}

// m + log l; a row that saw nothing is -infinity.
TensorHeader *lse_of(const StateView &state)
{
    const uint32_t shape[1] = {state.rows};
    TensorHeader *lse = make_tensor(Dtype::f32, 1, shape);
    auto *out = static_cast<float *>(tensor_data(lse));
    by_pieces(state.rows, piece_of(sizeof(double)), look_for_interrupts, [&](size_t first, size_t rows) {
        for (size_t row = first; row < first + rows; ++row) {
            const double m = static_cast<double>(state.m[row]), l = static_cast<double>(state.l[row]);
            out[row] = l > 0 ? static_cast<float>(m + std::log(l)) : -std::numeric_limits<float>::infinity();
        }
    });
    return lse;
}

}  // namespace

SQL_FUNCTION(kv_state_in)
{
    const char *text = PG_GETARG_CSTRING(0);
    const std::vector<uint8_t> wire = parse_state({text, text_length(text, look_for_interrupts)}, look_for_interrupts);
    return read_state_datum(wire);
}

SQL_FUNCTION(kv_state_out)
{
    const StateView state = state_argument(fcinfo, 0);
    return copy_cstring(state_text(state, look_for_interrupts));
}

SQL_FUNCTION(kv_state_recv) { return read_state_datum(rest_of_message(fcinfo)); }

SQL_FUNCTION(kv_state_send)
{
    const StateView state = state_argument(fcinfo, 0);
    bytea *result = new_bytea(state_wire_bytes(state));
    write_state(state, reinterpret_cast<uint8_t *>(VARDATA(result)), look_for_interrupts);
    return PointerGetDatum(result);
}

// kv.merge(a, b): the state of both sets of tokens. Transition and combine function of the aggregates.
SQL_FUNCTION(kv_state_merge)
{
    const StateView b = state_argument(fcinfo, 1);
    StateHeader *state = writable_state(fcinfo);
    const StateView a = view_of(state);
    if (a.rows != b.rows || a.dim != b.dim) {
        throw Error(Errc::data_exception,
                    message("states of different geometry cannot be merged: %u rows of %u dimensions and %u rows of %u", a.rows,
                            a.dim, b.rows, b.dim));
    }
    float *m = values_of(state), *l = m + a.rows, *o = l + a.rows;
    by_pieces(a.rows, piece_of(sizeof(double) * a.dim), look_for_interrupts, [&](size_t first, size_t rows) {
        const size_t at = first * a.dim;
        merge_states(static_cast<int>(rows), static_cast<int>(a.dim), m + first, l + first, o + at, b.m + first, b.l + first,
                     b.o + at);
    });
    return PointerGetDatum(state);
}

// kv.finish(state, OUT output, OUT lse)
SQL_FUNCTION(kv_state_finish)
{
    const StateView state = state_argument(fcinfo, 0);
    Datum values[2] = {PointerGetDatum(output_of(state)), PointerGetDatum(lse_of(state))};
    bool nulls[2] = {};
    return make_row(fcinfo, values, nulls);
}

// What kv.attention gives: kv.finish's output.
SQL_FUNCTION(kv_state_output) { return PointerGetDatum(output_of(state_argument(fcinfo, 0))); }

// kv.partial(q, tile, scale, softcap, rope)
SQL_FUNCTION(kv_partial)
{
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1)) PG_RETURN_NULL();
    const TileView tile = tile_argument(fcinfo, 1);
    const QueryArguments arguments = query_arguments(fcinfo, 0, 2);
    PartialAttention *attention = call_attention(fcinfo);
    attention->clear();
    attention->add(arguments, tile);
    StateHeader *state = make_state(attention->rows(), attention->dim());
    attention->merge_into(state);
    return PointerGetDatum(state);
}

}  // namespace vkv::kv
