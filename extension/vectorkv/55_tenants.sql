-- Tenants in one cache.

-- Whether a sequence whose header row has these extents and stops reaches a tile.
CREATE FUNCTION kv.reaches(extents bigint[], stops int[], extent bigint, pos int) RETURNS boolean
	AS 'MODULE_PATHNAME', 'kv_reaches' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kv.reaches(bigint[], int[], bigint, int) IS 'whether a sequence reaches the tile of an extent at a position; for policies';

CREATE FUNCTION kv.own_extent(extents bigint[]) RETURNS bigint
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS 'SELECT extents[pg_catalog.array_upper(extents, 1)]';
COMMENT ON FUNCTION kv.own_extent(bigint[]) IS 'the extent that a sequence adds to';

CREATE FUNCTION kv.guard_header() RETURNS trigger
	AS 'MODULE_PATHNAME', 'kv_guard_header' LANGUAGE C;
COMMENT ON FUNCTION kv.guard_header() IS 'trigger: only the functions of schema kv say what a sequence holds';

CREATE FUNCTION kv.guard_rows() RETURNS trigger
	AS 'MODULE_PATHNAME', 'kv_guard_rows' LANGUAGE C;
COMMENT ON FUNCTION kv.guard_rows() IS 'trigger: only the functions of schema kv add tiles and rows of the tail';

-- Row security on the tables of a cache, whose owner calls it: every sequence is of who made it. tenant: an expression.
CREATE FUNCTION kv.enable_tenants(cache regclass, owner_column text DEFAULT 'owner', tenant text DEFAULT 'current_user') RETURNS void
	AS 'MODULE_PATHNAME', 'kv_enable_tenants' LANGUAGE C VOLATILE PARALLEL UNSAFE;
