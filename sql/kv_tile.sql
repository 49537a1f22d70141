-- kv.tile: encoding and decoding, text and binary form, clipping, checks, and what is refused. Content ids are random: never printed.
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
  SELECT kv.cast(kv.reshape((SELECT array_agg(((i * 7919 + seed * 104729) % 2001 - 1000) / 1000.0 ORDER BY i)
    FROM generate_series(1, (SELECT round(exp(sum(ln(n))))::int FROM unnest(shape) AS n)) AS i)::kv.tensor, shape), 'f16')
$$;
CREATE TEMP TABLE source AS SELECT pg_temp.numbers(1, 2, 130, 64) AS k, pg_temp.numbers(2, 2, 130, 64) AS v;

-- every codec: tiles fill a page, positions go on, what comes back is near
CREATE TEMP TABLE tiles (codec text, n bigint, tile kv.tile);
INSERT INTO tiles SELECT codec, n, tile FROM source, unnest(ARRAY['f16', 'int8', 'int4', 'int3', 'int2', 'int4_uniform', 'int3_uniform', 'int2_uniform', 'int4_rotated', 'int3_rotated',
  'int2_rotated']) AS codec, kv.encode(k, v, codec, 1000) WITH ORDINALITY AS t(tile, n);
SELECT t.codec, head, heads, n, first_position, i.tokens, dim_k, dim_v, round(bits_per_value::numeric, 3) AS bits, data_bytes, checksum_ok,
       kv.check(tile) IS NULL AS sound, kv.tokens(tile) = i.tokens AS same
  FROM tiles t, kv.info(tile) i WHERE t.codec NOT IN ('int4', 'int3', 'int2') ORDER BY t.codec, n;
-- the short names mean one of the two
SELECT s.codec, bool_and((kv.info(s.tile)).codec = s.codec) AS named, count(DISTINCT t.codec) AS meanings
  FROM tiles s JOIN tiles t ON t.codec IN (s.codec || '_uniform', s.codec || '_rotated') AND t.n = s.n AND kv.tensor_eq((kv.decode(s.tile)).k, (kv.decode(t.tile)).k)
 WHERE s.codec IN ('int4', 'int3', 'int2') GROUP BY s.codec ORDER BY s.codec;
SELECT codec, count(*), count(DISTINCT (kv.info(tile)).content_id) AS ids, max(data_bytes) <= 8080 AS fits, min(data_bytes) FILTER (WHERE NOT last) > 7000 AS full_tiles
  FROM (SELECT codec, tile, (kv.info(tile)).data_bytes, (kv.info(tile)).first_position + kv.tokens(tile) = 1130 AS last FROM tiles) AS t GROUP BY codec ORDER BY codec;
CREATE TEMP TABLE decoded AS
  SELECT codec, head, first_position, i.tokens, (kv.decode(tile)).k AS k, (kv.decode(tile)).v AS v FROM tiles, kv.info(tile) AS i(c, tokens, dim_k, dim_v, head, heads, first_position);
SELECT codec, bool_and(kv.shape(d.k) = ARRAY[tokens, 64] AND kv.dtype(d.k) = 'f32') AS shapes,
       CASE WHEN max(error_k) = 0 THEN 'exact' WHEN max(error_k) < least(bound, 1.2 * max(error_v)) AND max(error_v) < bound THEN 'within the bound' ELSE max(error_k) || ' ' || max(error_v) END AS errors
  FROM decoded d, source s, LATERAL (SELECT kv.relative_error(d.k, kv.slice(kv.at(s.k, head), 0, first_position - 1000, tokens)) AS error_k,
    kv.relative_error(d.v, kv.slice(kv.at(s.v, head), 0, first_position - 1000, tokens)) AS error_v) AS e,
    LATERAL (SELECT CASE WHEN codec = 'int8' THEN 0.006 WHEN codec ~ '4' THEN 0.11 WHEN codec ~ '3' THEN 0.21 ELSE 0.42 END AS bound) AS b
 GROUP BY codec, bound ORDER BY codec;

-- one head, other dtypes, keys and values of different dimensions, values in keys, keys before the rotary embedding
SELECT i.codec, i.tokens, dim_k, dim_v, head, heads, first_position, keys_before_rope, values_in_keys, bits_per_value, data_bytes, kv.relative_error((kv.decode(tile)).k, '{{1,2,3},{4,5,6}}') AS error_k, (kv.decode(tile)).v
  FROM (SELECT kv.encode('{{1,2,3},{4,5,6}}', 'bf16{{7},{8}}', 'f16') AS tile
        UNION ALL SELECT kv.encode('{{1,2,3},{4,5,6}}', NULL, 'f16', 7)
        UNION ALL SELECT kv.encode('bf16{{1,2,3},{4,5,6}}', NULL, 'f16', value_dim => 2)
        UNION ALL SELECT kv.encode('f16{{1,2,3},{4,5,6}}', 'f16{{7,8},{9,10}}', 'f16', 2147483645, true)) AS t, kv.info(tile) AS i;
SELECT count(*) AS tiles, sum(kv.tokens(tile)) AS tokens, min(values_in_keys::int) AS in_keys, max(data_bytes) <= 8080 AS fits, max(dim_k) AS dim_k, max(dim_v) AS dim_v
  FROM pg_temp.numbers(3, 1, 20, 576) AS k, kv.encode(k, NULL, 'int8', value_dim => 512) AS tile, kv.info(tile) AS i;
SELECT count(*) AS none FROM kv.encode('f16[2,0,64]{}', 'f16[2,0,64]{}', 'int8');
SELECT (SELECT count(*) FROM kv.encode(NULL, '{{1}}', 'f16')) AS k, (SELECT count(*) FROM kv.encode('{{1}}', '{{1}}', NULL)) AS codec, kv.decode(NULL) IS NULL AS decode, kv.clip(NULL, 1) IS NULL AS clip,
       kv.token_tile(NULL, 0, 0, 0, 1, 1) IS NULL AS token;

-- text and binary form: the same content under a new id
CREATE FUNCTION pg_temp.same_content(a kv.tile, b kv.tile) RETURNS boolean LANGUAGE sql AS $$
  SELECT kv.tensor_eq((kv.decode(a)).k, (kv.decode(b)).k) AND kv.tensor_eq((kv.decode(a)).v, (kv.decode(b)).v) AND kv.check(b) IS NULL AND (kv.info(a)).content_id <> (kv.info(b)).content_id
     AND to_jsonb(kv.info(a)) - 'content_id' = to_jsonb(kv.info(b)) - 'content_id'
$$;
CREATE TEMP TABLE copied (codec text, n bigint, tile kv.tile);
\getenv abs_builddir PG_ABS_BUILDDIR
\set file :abs_builddir '/results/kv_tile.copy'
COPY tiles TO :'file' (FORMAT binary);
COPY copied FROM :'file' (FORMAT binary);
SELECT count(*) FILTER (WHERE pg_temp.same_content(a.tile, b.tile)) AS same, count(*) FROM tiles a JOIN copied b USING (codec, n);
TRUNCATE copied;
COPY tiles TO :'file';
COPY copied FROM :'file';
SELECT count(*) FILTER (WHERE pg_temp.same_content(a.tile, b.tile)) AS same, count(*) FROM tiles a JOIN copied b USING (codec, n);
SELECT pg_temp.same_content(tile, tile::text::kv.tile) AS text, length(tile::text) = 2 + 2 * (pg_column_size(tile) - 4) AS length FROM tiles WHERE codec = 'int8' AND n = 1;

-- clipping: the tile itself, a shorter one, or none
SELECT stop, kv.tokens(kv.clip(tile, stop)) AS tokens, (kv.info(kv.clip(tile, stop))).content_id = (kv.info(tile)).content_id AS same_id, kv.check(kv.clip(tile, stop)) AS problem,
       kv.tensor_eq((kv.decode(kv.clip(tile, stop))).k, kv.slice((kv.decode(tile)).k, 0, 0, kv.tokens(kv.clip(tile, stop)))) AS keys,
       kv.tensor_eq((kv.decode(kv.clip(tile, stop))).v, kv.slice((kv.decode(tile)).v, 0, 0, kv.tokens(kv.clip(tile, stop)))) AS values
  FROM (SELECT tile FROM tiles WHERE codec = 'int3' AND n = 1) AS t, unnest(ARRAY[-5, 1000, 1001, 1010, 1017, 2000000000]) AS stop;
SELECT count(*) FILTER (WHERE kv.tensor_eq((kv.decode(c)).k, kv.slice((kv.decode(tile)).k, 0, 0, 5)) AND kv.tensor_eq((kv.decode(c)).v, kv.slice((kv.decode(tile)).v, 0, 0, 5)) AND kv.check(c) IS NULL) AS good, count(*)
  FROM tiles, LATERAL (SELECT kv.clip(tile, (kv.info(tile)).first_position + 5) AS c OFFSET 0) AS t WHERE kv.tokens(tile) > 5;

-- a token of a tail row
SELECT slot, (kv.decode(tile)).k, (kv.decode(tile)).v, i.first_position, head, heads, keys_before_rope AS rope, values_in_keys AS in_keys, checksum_ok
  FROM (SELECT slot, kv.token_tile(kv.pack_halves('f16{{1,2,3,4},{5,6,7,8}}'), slot, 77, slot, 2, 3) AS tile FROM generate_series(0, 1) AS slot
        UNION ALL SELECT 0, kv.token_tile(kv.pack_halves('f16{{1,2,3,4}}'), 0, 5, 1, 2, 4, 3, 2)
        UNION ALL SELECT 0, kv.token_tile(kv.pack_halves('f16{{1,2,3,4}}'), 0, 5, 1, 2, 4, 1)) AS t, kv.info(tile) AS i;
SELECT * FROM pg_temp.try_all(ARRAY[$$kv.token_tile('\x00', 0, 0, 0, 1, 1)$$, $$kv.token_tile(kv.pack_halves('f16{{1,2}}'), 1, 0, 0, 1, 1)$$, $$kv.token_tile(kv.pack_halves('f16{{1,2}}'), -1, 0, 0, 1, 1)$$,
  $$kv.token_tile(kv.pack_halves('f16{{1,2}}'), 0, -1, 0, 1, 1)$$, $$kv.token_tile(kv.pack_halves('f16{{1,2}}'), 0, 2147483647, 0, 1, 1)$$, $$kv.token_tile(kv.pack_halves('f16{{1,2}}'), 0, 0, 1, 1, 1)$$, $$kv.token_tile(kv.pack_halves('f16{{1,2}}'), 0, 0, 0, 0, 1)$$,
  $$kv.token_tile(kv.pack_halves('f16{{1,2}}'), 0, 0, 0, 1, 2)$$, $$kv.token_tile(kv.pack_halves('f16{{1,2}}'), 0, 0, 0, 1, 0)$$, $$kv.token_tile(kv.pack_halves('f16{{1,2}}'), 0, 0, 0, 1, 1, 4)$$, $$kv.token_tile(kv.pack_halves('f16{{1,2}}'), 0, 0, 0, 1, 1, 1)$$,
  $$kv.token_tile(kv.pack_halves('f16{{1,2}}'), 0, 0, 0, 1, 2, 1, 3)$$, $$kv.token_tile(kv.pack_halves('f16{{NaN,2}}'), 0, 0, 0, 1, 1)$$]);

-- packed halves: whatever the bits are, they come back; what noise does not pack is stored as it is
SELECT name, kv.shape(value), length(kv.pack_halves(value)) AS bytes, kv.tensor_send(kv.unpack_halves(kv.pack_halves(value))) = kv.tensor_send(value) AS same
  FROM (VALUES ('zeros', array_fill(0, ARRAY[3, 200])::kv.tensor), ('signs and edges', 'f16{{1,-1,0,-0,65504,-65504,5.9604645e-08,-6.0975552e-05,6.1035156e-05,0.33325195}}'),
        ('one', 'f16{{7}}'), ('alike', (SELECT array_agg(r)::kv.tensor FROM (SELECT array_agg((1 + (i * 7 + s * 3) % 11 / 10.0) * (1 - 2 * (i % 2))) AS r FROM generate_series(1, 130) AS i, generate_series(1, 5) AS s GROUP BY s) AS t)),
        ('not finite', 'f16{{Infinity,-Infinity,NaN,1}}')) AS t(name, given), kv.cast(given, 'f16') AS value;
SELECT * FROM pg_temp.try_all(ARRAY[$$kv.pack_halves('{{1,2}}')$$, $$kv.pack_halves('f16{1,2}')$$, $$kv.pack_halves('[0,2]{}'::kv.tensor)$$, $$kv.pack_halves('f16[0,2]{}')$$, $$kv.pack_halves(kv.cast(array_fill(0, ARRAY[70000, 1])::kv.tensor, 'f16'))$$]);
CREATE TEMP TABLE packed AS SELECT kv.pack_halves(kv.cast(array_fill(0.5, ARRAY[2, 100])::kv.tensor, 'f16')) AS bytes;
SELECT what, pg_temp.attempt(format('SELECT kv.unpack_halves(%L)', value)) AS answer
  FROM packed, LATERAL (VALUES (1, 'empty', '\x'::bytea), (2, 'a header alone', substr(bytes, 1, 8)), (3, 'cut', substr(bytes, 1, length(bytes) - 1)), (4, 'longer', bytes || '\x00'), (5, 'form', set_byte(bytes, 0, 1)),
    (6, 'reserved', set_byte(bytes, 6, 1)), (7, 'no slots', set_byte(bytes, 2, 0)), (8, 'other slots', set_byte(bytes, 2, 3)), (9, 'other width', set_byte(bytes, 4, 101)), (10, 'exceptions', set_byte(bytes, 8, get_byte(bytes, 8) | 32)),
    (11, 'many', set_byte(bytes, 8, get_byte(bytes, 8) | 224)), (12, 'steps', set_byte(bytes, 8 + 4 + 64, 28)), (13, 'raw', '\x000002000100000001'::bytea)) AS t(i, what, value) ORDER BY i;

-- bytes that the caller has written are his mistake (22P03), those of a row are damage (XX001)
CREATE TEMP TABLE rubbish AS SELECT '\x0000010001000000'::bytea AS bytes;
PREPARE unpacked(bytea) AS SELECT kv.unpack_halves($1);
SELECT * FROM pg_temp.try_all(ARRAY[$$kv.unpack_halves('\x0000010001000000')$$, $$kv.unpack_halves(bytes) FROM rubbish$$, $$kv.token_tile('\x0000010001000000', 0, 0, 0, 1, 1)$$,
  $$kv.token_tile(bytes, 0, 0, 0, 1, 1) FROM rubbish$$, $$kv.token_tile(bytes, 1, 0, 0, 1, 1) FROM rubbish$$]);
SELECT pg_temp.attempt('EXECUTE unpacked(''\x00'')') AS parameter;

-- what cannot be encoded
SELECT * FROM pg_temp.try_all(ARRAY[$$kv.encode('{{1,NaN}}', '{{1}}', 'f16')$$, $$kv.encode('{{1}}', '{{-Infinity}}', 'f16')$$, $$kv.encode('{{{1},{70000}}}', '{{{1},{2}}}', 'f16')$$, $$kv.encode('f16{{1}}', 'bf16{{1e30}}', 'int8')$$,
  $$kv.encode('{1}', '{1}', 'f16')$$, $$kv.encode('[1,1,1,1]{1}', '{{1}}', 'f16')$$, $$kv.encode('{{1}}', '{{1},{2}}', 'f16')$$, $$kv.encode('{{{1}},{{2}}}', '{{1}}', 'f16')$$, $$kv.encode('{{1}}', '{{1}}', 'f8')$$,
  $$kv.encode('[0,1,1]{}', '[0,1,1]{}', 'f16')$$, $$kv.encode('[1,0]{}', '[1,0]{}', 'f16')$$, $$kv.encode('{{1}}', '{{1}}', 'f16', -1)$$, $$kv.encode('{{1},{2}}', '{{1},{2}}', 'f16', 2147483646)$$,
  $$kv.encode('{{1}}', '{{1}}', 'f16', 2147483646) IS NULL$$, $$kv.encode('{{1}}', '{{1}}', 'f16', 2147483647)$$, $$kv.encode('{{1}}', NULL, 'f16', value_dim => 2)$$, $$kv.encode('{{1}}', NULL, 'f16', value_dim => 0)$$,
  $$kv.encode('{{1}}', '{{1}}', 'f16', value_dim => 2)$$, $$kv.encode(array_fill(1, ARRAY[1, 1025])::kv.tensor, '{{1}}', 'f16')$$, $$kv.encode('{{1}}', array_fill(1, ARRAY[1, 1025])::kv.tensor, 'f16')$$,
  $$kv.encode(array_fill(1, ARRAY[32768, 1, 1])::kv.tensor, NULL, 'f16')$$]);

-- text that is no tile: cut short, of unknown version or codec, with a wrong checksum, with reserved bytes set
CREATE TEMP TABLE wire AS SELECT kv.tile_send(kv.encode('{{1,2,3},{4,5,6}}', '{{7},{8}}', 'int8')) AS bytes;
SELECT what, regexp_replace(pg_temp.attempt(format('SELECT (%L)::kv.tile IS NULL', value::text)), 'checksum [0-9a-f]{8}', 'checksum', 'g') AS answer
  FROM wire, LATERAL (VALUES (1, 'as it is', bytes), (2, 'empty', '\x'), (3, 'cut', substr(bytes, 1, 20)), (4, 'without its end', substr(bytes, 1, length(bytes) - 1)), (5, 'longer', bytes || '\x00'),
    (6, 'magic', set_byte(bytes, 0, 2)), (7, 'codec', set_byte(bytes, 2, 99)), (8, 'flags', set_byte(bytes, 3, 255)), (9, 'no tokens', set_byte(bytes, 4, 0)), (10, 'more tokens', set_byte(bytes, 4, 200)),
    (11, 'head', set_byte(bytes, 10, 1)), (12, 'position', set_byte(bytes, 19, 255)), (13, 'checksum', set_byte(bytes, 20, get_byte(bytes, 20) # 1)), (14, 'codes', set_byte(bytes, 36, get_byte(bytes, 36) # 1)),
    (15, 'means', set_byte(bytes, 14, 17)), (16, 'reserved', set_byte(bytes, 24, 1))) AS t(i, what, value) ORDER BY i;
SELECT pg_temp.attempt(format('SELECT %L::kv.tile', value)) FROM unnest(ARRAY['', 'x', '\x', '\x0', '\xzz', '\x01']) WITH ORDINALITY AS t(value, i) ORDER BY i;

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
SELECT what, regexp_replace(pg_temp.receive('kv.tile', value), '^ok: .*', 'ok') AS answer
  FROM wire, LATERAL (VALUES (1, 'as it is', bytes), (2, 'nothing', '\x'::bytea), (3, 'without its end', substr(bytes, 1, length(bytes) - 1)), (4, 'longer', bytes || '\x00'), (5, 'checksum', set_byte(bytes, 20, get_byte(bytes, 20) # 1)),
    (6, 'codec', set_byte(bytes, 2, 99)), (7, 'more than a page', bytes || decode(repeat('00', 8200), 'hex'))) AS t(i, what, value) ORDER BY i;

-- damaged in the table: kv.check says what is wrong, and functions do not crash. A type of bytes that is cast as it lies stands for a bad disk.
SET client_min_messages = warning;
CREATE TYPE raw_tile;
CREATE FUNCTION raw_tile_in(cstring) RETURNS raw_tile AS 'byteain' LANGUAGE internal IMMUTABLE STRICT;
CREATE FUNCTION raw_tile_out(raw_tile) RETURNS cstring AS 'byteaout' LANGUAGE internal IMMUTABLE STRICT;
CREATE TYPE raw_tile (INPUT = raw_tile_in, OUTPUT = raw_tile_out, ALIGNMENT = double, STORAGE = plain);
CREATE CAST (raw_tile AS kv.tile) WITHOUT FUNCTION;
RESET client_min_messages;
CREATE TEMP TABLE damaged (i int, what text, tile kv.tile);
INSERT INTO damaged SELECT i, what, d.bytes::text::raw_tile::kv.tile
  FROM wire, LATERAL (VALUES (1, 'sound', bytes), (2, 'codes', set_byte(bytes, 36, get_byte(bytes, 36) # 1)), (3, 'checksum', set_byte(bytes, 20, get_byte(bytes, 20) # 1)), (4, 'magic', set_byte(bytes, 0, 9)),
    (5, 'codec', set_byte(bytes, 2, 77)), (6, 'tokens', set_byte(bytes, 4, 77)), (7, 'short', substr(bytes, 1, 30)), (8, 'empty', '\x'::bytea)) AS d(i, what, bytes);
SELECT what, regexp_replace(kv.check(tile), 'is [0-9a-f]{8}', 'is CHECKSUM', 'g') AS problem FROM damaged ORDER BY i;
SELECT what, pg_temp.attempt(format('SELECT (kv.info(tile)).checksum_ok FROM damaged WHERE i = %s', i)) AS info, pg_temp.attempt(format('SELECT kv.shape((kv.decode(tile)).k) FROM damaged WHERE i = %s', i)) AS decode
  FROM damaged ORDER BY i;
SELECT what, pg_temp.attempt(format('SELECT kv.tokens(kv.clip(tile, 1)) FROM damaged WHERE i = %s', i)) AS clip, pg_temp.attempt(format('SELECT kv.partial(''{{1,1,1}}'', tile) IS NULL FROM damaged WHERE i = %s', i)) AS partial
  FROM damaged ORDER BY i;
SET client_min_messages = warning;
DROP TYPE raw_tile CASCADE;
RESET client_min_messages;

-- prepared statements
PREPARE encoded(kv.tensor, kv.tensor, text) AS SELECT count(*), sum(kv.tokens(t)) FROM kv.encode($1, $2, $3) AS t;
EXECUTE encoded('{{1,2},{3,4}}', '{{1},{2}}', 'int2');
EXECUTE encoded('{{1,2},{3,4}}', NULL, 'int2');
EXECUTE encoded('{{1,2},{3,4}}', '{{1},{2}}', 'int1');

-- channels that are large in all tokens cost nothing: error of the output beside that without a bias, and bytes a token
CREATE FUNCTION pg_temp.biased(seed int, tokens int, bias float8) RETURNS kv.tensor LANGUAGE sql AS $$
  SELECT kv."cast"(kv.reshape(array_agg((sqrt(-2 * ln(a)) * cos(6.283185307179586 * b) + CASE WHEN j IN (5, 37) THEN bias WHEN j = 60 THEN -bias ELSE 0 END)::real ORDER BY i, j)::kv.tensor, ARRAY[tokens, 64]), 'f16')
    FROM generate_series(1, tokens) i, generate_series(1, 64) j, LATERAL (SELECT (1 + (hashint8extended(i * 1000 + j, seed) & 1048575)) / 1048577.0::float8 a, (hashint8extended(i * 1000 + j, seed + 500) & 1048575) / 1048576.0::float8 b) r $$;
CREATE TEMP TABLE biases AS SELECT bias, pg_temp.biased(1, 240, bias) k, pg_temp.biased(2, 240, -bias) v FROM unnest('{0,2,10,50,150,1000}'::float8[]) bias;
CREATE TEMP TABLE errors AS SELECT codec, bias, sqrt(avg(((a - b)::float8) ^ 2)) AS error, max(bytes) AS bytes
  FROM biases, unnest('{int8,int4_uniform,int3_uniform,int2_uniform,int4,int3,int2}'::text[]) codec,
    LATERAL (SELECT kv.attention(q, exact) AS is_, kv.attention(q, coded) AS got, sum((kv.info(coded)).data_bytes) AS bytes FROM (SELECT pg_temp.biased(9, 4, 0) q) q,
      (SELECT e AS exact, NULL::kv.tile AS coded FROM kv.encode(k, v, 'f16') e UNION ALL SELECT NULL, e FROM kv.encode(k, v, codec) e) t) o,
    LATERAL unnest(is_::real[], got::real[]) AS u(a, b) GROUP BY codec, bias;
SELECT e.codec, every(e.error <= 1.2 * zero.error) AS as_without, round(max(e.bytes) / zero.bytes, 2) AS bytes FROM errors e JOIN errors zero ON zero.codec = e.codec AND zero.bias = 0 GROUP BY e.codec, zero.bytes ORDER BY 1;
