-- kv.state: text, binary, merging and finishing; kv.partial against attention in double precision; and what is refused.
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

-- text: {rows,dim;m,...;l,...;o,...}
SELECT value::kv.state FROM unnest(ARRAY['{1,2;0.5;2;3,4}', '{2,3;1.5,-inf;1,0;0.25,1,4,0,0,0}', ' { 1 , 1 ; -2 ; 1e-3 ; NaN }']) WITH ORDINALITY AS t(value, i) WHERE i < 3 ORDER BY i;
SELECT value, pg_temp.attempt(format('SELECT %L::kv.state', value)) AS answer
  FROM unnest(ARRAY['', '{', '{}', '{1}', '{1,2}', '{1,2;0.5;2;3}', '{1,2;0.5;2;3,4,5}', '{1,2;0.5;2;3,4}x', '{0,2;;;}', '{1,0;0;1;}', '{1,1025;0;1;1}', '{1,1;NaN;1;1}', '{1,1;Infinity;1;1}', '{1,1;0;0;1}',
    '{1,1;0;-1;1}', '{1,1;-inf;1;0}', '{1,1;-inf;0;1}', '{1,1;0;1;NaN}', '{1,1;0;1;inf}', '{99999999999,1;0;1;1}', '{2147483647,1024;0;1;1}']) WITH ORDINALITY AS t(value, i) ORDER BY i;

-- binary form
CREATE TEMP TABLE states (i int, s kv.state);
INSERT INTO states VALUES (1, '{1,2;0.5;2;3,4}'), (2, '{2,3;1.5,-inf;1,0;0.25,1,4,0,0,0}'), (3, NULL);
INSERT INTO states SELECT 4, kv.partial(pg_temp.numbers(1, 32, 128), kv.encode(pg_temp.numbers(2, 1, 5, 128), pg_temp.numbers(3, 1, 5, 128), 'f16'));
CREATE TEMP TABLE copied (LIKE states);
\getenv abs_builddir PG_ABS_BUILDDIR
\set file :abs_builddir '/results/kv_state.copy'
COPY states TO :'file' (FORMAT binary);
COPY copied FROM :'file' (FORMAT binary);
SELECT i, kv.state_send(a.s) = kv.state_send(b.s) AS same, pg_column_size(a.s) AS bytes FROM states a JOIN copied b USING (i) ORDER BY i;
TRUNCATE copied;
COPY states TO :'file';
COPY copied FROM :'file';
SELECT count(*) FILTER (WHERE kv.state_send(a.s) = kv.state_send(b.s)) AS same, count(a.s) FROM states a JOIN copied b USING (i);
SELECT kv.state_send('{1,2;0.5;2;3,4}');

-- COPY ... FROM PROGRAM of a file with one row of one column that holds these bytes
CREATE FUNCTION pg_temp.receive(type text, value bytea) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  file bytea := '\x5047434f50590aff0d0a00'::bytea || '\x0000000000000000'::bytea
    || '\x0001'::bytea || int4send(length(value)) || value || '\xffff'::bytea;
  octal text;
  result text;
  state text;
  message text;
BEGIN
  SELECT string_agg(format('\%s%s%s', b / 64, b / 8 % 8, b % 8), '' ORDER BY i) INTO octal
    FROM (SELECT i, get_byte(file, i) AS b FROM generate_series(0, length(file) - 1) AS i) AS t;
  EXECUTE format('CREATE TEMP TABLE received (v %s)', type);
  EXECUTE format('COPY received FROM PROGRAM %L (FORMAT binary)', format('printf ''%s''', octal));
  SELECT CASE WHEN length(v::text) > 60 THEN format('%s characters', length(v::text)) ELSE v::text END INTO result FROM received;
  DROP TABLE received;
  RETURN 'ok: ' || result;
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT;
  RETURN state || ' | ' || message;
END $$;
SELECT what, pg_temp.receive('kv.state', bytes) AS answer FROM (VALUES
  (1, 'sound', '\x0001000000000001000000020000003f000000400000404000008040'::bytea), (2, 'nothing', '\x'), (3, 'half a header', '\x000100000000'), (4, 'version 2', '\x0002000000000001000000020000003f000000400000404000008040'),
  (5, 'reserved', '\x0001000100000001000000020000003f000000400000404000008040'), (6, 'no rows', '\x000100000000000000000002'), (7, 'no dimension', '\x0001000000000001000000000000003f00000040'),
  (8, 'one byte short', '\x0001000000000001000000020000003f0000004000004040000080'), (9, 'one byte long', '\x0001000000000001000000020000003f00000040000040400000804000'), (10, 'huge', '\x00010000ffffffffffffffff'),
  (11, 'NaN', '\x0001000000000001000000020000c07f000000400000404000008040'), (12, 'l of 0', '\x0001000000000001000000020000003f000000000000404000008040')) AS t(i, what, bytes) ORDER BY i;

-- merging: the algebra by hand, order, empty rows; the aggregate
SELECT kv.merge('{1,2;0;1;1,0}', '{1,2;0;3;0,9}'), kv.merge('{1,1;0;1;1}', '{1,1;100;1;2}'), kv.merge('{2,1;-inf,1;0,1;0,5}', '{2,1;3,-inf;1,0;7,0}'), kv.merge('{1,1;-inf;0;0}', '{1,1;-inf;0;0}');
SELECT kv.merge(s::kv.state) FROM unnest(ARRAY['{1,2;0;1;1,0}', NULL, '{1,2;0;3;0,9}', '{1,2;-inf;0;0,0}']) AS s;
SELECT kv.merge(s::kv.state) IS NULL AS of_nulls FROM unnest(ARRAY[NULL, NULL]) AS s;
SELECT kv.merge(s) IS NULL AS of_none FROM states WHERE false;
SELECT kv.merge(a, NULL) IS NULL AND kv.merge(NULL, a) IS NULL AS strict FROM (SELECT '{1,2;0;1;1,0}'::kv.state AS a) AS t;
-- what is merged stays as it was, in a table and in a literal
CREATE TEMP TABLE kept AS SELECT i, '{1,2;0;1;1,0}'::kv.state AS s FROM generate_series(1, 3) AS i;
SELECT kv.merge(s), kv.merge(kv.merge(s)) OVER () AS windowed FROM kept;
SELECT i, kv.merge(s) OVER (ORDER BY i) FROM kept;
SELECT DISTINCT s FROM (SELECT s::text FROM kept) AS t;
SELECT kv.merge(a, a), a FROM (SELECT '{1,2;0;1;1,0}'::kv.state AS a OFFSET 0) AS t;
SELECT * FROM pg_temp.try_all(ARRAY[$$kv.merge('{1,1;0;1;1}', '{1,2;0;1;1,1}')$$, $$kv.merge('{1,1;0;1;1}', '{2,1;0,0;1,1;1,1}')$$, $$kv.merge(s) FROM states$$]);

-- finishing
SELECT output, lse FROM kv.finish('{2,2;0.5,-inf;4,0;1,2,0,0}'), LATERAL (SELECT kv.max_error(lse, ARRAY[0.5 + ln(4.0), '-Infinity']::kv.tensor) < 1e-6 AS near) AS n WHERE near;
SELECT kv.finish(NULL) IS NULL AS nulls;

-- kv.partial: every codec, grouped-query heads, positions, softcap, values in keys
CREATE TEMP TABLE cases AS
  SELECT codec, name, q, tile, scale, softcap
    FROM unnest(ARRAY['f16', 'int8', 'int4_uniform', 'int4_rotated', 'int3_uniform', 'int3_rotated', 'int2_uniform', 'int2_rotated']) AS codec,
         (VALUES ('heads', pg_temp.numbers(1, 4, 16), 2, 16, 16, NULL::float8, NULL::float8), ('positions', pg_temp.numbers(2, 4, 3, 16), 2, 16, 16, NULL, NULL), ('one', pg_temp.numbers(3, 1, 20), 1, 20, 12, NULL, NULL),
                 ('scale', pg_temp.numbers(4, 6, 16), 2, 16, 16, 3.0, NULL), ('softcap', pg_temp.numbers(5, 2, 16), 2, 16, 16, 2.0, 0.5), ('halves', kv.cast(pg_temp.numbers(6, 2, 16), 'f16'), 2, 16, 16, NULL, NULL),
                 ('in keys', pg_temp.numbers(7, 4, 24), 1, 24, 12, NULL, NULL)) AS c(name, q, heads, dim_k, dim_v, scale, softcap),
         LATERAL kv.encode(pg_temp.numbers(8, heads, 9, dim_k), CASE WHEN name <> 'in keys' THEN pg_temp.numbers(9, heads, 9, dim_v) END, codec, value_dim => dim_v) AS tile;
SELECT name, count(*), max(kv.max_error(f.output, r.output)) < 1e-5 AS output, max(kv.max_error(f.lse, r.lse)) < 1e-5 AS lse
  FROM (SELECT name, codec, (array_agg(q))[1] AS q, array_agg(tile) AS tiles, kv.merge(kv.partial(q, tile, scale, softcap)) AS state, scale, softcap FROM cases GROUP BY name, codec, scale, softcap) AS c,
       kv.finish(state) AS f, pg_temp.reference(q, tiles, scale, softcap) AS r GROUP BY name ORDER BY name;
-- rows that the tile's head does not serve are empty
SELECT head, kv.partial('{{1,0},{0,1},{1,1},{2,2}}', tile) FROM kv.encode('{{{1,0}},{{0,1}}}', '{{{5,6}},{{7,8}}}', 'f16') AS tile, kv.info(tile) ORDER BY head;
-- nulls; a null scale or softcap is none
SELECT kv.partial(NULL, tile) IS NULL AS q, kv.partial('{{1,2}}', NULL) IS NULL AS tile, kv.state_send(kv.partial('{{1,2}}', tile, NULL, NULL)) = kv.state_send(kv.partial('{{1,2}}', tile)) AS none,
       kv.state_send(kv.partial('{{1,2}}', tile, softcap => 0)) = kv.state_send(kv.partial('{{1,2}}', tile)) AS zero, kv.state_send(kv.partial('{{1,2}}', tile, 1 / sqrt(2))) = kv.state_send(kv.partial('{{1,2}}', tile)) AS usual
  FROM kv.encode('{{1,2}}', '{{3}}', 'f16') AS tile;
-- q and geometry may change from row to row
SELECT (kv.finish(kv.partial(q, tile))).output FROM (VALUES (1, '{{1,2}}'::kv.tensor, '{{1,2}}'::kv.tensor), (2, '{{2,2}}', '{{1,2}}'), (3, '{{1,2,3}}', '{{1,2,3}}'), (4, '{{1,2}}', '{{4,5}}')) AS t(i, q, k), kv.encode(k, NULL, 'f16') AS tile ORDER BY i;
CREATE TEMP TABLE tile AS SELECT kv.encode('{{{1,2}},{{3,4}}}', '{{{5}},{{6}}}', 'f16', keys_before_rope => rope) AS tile, rope FROM unnest(ARRAY[false, true]) AS rope;
SELECT q, pg_temp.attempt(format('SELECT kv.partial(%L, tile) IS NULL FROM tile WHERE NOT rope LIMIT 1', q)) AS answer
  FROM unnest(ARRAY['{{1,2},{3,4}}', '{{1,2}}', '{{1,2},{3,4},{5,6}}', '{{1,2,3},{4,5,6}}', '{1,2}', '[2,1,1,2]{1,2,3,4}', '[0,2]{}', '[2,0,2]{}', '{{1,NaN},{1,2}}', '{{1,2},{1,Infinity}}']) WITH ORDINALITY AS t(q, i) ORDER BY i;
SELECT scale, softcap, pg_temp.attempt(format('SELECT kv.partial(''{{1,2},{3,4}}'', tile, %L, %L) IS NULL FROM tile WHERE NOT rope LIMIT 1', scale, softcap)) AS answer
  FROM (VALUES ('NaN'::float8, 0::float8), ('Infinity', 0), (1e300, 0), (0, 0), (-1, 0), (1, -1), (1, 'NaN'), (1, 'Infinity')) AS t(scale, softcap);
SELECT pg_temp.attempt('SELECT kv.partial(''{{1,2},{3,4}}'', tile) FROM tile WHERE rope LIMIT 1');

-- prepared statements
PREPARE part(kv.tensor) AS SELECT (kv.finish(kv.merge(kv.partial($1, tile)))).output FROM tile WHERE NOT rope;
EXECUTE part('{{1,2},{3,4}}');
EXECUTE part('{{1,2,3},{4,5,6}}');
EXECUTE part(NULL);
