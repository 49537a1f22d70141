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

-- Functions that return sets or take many arguments, as ones that the generator takes and is likely to call rightly.
CREATE FUNCTION set_hnsw_check(regclass, bool) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM hnsw_check($1, heap_all => $2, searches => $2) $$;
CREATE FUNCTION set_hnsw_info(regclass) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM hnsw_info($1) $$;
CREATE FUNCTION set_knn(vector[], int, text) RETURNS bigint LANGUAGE sql AS $$ SELECT count(distance) FROM knn_exact('vectors', 'v', $1, $2, $3) $$;
CREATE FUNCTION set_knn_h(vector, int) RETURNS bigint LANGUAGE sql AS $$ SELECT count(distance) FROM knn_exact('vectors', 'h', ARRAY[$1, $1], $2, 'cosine') $$;
CREATE FUNCTION set_check_cache(regclass) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM kv.check_cache($1) $$;
CREATE FUNCTION set_fetch(regclass, bigint, int, int, int, text) RETURNS kv.tensor LANGUAGE sql AS $$ SELECT kv.concat(k, v, 0) FROM kv.fetch($1, $2, $3, $4, $5, $6) $$;
CREATE FUNCTION set_fetch(regclass, bigint, int) RETURNS kv.tensor LANGUAGE sql AS $$ SELECT k FROM kv.fetch($1, $2, $3) $$;
CREATE FUNCTION set_weights(regclass, bigint, int, kv.tensor) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM kv.weights($1, $2, $3, $4) $$;
CREATE FUNCTION set_stats() RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM kv.session_stats() $$;
CREATE FUNCTION set_encode(kv.tensor, kv.tensor, text) RETURNS kv.tile LANGUAGE sql AS $$ SELECT kv.encode($1, $2, $3) LIMIT 1 $$;
CREATE FUNCTION set_encode(kv.tensor, kv.tensor, text, int, bool, int) RETURNS kv.tile LANGUAGE sql AS $$ SELECT kv.encode($1, $2, $3, $4, $5, $6) LIMIT 1 $$;
CREATE FUNCTION set_decode(kv.tile) RETURNS kv.tensor LANGUAGE sql AS $$ SELECT k FROM kv.decode($1) $$;
CREATE FUNCTION short_append(regclass, bigint, kv.tensor, kv.tensor) RETURNS int LANGUAGE sql AS $$ SELECT kv.append($1, $2, $3, $4) $$;
CREATE FUNCTION short_attend(regclass, bigint[], int, kv.tensor) RETURNS kv.tensor LANGUAGE sql AS $$ SELECT kv.attend($1, $2, $3, $4) $$;
CREATE FUNCTION short_attend(regclass, bigint[], int, kv.tensor, bool, int) RETURNS kv.tensor LANGUAGE sql AS
$$ SELECT lse FROM kv.attend($1, $2, $3, $4, return_lse => true, causal => $5, "window" => $6) $$;
CREATE FUNCTION short_layers(regclass, bigint[], int[], kv.tensor) RETURNS kv.tensor LANGUAGE sql AS $$ SELECT kv.attend_layers($1, $2, $3, $4) $$;
CREATE FUNCTION short_layers_lse(regclass, bigint[], int[], kv.tensor) RETURNS kv.tensor LANGUAGE sql AS
$$ SELECT lse FROM kv.attend_layers($1, $2, $3, $4, return_lse => true) $$;
CREATE FUNCTION short_create(text, int, int, int) RETURNS regclass LANGUAGE sql AS $$ SELECT kv.create_cache($1, $2, $3, $3, $4) $$;
CREATE FUNCTION short_create(text, int, int, int, text, text, int, text) RETURNS regclass LANGUAGE sql AS
$$ SELECT kv.create_cache($1, $2, $3, $3, $4, codec => $5, keys => $6, rope_theta => $7, tail => $8) $$;
CREATE FUNCTION short_adopt(regclass, int) RETURNS regclass LANGUAGE sql AS $$ DELETE FROM kv.caches WHERE cache = $1; SELECT kv.adopt_cache($1, $2, 4, 2, 16, codec => 'int8', tail_tokens => 4) $$;
CREATE FUNCTION short_tenants(regclass, text) RETURNS void LANGUAGE sql AS $$ SELECT kv.enable_tenants($1, $2) $$;
CREATE FUNCTION short_token(kv.tensor, int) RETURNS kv.tile LANGUAGE sql AS $$ SELECT kv.token_tile(kv.pack_halves(kv."cast"($1, 'f16')), 0, 7, $2, 2, 4) $$;
CREATE FUNCTION short_partial(kv.tensor, kv.tile) RETURNS kv.state LANGUAGE sql AS $$ SELECT kv.partial($1, $2) $$;
CREATE FUNCTION short_at(kv.tensor, int) RETURNS kv.tensor LANGUAGE sql AS $$ SELECT kv.at($1, $2) $$;
CREATE FUNCTION short_at(kv.tensor, int[]) RETURNS kv.tensor LANGUAGE sql AS $$ SELECT kv.at($1, VARIADIC $2) $$;
CREATE FUNCTION short_element(kv.tensor, int[]) RETURNS real LANGUAGE sql AS $$ SELECT kv.element($1, VARIADIC $2) $$;
CREATE FUNCTION search_v(vector, int) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM (SELECT 1 FROM vectors ORDER BY v <-> $1 LIMIT $2) x $$;
CREATE FUNCTION search_ip(vector, int) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM (SELECT 1 FROM vectors ORDER BY v <#> $1 LIMIT $2) x $$;
CREATE FUNCTION search_h(halfvec, int) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM (SELECT 1 FROM vectors ORDER BY h <=> $1 LIMIT $2) x $$;
CREATE FUNCTION search_s(sparsevec, int) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM (SELECT 1 FROM vectors ORDER BY s <-> $1 LIMIT $2) x $$;
CREATE FUNCTION search_b(bit, int) RETURNS bigint LANGUAGE sql AS $$ SELECT count(*) FROM (SELECT 1 FROM vectors ORDER BY b <%> $1 LIMIT $2) x $$;

-- Arguments that fit together: a column of each type, all of one row for one cache, in small ranges and few rows: one bad value fails a whole query. The
-- generator takes relations by chance, so there are many of these views, and few rows where it takes others.
CREATE TABLE arguments AS
SELECT i AS id, i % 2 AS layer, 1 AS one, 2 AS two, 0 AS zero, (1 + i % 3)::bigint AS seq, (20 + i)::bigint AS new_seq, 1::bigint AS first_seq, 'plain'::regclass AS cache,
    'plain'::regclass AS same_cache, v, (SELECT x.v FROM vectors x WHERE x.id = i + 7) AS w, h, (SELECT x.h FROM vectors x WHERE x.id = i + 7) AS g, s, b, ARRAY[v, v] AS vs,
    ARRAY[0, 1] AS layers, ARRAY[1, 0, 1] AS place, ARRAY[1, 2, 48]::int[] AS shape, ARRAY[1, 2]::bigint[] AS seqs, ARRAY[2, 3]::bigint[] AS other_seqs,
    ARRAY[0.5, i]::real[] AS reals, ARRAY[0.5, i]::float8[] AS doubles, ARRAY[0.5, i]::numeric[] AS numerics, 0.5::float8 AS half, 10000::float8 AS theta, 0.25::real AS quarter,
    1.5::numeric AS n, i % 2 = 0 AS yes, NULL::text AS nothing, (ARRAY['f16', 'f32', 'bf16'])[1 + i % 3] AS dtype, (ARRAY['int8', 'int4', 'f16'])[1 + i % 3] AS codec,
    'half' AS pairing, 'new_cache' AS name, (ARRAY['l2', 'cosine', 'inner_product'])[1 + i % 3] AS metric,
    tensor(i, ARRAY[2, 4, 16]) AS q, tensor(i + 1, ARRAY[2, 4, 16]) AS q2, tensor(i, ARRAY[2, 2, 4, 16]) AS ql, tensor(i, ARRAY[4, 16]) AS q1, tensor(i, ARRAY[2, 2, 3, 16]) AS k,
    tensor(i + 5, ARRAY[2, 2, 3, 16]) AS v1, tensor(i, ARRAY[2, 3, 16]) AS kk, tensor(i + 2, ARRAY[2, 3, 16]) AS vv, tensor(i, ARRAY[16]) AS flat, kv.rope(16, 10000, 'half') AS rope,
    kv.bytes(tensor(i, ARRAY[6])) AS bytes, kv.pack_halves(kv."cast"(tensor(i, ARRAY[2, 8]), 'f16')) AS halves, t.tile, t.state, tensor(i, ARRAY[2, 8]) AS old_q, kv.rope(8, 10000, 'half') AS old_rope, (SELECT tile FROM turned_tile LIMIT 1) AS old_tile
FROM generate_series(1, 12) i JOIN vectors ON vectors.id = i, LATERAL (SELECT tile, state FROM tiles WHERE layer = 0 AND head = 0 ORDER BY seq, pos LIMIT 1 OFFSET i % 2) t;
DO $$ BEGIN
    FOR i IN 1..24 LOOP
        EXECUTE format('CREATE VIEW arguments_%s AS SELECT * FROM arguments WHERE id %% 12 IN (%s, %s)', i, i % 12, i * 5 % 12);
    END LOOP;
END $$;
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
-- Operators of types that no relation here has make most queries fail before they run; this database is thrown away.
SET allow_system_table_mods = on;
DELETE FROM pg_catalog.pg_operator o USING pg_catalog.pg_type t WHERE t.oid IN (o.oprleft, o.oprright)
    AND (t.typname ~ '^any.*(range|enum)' OR t.typcategory = 'G' OR t.typname IN ('jsonpath', 'cstring', 'aclitem', 'tsvector', 'tsquery'));
ALTER DATABASE smith SET search_path = smith, pg_catalog, public, kv;
ALTER DATABASE smith SET statement_timeout = '2s';
ALTER DATABASE smith SET hnsw.iterative_scan = 'relaxed_order';
