-- The binary format: what send gives, a round trip through COPY, and hostile input, which comes as a binary COPY of one value.
SELECT vector_send('[1,-2.5]'), halfvec_send('[1,-2.5]'), sparsevec_send('{1:1,3:-2.5}/5'), sparsevec_send('{}/1');

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

SELECT pg_temp.receive('vector', vector_send('[1,-2.5]')), pg_temp.receive('halfvec', halfvec_send('[1,-2.5]')), pg_temp.receive('sparsevec', sparsevec_send('{1:1,3:-2.5}/5'));
SELECT pg_temp.receive('vector', vector_send(array_fill(1::real, ARRAY[3000])::vector)), pg_temp.receive('sparsevec', sparsevec_send('{}/1000000000'));
SELECT pg_temp.receive('vector(3)', vector_send('[1,-2.5]')), pg_temp.receive('halfvec(3)', halfvec_send('[1,-2.5]')), pg_temp.receive('sparsevec(3)', sparsevec_send('{}/5'));

-- vector, halfvec: header of dimensions and a zero
SELECT what, pg_temp.receive('vector', bytes) AS vector, pg_temp.receive('halfvec', bytes) AS halfvec FROM (VALUES
  ('nothing', '\x'::bytea), ('half a header', '\x0001'), ('no values', '\x00010000'), ('0 dimensions', '\x00000000'), ('-1 dimensions', '\xffff0000'),
  ('16001 dimensions', '\x3e810000'), ('16000 dimensions, no values', '\x3e800000'), ('unused is 1', '\x000100013f800000'), ('unused is -1', '\x0001ffff3f800000')) AS t(what, bytes);
SELECT what, pg_temp.receive('vector', bytes) AS vector FROM (VALUES
  ('NaN', '\x000100007fc00000'::bytea), ('NaN with a payload', '\x00010000ffc12345'), ('infinity', '\x000100007f800000'), ('-infinity', '\x00010000ff800000'),
  ('one byte short', '\x000200003f8000003f8000'), ('one byte long', '\x000100003f80000000'), ('-0', '\x0001000080000000'), ('smallest', '\x0001000000000001'),
  ('largest', '\x000100007f7fffff')) AS t(what, bytes);
SELECT what, pg_temp.receive('halfvec', bytes) AS halfvec FROM (VALUES
  ('NaN', '\x000100007e00'::bytea), ('signalling NaN', '\x00010000fc01'), ('infinity', '\x000100007c00'), ('-infinity', '\x00010000fc00'),
  ('one byte short', '\x000200003c003c'), ('one byte long', '\x000100003c0000'), ('-0', '\x000100008000'), ('smallest', '\x000100000001'), ('largest', '\x000100007bff')) AS t(what, bytes);

-- sparsevec: dimensions, elements, a zero; indices; values
SELECT what, pg_temp.receive('sparsevec', dim || nnz || unused || data) AS sparsevec FROM (VALUES
  ('no elements', int4send(3), int4send(0), int4send(0), '\x'::bytea),
  ('0 dimensions', int4send(0), int4send(0), int4send(0), '\x'),
  ('-1 dimensions', int4send(-1), int4send(0), int4send(0), '\x'),
  ('1000000001 dimensions', int4send(1000000001), int4send(0), int4send(0), '\x'),
  ('-1 elements', int4send(3), int4send(-1), int4send(0), '\x'),
  ('16001 elements', int4send(20000), int4send(16001), int4send(0), '\x'),
  ('16000 elements, none there', int4send(20000), int4send(16000), int4send(0), '\x'),
  ('more elements than dimensions', int4send(1), int4send(2), int4send(0), int4send(0) || int4send(1) || float4send(1) || float4send(1)),
  ('unused is 1', int4send(3), int4send(0), int4send(1), '\x'),
  ('index at the end', int4send(3), int4send(1), int4send(0), int4send(2) || float4send(1)),
  ('index beyond', int4send(3), int4send(1), int4send(0), int4send(3) || float4send(1)),
  ('negative index', int4send(3), int4send(1), int4send(0), int4send(-1) || float4send(1)),
  ('descending', int4send(3), int4send(2), int4send(0), int4send(1) || int4send(0) || float4send(1) || float4send(1)),
  ('twice', int4send(3), int4send(2), int4send(0), int4send(1) || int4send(1) || float4send(1) || float4send(1)),
  ('value 0', int4send(3), int4send(1), int4send(0), int4send(1) || float4send(0)),
  ('value -0', int4send(3), int4send(1), int4send(0), int4send(1) || float4send('-0')),
  ('value NaN', int4send(3), int4send(1), int4send(0), int4send(1) || float4send('NaN')),
  ('value infinity', int4send(3), int4send(1), int4send(0), int4send(1) || float4send('Infinity')),
  ('value missing', int4send(3), int4send(1), int4send(0), int4send(1)),
  ('one byte long', int4send(3), int4send(0), int4send(0), '\x00')) AS t(what, dim, nnz, unused, data);
SELECT pg_temp.receive('sparsevec', '\x'), pg_temp.receive('sparsevec', '\x00000001'), pg_temp.receive('sparsevec', int4send(3) || int4send(0));

-- a round trip of a table through binary and text COPY
CREATE TABLE binary_t (v vector, h halfvec, s sparsevec);
INSERT INTO binary_t SELECT v, v, v FROM (SELECT ARRAY[i, -i / 7.0, 0, i % 3]::vector AS v FROM generate_series(1, 100) AS i) AS t;
INSERT INTO binary_t VALUES (NULL, NULL, NULL);
CREATE TABLE binary_copy (LIKE binary_t);
\getenv abs_builddir PG_ABS_BUILDDIR
\set binary_file :abs_builddir '/results/binary_t.bin'
\set text_file :abs_builddir '/results/binary_t.txt'
\set copy_to '\\copy binary_t to ' :'binary_file' ' (format binary)'
\set copy_from '\\copy binary_copy from ' :'binary_file' ' (format binary)'
:copy_to
:copy_from
\set copy_to '\\copy binary_t to ' :'text_file'
\set copy_from '\\copy binary_copy from ' :'text_file'
:copy_to
:copy_from
SELECT count(*) FROM (TABLE binary_copy EXCEPT TABLE binary_t) AS t;
SELECT count(*), count(DISTINCT (v, h, s)) FROM binary_copy;
DROP TABLE binary_t, binary_copy;
