-- The aggregate kv.attention: exact over any grouping, order and number of workers; the forms in which its state passes; what is refused.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS vectorkv CASCADE;
RESET client_min_messages;
CREATE FUNCTION pg_temp.attempt(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  result text;
  state text;
  message text;
  detail text;
  hint text;
BEGIN
  EXECUTE query INTO result;
  RETURN CASE WHEN length(result) > 60 THEN format('ok: %s characters', length(result)) ELSE 'ok: ' || coalesce(result, 'null') END;
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
  RETURN concat_ws(' | ', state, message, nullif(detail, ''), nullif(hint, ''));
END $$;
CREATE FUNCTION pg_temp.try_all(queries text[]) RETURNS TABLE (query text, answer text) LANGUAGE sql AS $$
  SELECT q, pg_temp.attempt('SELECT ' || q) FROM unnest(queries) WITH ORDINALITY AS t(q, i) ORDER BY i
$$;
-- numbers between -1 and 1 of the given shape, the same every time
CREATE FUNCTION pg_temp.numbers(seed int, VARIADIC shape int[]) RETURNS kv.tensor LANGUAGE sql AS $$
  SELECT kv.reshape((SELECT array_agg(((i * 7919 + seed * 104729) % 2001 - 1000) / 1000.0 ORDER BY i)
    FROM generate_series(1, (SELECT round(exp(sum(ln(n))))::int FROM unnest(shape) AS n)) AS i)::kv.tensor, shape)
$$;
-- attention in double precision over decoded tiles: what the kernels are compared with. q [q_heads, dim] or [q_heads, positions, dim].
CREATE FUNCTION pg_temp.reference(q kv.tensor, tiles kv.tile[], scale float8 DEFAULT NULL, softcap float8 DEFAULT NULL, OUT output kv.tensor, OUT lse kv.tensor) LANGUAGE sql AS $$
  WITH rows AS (SELECT r, (SELECT array_agg(x ORDER BY d) FROM unnest(kv.at(flat, r)::real[]::float8[]) WITH ORDINALITY AS u(x, d)) AS x, heads, count
                  FROM (SELECT kv.reshape(q, ARRAY[-1, dim]) AS flat, (kv.shape(kv.reshape(q, ARRAY[-1, dim])))[1] AS count, dim
                          FROM (SELECT (kv.shape(q))[cardinality(kv.shape(q))] AS dim) AS d) AS f,
                       (SELECT (kv.info(tiles[1])).heads) AS h, generate_series(0, count - 1) AS r),
       tokens AS (SELECT head, t, kv.at(k, t)::real[]::float8[] AS k, kv.at(v, t)::real[]::float8[] AS v
                    FROM (SELECT (kv.info(tile)).head, kv.tokens(tile) AS n, (kv.decode(tile)).* FROM unnest(tiles) AS tile) AS d, generate_series(0, n - 1) AS t),
       logits AS (SELECT r, v, CASE WHEN softcap > 0 THEN softcap * tanh(s / softcap) ELSE s END AS s
                    FROM (SELECT r, v, coalesce(scale, 1 / sqrt(cardinality(x))) * (SELECT sum(a * b) FROM unnest(x, k) AS u(a, b)) AS s
                            FROM rows JOIN tokens ON r * heads / count = head) AS l),
       sums AS (SELECT r, max(s) AS m, ln(sum(exp(s))) AS lse FROM logits GROUP BY r),
       outputs AS (SELECT r, d, sum(exp(s - lse) * x) AS o FROM logits JOIN sums USING (r), unnest(v) WITH ORDINALITY AS u(x, d) GROUP BY r, d)
  SELECT kv.reshape((SELECT array_agg(o ORDER BY r, d) FROM outputs)::kv.tensor, ARRAY[(SELECT count(*)::int FROM sums), -1]),
         (SELECT array_agg(lse ORDER BY r) FROM sums)::kv.tensor
$$;

CREATE TABLE kv_aggregate_t (codec text, seq int, layer int, head int, pos int, tile kv.tile) WITH (autovacuum_enabled = off, parallel_workers = 2);
INSERT INTO kv_aggregate_t SELECT c.codec, seq, layer, i.head, i.first_position, tile
  FROM unnest(ARRAY['f16', 'int8', 'int4_uniform', 'int4_rotated']) AS c(codec), generate_series(1, 2) AS seq, generate_series(0, 1) AS layer,
       kv.encode(pg_temp.numbers(10 * seq + layer, 2, 70 + 60 * seq, 32), pg_temp.numbers(100 * seq + layer, 2, 70 + 60 * seq, 32), c.codec) AS tile, kv.info(tile) AS i;
ANALYZE kv_aggregate_t;
CREATE TEMP TABLE query AS SELECT seq, layer, pg_temp.numbers(1000 + 10 * seq + layer, 4, 32) AS q FROM generate_series(1, 2) AS seq, generate_series(0, 1) AS layer;
CREATE TEMP TABLE expected AS SELECT codec, seq, layer, (pg_temp.reference(q, tiles)).*
  FROM (SELECT codec, seq, layer, array_agg(tile ORDER BY pos, head) AS tiles FROM kv_aggregate_t GROUP BY codec, seq, layer) AS t JOIN query USING (seq, layer);
SELECT codec, count(*) FROM kv_aggregate_t GROUP BY codec ORDER BY codec;

-- one group, hashed and sorted groups, and in an order: q is a constant, a parameter or a column
SELECT codec, kv.max_error(kv.attention((SELECT q FROM query WHERE seq = 1 AND layer = 0), tile), (SELECT output FROM expected e WHERE e.codec = t.codec AND seq = 1 AND layer = 0)) < 1e-5 AS good
  FROM kv_aggregate_t t WHERE seq = 1 AND layer = 0 GROUP BY codec ORDER BY codec;
CREATE FUNCTION pg_temp.check_groups() RETURNS TABLE (groups bigint, good bigint) LANGUAGE sql AS $$
  SELECT count(*), count(*) FILTER (WHERE kv.shape(a) = '{4,32}' AND kv.dtype(a) = 'f32' AND kv.max_error(a, output) < 1e-5)
    FROM (SELECT codec, seq, layer, kv.attention(q, tile) AS a FROM kv_aggregate_t JOIN query USING (seq, layer) GROUP BY codec, seq, layer) AS t JOIN expected USING (codec, seq, layer)
$$;
SET enable_sort = off;
SELECT 'hashed' AS plan, * FROM pg_temp.check_groups();
RESET enable_sort;
SET enable_hashagg = off;
SELECT 'sorted' AS plan, * FROM pg_temp.check_groups();
RESET enable_hashagg;
SELECT codec, kv.max_error(kv.attention(q, tile ORDER BY pos DESC, head), (SELECT output FROM expected e WHERE e.codec = t.codec AND seq = 2 AND layer = 1)) < 1e-5 AS good
  FROM kv_aggregate_t t JOIN query USING (seq, layer) WHERE seq = 2 AND layer = 1 GROUP BY codec ORDER BY codec;
PREPARE attention(kv.tensor, text) AS SELECT kv.attention($1, tile) FROM kv_aggregate_t WHERE codec = $2 AND seq = 1 AND layer = 1;
SELECT set_config('kv_test.q', q::text, false) IS NOT NULL AS set FROM query WHERE seq = 1 AND layer = 1;
CREATE FUNCTION pg_temp.prepared(codec text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  a kv.tensor;
BEGIN
  EXECUTE format('EXECUTE attention(%L, %L)', current_setting('kv_test.q'), codec) INTO a;
  RETURN kv.max_error(a, (SELECT output FROM expected e WHERE e.codec = prepared.codec AND seq = 1 AND layer = 1)) < 1e-5;
END $$;
SELECT i, pg_temp.prepared('int8') FROM generate_series(1, 7) AS i;

-- scale and softcap; heads apart; the state before the last step, merged further, with the sum of exponentials
SELECT codec, kv.max_error(kv.attention(q, tile, 2), r1) < 1e-5 AS scale, kv.max_error(kv.attention(q, tile, NULL, 0.25), r2) < 1e-5 AS softcap,
       kv.max_error(kv.attention(q, tile, 2, 0.25), r3) < 1e-5 AS both, kv.max_error(r1, r2) > 1e-3 AND kv.max_error(r1, r3) > 1e-3 AS differ
  FROM kv_aggregate_t JOIN query USING (seq, layer) JOIN
       (SELECT codec, (pg_temp.reference(q, tiles, 2)).output AS r1, (pg_temp.reference(q, tiles, NULL, 0.25)).output AS r2, (pg_temp.reference(q, tiles, 2, 0.25)).output AS r3
          FROM (SELECT codec, array_agg(tile) AS tiles FROM kv_aggregate_t WHERE seq = 1 AND layer = 0 GROUP BY codec) AS a, query WHERE seq = 1 AND layer = 0 OFFSET 0) AS r USING (codec)
 WHERE seq = 1 AND layer = 0 GROUP BY codec, r1, r2, r3 ORDER BY codec;
SELECT codec, kv.max_error(f.output, e.output) < 1e-5 AS output, kv.max_error(f.lse, e.lse) < 1e-5 AS lse
  FROM (SELECT codec, seq, layer, kv.finish(kv.merge(state)) AS f FROM (SELECT codec, seq, layer, head, kv.attention_state(q, tile) AS state FROM kv_aggregate_t JOIN query USING (seq, layer)
          WHERE seq = 1 AND layer = 0 GROUP BY codec, seq, layer, head) AS s GROUP BY codec, seq, layer) AS t JOIN expected e USING (codec, seq, layer), LATERAL (SELECT (f).*) AS f ORDER BY codec;
SELECT codec, head, kv.max_error(kv.slice(kv.attention(q, tile), 0, 2 * head, 2), kv.slice((SELECT output FROM expected e WHERE e.codec = t.codec AND seq = 1 AND layer = 0), 0, 2 * head, 2)) < 1e-5 AS served,
       kv.tensor_eq(kv.slice(kv.attention(q, tile), 0, 2 - 2 * head, 2), array_fill(0, ARRAY[2, 32])::kv.tensor) AS others_empty
  FROM kv_aggregate_t t JOIN query USING (seq, layer) WHERE seq = 1 AND layer = 0 AND codec = 'f16' GROUP BY codec, head ORDER BY head;

-- positions of queries: the result has a row for each head and position
SELECT kv.shape(a), kv.max_error(a, (pg_temp.reference(q, tiles)).output) < 1e-5 AS good
  FROM (SELECT q, kv.attention(q, tile) AS a, array_agg(tile) AS tiles FROM kv_aggregate_t, (SELECT pg_temp.numbers(5, 4, 3, 32) AS q OFFSET 0) AS q WHERE codec = 'int4_rotated' AND seq = 1 AND layer = 0 GROUP BY q) AS t;

-- a large q lies in a TOAST table: the pointer is followed once a group
CREATE TABLE kv_aggregate_q (id int, q kv.tensor);
INSERT INTO kv_aggregate_q SELECT id, pg_temp.numbers(70 + id, 64, 32) FROM generate_series(1, 2) AS id;
SELECT pg_relation_size(reltoastrelid) > 0 AS toasted FROM pg_class WHERE oid = 'kv_aggregate_q'::regclass;
SELECT id, codec, kv.max_error(a, (pg_temp.reference(q, tiles)).output) < 1e-5 AS good
  FROM (SELECT id, codec, kv.attention(q, tile) AS a, array_agg(tile) AS tiles FROM kv_aggregate_t, kv_aggregate_q WHERE seq = 1 AND layer = 0 AND codec IN ('f16', 'int8') AND pos < 20 GROUP BY id, codec) AS t
       JOIN kv_aggregate_q USING (id) ORDER BY id, codec;

-- groups that do not fit into work_mem: what C++ holds counts, and they are spilled
SET enable_sort = off;
SET work_mem = '64kB';
SET hash_mem_multiplier = 1;
CREATE FUNCTION pg_temp.hashed(field text, expression text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
  plan json;
BEGIN
  EXECUTE format('EXPLAIN (ANALYZE, TIMING OFF, FORMAT json) SELECT %s FROM kv_aggregate_t GROUP BY codec, seq, layer, head, pos', expression) INTO plan;
  RETURN plan -> 0 -> 'Plan' ->> field;
END $$;
SELECT pg_temp.hashed('HashAgg Batches', 'kv.attention(current_setting(''kv_test.q'')::kv.tensor, tile)') > 1 AS spilled;
SELECT count(*), count(*) FILTER (WHERE kv.tensor_eq(a, output)) AS same
  FROM (SELECT codec, seq, layer, head, pos, kv.attention(current_setting('kv_test.q')::kv.tensor, tile) AS a FROM kv_aggregate_t GROUP BY codec, seq, layer, head, pos) AS t
  JOIN (SELECT codec, seq, layer, head, pos, (kv.finish(kv.partial(current_setting('kv_test.q')::kv.tensor, tile))).output FROM kv_aggregate_t) AS p USING (codec, seq, layer, head, pos);
SET work_mem = '64MB';
SELECT pg_temp.hashed('Peak Memory Usage', 'kv.attention(current_setting(''kv_test.q'')::kv.tensor, tile)') - pg_temp.hashed('Peak Memory Usage', 'count(tile)') BETWEEN 60 * 3 AND 60 * 12 AS counted;
RESET enable_sort;
RESET work_mem;
RESET hash_mem_multiplier;

-- as a window function, and called by hand
SELECT pos, head, kv.max_error(kv.attention(q, tile) OVER w, (SELECT kv.attention(q, tile) FROM kv_aggregate_t u WHERE codec = 'f16' AND seq = 1 AND layer = 0 AND (u.pos, u.head) <= (t.pos, t.head))) < 1e-6 AS same
  FROM kv_aggregate_t t JOIN query USING (seq, layer) WHERE codec = 'f16' AND seq = 1 AND layer = 0 WINDOW w AS (ORDER BY pos, head);
CREATE FUNCTION pg_temp.step(state kv.state, q kv.tensor, tile kv.tile) RETURNS kv.state LANGUAGE plpgsql AS $$ BEGIN RETURN kv.attention_step(state, q, tile); END $$;
CREATE AGGREGATE pg_temp.by_hand(kv.tensor, kv.tile) (SFUNC = pg_temp.step, STYPE = kv.state, FINALFUNC = kv.attention_output);
CREATE AGGREGATE pg_temp.from_flat(kv.tensor, kv.tile) (SFUNC = kv.attention_step, STYPE = kv.state, FINALFUNC = kv.attention_output,
  INITCOND = '{4,2;-inf,-inf,-inf,-inf;0,0,0,0;0,0,0,0,0,0,0,0}');
SELECT codec, kv.max_error(pg_temp.by_hand(q, tile), output) < 1e-5 AS by_hand
  FROM kv_aggregate_t JOIN query USING (seq, layer) JOIN expected e USING (codec, seq, layer) WHERE seq = 1 AND layer = 0 GROUP BY codec, output ORDER BY codec;
CREATE TEMP TABLE small AS SELECT kv.encode('{{{1,2},{3,4}},{{5,6},{7,8}}}', '{{{1,0},{0,1}},{{1,1},{2,2}}}', codec) AS tile FROM unnest(ARRAY['f16', 'int8']) AS codec;
SELECT kv.max_error(pg_temp.from_flat('{{1,0},{0,1},{1,1},{0.5,0.5}}', tile), kv.attention('{{1,0},{0,1},{1,1},{0.5,0.5}}', tile)) < 1e-6 AS from_flat, count(*) FROM small;
-- a state given to the step by hand stays as it was
SELECT kv.attention_step(s, '{{1,0},{0,1}}', tile) IS NOT NULL AS stepped, s FROM (SELECT '{2,2;1,-inf;1,0;1,1,0,0}'::kv.state AS s OFFSET 0) AS s, (SELECT tile FROM small LIMIT 1) AS t;

-- on several workers
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
CREATE FUNCTION pg_temp.plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
  RETURN QUERY EXECUTE 'EXPLAIN (COSTS OFF) ' || query;
END $$;
SELECT * FROM pg_temp.plan($$SELECT kv.attention('{{1,2},{3,4}}', tile) FROM kv_aggregate_t$$);
SELECT * FROM pg_temp.plan($$SELECT kv.merge(kv.partial('{{1,2},{3,4}}', tile)) FROM kv_aggregate_t$$);
SELECT * FROM pg_temp.plan($$SELECT kv.attention_state('{{1,2},{3,4}}', tile, 1, 0) FROM kv_aggregate_t$$) LIMIT 3;
SELECT bool_or(plan ~ 'Partial') AS partial, bool_or(plan ~ 'Finalize') AS finalize
  FROM pg_temp.plan($$SELECT codec, kv.attention(current_setting('kv_test.q')::kv.tensor, tile) AS a FROM kv_aggregate_t WHERE seq = 1 AND layer = 1 GROUP BY codec$$) AS plan;
SELECT codec, kv.max_error(a, output) < 1e-5 AS good FROM (SELECT codec, kv.attention(current_setting('kv_test.q')::kv.tensor, tile) AS a FROM kv_aggregate_t WHERE seq = 1 AND layer = 1 GROUP BY codec) AS t
  JOIN (SELECT * FROM expected WHERE seq = 1 AND layer = 1) AS e USING (codec) ORDER BY codec;
SELECT codec, kv.max_error((kv.finish(s)).output, output) < 1e-5 AS good, kv.max_error((kv.finish(s)).lse, lse) < 1e-5 AS lse
  FROM (SELECT codec, kv.merge(kv.partial(current_setting('kv_test.q')::kv.tensor, tile)) AS s FROM kv_aggregate_t WHERE seq = 1 AND layer = 1 GROUP BY codec) AS t
  JOIN (SELECT * FROM expected WHERE seq = 1 AND layer = 1) AS e USING (codec) ORDER BY codec;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
RESET max_parallel_workers_per_gather;

-- nothing to attend to; nulls among the rows
SELECT kv.attention('{{1,2}}', tile) IS NULL AS of_none, kv.attention_state('{{1,2}}', tile, 1, 1) IS NULL AS state FROM small WHERE false;
SELECT kv.attention(NULL, tile) IS NULL AS q, kv.attention('{{1,2}}', NULL) IS NULL AS tile FROM small;
SELECT kv.max_error(kv.attention(q, tile), (SELECT kv.attention('{{1,2},{3,4}}', tile) FROM small)) = 0 AS skipped
  FROM (SELECT '{{1,2},{3,4}}'::kv.tensor AS q, tile FROM small UNION ALL SELECT NULL, tile FROM small UNION ALL SELECT '{{1,2},{3,4}}', NULL) AS t;

-- what does not fit together
CREATE TEMP TABLE mixed (what text, tile kv.tile);
INSERT INTO mixed SELECT 'other keys', kv.encode('{{{1,2,3}},{{1,2,3}}}', '{{{1,0}},{{1,0}}}', 'f16') UNION ALL SELECT 'other values', kv.encode('{{{1,2}},{{1,2}}}', '{{{1,0,0}},{{1,0,0}}}', 'f16')
  UNION ALL SELECT 'other heads', kv.encode('{{1,2}}', '{{1,0}}', 'f16') UNION ALL SELECT 'before the embedding', kv.encode('{{{1,2}},{{1,2}}}', '{{{1,0}},{{1,0}}}', 'f16', keys_before_rope => true);
SELECT what, pg_temp.attempt(format('SELECT kv.attention(''{{1,2},{3,4}}'', tile) FROM (SELECT tile FROM small UNION ALL SELECT tile FROM mixed WHERE what = %L) AS t', what)) AS answer FROM (SELECT DISTINCT what FROM mixed) AS t ORDER BY what;
SELECT pg_temp.attempt('SELECT kv.attention(q, tile) FROM small, (VALUES (''{{1,2},{3,4}}''::kv.tensor), (''{{1,2},{3,5}}'')) AS q(q)');
SELECT pg_temp.attempt('SELECT kv.attention(q, tile) FROM small, (VALUES (''{{1,2},{3,4}}''::kv.tensor), (''{{1,2},{3,4},{5,6},{7,8}}'')) AS q(q)');
SELECT pg_temp.attempt('SELECT kv.attention(''{{1,2},{3,4}}'', tile, scale) FROM small, (VALUES (1), (2)) AS s(scale)');
SELECT * FROM pg_temp.try_all(ARRAY[$$kv.attention('{{1,2}}', tile) FROM small$$, $$kv.attention('{1,2}', tile) FROM small$$, $$kv.attention('{{1,2,3},{1,2,3}}', tile) FROM small$$, $$kv.attention('{{1,2},{3,NaN}}', tile) FROM small$$,
  $$kv.attention('{{1,2},{3,4}}', tile, 'NaN') FROM small$$, $$kv.attention('{{1,2},{3,4}}', tile, 1, -1) FROM small$$, $$kv.attention_step('{1,2;0;1;1,1}', '{{1,2},{3,4}}', tile) FROM small$$,
  $$kv.attention_step('{2,1;0,0;1,1;1,1}', '{{1,2},{3,4}}', tile) FROM small$$]);
DROP TABLE kv_aggregate_t, kv_aggregate_q;
