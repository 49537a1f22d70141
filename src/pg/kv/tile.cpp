// kv.tile: text and binary form, what a tile says of itself, and tiles made of tiles. A tile that comes from outside is checked
// completely and given a new content id (core's wire.h); one that comes from a table is trusted but for its header.
//
// Functions that give a new id are STABLE in SQL, not IMMUTABLE: the codes are the same every time, the id is not.

#include <string>
#include <vector>

#include "core/error.h"
#include "core/kv/wire.h"
#include "core/text/message.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/arguments.h"

namespace vkv::kv {
namespace {

Datum read_tile_datum(Bytes wire)
{
    const size_t bytes = tile_bytes_of_wire(wire);
    auto *tile = pg_call([&] { return static_cast<TileHeader *>(palloc(bytes)); });
    SET_VARSIZE(tile, bytes);
    read_tile(wire, tile);
    return PointerGetDatum(tile);
}

bool checksum_holds(const TileHeader *tile) { return tile_checksum(tile, VARSIZE(tile)) == tile->crc; }

TensorHeader *make_matrix(int rows, int columns)
{
    const uint32_t shape[2] = {static_cast<uint32_t>(rows), static_cast<uint32_t>(columns)};
    return make_tensor(Dtype::f32, 2, shape);
}

// What is wrong with a tile; empty when nothing is.
std::string problem_of(const TileHeader *tile)
{
    try {
        view_of(tile);
        if (!checksum_holds(tile)) {
            return message("checksum is %08x, stored is %08x", tile_checksum(tile, VARSIZE(tile)), tile->crc);
        }
        check_tile_contents(tile, VARSIZE(tile), Errc::data_corrupted);
    } catch (const Error &error) {
        if (error.code() != Errc::data_corrupted) throw;
        return error.message();
    }
    return {};
}

}  // namespace

SQL_FUNCTION(kv_tile_in)
{
    const std::vector<uint8_t> wire = parse_tile(PG_GETARG_CSTRING(0));
    return read_tile_datum(wire);
}

SQL_FUNCTION(kv_tile_out)
{
    const TileHeader *tile = datum_tile(PG_GETARG_DATUM(0));
    return copy_cstring(tile_text(tile, VARSIZE(tile)));
}

SQL_FUNCTION(kv_tile_recv) { return read_tile_datum(rest_of_message(fcinfo)); }

SQL_FUNCTION(kv_tile_send)
{
    const TileHeader *tile = datum_tile(PG_GETARG_DATUM(0));
    const Bytes wire = tile_wire(tile, VARSIZE(tile));
    bytea *result = new_bytea(wire.size());
    memcpy(VARDATA(result), wire.data(), wire.size());
    return PointerGetDatum(result);
}

// kv.decode(tile, OUT k, OUT v): f32 [tokens, dim], keys as they are stored.
SQL_FUNCTION(kv_tile_decode)
{
    const TileView tile = tile_argument(fcinfo, 0);
    TensorHeader *k = make_matrix(tile.tokens, tile.dim_k), *v = make_matrix(tile.tokens, tile.dim_v);
    decode_tile(tile, static_cast<float *>(tensor_data(k)), static_cast<float *>(tensor_data(v)));
    Datum values[2] = {PointerGetDatum(k), PointerGetDatum(v)};
    bool nulls[2] = {};
    return make_row(fcinfo, values, nulls);
}

SQL_FUNCTION(kv_tile_info)
{
    const TileHeader *header = datum_tile(PG_GETARG_DATUM(0));
    const TileView tile = view_of(header);
    const int data_bytes = static_cast<int>(VARSIZE(header) - kTileHeaderBytes);
    const int stored = tile.tokens * (tile.dim_k + (tile.values_in_keys() ? 0 : tile.dim_v));
    Datum values[] = {
        CStringGetTextDatum(codec_name(tile.codec)),
        Int32GetDatum(tile.tokens),
        Int32GetDatum(tile.dim_k),
        Int32GetDatum(tile.dim_v),
        Int32GetDatum(tile.head),
        Int32GetDatum(tile.heads),
        Int32GetDatum(tile.first),
        BoolGetDatum(tile.before_rope()),
        BoolGetDatum(tile.values_in_keys()),
        Float8GetDatum(8.0 * data_bytes / stored),
        Int32GetDatum(data_bytes),
        Int64GetDatum(static_cast<int64_t>(tile.id)),
        BoolGetDatum(checksum_holds(header)),
    };
    bool nulls[std::size(values)] = {};
    return make_row(fcinfo, values, nulls);
}

SQL_FUNCTION(kv_tile_tokens) { return Int32GetDatum(tile_argument(fcinfo, 0).tokens); }

// kv.clip(tile, stop): the tokens before position stop; null when there are none, the tile itself when nothing is cut. Damage must
// not get a checksum of its own.
SQL_FUNCTION(kv_tile_clip)
{
    const TileHeader *header = datum_tile(PG_GETARG_DATUM(0));
    const TileView tile = view_of(header);
    const int64_t kept = static_cast<int64_t>(PG_GETARG_INT32(1)) - tile.first;
    if (kept <= 0) PG_RETURN_NULL();
    if (kept >= tile.tokens) return PG_GETARG_DATUM(0);
    if (!checksum_holds(header)) {
        throw Error(Errc::data_corrupted,
                    message("checksum of the tile of head %d at position %d is wrong", tile.head, tile.first));
    }
    TileHeader *result = make_tile(shape_of(tile), static_cast<int>(kept));
    clip_tile(tile, static_cast<int>(kept), result);
    return PointerGetDatum(result);
}

// kv.check(tile): what is wrong with it, null when nothing is.
SQL_FUNCTION(kv_tile_check)
{
    const TileHeader *tile = datum_tile(PG_GETARG_DATUM(0));
    const std::string problem = problem_of(tile);
    if (problem.empty()) PG_RETURN_NULL();
    return pg_call([&] { return PointerGetDatum(cstring_to_text(problem.c_str())); });
}

}  // namespace vkv::kv
