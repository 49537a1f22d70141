-- What the generated queries work on: a table with values of every type of ours, caches with sequences, an index of each kind, and views in
-- front of pg_proc that show the generator the functions of our extensions and little else.
CREATE EXTENSION vector;
CREATE EXTENSION vectorkv;

CREATE TABLE vectors AS
SELECT i AS id, (SELECT array_agg(sin(i * j)::real ORDER BY j) FROM generate_series(1, 8) j)::vector(8) AS v,
    (SELECT array_agg(cos(i * j)::real ORDER BY j) FROM generate_series(1, 8) j)::halfvec(8) AS h,
    format('{%s:1.5,%s:%s}/8', 1 + i % 4, 5 + i % 4, i)::sparsevec(8) AS s, (i % 256)::bit(8) AS b, (ARRAY[i, 2, 3])::int[] AS ints,
    (ARRAY[i, 0.5, 'nan', 'infinity'])::real[] AS reals, (ARRAY[i, 1e300])::float8[] AS doubles, i::numeric AS n, i::float8 AS f, i::real AS r
FROM generate_series(1, 300) i;
INSERT INTO vectors (id) VALUES (-1);
INSERT INTO vectors VALUES (0, '[0,0,0,0,0,0,0,0]', '[0,0,0,0,0,0,0,0]', '{}/8', B'00000000', '{}', '{}', '{}', 0, 'nan', '-infinity'),
    (2147483647, '[3e38,-3e38,1e-38,1e-45,0,-0,1,2]', '[65504,-65504,6e-8,0,1,2,3,4]', '{1:3e38,8:-3e38}/8', B'11111111', '{2147483647,-2147483648}',
        '{3e38}', '{1e308}', 1e30, 1e308, 3e38);
CREATE INDEX ON vectors USING hnsw (v vector_l2_ops);
CREATE INDEX ON vectors USING hnsw (v vector_ip_ops);
CREATE INDEX ON vectors USING hnsw (h halfvec_cosine_ops) WITH (codec = 'lvq4x8');
CREATE INDEX ON vectors USING hnsw (s sparsevec_l2_ops);
CREATE INDEX ON vectors USING hnsw (b bit_jaccard_ops);

SELECT kv.create_cache('plain', 2, 4, 2, 16, codec => 'int8', tail_tokens => 4);
SELECT kv.create_cache('turned', 1, 2, 1, 8, codec => 'int4', keys => 'before_rope', rope_theta => 10000, tail => 'unlogged');
CREATE FUNCTION tensor(seed int, shape int[]) RETURNS kv.tensor LANGUAGE sql IMMUTABLE AS
$$ SELECT kv.reshape(array_agg(sin(seed * i)::real ORDER BY i)::kv.tensor, shape) FROM generate_series(1, (SELECT exp(sum(ln(s)))::numeric::int FROM unnest(shape) s)) i $$;
SELECT kv.append('plain', seq, tensor(seq, ARRAY[2, 2, 70, 16]), tensor(seq + 1, ARRAY[2, 2, 70, 16])) FROM generate_series(1, 3) seq;
SELECT kv.append('turned', seq, tensor(seq, ARRAY[1, 1, 300, 8]), tensor(seq + 1, ARRAY[1, 1, 300, 8])) FROM generate_series(1, 3) seq;
CREATE TABLE tensors AS
SELECT seq AS id, 'plain'::regclass AS cache, seq::bigint AS seq, tensor(seq, ARRAY[2, 4, 16]) AS q, tensor(seq, ARRAY[1, 4, 16]) AS q1, tensor(seq, ARRAY[2, 2, 3, 16]) AS k,
    kv."cast"(tensor(seq, ARRAY[2, 2, 3, 16]), 'f16') AS v, ARRAY[1, 2]::bigint[] AS seqs, ARRAY[0, 1]::int[] AS layers, ARRAY[2, 4, 16]::int[] AS shape,
    kv.rope(16, 10000, 'half') AS rope, decode('00ff00ff', 'hex') AS bytes, word
FROM generate_series(1, 3) seq, unnest(ARRAY['f16', 'f32', 'bf16', 'int8', 'int4', 'k', '', 'half']) word;
INSERT INTO tensors (id, cache, seq, layers) VALUES (4, 'vectors', -1, '{-1,2147483647}'), (5, 0, 9223372036854775807, '{}');
CREATE TABLE tiles AS SELECT seq, layer, head, pos, tile, kv.partial(tensor(1, ARRAY[4, 16]), tile) AS state FROM plain_tile WHERE head < 2;

-- Functions that return sets, as ones that the generator takes.
CREATE FUNCTION set_hnsw_check(regclass, bool) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM hnsw_check($1, heap_all => $2) $$;
CREATE FUNCTION set_hnsw_info(regclass) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM hnsw_info($1) $$;
CREATE FUNCTION set_check_cache(regclass) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM kv.check_cache($1) $$;
CREATE FUNCTION set_fetch(regclass, bigint, int, int, int, text) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM kv.fetch($1, $2, $3, $4, $5, $6) $$;
CREATE FUNCTION set_weights(regclass, bigint, int, kv.tensor) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM kv.weights($1, $2, $3, $4) $$;
CREATE FUNCTION search_v(vector, int) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM (SELECT 1 FROM vectors ORDER BY v <-> $1 LIMIT $2) x $$;
CREATE FUNCTION search_ip(vector, int) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM (SELECT 1 FROM vectors ORDER BY v <#> $1 LIMIT $2) x $$;
CREATE FUNCTION search_h(halfvec, int) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM (SELECT 1 FROM vectors ORDER BY h <=> $1 LIMIT $2) x $$;
CREATE FUNCTION search_s(sparsevec, int) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM (SELECT 1 FROM vectors ORDER BY s <-> $1 LIMIT $2) x $$;
CREATE FUNCTION search_b(bit, int) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM (SELECT 1 FROM vectors ORDER BY b <%> $1 LIMIT $2) x $$;
ANALYZE;

-- The generator asks for pg_proc without a schema.
CREATE SCHEMA smith;
CREATE VIEW smith.pg_proc AS
SELECT p.* FROM pg_catalog.pg_proc p
WHERE EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid WHERE d.objid = p.oid AND d.classid = 'pg_catalog.pg_proc'::regclass
        AND d.deptype = 'e' AND e.extname IN ('vector', 'vectorkv'))
    OR p.pronamespace = 'public'::regnamespace
    OR p.oid IN ('pg_catalog.int4pl'::regproc, 'pg_catalog.repeat'::regproc, 'pg_catalog.random'::regproc, 'pg_catalog.dsqrt'::regproc);
GRANT USAGE ON SCHEMA smith TO PUBLIC;
ALTER DATABASE smith SET search_path = smith, pg_catalog, public;
ALTER DATABASE smith SET statement_timeout = '2s';
ALTER DATABASE smith SET hnsw.iterative_scan = 'relaxed_order';
