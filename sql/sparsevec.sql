-- sparsevec: text, distances, norms, order.
SELECT '{1:1,3:-2.5}/5'::sparsevec, ' { 3 : 1 , 1 : 2 } / 4 '::sparsevec, '{}/3'::sparsevec, '{2:0,1:1}/2'::sparsevec;
SELECT '{1:0x10,2:.5,3:1e-3}/3'::sparsevec, '{+1:1}/+2'::sparsevec;
SELECT '{1000000000:1}/1000000000'::sparsevec;
SELECT pg_column_size('{1:1,3:2}/5'::sparsevec), pg_column_size('{}/5'::sparsevec);
SELECT length(('{' || string_agg(i || ':1', ',') || '}/1000000000')::sparsevec::text) FROM generate_series(1, 16000) AS i;

-- distances
SELECT l2_distance('{1:3}/4'::sparsevec, '{2:4}/4'), inner_product('{1:2,2:3}/4'::sparsevec, '{2:4,3:5}/4'), l1_distance('{1:1,2:2}/4'::sparsevec, '{2:-1,4:1}/4');
SELECT cosine_distance('{1:1}/2'::sparsevec, '{2:1}/2'), cosine_distance('{1:1}/2'::sparsevec, '{1:2}/2'), cosine_distance('{}/2'::sparsevec, '{1:1}/2');
SELECT cosine_distance('{1:1}/2'::sparsevec, '{1:1,2:1e-6}/2'), cosine_distance('{1:3e38}/1'::sparsevec, '{1:3e38}/1'), cosine_distance('{1:3e38}/1'::sparsevec, '{1:-2}/1');
SELECT '{1:3}/4'::sparsevec <-> '{2:4}/4', '{1:2}/2'::sparsevec <#> '{1:3}/2', '{1:1}/2'::sparsevec <=> '{2:1}/2', '{1:1}/2'::sparsevec <+> '{}/2';
SELECT sparsevec_l2_squared_distance('{1:3}/4', '{2:4}/4'), sparsevec_negative_inner_product('{1:2}/2', '{1:3}/2');
SELECT l2_distance('{1:3e38}/1'::sparsevec, '{1:-3e38}/1'), l1_distance('{1:3e38}/2'::sparsevec, '{2:-3e38}/2');
-- the same as the dense vectors, for every pair of patterns of four elements
WITH pattern AS (
  SELECT ARRAY[i & 1, (i & 2) * 2, (i & 4) / 4 * -3, (i & 8)]::real[]::vector AS d FROM generate_series(0, 15) AS i
), pair AS (
  SELECT a.d AS a, b.d AS b, a.d::sparsevec AS sa, b.d::sparsevec AS sb FROM pattern AS a, pattern AS b
)
SELECT count(*), bool_and((a <-> b) = (sa <-> sb)), bool_and((a <#> b) = (sa <#> sb)), bool_and((a <+> b) = (sa <+> sb)),
       bool_and(coalesce(abs((a <=> b) - (sa <=> sb)) < 1e-6, true) OR vector_norm(a) * vector_norm(b) = 0),
       bool_and(vector_cmp(a, b) = sparsevec_cmp(sa, sb)), bool_and((a < b) = (sa < sb) AND (a >= b) = (sa >= sb) AND (a = b) = (sa = sb))
  FROM pair;

-- one value
SELECT l2_norm('{1:3,4:4}/5'::sparsevec), l2_norm('{}/5'::sparsevec), l2_normalize('{1:3,4:4}/5'::sparsevec), l2_normalize('{}/5'::sparsevec);
-- an element that becomes zero is dropped
SELECT l2_normalize('{1:3e38,2:1e-38}/2'::sparsevec);

-- order: as if the zeros were written out
SELECT sparsevec_cmp('{1:1}/2', '{1:1}/2'), sparsevec_cmp('{1:1}/2', '{2:1}/2'), sparsevec_cmp('{1:-1}/2', '{2:1}/2'), sparsevec_cmp('{}/2', '{}/3'), sparsevec_cmp('{3:-1}/3', '{}/2');
SELECT '{1:1}/2'::sparsevec < '{1:2}/2', '{1:1}/2'::sparsevec <= '{1:1}/2', '{}/2'::sparsevec = '{1:0}/2', '{}/2'::sparsevec <> '{}/3', '{}/2'::sparsevec >= '{1:1}/2', '{}/2'::sparsevec > '{1:-1}/2';

-- columns
CREATE TABLE sparsevec_t (id serial PRIMARY KEY, v sparsevec(4));
INSERT INTO sparsevec_t (v) VALUES ('{1:1}/4'), (NULL), ('{2:2,3:3}/4'), ('{}/4');
SELECT id, v <-> '{1:2}/4' AS d FROM sparsevec_t ORDER BY v <-> '{1:2}/4', id;
INSERT INTO sparsevec_t (v) VALUES ('{1:1}/5');
DROP TABLE sparsevec_t;
