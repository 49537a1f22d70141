-- kv.tensor: text, binary, casts, parts, comparison, and what is refused.
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

-- text: with and without dtype and shape, nested and flat
SELECT value, value::kv.tensor, kv.dtype(value::kv.tensor), kv.shape(value::kv.tensor)
  FROM unnest(ARRAY['{1,2,3}', '[1,2,3]', ' { 1 , 2 } ', '{{1,2,3},{4,5,6}}', 'f16{{1,2},{3,4}}', 'f16[2,3]{1,2,3,4,5,6}', 'bf16[1,1,1,1,2]{1,-1}', 'f32[0]{}',
    'f16[2,0,3]{}', '{NaN,Infinity,-Infinity,inf}', 'f16{65504,-65504,1e-8,6e-8}', 'bf16{3.3895e38,1.00390625}', 'f32{1e-46,3.4028235e38,0.1}', '{{{{{1}}}}}'])
  WITH ORDINALITY AS t(value, i) ORDER BY i;
SELECT value, pg_temp.attempt(format('SELECT %L::kv.tensor', value)) AS answer
  FROM unnest(ARRAY['', ' ', '{', '}', '{}}', '{1', '{1,', '{1,}', '{,1}', '{1 2}', '{1,2]', 'f8{1}', 'f16', 'f16[2]', 'f16[2]{1}', 'f16[2]{1,2,3}', '[2]{1,2}x', 'f32[-1]{}',
    '{{1,2},{3}}', '{{1},2}', '{1,{2}}', '{{{{{{1}}}}}}', '[1,1,1,1,1,1]{1}', '{a}', '{1e39}', 'f16{65520}', 'bf16{3.4e38}', 'f32[99999999999]{}', 'f32[65536,65536]{}',
    'f32[4294967295,4294967295,0]{}', 'f32[0,4294967295]{}', 'f32[0,2147483647,2147483647]{}']) WITH ORDINALITY AS t(value, i) ORDER BY i;

-- binary form: through COPY, and what is refused
CREATE TEMP TABLE tensors (i int, t kv.tensor);
INSERT INTO tensors SELECT i, value::kv.tensor FROM unnest(ARRAY['{1,2,3}', 'f16[2,3]{1,2,3,4,5,6}', 'bf16[1,1,1,1,2]{1,-1}', 'f32[0]{}', 'f16[2,0,3]{}', '{NaN,-Infinity,0.1}', NULL])
  WITH ORDINALITY AS t(value, i);
INSERT INTO tensors SELECT 100, ('{' || string_agg((i % 7 / 8.0)::text, ',') || '}')::kv.tensor FROM generate_series(1, 10000) AS i;
\getenv abs_builddir PG_ABS_BUILDDIR
\set file :abs_builddir '/results/kv_tensor.copy'
COPY tensors TO :'file' (FORMAT binary);
CREATE TEMP TABLE copied (LIKE tensors);
COPY copied FROM :'file' (FORMAT binary);
SELECT i, a.t::text = b.t::text AS text_same, kv.tensor_eq(a.t, b.t) AS same, pg_column_size(a.t) AS bytes FROM tensors a JOIN copied b USING (i) ORDER BY i;
COPY tensors TO :'file';
TRUNCATE copied;
COPY copied FROM :'file';
SELECT count(*) FILTER (WHERE kv.tensor_eq(a.t, b.t)) AS same, count(a.t) FROM tensors a JOIN copied b USING (i);
SELECT kv.tensor_send('f16[2,3]{1,2,3,4,5,6}'), kv.tensor_send('bf16{1,-2}'), kv.tensor_send('[0,7]{}');

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
SELECT pg_temp.receive('kv.tensor', kv.tensor_send('f16[2,3]{1,2,3,4,5,6}')), pg_temp.receive('kv.tensor', kv.tensor_send('bf16{NaN,-Infinity}')), pg_temp.receive('kv.tensor', kv.tensor_send('[0,7]{}'));
SELECT what, pg_temp.receive('kv.tensor', bytes) AS answer FROM (VALUES
  (1, 'nothing', '\x'::bytea), (2, 'half a header', '\x0100'), (3, 'version 2', '\x02000100000000013f800000'), (4, 'dtype 3', '\x01030100000000013f800000'), (5, 'no dimension', '\x010000003f800000'),
  (6, '6 dimensions', '\x010006000000000100000001000000010000000100000001000000010000803f'), (7, 'reserved', '\x010001010000000100000000'), (8, 'no shape', '\x01000100'), (9, 'one byte short', '\x0100010000000001000080'),
  (10, 'one byte long', '\x01000100000000010000803f00'), (11, 'huge', '\x01000200ffffffffffffffff'), (12, 'huge and empty', '\x0100030000000000ffffffffffffffff'), (13, 'sound', '\x01000100000000010000803f')) AS t(i, what, bytes) ORDER BY i;

-- arrays of any dimensions
SELECT ARRAY[[1,2],[3,4]]::kv.tensor AS int, '{{{1.5,NaN}},{{-Infinity,2}}}'::real[]::kv.tensor AS real, '{1e-60,0.1}'::float8[]::kv.tensor AS double,
       '{0.1,NaN}'::numeric[]::kv.tensor AS numeric, '{}'::real[]::kv.tensor AS empty, '[5:6]={1,2}'::int[]::kv.tensor AS bounds;
SELECT 'f16{{1,2},{3,4}}'::kv.tensor::real[], '{}'::kv.tensor::real[], 'bf16[1,1,1,1,2]{1,NaN}'::kv.tensor::real[], (ARRAY[[1,2],[3,4]]::real[]::kv.tensor::real[])[2][1];
SELECT array_fill(1.5::real, ARRAY[3,4,5])::kv.tensor::real[] = array_fill(1.5::real, ARRAY[3,4,5]) AS same;
SELECT * FROM pg_temp.try_all(ARRAY[$$'{1,NULL}'::real[]::kv.tensor$$, $$'{{1},{NULL}}'::int[]::kv.tensor$$, $$'{{{{{{1}}}}}}'::real[]::kv.tensor$$, $$'{1,1e39}'::float8[]::kv.tensor$$,
  $$'{1,-Infinity}'::float8[]::kv.tensor$$, $$'{1e39}'::numeric[]::kv.tensor$$, $$'{a}'::text[]::kv.tensor$$]);

-- vector and halfvec
SELECT '[1,2.5]'::vector::kv.tensor, '[1,2.5]'::halfvec::kv.tensor, '{1,2.5}'::kv.tensor::vector, 'f16{1,2.5}'::kv.tensor::vector(2), '{1,2.5}'::kv.tensor::halfvec, 'bf16{1,2}'::kv.tensor::halfvec(2);
SELECT * FROM pg_temp.try_all(ARRAY[$$'{{1,2}}'::kv.tensor::vector$$, $$'{1,2}'::kv.tensor::vector(3)$$, $$'{}'::kv.tensor::vector$$, $$'{NaN}'::kv.tensor::vector$$, $$'{-Infinity}'::kv.tensor::halfvec$$,
  $$'{65520}'::kv.tensor::halfvec$$, $$'bf16{1e30}'::kv.tensor::halfvec$$, $$array_fill(1::real, ARRAY[16001])::kv.tensor::vector$$, $$length(array_fill(1::real, ARRAY[16000])::kv.tensor::vector::text)$$]);

-- raw bytes
SELECT kv.tensor('\x0000803f00000040', '{2}'), kv.tensor('\x003c00400042', '{1,3}', 'f16'), kv.tensor('\x803f', '{1}', 'bf16'), kv.tensor('', '{0,5}'), kv.tensor('\x0000803f', '{1}', 'float32');
SELECT kv.bytes('f16{1,2,3}'), kv.bytes('{1,2}'), kv.bytes('bf16{1}'), kv.bytes('{}');
SELECT * FROM pg_temp.try_all(ARRAY[$$kv.tensor('\x00', '{1}')$$, $$kv.tensor('\x0000803f', '{2}')$$, $$kv.tensor('\x0000803f', '{}')$$, $$kv.tensor('\x0000803f', '{-1}')$$,
  $$kv.tensor('\x0000803f', '{NULL}')$$, $$kv.tensor('\x0000803f', '{{1}}')$$, $$kv.tensor('\x0000803f', '{1,1,1,1,1,1}')$$, $$kv.tensor('\x0000803f', '{1}', 'f64')$$,
  $$kv.tensor('', '{2147483647,2147483647}')$$, $$kv.tensor('', '{2147483647,2147483647,0}')$$, $$kv.tensor('', '{0,2147483647,2147483647}')$$, $$kv.tensor(NULL, '{1}')$$]);

-- dtypes
SELECT kv.cast('{1,2.0009765625,NaN,-Infinity}', 'f16'), kv.cast('{1,1.00390625,3.3895e38}', 'bf16'), kv.cast('f16{1.5,6e-8}', 'f32'), kv.cast('f16{1.5,6e-8}', 'bf16'), kv.cast('bf16{1.5}', 'half'),
       kv.cast('{}', 'f16');
SELECT * FROM pg_temp.try_all(ARRAY[$$kv.cast('{1,65520}', 'f16')$$, $$kv.cast('{65519}', 'f16')$$, $$kv.cast('{3.4028235e38}', 'bf16')$$, $$kv.cast('bf16{1e30}', 'f16')$$, $$kv.cast('{1}', 'int8')$$]);

SET search_path = public, kv;

-- parts; t[i][j][k] = 100 i + 10 j + k
CREATE TEMP TABLE cube AS SELECT kv.reshape(array_agg(100 * i + 10 * j + k ORDER BY i, j, k)::kv.tensor, '{2,3,4}') AS t
  FROM generate_series(0, 1) AS i, generate_series(0, 2) AS j, generate_series(0, 3) AS k;
SELECT kv.at(t, 1), kv.at(t, 1, 2), kv.element(t, 1, 2, 3), kv.element(kv.cast(t, 'f16'), 0, 1, 2), kv.at(t, VARIADIC '{0}'), kv.at(t, VARIADIC '{}'::int[]) = t AS whole
  FROM cube;
SELECT kv.slice(t, 0, 1, 1), kv.slice(t, 1, 1, 2), kv.slice(t, 2, 0, 1), kv.slice(t, 2, 4, 0) FROM cube;
SELECT kv.reshape(t, '{-1}'), kv.shape(kv.reshape(t, '{4,-1,2}')), kv.shape(kv.reshape('[2,0]{}', '{0,7}')) FROM cube;
SELECT kv.concat(kv.at(t, 0), kv.at(t, 1), 0) = kv.reshape(t, '{6,4}') AS rows, kv.concat(kv.at(t, 0), kv.at(t, 1), 1), kv.concat(kv.slice(t, 1, 0, 1), kv.slice(t, 1, 1, 2), 1) = t AS joined,
       kv.concat('{}', '{1}', 0) FROM cube;
SELECT * FROM pg_temp.try_all(ARRAY[$$kv.at('{1,2}', 0)$$, $$kv.at('{{1,2}}', 1)$$, $$kv.at('{{1,2}}', -1)$$, $$kv.element('{{1,2}}', 0)$$, $$kv.element('{{1,2}}', 0, 2)$$, $$kv.element('{{1,2}}', 0, 0, 0)$$,
  $$kv.element('{1}', NULL)$$, $$kv.at('{{1,2}}', 0, 0, 0, 0, 0, 0)$$,
  $$kv.slice('{{1,2}}', 2, 0, 1)$$, $$kv.slice('{{1,2}}', -1, 0, 1)$$, $$kv.slice('{{1,2}}', 1, 1, 2)$$, $$kv.slice('{{1,2}}', 1, -1, 1)$$, $$kv.slice('{{1,2}}', 1, 0, -1)$$,
  $$kv.slice('{{1,2}}', 1, 2147483647, 2147483647)$$, $$kv.reshape('{1,2}', '{3}')$$, $$kv.reshape('{1,2}', '{-1,3}')$$, $$kv.reshape('{1,2}', '{-1,-1}')$$, $$kv.reshape('{1,2}', '{-2}')$$,
  $$kv.reshape('{1,2}', '{0,-1}')$$, $$kv.reshape('{1,2}', '{}')$$, $$kv.reshape('{1,2}', '{2147483647,2147483647,2147483647,2147483647,4}')$$, $$kv.concat('{1}', '{{1}}', 0)$$,
  $$kv.concat('{{1}}', '{{1,2}}', 0)$$, $$kv.concat('{1}', 'f16{1}', 0)$$, $$kv.concat('{1}', '{1}', 1)$$]);

-- comparison: dtype, shape and bytes; errors
SELECT '{1,2}'::kv.tensor = '{1,2}' AS eq, '{1,2}'::kv.tensor = '{{1,2}}' AS shape, '{1,2}'::kv.tensor = 'f16{1,2}' AS dtype, '{NaN}'::kv.tensor = '{NaN}' AS nan, '{0}'::kv.tensor = '{-0}' AS zero,
       '{1,2}'::kv.tensor <> '{1,3}' AS ne, ARRAY[1,2]::real[] = ARRAY[1,2]::real[] AS arrays, '[1,2]'::vector = '[1,2]' AS vectors;
SELECT t, count(*) FROM unnest(ARRAY['{1,2}', 'f16{1,2}', '{{1,2}}', '{1,2}', '{1,3}', '{-0}', '{0}']::kv.tensor[]) AS t GROUP BY t ORDER BY t::text;
SELECT count(*) AS pairs FROM tensors a JOIN copied b ON a.t = b.t;
SELECT kv.tensor_hash('{1,2}') = kv.tensor_hash('f32[2]{1,2}') AS same, kv.tensor_hash('{1,2}') <> kv.tensor_hash('{{1,2}}') AS shape, kv.tensor_hash_extended('{1,2}', 0)::bit(32) = kv.tensor_hash('{1,2}')::bit(32) AS extended,
       kv.tensor_hash_extended('{1,2}', 1) <> kv.tensor_hash_extended('{1,2}', 2) AS seed;
-- indexes and partitions keep hashes: of any size it is the server's, of head and bytes
SELECT count(*) AS tensors, bool_and(kv.tensor_hash_extended(t, seed) = hash_record_extended(ROW(kv.bytes(t)), hash_record_extended(ROW(head), seed))) AS same
  FROM (SELECT convert_to(repeat('The bytes of a tensor. ', 400000), 'UTF8') AS bytes OFFSET 0) text CROSS JOIN (VALUES (0), (2097148)) size (least) CROSS JOIN generate_series(0, 6) more CROSS JOIN (VALUES (0), (-7)) seeds (seed),
       LATERAL (SELECT kv.tensor(substr(bytes, 1, 2 * (least + more)), ARRAY[least + more], 'f16') AS t OFFSET 0) tensors, LATERAL (SELECT kv.tensor_send(t) AS wire OFFSET 0) sent,
       LATERAL (SELECT substr(wire, 3, 1) || substr(wire, 2, 1) || '\x0000' || substr(wire, 8, 1) || substr(wire, 7, 1) || substr(wire, 6, 1) || substr(wire, 5, 1) || decode(repeat('00', 16), 'hex') AS head OFFSET 0) heads;
SELECT kv.max_error('{1,2,-3}', 'f16{1,2.5,-2.75}'), kv.max_error('{-Infinity,1}', '{-Infinity,1}'), kv.max_error('{Infinity}', '{-Infinity}'), kv.max_error('{NaN,9}', '{1,1}'), kv.max_error('{}', '{}');
SELECT kv.relative_error('{3,4}', '{3,5}')::numeric(10,8) AS r, kv.relative_error('{0}', '{0}') AS zero, kv.relative_error('{1}', '{0}') AS inf, kv.relative_error('{NaN}', '{1}') AS nan;
SELECT kv.max_error(a, b), kv.relative_error(a, a) FROM (SELECT array_agg(i)::kv.tensor AS a, array_agg(i + CASE WHEN i = 1999 THEN 0.5 ELSE 0 END)::kv.tensor AS b FROM generate_series(1, 2000) AS i) AS t;
SELECT * FROM pg_temp.try_all(ARRAY[$$kv.max_error('{1}', '{1,2}')$$, $$kv.relative_error('{{1}}', '{1}')$$]);

-- prepared statements and nulls
PREPARE part(kv.tensor, int) AS SELECT kv.at($1, $2);
EXECUTE part('{{1,2},{3,4}}', 1);
EXECUTE part('{{1,2},{3,4}}', 2);
EXECUTE part(NULL, 1);
SELECT kv.shape(NULL) IS NULL AND kv.dtype(NULL) IS NULL AND kv.cast('{1}', NULL) IS NULL AND kv.slice(NULL, 0, 0, 0) IS NULL AND kv.element(NULL, 1) IS NULL AND kv.bytes(NULL) IS NULL AS nulls;
RESET search_path;
