-- halfvec: text, rounding, distances, arithmetic, order.
SELECT '[1,2,3]'::halfvec, ' [ -1 , 2.5,	3e2 ] '::halfvec, '[+1,.5,5.,0x10]'::halfvec;
-- 11 bits of precision, subnormals to 2^-24, halves to even; 65519 is the last that rounds to a finite value
SELECT '[0.1,2049,2051,65504,65519,1e-7,5.9604645e-8,2.9802322e-8,2.9802326e-8,6.1035156e-05]'::halfvec;
SELECT vector_dims('[1,2,3]'::halfvec), pg_column_size('[1,2,3]'::halfvec), vector_dims(array_fill(1::real, ARRAY[16000])::halfvec);

-- distances
SELECT l2_distance('[0,0]'::halfvec, '[3,4]'), inner_product('[1,2]'::halfvec, '[3,4]'), l1_distance('[0,0]'::halfvec, '[3,-4]');
SELECT cosine_distance('[1,0]'::halfvec, '[0,2]'), cosine_distance('[1,1]'::halfvec, '[3,3]'), cosine_distance('[0,0]'::halfvec, '[1,1]');
SELECT cosine_distance('[1,0]'::halfvec, '[1,1e-5]'), cosine_distance('[1,1]'::halfvec, '[1.1,1.1]'), cosine_distance('[1,1]'::halfvec, '[-1.1,-1.1]');
SELECT '[0,0]'::halfvec <-> '[3,4]', '[1,2]'::halfvec <#> '[3,4]', '[1,0]'::halfvec <=> '[0,1]', '[0,0]'::halfvec <+> '[3,-4]';
SELECT halfvec_l2_squared_distance('[0,0]', '[3,4]'), halfvec_negative_inner_product('[1,2]', '[3,4]'), halfvec_spherical_distance('[1,0]', '[0,1]');
-- sums are single precision: they do not overflow where a half would
SELECT l2_distance('[65504]'::halfvec, '[-65504]'), inner_product('[65504,65504]'::halfvec, '[65504,65504]');
SELECT count(*), bool_and(a <-> b = sqrt(n)), bool_and(a <#> b = -2 * n), bool_and(a <+> b = n), bool_and(abs(a <=> b) < 1e-6)
  FROM (SELECT n, array_fill(1::real, ARRAY[n])::halfvec AS a, array_fill(2::real, ARRAY[n])::halfvec AS b FROM generate_series(1, 140) AS n) AS t;

-- one value
SELECT l2_norm('[3,4]'::halfvec), l2_normalize('[3,4]'::halfvec), l2_normalize('[0,0]'::halfvec), l2_normalize('[65504]'::halfvec);
SELECT binary_quantize('[1,0,-1]'::halfvec), binary_quantize('[1,1,1,-1,-1,0,0,1,1]'::halfvec), binary_quantize('[-0,6e-8]'::halfvec);
SELECT subvector('[1,2,3,4]'::halfvec, 2, 2), subvector('[1,2,3,4]'::halfvec, 3, 100), subvector('[1,2,3,4]'::halfvec, -1, 3);

-- arithmetic
SELECT '[1,2,3]'::halfvec + '[4,5,6]', '[1,2,3]'::halfvec - '[4,5,6]', '[1,2,3]'::halfvec * '[4,5,6]', '[1,2]'::halfvec || '[3]';
SELECT '[2048]'::halfvec + '[1]', '[2048]'::halfvec + '[3]', '[0]'::halfvec * '[6e-8]';

-- order
SELECT halfvec_cmp('[1,2]', '[1,2]'), halfvec_cmp('[1,2]', '[1,3]'), halfvec_cmp('[2]', '[1,9]'), halfvec_cmp('[1]', '[1,-9]'), halfvec_cmp('[-1]', '[1]');
SELECT '[1,2]'::halfvec < '[1,3]', '[1,2]'::halfvec <= '[1,2]', '[1,2]'::halfvec = '[1,2]', '[1,2]'::halfvec <> '[1,2]', '[1,2]'::halfvec >= '[1,2]', '[1,2]'::halfvec > '[1]';
SELECT '[0]'::halfvec = '[-0]';

-- columns
CREATE TABLE halfvec_t (id serial PRIMARY KEY, v halfvec(3));
INSERT INTO halfvec_t (v) VALUES ('[1,1,1]'), (NULL), ('[1,2,3]'), ('[-1,-2,-3]');
SELECT id, v <-> '[1,1,2]' AS d FROM halfvec_t ORDER BY v <-> '[1,1,2]', id;
INSERT INTO halfvec_t (v) VALUES ('[1,2]');
DROP TABLE halfvec_t;
