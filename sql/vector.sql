-- vector: text, distances, arithmetic, order.  Sections per function; values chosen so that every result is exact.
SELECT '[1,2,3]'::vector, ' [ -1 , 2.5,	3e2 ] '::vector, '[+1,.5,5.,0x10,1e-3]'::vector;
-- shortest output that reads back the same
SELECT '[0.1,1e15,1e16,1e-4,1e-5,16777217,3.4028235e38,1e-45,-0]'::vector;
SELECT '[1,2,3]'::vector(3);
SELECT vector_dims('[1,2,3]'::vector), vector_dims(array_fill(1::real, ARRAY[16000])::vector);
SELECT pg_column_size('[1,2,3]'::vector), typlen, typalign, typstorage FROM pg_type WHERE oid = 'vector'::regtype;

-- distances
SELECT l2_distance('[0,0]'::vector, '[3,4]'), inner_product('[1,2]'::vector, '[3,4]'), l1_distance('[0,0]'::vector, '[3,-4]');
SELECT cosine_distance('[1,0]'::vector, '[0,2]'), cosine_distance('[1,1]'::vector, '[3,3]'), cosine_distance('[1,1]'::vector, '[-1,-1]');
SELECT cosine_distance('[0,0]'::vector, '[1,1]');
-- one minus a cosine has the digits of double precision; too long or too short for single precision are only both
SELECT cosine_distance('[1,0]'::vector, '[1,1e-6]'), cosine_distance('[1e-15,0]'::vector, '[1,3e-7]'), cosine_distance('[1,2,3]'::vector, '[1.1,2.2,3.3]') < 1e-15 AS parallel;
SELECT cosine_distance('[3e38]'::vector, '[3e38]'), cosine_distance('[3e38]'::vector, '[-2]'), cosine_distance('[1e-30]'::vector, '[-1e-30]'), cosine_distance('[1e-30,1e-30]'::vector, '[1e30,0]');
SELECT '[0,0]'::vector <-> '[3,4]', '[1,2]'::vector <#> '[3,4]', '[1,0]'::vector <=> '[0,1]', '[0,0]'::vector <+> '[3,-4]';
SELECT vector_l2_squared_distance('[0,0]', '[3,4]'), vector_negative_inner_product('[1,2]', '[3,4]'), vector_spherical_distance('[1,0]', '[0,1]');
SELECT l2_distance('[3e38]'::vector, '[-3e38]'), l1_distance('[3e38]'::vector, '[-3e38]'), inner_product('[3e38]'::vector, '[3e38]');
-- every length around the widths of the vector registers
SELECT count(*), bool_and(a <-> b = sqrt(n)), bool_and(a <#> b = -2 * n), bool_and(a <+> b = n), bool_and(abs(a <=> b) < 1e-6)
  FROM (SELECT n, array_fill(1::real, ARRAY[n])::vector AS a, array_fill(2::real, ARRAY[n])::vector AS b FROM generate_series(1, 140) AS n) AS t;

-- one value
SELECT vector_norm('[3,4]'), vector_norm('[0]'), vector_norm('[3e37,4e37]')::real;
SELECT l2_normalize('[3,4]'::vector), l2_normalize('[0,0]'::vector), l2_normalize('[3e38]'::vector), l2_normalize('[1e-45]'::vector);
SELECT binary_quantize('[1,0,-1]'::vector), binary_quantize('[1,1,1,-1,-1,0,0,1,1]'::vector), binary_quantize('[-0,1e-45]'::vector);
SELECT subvector('[1,2,3,4]'::vector, 2, 2), subvector('[1,2,3,4]'::vector, 3, 100), subvector('[1,2,3,4]'::vector, -1, 3),
       subvector('[1,2,3,4]'::vector, 4, 2147483647);

-- arithmetic
SELECT '[1,2,3]'::vector + '[4,5,6]', '[1,2,3]'::vector - '[4,5,6]', '[1,2,3]'::vector * '[4,5,6]', '[1,2]'::vector || '[3]';
SELECT '[0,1]'::vector * '[1e-45,0]', '[3e38]'::vector - '[3e38]';
SELECT vector_dims(a || a) FROM (SELECT array_fill(1::real, ARRAY[8000])::vector AS a) AS t;

-- order: values first, then dimensions
SELECT vector_cmp('[1,2]', '[1,2]'), vector_cmp('[1,2]', '[1,3]'), vector_cmp('[2]', '[1,9]'), vector_cmp('[1]', '[1,-9]'), vector_cmp('[1,0]', '[1]');
SELECT '[1,2]'::vector < '[1,3]', '[1,2]'::vector <= '[1,2]', '[1,2]'::vector = '[1,2]', '[1,2]'::vector <> '[1,2]', '[1,2]'::vector >= '[1,2]', '[1,2]'::vector > '[1]';
SELECT '[0]'::vector = '[-0]';

-- columns
CREATE TABLE vector_t (id serial PRIMARY KEY, v vector(3) NOT NULL);
INSERT INTO vector_t (v) VALUES ('[1,1,1]'), ('[0,0,0]'), ('[1,2,3]'), ('[-1,-2,-3]');
SELECT id, v <-> '[1,1,2]' AS d FROM vector_t ORDER BY v <-> '[1,1,2]', id;
UPDATE vector_t SET v = v + '[1,0,0]' WHERE id = 2 RETURNING v;
INSERT INTO vector_t (v) VALUES ('[1,2]');
-- a long value is stored out of line and comes back
CREATE TABLE vector_long (v vector);
INSERT INTO vector_long SELECT array_agg(i % 1000)::vector FROM generate_series(1, 16000) AS i;
SELECT vector_dims(v), v <-> v AS zero, pg_column_size(v) FROM vector_long;
DROP TABLE vector_t, vector_long;
-- an inner product whose sum leaves single precision on the way is still a number
SELECT inner_product('[3e38,3e38,1]'::vector, '[3e38,-3e38,1]'), '[2e38,2e38]'::vector <#> '[2,-1.5]', '[3e38]'::vector <#> '[3e38]';
-- what an index leaves out is found beside it (docs/hnsw.md)
CREATE TEMP TABLE left_out (id int, embedding vector(2));
INSERT INTO left_out VALUES (1, '[1,0]'), (2, NULL), (3, '[0,0]'), (4, '[0,1]'), (5, '[1,1]');
CREATE INDEX ON left_out USING hnsw (embedding vector_cosine_ops);
SET enable_seqscan = off;
SELECT id FROM left_out ORDER BY embedding <=> '[1,0]' LIMIT 10;
(SELECT id, embedding <=> '[1,0]' AS distance FROM left_out ORDER BY embedding <=> '[1,0]' LIMIT 10)
UNION ALL
(SELECT id, 'NaN' FROM left_out WHERE embedding IS NULL OR vector_norm(embedding) = 0 LIMIT 10)
ORDER BY distance, id LIMIT 10;
