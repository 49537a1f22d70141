-- kv.attention and kv.partial over tiles whose keys are stored before the rotary embedding: against double precision in SQL and against kv.attend; the
-- type kv.rope; what is refused.
SET client_min_messages = warning; -- a helper leaves such keys to the CPU, and says so
CREATE EXTENSION IF NOT EXISTS vectorkv CASCADE;
CREATE FUNCTION pg_temp.attempt(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  result text;
  state text;
  message text;
  hint text;
BEGIN
  EXECUTE query INTO result;
  RETURN 'ok: ' || coalesce(result, 'null');
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
  RETURN concat_ws(' | ', state, message, nullif(hint, ''));
END $$;
CREATE FUNCTION pg_temp.try_all(queries text[]) RETURNS TABLE (query text, answer text) LANGUAGE sql AS $$
  SELECT q, pg_temp.attempt('SELECT ' || q) FROM unnest(queries) WITH ORDINALITY AS t(q, i) ORDER BY i
$$;
-- numbers between -1 and 1 of the given shape, the same every time
CREATE FUNCTION pg_temp.numbers(seed int, VARIADIC shape int[]) RETURNS kv.tensor LANGUAGE sql AS $$
  SELECT kv.reshape((SELECT array_agg(((i * 7919 + seed * 104729) % 2001 - 1000) / 1000.0 ORDER BY i)
    FROM generate_series(1, (SELECT round(exp(sum(ln(n))))::int FROM unnest(shape) AS n)) AS i)::kv.tensor, shape)
$$;
-- what the embedding is: pairs of dimensions, turned by position * frequency
CREATE FUNCTION pg_temp.turned(k float8[], rope kv.rope, pos int) RETURNS float8[] LANGUAGE plpgsql AS $$
DECLARE
  n int := cardinality(rope.frequencies);
  turned float8[] := k;
  a int;
  b int;
BEGIN
  FOR i IN 1 .. n LOOP
    a := CASE rope.pairing WHEN 'half' THEN i ELSE 2 * i - 1 END;
    b := CASE rope.pairing WHEN 'half' THEN i + n ELSE 2 * i END;
    turned[a] := k[a] * cos(pos * rope.frequencies[i]) - k[b] * sin(pos * rope.frequencies[i]);
    turned[b] := k[a] * sin(pos * rope.frequencies[i]) + k[b] * cos(pos * rope.frequencies[i]);
  END LOOP;
  RETURN turned;
END $$;
-- attention in double precision over decoded and turned tiles: q [q_heads, dim] or [q_heads, positions, dim]
CREATE FUNCTION pg_temp.reference(q kv.tensor, tiles kv.tile[], rope kv.rope, scale float8 DEFAULT NULL, softcap float8 DEFAULT NULL) RETURNS kv.tensor LANGUAGE sql AS $$
  WITH rows AS (SELECT r, kv.at(flat, r)::real[]::float8[] AS x, count, heads
                  FROM (SELECT kv.reshape(q, ARRAY[-1, (kv.shape(q))[cardinality(kv.shape(q))]]) AS flat, (kv.info(tiles[1])).heads) AS f, LATERAL (SELECT (kv.shape(flat))[1] AS count) AS c,
                       generate_series(0, count - 1) AS r),
       tokens AS (SELECT head, pg_temp.turned(kv.at(k, t)::real[]::float8[], rope, first_position + t) AS k, kv.at(v, t)::real[]::float8[] AS v
                    FROM unnest(tiles) AS tile, kv.info(tile), kv.decode(tile), generate_series(0, tokens - 1) AS t),
       logits AS (SELECT r, v, CASE WHEN softcap > 0 THEN softcap * tanh(s / softcap) ELSE s END AS s
                    FROM (SELECT r, v, coalesce(scale, 1 / sqrt(cardinality(x))) * (SELECT sum(a * b) FROM unnest(x, k) AS u(a, b)) AS s
                            FROM rows JOIN tokens ON r * heads / count = head) AS l),
       sums AS (SELECT r, ln(sum(exp(s))) AS lse FROM logits GROUP BY r),
       outputs AS (SELECT r, d, sum(exp(s - lse) * x) AS o FROM logits JOIN sums USING (r), unnest(v) WITH ORDINALITY AS u(x, d) GROUP BY r, d)
  SELECT kv.reshape((SELECT array_agg(o ORDER BY r, d) FROM outputs)::kv.tensor, ARRAY[(SELECT count(*)::int FROM sums), -1])
$$;

-- the type: usual frequencies, others, text and back
SELECT kv.rope(8, 10000), kv.rope(4, 100, 'interleaved'), ROW(ARRAY[1, 0.25], 'half')::kv.rope AS listed, '("{1,0.25}",half)'::kv.rope AS text;
SELECT kv.rope(NULL, 10000) IS NULL AS dims, kv.rope(8, NULL) IS NULL AS theta, kv.rope(8, 10000, NULL) IS NULL AS pairing;

-- every codec and both places of the values, embeddings of either pairing, of all dimensions and of some; positions far from 0
CREATE TABLE kv_rope_t (codec text, place text, head int, pos int, tile kv.tile) WITH (autovacuum_enabled = off, parallel_workers = 2);
INSERT INTO kv_rope_t SELECT c.codec, place, i.head, i.first_position, tile
  FROM unnest(ARRAY['f16', 'int8', 'int4_uniform', 'int4_rotated', 'int3_rotated', 'int2_rotated']) AS c(codec), unnest(ARRAY['apart', 'in keys']) AS place,
       kv.encode(pg_temp.numbers(1, 2, 150, 24), CASE place WHEN 'apart' THEN pg_temp.numbers(2, 2, 150, 12) END, c.codec, first_position => 5000, keys_before_rope => true, value_dim => 12) AS tile,
       kv.info(tile) AS i;
ANALYZE kv_rope_t;
CREATE TABLE kv_ropes (name text, rope kv.rope);
INSERT INTO kv_ropes VALUES ('half', kv.rope(24, 10000)), ('interleaved', kv.rope(24, 10000, 'interleaved')), ('some', kv.rope(16, 500)), ('listed', ROW('{0.9,-0.3,0,0.0001}', 'interleaved'));
SELECT pg_temp.numbers(3, 4, 24)::text AS q, pg_temp.numbers(4, 4, 3, 24)::text AS q3 \gset
CREATE TABLE kv_rope_expected AS SELECT codec, place, name, pg_temp.reference(:'q', tiles, rope) AS output
  FROM (SELECT codec, place, array_agg(tile) AS tiles FROM kv_rope_t GROUP BY codec, place) AS t, kv_ropes;
SELECT codec, place, max(kv.max_error(a, output)) < 1e-5 AS good, count(*)
  FROM (SELECT codec, place, name, kv.attention(:'q', tile, NULL, NULL, rope) AS a FROM kv_rope_t, kv_ropes GROUP BY codec, place, name) AS t JOIN kv_rope_expected USING (codec, place, name)
 GROUP BY codec, place ORDER BY codec, place;
SELECT min(kv.max_error(a.output, b.output)) > 1e-3 AS rope_matters FROM kv_rope_expected AS a JOIN kv_rope_expected AS b USING (codec, place) WHERE a.name < b.name;
-- the same in steps, and merged with what other tiles gave
SELECT max(kv.max_error((kv.finish(s)).output, output)) < 1e-5 AS partial, count(*)
  FROM (SELECT codec, place, name, kv.merge(kv.partial(:'q', tile, rope => rope)) AS s FROM kv_rope_t, kv_ropes GROUP BY codec, place, name) AS t JOIN kv_rope_expected USING (codec, place, name);
SELECT max(kv.max_error((kv.finish(s)).output, output)) < 1e-5 AS merged, count(*)
  FROM (SELECT codec, place, name, kv.merge(s) AS s FROM (SELECT codec, place, name, kv.attention_state(:'q', tile, NULL, NULL, rope) AS s FROM kv_rope_t, kv_ropes GROUP BY codec, place, name, head, pos % 3) AS p
         GROUP BY codec, place, name) AS t JOIN kv_rope_expected USING (codec, place, name);
-- scale, softcap, query positions
SELECT codec, kv.max_error(kv.attention(:'q3', tile, 2, 0.25, kv.rope(24, 10000)), pg_temp.reference(:'q3', array_agg(tile), kv.rope(24, 10000), 2, 0.25)) < 1e-5 AS good
  FROM kv_rope_t WHERE place = 'apart' AND codec IN ('f16', 'int4_rotated') GROUP BY codec ORDER BY codec;
-- keys of both kinds: a state each
CREATE TEMP TABLE halves AS SELECT t, kv.at(pg_temp.numbers(5, 80, 24), t) AS k FROM generate_series(0, 79) AS t;
SELECT kv.max_error((kv.finish(kv.merge(a, b))).output, whole) < 1e-3 AS both_kinds
  FROM (SELECT kv.attention_state(:'q', tile, NULL, NULL, kv.rope(24, 100)) FROM kv.encode(kv.slice(pg_temp.numbers(5, 80, 24), 0, 0, 40), kv.slice(pg_temp.numbers(6, 80, 24), 0, 0, 40), 'f16', 0, true) AS tile) AS a(a),
       (SELECT kv.attention_state(:'q', tile) FROM (SELECT array_agg(pg_temp.turned(k::real[], kv.rope(24, 100), t) ORDER BY t)::kv.tensor AS k FROM halves WHERE t >= 40) AS k,
          kv.encode(k, kv.slice(pg_temp.numbers(6, 80, 24), 0, 40, 40), 'f16', 40) AS tile) AS b(b),
       (SELECT kv.attention(:'q', tile, NULL, NULL, kv.rope(24, 100)) FROM kv.encode(pg_temp.numbers(5, 80, 24), pg_temp.numbers(6, 80, 24), 'f16', 0, true) AS tile) AS whole(whole);

-- caches: the aggregate over the view is kv.attend, over sealed tiles and tail, and over the tiles that a fork shares; a cache whose keys are turned already
-- takes the same query
SELECT count(kv.create_cache(format('r_%s_%s_%s', codec, pairing, place), 2, 4, 2, 24, codec => codec, tail_tokens => 8, value_dim => 16, values_in_keys => place = 'in', keys => 'before_rope',
    rope_theta => CASE pairing WHEN 'half' THEN 10000 END, rope_dims => CASE pairing WHEN 'half' THEN 16 END, rope_frequencies => CASE pairing WHEN 'interleaved' THEN '{1,0.5,0.1,0.02}'::float8[] END, rope_pairing => pairing))
  FROM unnest(ARRAY['f16', 'int8', 'int4', 'int3', 'int2', 'int4_uniform']) AS codec, unnest(ARRAY['half', 'interleaved']) AS pairing, unnest(ARRAY['apart', 'in']) AS place;
SELECT kv.create_cache('r_after', 2, 4, 2, 24, value_dim => 16), kv.create_cache('r_told', 2, 4, 2, 24, value_dim => 16, rope_theta => 10000);
CREATE FUNCTION pg_temp.fill(cache regclass) RETURNS int LANGUAGE sql AS $$
  SELECT kv.append(cache, 1, pg_temp.numbers(11, 2, 2, 300, 24), CASE WHEN NOT values_in_keys THEN pg_temp.numbers(12, 2, 2, 300, 16) END) FROM kv.caches c WHERE c.cache = fill.cache;
  SELECT kv.fork(cache, 1, 2, 77);
  SELECT kv.append(cache, 2, pg_temp.numbers(13, 2, 2, 5, 24), CASE WHEN NOT values_in_keys THEN pg_temp.numbers(14, 2, 2, 5, 16) END) FROM kv.caches c WHERE c.cache = fill.cache
$$;
CREATE FUNCTION pg_temp.errors(cache regclass, seq bigint, layer int, q kv.tensor, scale float8 DEFAULT NULL, softcap float8 DEFAULT NULL, OUT whole float8, OUT steps float8) LANGUAGE plpgsql AS $$
DECLARE
  attended kv.tensor := kv.at(kv.attend(cache, ARRAY[seq], layer, kv.reshape(q, '{1,4,24}'), scale => scale, softcap => softcap), 0);
BEGIN
  EXECUTE format('SELECT kv.relative_error(kv.attention($1, tile, $4, $5, (SELECT kv.rope(%L))), $6), kv.relative_error((kv.finish(kv.merge(kv.partial($1, tile, $4, $5, (SELECT kv.rope(%1$L)))))).output, $6)
    FROM %s WHERE seq = $2 AND layer = $3', cache, (SELECT tiles FROM kv.caches c WHERE c.cache = errors.cache)) USING q, seq, layer, scale, softcap, attended INTO whole, steps;
END $$;
SELECT count(*), min(filled), max(filled) FROM (SELECT pg_temp.fill(cache) AS filled FROM kv.caches WHERE cache::text LIKE 'r\_%') AS f;
SELECT coalesce(substring(cache::text FROM 'r_(.*)_[a-z]*_[a-z]*$'), 'turned already') AS codec, count(*), max(whole) < 1e-5 AS whole, max(steps) < 1e-5 AS steps, max((o).whole) < 1e-5 AS scaled
  FROM (SELECT cache, e.*, pg_temp.errors(cache, seq, layer, :'q', 2, 0.5) AS o FROM kv.caches, generate_series(1, 2) AS seq, generate_series(0, 1) AS layer, pg_temp.errors(cache, seq, layer, :'q') AS e
         WHERE cache::text LIKE 'r\_%' OFFSET 0) AS t GROUP BY 1 ORDER BY 1;
SELECT kv.rope('r_f16_half_apart') = kv.rope(16, 10000) AS usual, kv.rope('r_int4_interleaved_in') AS listed, kv.rope('r_after') IS NULL AS after, kv.rope('r_told') IS NULL AS told, kv.rope(NULL::regclass) IS NULL AS of_none;
-- who may not read kv.caches may not read it so
CREATE ROLE regress_kv_rope;
BEGIN;
SELECT kv.create_cache('r_secret', 1, 2, 1, 24, keys => 'before_rope', rope_theta => 10000);
SET LOCAL ROLE regress_kv_rope;
SELECT cardinality((kv.rope('r_secret')).frequencies) AS frequencies;
ROLLBACK;
BEGIN;
SELECT kv.create_cache('r_secret', 1, 2, 1, 24, keys => 'before_rope', rope_theta => 10000);
REVOKE SELECT ON kv.caches FROM PUBLIC;
SET LOCAL ROLE regress_kv_rope;
SELECT pg_temp.attempt($$SELECT kv.rope('r_secret')$$);
ROLLBACK;
DROP ROLE regress_kv_rope;

-- a rope that is toasted, by two pointers; a parameter; a variable that changes where it lies
CREATE TABLE kv_rope_toasted (id int, name text, rope kv.rope, filler text) WITH (toast_tuple_target = 128);
ALTER TABLE kv_rope_toasted ALTER rope SET STORAGE EXTERNAL, ALTER filler SET STORAGE PLAIN;
INSERT INTO kv_rope_toasted SELECT id, name, rope, repeat('x', 2500) FROM kv_ropes, generate_series(1, 2) AS id WHERE name IN ('half', 'some');
SELECT pg_relation_size(reltoastrelid) > 0 AS toasted FROM pg_class WHERE oid = 'kv_rope_toasted'::regclass;
SELECT name, max(kv.max_error(a, output)) < 1e-5 AS good
  FROM (SELECT codec, place, name, kv.attention(:'q', tile, NULL, NULL, rope) AS a FROM kv_rope_t, kv_rope_toasted GROUP BY codec, place, name) AS t JOIN kv_rope_expected USING (codec, place, name) GROUP BY name ORDER BY name;
PREPARE turned(kv.rope) AS SELECT kv.max_error(kv.attention(:'q', tile, NULL, NULL, $1), (SELECT output FROM kv_rope_expected WHERE name = 'interleaved' AND codec = 'int8' AND place = 'in keys')) < 1e-5 AS interleaved
  FROM kv_rope_t WHERE codec = 'int8' AND place = 'in keys';
EXECUTE turned(kv.rope(24, 10000, 'interleaved'));
EXECUTE turned(kv.rope(24, 10000, 'half'));
CREATE FUNCTION pg_temp.variable(q kv.tensor, tile kv.tile, OUT half boolean, OUT interleaved boolean, OUT faster boolean) LANGUAGE plpgsql AS $$
DECLARE
  rope kv.rope := kv.rope(24, 10000);
  good boolean[];
BEGIN
  FOR i IN 1 .. 3 LOOP
    good[i] := kv.max_error((kv.finish(kv.partial(q, tile, rope => rope))).output, pg_temp.reference(q, ARRAY[tile], rope)) < 1e-5;
    IF i = 1 THEN rope.pairing := 'interleaved'; ELSE rope.frequencies[1] := 0.5; END IF;
  END LOOP;
  half := good[1];
  interleaved := good[2];
  faster := good[3];
END $$;
SELECT v.* FROM kv.encode(pg_temp.numbers(9, 20, 24), pg_temp.numbers(9, 20, 24), 'f16', 100, true) AS tile, pg_temp.variable(pg_temp.numbers(3, 4, 24), tile) AS v;

-- groups in a hash table: what turned keys take counts as memory
CREATE FUNCTION pg_temp.peak(expression text, source text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  plan json;
BEGIN
  EXECUTE format('EXPLAIN (ANALYZE, TIMING OFF, FORMAT json) SELECT %s FROM %s GROUP BY i', expression, source) INTO plan;
  RETURN plan -> 0 -> 'Plan' ->> 'Peak Memory Usage';
END $$;
CREATE TABLE kv_rope_groups AS SELECT i, (SELECT tile FROM kv.encode(pg_temp.numbers(9, 1, 96), pg_temp.numbers(9, 1, 4), 'f16', 0, true) AS tile) AS before,
    (SELECT tile FROM kv.encode(pg_temp.numbers(9, 1, 96), pg_temp.numbers(9, 1, 4), 'f16') AS tile) AS after FROM generate_series(1, 100) AS i;
SET enable_sort = off;
SET work_mem = '64MB';
SELECT pg_temp.peak('kv.attention(pg_temp.numbers(3, 1, 96), before, NULL, NULL, kv.rope(96, 100))', 'kv_rope_groups')
  - pg_temp.peak('kv.attention(pg_temp.numbers(3, 1, 96), after, NULL, NULL, NULL)', 'kv_rope_groups') BETWEEN 1500 AND 1800 AS counted;
RESET enable_sort;
RESET work_mem;

-- as a window function; a state that is flat at every step
SELECT pos, head, kv.max_error(kv.attention(:'q', tile, NULL, NULL, kv.rope(24, 10000)) OVER w, (SELECT kv.attention(:'q', tile, NULL, NULL, kv.rope(24, 10000)) FROM kv_rope_t u WHERE codec = 'f16' AND place = 'apart'
    AND (u.pos, u.head) <= (t.pos, t.head))) < 1e-6 AS same
  FROM kv_rope_t t WHERE codec = 'f16' AND place = 'apart' WINDOW w AS (ORDER BY pos, head);
CREATE AGGREGATE pg_temp.from_flat(kv.tensor, kv.tile, float8, float8, kv.rope) (SFUNC = kv.attention_step, STYPE = kv.state, FINALFUNC = kv.attention_output,
  INITCOND = '{4,12;-inf,-inf,-inf,-inf;0,0,0,0;0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}');
SELECT codec, kv.max_error(pg_temp.from_flat(:'q', tile, NULL, NULL, rope), output) < 1e-5 AS from_flat
  FROM kv_rope_t JOIN kv_rope_expected e USING (codec, place) JOIN kv_ropes USING (name) WHERE place = 'apart' AND name = 'listed' AND codec IN ('f16', 'int8') GROUP BY codec, output ORDER BY codec;

-- on several workers, each of which asks for the rope itself
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
SET parallel_leader_participation = off;
CREATE FUNCTION pg_temp.plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
  RETURN QUERY EXECUTE 'EXPLAIN (COSTS OFF) ' || query;
END $$;
SELECT * FROM pg_temp.plan($$SELECT kv.attention('{{1,2},{3,4}}', tile, NULL, NULL, kv.rope('r_f16_half_apart')) FROM kv_rope_t$$);
SELECT * FROM pg_temp.plan($$SELECT kv.merge(kv.partial('{{1,2},{3,4}}', tile, rope => kv.rope(2, 10))) FROM kv_rope_t$$);
SELECT bool_or(plan ~ 'Partial') AS partial, bool_or(plan ~ 'Finalize') AS finalize
  FROM pg_temp.plan(format('SELECT codec, kv.attention(%L, tile, NULL, NULL, (SELECT rope FROM kv_ropes WHERE name = ''some'')) FROM kv_rope_t WHERE place = ''apart'' GROUP BY codec', :'q')) AS plan;
SELECT codec, kv.max_error(a, output) < 1e-5 AS good
  FROM (SELECT codec, kv.attention(:'q', tile, NULL, NULL, (SELECT rope FROM kv_ropes WHERE name = 'some')) AS a FROM kv_rope_t WHERE place = 'apart' GROUP BY codec) AS t
  JOIN (SELECT * FROM kv_rope_expected WHERE place = 'apart' AND name = 'some') AS e USING (codec) ORDER BY codec;
SELECT max(kv.max_error((kv.finish(s)).output, output)) < 1e-5 AS merged
  FROM (SELECT codec, kv.merge(kv.partial(:'q', tile, rope => kv.rope(24, 10000))) AS s FROM kv_rope_t WHERE place = 'apart' GROUP BY codec) AS t
  JOIN (SELECT * FROM kv_rope_expected WHERE place = 'apart' AND name = 'half') AS e USING (codec);
SELECT codec, kv.max_error(a, pg_temp.reference(:'q', tiles, kv.rope(16, 10000))) < 1e-5 AS of_cache
  FROM (SELECT codec, kv.attention(:'q', tile, NULL, NULL, kv.rope('r_f16_half_apart')) AS a FROM kv_rope_t WHERE place = 'in keys' GROUP BY codec) AS t
  JOIN (SELECT codec, array_agg(tile) AS tiles FROM kv_rope_t WHERE place = 'in keys' GROUP BY codec) AS u USING (codec) ORDER BY codec;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
RESET max_parallel_workers_per_gather;
RESET parallel_leader_participation;

-- what is refused: the wrong kind of keys, another rope in a group, ropes that are none
CREATE TEMP TABLE small AS SELECT tile FROM kv.encode('{{1,2,3,4},{5,6,7,8}}', '{{1,0},{0,1}}', 'f16', keys_before_rope => true) AS tile;
CREATE TEMP TABLE after AS SELECT tile FROM kv.encode('{{1,2,3,4},{5,6,7,8}}', '{{1,0},{0,1}}', 'f16') AS tile;
SELECT * FROM pg_temp.try_all(ARRAY[$$kv.shape(kv.attention('{{1,2,3,4}}', tile)) FROM small$$, $$kv.shape(kv.attention('{{1,2,3,4}}', tile, NULL, NULL, NULL)) FROM small$$, $$kv.partial('{{1,2,3,4}}', tile) FROM small$$,
  $$kv.shape(kv.attention('{{1,2,3,4}}', tile, NULL, NULL, kv.rope(4, 10000))) FROM after$$, $$kv.partial('{{1,2,3,4}}', tile, rope => kv.rope(4, 10000)) FROM after$$,
  $$kv.shape(kv.attention('{{1,2,3,4}}', tile, NULL, NULL, kv.rope(4, 10000))) FROM (TABLE small UNION ALL TABLE after) AS t$$, $$kv.shape(kv.attention('{{1,2,3,4}}', tile)) FROM (TABLE after UNION ALL TABLE small) AS t$$,
  $$kv.shape(kv.attention('{{1,2,3,4}}', tile, NULL, NULL, r)) FROM (SELECT tile, kv.rope(4, 10000) AS r FROM small UNION ALL SELECT tile, NULL FROM after) AS t$$,
  $$kv.shape(kv.attention('{{1,2,3,4}}', tile, NULL, NULL, r)) FROM (SELECT tile, NULL::kv.rope AS r FROM after UNION ALL SELECT tile, kv.rope(4, 10000) FROM small) AS t$$,
  $$kv.shape(kv.attention('{{1,2,3,4}}', tile, NULL, NULL, r)) FROM small, (VALUES (kv.rope(4, 10000)), (kv.rope(4, 10001))) AS r(r)$$,
  $$kv.shape(kv.attention('{{1,2,3,4}}', tile, NULL, NULL, r)) FROM small, (VALUES (kv.rope(4, 10000)), (kv.rope(4, 10000, 'interleaved'))) AS r(r)$$,
  $$kv.shape(kv.attention('{{1,2,3,4}}', tile, NULL, NULL, r)) FROM small, (VALUES (kv.rope(4, 10000)), (kv.rope(4, 10000))) AS r(r)$$]);
SELECT r, pg_temp.attempt(format('SELECT kv.shape(kv.attention(''{{1,2,3,4}}'', tile, NULL, NULL, %s)) FROM small', r)) AS answer
  FROM unnest(ARRAY['kv.rope(6, 10000)', $$ROW('{1,2,3}', 'half')$$, $$ROW(array_fill(0.5::float8, ARRAY[513]), 'half')$$, $$ROW('{1}', 'half')$$, $$ROW('{}', 'half')$$, $$ROW(NULL, 'half')$$, $$ROW('{1,NULL}', 'half')$$,
    $$ROW('{1,NaN}', 'half')$$, $$ROW('{-Infinity}', 'half')$$, $$ROW('{{1},{2}}', 'half')$$, $$ROW('{1}', 'both')$$, $$ROW('{1}', 'Half')$$, $$ROW('{1}', '')$$, $$ROW('{1}', NULL)$$, $$ROW(NULL, NULL)$$,
    $$ROW('{1}')$$, $$'("{1,x}",half)'$$]) WITH ORDINALITY AS t(r, i) ORDER BY i;
CREATE TABLE kv_rope_plain (seq bigint);
SELECT * FROM pg_temp.try_all(ARRAY['kv.rope(0, 10000)', 'kv.rope(-2, 10000)', 'kv.rope(7, 10000)', 'kv.rope(1026, 10000)', 'kv.rope(8, 1)', 'kv.rope(8, -10000)', $$kv.rope(8, 'NaN')$$, $$kv.rope(8, 'Infinity')$$,
  $$kv.rope(8, 10000, 'both')$$, $$kv.rope('kv_rope_plain')$$, $$kv.rope('kv_rope_missing')$$, 'kv.rope(1::regclass)', 'cardinality((kv.rope(1024, 10000)).frequencies)']);

SELECT count(kv.drop_cache(cache)) FROM kv.caches WHERE cache::text LIKE 'r\_%';
DROP TABLE kv_rope_t, kv_ropes, kv_rope_expected, kv_rope_toasted, kv_rope_groups, kv_rope_plain;
