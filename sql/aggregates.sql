-- avg and sum, their states, partial aggregation.
SELECT avg(v), sum(v) FROM (VALUES ('[1,2,3]'::vector), ('[3,5,7]'), (NULL)) AS t(v);
SELECT avg(v), sum(v) FROM (VALUES ('[1,2,3]'::halfvec), ('[3,5,7]'), (NULL)) AS t(v);
SELECT avg(v), sum(v) FROM (VALUES (NULL::vector)) AS t(v);
SELECT avg(v), sum(v) FROM (VALUES (NULL::halfvec)) AS t(v);
-- avg sums in double precision, sum in the type
SELECT avg(v) FROM (VALUES ('[3e38]'::vector), ('[3e38]')) AS t(v);
SELECT avg(v) FROM (VALUES ('[65504]'::halfvec), ('[65504]')) AS t(v);
SELECT sum(v) FROM (VALUES ('[3e38]'::vector), ('[3e38]')) AS t(v);
SELECT sum(v) FROM (VALUES ('[65504]'::halfvec), ('[65504]')) AS t(v);
SELECT avg(v) FROM (VALUES ('[1,2]'::vector), ('[1]')) AS t(v);
SELECT sum(v) FROM (VALUES ('[1,2]'::vector), ('[1]')) AS t(v);
SELECT avg(v) FROM (VALUES ('[1,2]'::halfvec), ('[1]')) AS t(v);
-- groups, windows, many rows: the state is updated in place and must not leak from one group to another
SELECT g, avg(v), count(*) FROM (SELECT i % 3 AS g, ARRAY[i, -i, i % 3]::vector AS v FROM generate_series(1, 3000) AS i) AS t GROUP BY g ORDER BY g;
SELECT i, avg(v) OVER (ORDER BY i ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW), sum(v) OVER (ORDER BY i ROWS 1 PRECEDING)
  FROM (SELECT i, ARRAY[i, i * 2]::vector AS v FROM generate_series(1, 5) AS i) AS t;
-- the support functions are ordinary functions
SELECT vector_accum('{0}', '[1,2]'), vector_accum('{2,1,1}', '[1,2]'), halfvec_accum('{2,1,1}', '[1,2]');
SELECT vector_combine('{0}', '{0}'), vector_combine('{0}', '{2,1,1}'), vector_combine('{2,1,1}', '{0}'), halfvec_combine('{2,1,1}', '{3,4,5}');
SELECT vector_avg('{2,1,3}'), halfvec_avg('{2,1,3}'), vector_avg('{0}'), vector_avg('{0,1}');
SELECT vector_accum('{}', '[1]');
SELECT vector_accum('{{1,2}}', '[1]');
SELECT vector_accum('{1,NULL}', '[1]');
SELECT vector_accum('{1,1e308}', '[1,2]');
SELECT vector_combine('{1,1.7e308}', '{1,1.7e308}');
SELECT vector_avg('{1}');
SELECT vector_avg('{1,NaN}');
SELECT vector_avg('{1,1e39}');
SELECT halfvec_avg('{1,70000}');
-- a constant state is not changed by the call
SELECT vector_accum(s, '[1]'), vector_accum(s, '[1]'), s FROM (SELECT '{1,1}'::float8[] AS s) AS t;
