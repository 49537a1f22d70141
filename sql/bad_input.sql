-- What is refused, with which SQLSTATE and words: text, casts, type modifiers, limits, overflow.
-- attempt(query) runs a query and says how it ended.
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
  IF length(message) > 100 THEN message := left(message, 60) || ' ... ' || right(message, 10); END IF;
  RETURN concat_ws(' | ', state, message, nullif(detail, ''), nullif(hint, ''));
END $$;
CREATE FUNCTION pg_temp.input(type text, value text) RETURNS text LANGUAGE sql AS $$
  SELECT pg_temp.attempt(format('SELECT %L::%s::text', value, type))
$$;

-- dense text
SELECT quote_literal(value) AS value, pg_temp.input('vector', value) AS vector, pg_temp.input('halfvec', value) AS halfvec
  FROM unnest(ARRAY['', ' ', '[', ']', '[]', '[ ]', '1,2', '[1', '[1,', '[1,]', '[,1]', '[1,,2]', '[1 2]', '[1;2]', '[a]', '[1a]', '[1,2]x', '[1,2]]',
    '[[1,2]]', '{1,2}', '(1,2)', '[1,2],', '[--1]', '[1_0]', '[0x]', '[1e]', '[.]', '[-]', '[é]', '[nan]', '[-NaN]', '[inf]', '[Infinity]', '[-infinity]',
    '[1e39]', '[-1e39]', '[1e400]', '[65520]', '[-65520]', '[1e-46]', '[1e-400]', '[0x1p200]']) WITH ORDINALITY AS t(value, i) ORDER BY i;
-- sparse text
SELECT quote_literal(value) AS value, pg_temp.input('sparsevec', value) AS sparsevec
  FROM unnest(ARRAY['', '{', '{}', '{}/', '{}/x', '{}/0', '{}/-1', '{}/1000000001', '{}/99999999999999999999', '{}/1.5', '{}/2 3', '{}//2', '[]/2', '{1}/2', '{1:}/2',
    '{:1}/2', '{a:1}/2', '{1:a}/2', '{1:1,}/2', '{,1:1}/2', '{1:1 2:2}/2', '{1 :1', '{1:1}', '{1:1/2', '{1.5:1}/2', '{0:1}/2', '{-1:1}/2', '{3:1}/2', '{2147483648:1}/2',
    '{-2147483649:1}/2', '{99999999999999999999:1}/2', '{1:1,1:2}/2', '{2:1,1:1,2:0,2:3}/2', '{1:nan}/2', '{1:inf}/2', '{1:-inf}/2', '{1:1e39}/2', '{1:1e-46}/2', '{3:0}/2'])
    WITH ORDINALITY AS t(value, i) ORDER BY i;

-- type modifiers
SELECT type, pg_temp.input(type, '[1,2]') FROM unnest(ARRAY['vector(2)', 'vector(3)', 'vector(0)', 'vector(-1)', 'vector(16000)', 'vector(16001)', 'vector(1,2)', 'vector(a)',
  'vector()', 'halfvec(2)', 'halfvec(3)', 'halfvec(0)', 'halfvec(16001)', 'halfvec(1,2)', 'sparsevec(0)', 'sparsevec(1000000001)', 'sparsevec(1,2)'])
  WITH ORDINALITY AS t(type, i) ORDER BY i;
SELECT type, pg_temp.input(type, '{1:1}/2') FROM unnest(ARRAY['sparsevec(2)', 'sparsevec(3)', 'sparsevec(1000000000)']) AS type;

-- limits
SELECT n, pg_temp.input('vector', '[' || repeat('1,', n - 1) || '1]') AS vector, pg_temp.input('halfvec', '[' || repeat('1,', n - 1) || '1]') AS halfvec,
       pg_temp.input('sparsevec', (SELECT '{' || string_agg(i || ':1', ',') || '}/20000' FROM generate_series(1, n) AS i)) AS sparsevec
  FROM unnest(ARRAY[15999, 16000, 16001, 20000]) AS n;
SELECT pg_temp.attempt(format('SELECT (array_fill(1, ARRAY[%s])::%s)::text', n, type)) FROM unnest(ARRAY[16000, 16001]) AS n, unnest(ARRAY['vector', 'halfvec', 'sparsevec']) AS type;
SELECT pg_temp.attempt(format('SELECT (array_fill(1, ARRAY[8000])::%1$s || array_fill(1, ARRAY[8001])::%1$s)::text', type)) FROM unnest(ARRAY['vector', 'halfvec']) AS type;
SELECT pg_temp.attempt(format('SELECT (''{1:1}/16001''::sparsevec::%s)::text', type)) FROM unnest(ARRAY['vector', 'halfvec']) AS type;
-- a long text with the fault at its end
SELECT pg_temp.input('vector', '[' || repeat('1,', 15999) || 'x]');
-- a number without an end
SELECT type, pg_temp.input(type, before || repeat('0', 65537) || behind) FROM (VALUES ('vector', '[1,', ',3]'), ('halfvec', '[', ']'), ('sparsevec', '{1:', '}/3'), ('sparsevec', '{', '1:1}/3'),
  ('sparsevec', '{1:1}/', '3')) t(type, before, behind);
SELECT type, pg_temp.input(type, before || repeat('0', 65535) || behind) FROM (VALUES ('vector', '[1,', ',3]'), ('halfvec', '[', ']'), ('sparsevec', '{1:', '}/3'), ('sparsevec', '{', '1:1}/3'),
  ('sparsevec', '{1:1}/', '3')) t(type, before, behind);

-- arrays
SELECT array_type, value, pg_temp.attempt(format('SELECT (%L::%s)::vector::text', value, array_type)) AS vector,
       pg_temp.attempt(format('SELECT (%L::%s)::halfvec::text', value, array_type)) AS halfvec,
       pg_temp.attempt(format('SELECT (%L::%s)::sparsevec::text', value, array_type)) AS sparsevec
  FROM (VALUES ('int[]', '{}'), ('int[]', '{NULL}'), ('int[]', '{1,NULL}'), ('int[]', '{{1,2},{3,4}}'), ('int[]', '{70000}'), ('real[]', '{NaN}'), ('real[]', '{Infinity}'),
    ('float8[]', '{1e39}'), ('float8[]', '{NaN}'), ('float8[]', '{-Infinity}'), ('numeric[]', '{1e39}'), ('numeric[]', '{NaN}'), ('numeric[]', '{1e-60}'), ('real[]', '{65520}'))
    AS t(array_type, value);
SELECT array_type, pg_temp.attempt(format('SELECT (''{1,2}''::%s)::vector(3)::text', array_type)) FROM unnest(ARRAY['int[]', 'real[]', 'float8[]', 'numeric[]']) AS array_type;

-- casts between the types
SELECT query, pg_temp.attempt(query) FROM unnest(ARRAY[
  'SELECT ''[65520]''::vector::halfvec', 'SELECT ''[1,-1e30]''::vector::halfvec', 'SELECT ''{1:65520}/2''::sparsevec::halfvec',
  'SELECT ''[1,2]''::vector::vector(3)', 'SELECT ''[1,2]''::vector::halfvec(3)', 'SELECT ''[1,2]''::vector::sparsevec(3)',
  'SELECT ''[1,2]''::halfvec::halfvec(3)', 'SELECT ''[1,2]''::halfvec::vector(3)', 'SELECT ''[1,2]''::halfvec::sparsevec(3)',
  'SELECT ''{}/2''::sparsevec::sparsevec(3)', 'SELECT ''{}/2''::sparsevec::vector(3)', 'SELECT ''{}/2''::sparsevec::halfvec(3)']) AS query;

-- different dimensions, for everything that takes two
SELECT f, pg_temp.attempt(format('SELECT %s(''[1,2]''::vector, ''[1]'')', f)) AS vector, pg_temp.attempt(format('SELECT %s(''[1,2]''::halfvec, ''[1]'')', f)) AS halfvec,
       pg_temp.attempt(format('SELECT %s(''{}/2''::sparsevec, ''{}/1'')', f)) AS sparsevec
  FROM unnest(ARRAY['l2_distance', 'inner_product', 'cosine_distance', 'l1_distance']) AS f;
SELECT f, pg_temp.attempt(format('SELECT %s(''[1,2]'', ''[1]'')', f)) FROM unnest(ARRAY['vector_l2_squared_distance', 'vector_negative_inner_product', 'vector_spherical_distance',
  'vector_add', 'vector_sub', 'vector_mul', 'halfvec_l2_squared_distance', 'halfvec_negative_inner_product', 'halfvec_spherical_distance', 'halfvec_add', 'halfvec_sub', 'halfvec_mul']) AS f;
SELECT f, pg_temp.attempt(format('SELECT %s(''{}/2'', ''{}/1'')', f)) FROM unnest(ARRAY['sparsevec_l2_squared_distance', 'sparsevec_negative_inner_product']) AS f;

-- overflow and underflow
SELECT query, pg_temp.attempt(query) FROM unnest(ARRAY[
  'SELECT ''[3e38]''::vector + ''[3e38]''', 'SELECT ''[3e38]''::vector - ''[-3e38]''', 'SELECT ''[1e30]''::vector * ''[1e30]''', 'SELECT ''[1e-30]''::vector * ''[1e-30]''',
  'SELECT ''[65000]''::halfvec + ''[65000]''', 'SELECT ''[65000]''::halfvec - ''[-65000]''', 'SELECT ''[300]''::halfvec * ''[300]''', 'SELECT ''[1e-4]''::halfvec * ''[1e-4]''']) AS query;

-- subvector
SELECT start, count, pg_temp.attempt(format('SELECT subvector(''[1,2,3]''::vector, %s, %s)', start, count)) AS vector,
       pg_temp.attempt(format('SELECT subvector(''[1,2,3]''::halfvec, %s, %s)', start, count)) AS halfvec
  FROM unnest(ARRAY['-2147483648', '-1', '0', '1', '3', '4', '2147483647']) AS start, unnest(ARRAY['-2147483648', '0', '1', '2', '2147483647']) AS count;

-- COPY reports the line
CREATE TEMP TABLE bad_copy (v vector(2));
COPY bad_copy FROM stdin;
[1,2]
[1,x]
\.
SELECT count(*) FROM bad_copy;
