-- type kv.tile: keys and values of one KV head for a run of tokens, immutable, small enough for one page. Never toasted nor compressed,
-- so that it is read where it lies.

CREATE TYPE kv.tile;

-- A tile from outside is checked and given a new content id: hence STABLE.
CREATE FUNCTION kv.tile_in(cstring) RETURNS kv.tile
    AS 'MODULE_PATHNAME', 'kv_tile_in' LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.tile_out(kv.tile) RETURNS cstring
    AS 'MODULE_PATHNAME', 'kv_tile_out' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.tile_recv(internal) RETURNS kv.tile
    AS 'MODULE_PATHNAME', 'kv_tile_recv' LANGUAGE C STABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.tile_send(kv.tile) RETURNS bytea
    AS 'MODULE_PATHNAME', 'kv_tile_send' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE TYPE kv.tile (
    INPUT = kv.tile_in,
    OUTPUT = kv.tile_out,
    RECEIVE = kv.tile_recv,
    SEND = kv.tile_send,
    ALIGNMENT = double,
    STORAGE = plain
);
COMMENT ON TYPE kv.tile IS 'keys and values of one KV head for a run of tokens, in a codec';

-- tiles of tensors and back

-- k, v: [kv_heads, tokens, dim], or [tokens, dim] of one head. v null: the values are the first value_dim dimensions of k.
CREATE FUNCTION kv.encode(k kv.tensor, v kv.tensor, codec text, first_position integer DEFAULT 0,
        keys_before_rope boolean DEFAULT false, value_dim integer DEFAULT NULL) RETURNS SETOF kv.tile
    AS 'MODULE_PATHNAME', 'kv_encode' LANGUAGE C STABLE PARALLEL SAFE COST 1000 ROWS 100;
COMMENT ON FUNCTION kv.encode(kv.tensor, kv.tensor, text, integer, boolean, integer) IS
    'keys and values as tiles, head by head: codecs f16, int8, int4, int3, int2';

CREATE FUNCTION kv.decode(tile kv.tile, OUT k kv.tensor, OUT v kv.tensor) RETURNS record
    AS 'MODULE_PATHNAME', 'kv_tile_decode' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION kv.decode(kv.tile) IS 'keys and values as they are stored: f32 [tokens, dim]';

-- rows of a cache's tail

CREATE FUNCTION kv.pack_halves(kv kv.tensor) RETURNS bytea
    AS 'MODULE_PATHNAME', 'kv_pack_halves' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kv.pack_halves(kv.tensor) IS 'a tensor f16 [slots, dim_k + dim_v] in fewer bytes, bit for bit';

CREATE FUNCTION kv.unpack_halves(kv bytea) RETURNS kv.tensor
    AS 'MODULE_PATHNAME', 'kv_unpack_halves' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kv.unpack_halves(bytea) IS 'a row of a tail as a tensor: f16 [slots, dim_k + dim_v]';

-- a token of a row: the slot of a layer and head
CREATE FUNCTION kv.token_tile(kv bytea, slot integer, "position" integer, head integer, heads integer, dim_k integer,
        flags integer DEFAULT 0, dim_v integer DEFAULT NULL) RETURNS kv.tile
    AS 'MODULE_PATHNAME', 'kv_token_tile' LANGUAGE C STABLE PARALLEL SAFE;

-- one tile

CREATE FUNCTION kv.info(tile kv.tile, OUT codec text, OUT tokens integer, OUT dim_k integer, OUT dim_v integer,
        OUT head integer, OUT heads integer, OUT first_position integer, OUT keys_before_rope boolean, OUT values_in_keys boolean,
        OUT bits_per_value double precision, OUT data_bytes integer, OUT content_id bigint, OUT checksum_ok boolean) RETURNS record
    AS 'MODULE_PATHNAME', 'kv_tile_info' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kv.info(kv.tile) IS 'what a tile says of itself';

CREATE FUNCTION kv.tokens(tile kv.tile) RETURNS integer
    AS 'MODULE_PATHNAME', 'kv_tile_tokens' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv."check"(tile kv.tile) RETURNS text
    AS 'MODULE_PATHNAME', 'kv_tile_check' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 100;
COMMENT ON FUNCTION kv."check"(kv.tile) IS 'what is wrong with a tile; null when nothing is';

CREATE FUNCTION kv.clip(tile kv.tile, stop_position integer) RETURNS kv.tile
    AS 'MODULE_PATHNAME', 'kv_tile_clip' LANGUAGE C STABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kv.clip(kv.tile, integer) IS 'the tokens before a position; null when there are none';

