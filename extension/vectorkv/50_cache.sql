-- Caches: ordinary tables that hold the keys and values of a transformer's layers, sequence by sequence.

-- 64 random bits: epochs, extents and content ids never repeat, on no server.
CREATE FUNCTION kv.new_id() RETURNS bigint
	AS 'MODULE_PATHNAME', 'kv_new_id' LANGUAGE C VOLATILE PARALLEL SAFE;
COMMENT ON FUNCTION kv.new_id() IS 'a random 64-bit identifier';

-- A relation, as regclass. Of a name that nothing bears here it warns, and is none: a dump may leave tables out. As text it takes no
-- number; in binary form there is nothing else, and kv.tie_tables looks at what it means.
CREATE TYPE kv.relation;
CREATE FUNCTION kv.relation_in(cstring) RETURNS kv.relation
	AS 'MODULE_PATHNAME', 'kv_relation_in' LANGUAGE C STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION kv.relation_out(kv.relation) RETURNS cstring
	AS 'regclassout' LANGUAGE internal STABLE STRICT PARALLEL SAFE;
CREATE FUNCTION kv.relation_recv(internal) RETURNS kv.relation
	AS 'regclassrecv' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
CREATE FUNCTION kv.relation_send(kv.relation) RETURNS bytea
	AS 'regclasssend' LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE;
CREATE TYPE kv.relation (INPUT = kv.relation_in, OUTPUT = kv.relation_out, RECEIVE = kv.relation_recv, SEND = kv.relation_send,
	LIKE = pg_catalog.oid, CATEGORY = 'N');
COMMENT ON TYPE kv.relation IS 'a relation, as regclass; none where a name that is restored is not there';
CREATE CAST (kv.relation AS regclass) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (kv.relation AS oid) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (kv.relation AS bigint) WITH FUNCTION pg_catalog.int8(oid) AS ASSIGNMENT;
CREATE CAST (regclass AS kv.relation) WITHOUT FUNCTION AS ASSIGNMENT;

CREATE TABLE kv.caches (
	cache kv.relation PRIMARY KEY,
	sealed kv.relation NOT NULL,
	tail kv.relation NOT NULL,
	tiles kv.relation NOT NULL,
	layers int NOT NULL,
	q_heads int NOT NULL,
	kv_heads int NOT NULL,
	head_dim int NOT NULL,
	value_dim int NOT NULL,
	values_in_keys boolean NOT NULL,
	codec text NOT NULL,
	tail_logged boolean NOT NULL,
	tail_tokens int NOT NULL,
	sink_tokens int NOT NULL,
	row_slots int NOT NULL,
	model text,
	revision text,
	keys text NOT NULL,
	rope_theta float8,
	rope_dims int,
	rope_pairing text,
	rope_frequencies float8[],
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
-- A dump has the rows whose tables it has: not those of tables that are gone, or that came to an extension.
SELECT pg_catalog.pg_extension_config_dump('kv.caches', $$WHERE NOT EXISTS (
	SELECT FROM pg_catalog.unnest(ARRAY[cache, sealed, tail]::pg_catalog.oid[]) AS t (relid)
	WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class r WHERE r.oid OPERATOR(pg_catalog.=) t.relid)
	OR EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
		AND d.objid OPERATOR(pg_catalog.=) t.relid AND d.deptype OPERATOR(pg_catalog.=) 'e'))$$);
GRANT SELECT ON kv.caches TO PUBLIC;
COMMENT ON TABLE kv.caches IS 'the caches made by kv.create_cache: their tables, geometry, codec and model';

-- The tables of a cache go with the one that it is named by, also where a dump has brought them. A row whose tables are not there, or are no
-- cache's, is left out.
CREATE FUNCTION kv.tie_tables() RETURNS trigger
	AS 'MODULE_PATHNAME', 'kv_tie_tables' LANGUAGE C;
REVOKE ALL ON FUNCTION kv.tie_tables() FROM PUBLIC;
CREATE TRIGGER tie_tables BEFORE INSERT ON kv.caches FOR EACH ROW EXECUTE FUNCTION kv.tie_tables();
ALTER TABLE kv.caches ENABLE ALWAYS TRIGGER tie_tables;

-- The same for the caches of the caller that pg_upgrade has brought, which copies rows as they are. Returns how many were not tied.
CREATE FUNCTION kv.tie_caches() RETURNS bigint
	AS 'MODULE_PATHNAME', 'kv_tie_caches' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION kv.tie_caches() IS 'ties the tables of the caller''s caches together, so that DROP TABLE ... CASCADE takes them all';

-- On every NAME_tail: sessions forget what they keep of tails when rows are changed by hand.
CREATE FUNCTION kv.forget_tails() RETURNS trigger
	AS 'MODULE_PATHNAME', 'kv_forget_tails' LANGUAGE C;
COMMENT ON FUNCTION kv.forget_tails() IS 'trigger: rows of a tail are changed past the functions of schema kv';

-- Makes the tables NAME (a row a sequence), NAME_sealed (full tiles), NAME_tail (the newest tokens as halves) and the view NAME_tile.
CREATE FUNCTION kv.create_cache(
	name text, layers int, q_heads int, kv_heads int, head_dim int, codec text DEFAULT 'int8',
	tail text DEFAULT 'logged', tail_tokens int DEFAULT 128, sink_tokens int DEFAULT 4,
	value_dim int DEFAULT NULL, values_in_keys boolean DEFAULT false,
	model text DEFAULT NULL, revision text DEFAULT NULL,
	keys text DEFAULT 'after_rope', rope_theta float8 DEFAULT NULL, rope_dims int DEFAULT NULL,
	rope_pairing text DEFAULT 'half', rope_frequencies float8[] DEFAULT NULL) RETURNS regclass
	AS 'MODULE_PATHNAME', 'kv_create_cache' LANGUAGE C VOLATILE PARALLEL UNSAFE;

-- Tables of a cache that a dump has brought here become one again; the tail is what its table is.
CREATE FUNCTION kv.adopt_cache(
	cache regclass, layers int, q_heads int, kv_heads int, head_dim int, codec text DEFAULT 'int8',
	tail text DEFAULT NULL, tail_tokens int DEFAULT 128, sink_tokens int DEFAULT 4,
	value_dim int DEFAULT NULL, values_in_keys boolean DEFAULT false,
	model text DEFAULT NULL, revision text DEFAULT NULL,
	keys text DEFAULT 'after_rope', rope_theta float8 DEFAULT NULL, rope_dims int DEFAULT NULL,
	rope_pairing text DEFAULT 'half', rope_frequencies float8[] DEFAULT NULL) RETURNS regclass
	AS 'MODULE_PATHNAME', 'kv_adopt_cache' LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION kv.drop_cache(cache regclass) RETURNS void
	AS 'MODULE_PATHNAME', 'kv_drop_cache' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

-- k, v: [layers, kv_heads, tokens, head_dim]; the sequence is made if it is new. Returns its length.
CREATE FUNCTION kv.append(cache regclass, seq bigint, k kv.tensor, v kv.tensor,
	"position" int DEFAULT NULL, model text DEFAULT NULL, revision text DEFAULT NULL) RETURNS int
	AS 'MODULE_PATHNAME', 'kv_append' LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION kv.length(cache regclass, seq bigint) RETURNS int
	AS 'MODULE_PATHNAME', 'kv_length' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED;

CREATE FUNCTION kv.truncate(cache regclass, seq bigint, length int) RETURNS int
	AS 'MODULE_PATHNAME', 'kv_truncate' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

CREATE FUNCTION kv.fork(cache regclass, from_seq bigint, to_seq bigint, length int DEFAULT NULL) RETURNS int
	AS 'MODULE_PATHNAME', 'kv_fork' LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION kv.drop_sequence(cache regclass, seq bigint) RETURNS boolean
	AS 'MODULE_PATHNAME', 'kv_drop_sequence' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

-- Seals the tail whole, the last tile partly filled. Returns how many tokens were sealed.
CREATE FUNCTION kv.seal(cache regclass, seq bigint) RETURNS int
	AS 'MODULE_PATHNAME', 'kv_seal' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

-- Encodes the sealed tokens of a sequence anew. Returns how many.
CREATE FUNCTION kv.recode(cache regclass, seq bigint, codec text) RETURNS int
	AS 'MODULE_PATHNAME', 'kv_recode' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;

-- Keys and values of a layer as they are stored, decoded: [kv_heads, tokens, head_dim].
CREATE FUNCTION kv.fetch(cache regclass, seq bigint, layer int, first int DEFAULT 0, count int DEFAULT NULL, dtype text DEFAULT 'f16',
	OUT k kv.tensor, OUT v kv.tensor) RETURNS record
	AS 'MODULE_PATHNAME', 'kv_fetch' LANGUAGE C STABLE PARALLEL RESTRICTED;

-- No rows: the cache is sound.
CREATE FUNCTION kv.check_cache(cache regclass, OUT seq bigint, OUT layer int, OUT head int, OUT "position" int, OUT problem text) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'kv_check_cache' LANGUAGE C STABLE STRICT PARALLEL RESTRICTED ROWS 10;

-- Deletes the tiles that no sequence names any more. Returns how many; dry_run only counts them.
CREATE FUNCTION kv.collect(cache regclass, max_tiles bigint DEFAULT NULL, dry_run boolean DEFAULT false) RETURNS bigint
	AS 'MODULE_PATHNAME', 'kv_collect' LANGUAGE C VOLATILE PARALLEL UNSAFE;
