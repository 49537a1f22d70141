-- type kv.rope: a rotary position embedding, for tiles whose keys are stored before it. frequencies: radians a position, one for each
-- pair of dimensions that is turned; pairing: 'half' (dimensions i and i + n, n being the number of frequencies) or 'interleaved' (2 i
-- and 2 i + 1). Other frequencies than the usual ones: ROW(array, pairing)::kv.rope.

CREATE TYPE kv.rope AS (frequencies double precision[], pairing text);
COMMENT ON TYPE kv.rope IS 'a rotary position embedding: radians a position for each pair of dimensions, and which dimensions are pairs';

CREATE FUNCTION kv.rope(cache regclass) RETURNS kv.rope
    AS 'MODULE_PATHNAME', 'kv_rope_of_cache' LANGUAGE C STABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION kv.rope(regclass) IS 'the embedding that turns the keys of a cache; null when they are stored after it';

CREATE FUNCTION kv.rope(dims integer, theta double precision, pairing text DEFAULT 'half') RETURNS kv.rope
    AS 'MODULE_PATHNAME', 'kv_rope_usual' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kv.rope(integer, double precision, text) IS 'the usual frequencies: theta ^ (-2 i / dims)';

