-- avg and sum, their states, partial aggregation.
SELECT avg(v), sum(v) FROM (VALUES ('[1,2,3]'::vector), ('[3,5,7]'), (NULL)) AS t(v);
SELECT avg(v), sum(v) FROM (VALUES ('[1,2,3]'::halfvec), ('[3,5,7]'), (NULL)) AS t(v);
SELECT avg(v), sum(v) FROM (VALUES (NULL::vector)) AS t(v);
SELECT avg(v), sum(v) FROM (VALUES (NULL::halfvec)) AS t(v);
-- avg and sum add in double precision; what sum returns, and may not exceed, is the type
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
-- sum is rounded once, not after each row: single precision stands still at 2^24, half precision at 2^11
SELECT sum(v), avg(v) FROM (VALUES ('[16777216]'::vector), ('[1]'), ('[1]'), ('[1]'), ('[1]')) AS t(v);
SELECT sum('[1,0.1]'::halfvec) FROM generate_series(1, 3000);
SELECT sum('[0.1]'::vector) AS got, sum(0.1::real::float8)::real AS wanted FROM generate_series(1, 200000);
-- ... in groups, windows, in order, and as a value that is kept, is an argument or is combined
SELECT g, sum(v) FROM (SELECT i % 3 AS g, ARRAY[16777216, i]::vector AS v FROM generate_series(1, 9) AS i) AS t GROUP BY g ORDER BY g;
SELECT i, sum(v) OVER (ORDER BY i), sum(v) OVER (ORDER BY i ROWS 1 PRECEDING) + '[1,1]', sum(v) OVER (ORDER BY i ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)
  FROM (SELECT i, ARRAY[i, i * 2]::vector AS v FROM generate_series(1, 4) AS i) AS t;
SELECT sum(v ORDER BY i DESC), sum(DISTINCT v), sum(v) FILTER (WHERE i > 2) FROM (SELECT i, ARRAY[i / 2]::vector AS v FROM generate_series(1, 5) AS i) AS t;
CREATE TEMP TABLE sums AS SELECT i % 2 AS g, sum(ARRAY[i, 1]::vector) AS s FROM generate_series(1, 10) AS i GROUP BY 1;
SELECT s, vector_dims(s), pg_column_size(s) FROM sums ORDER BY g;
CREATE AGGREGATE pg_temp.sum_norm(vector) (SFUNC = vector_add, STYPE = vector, FINALFUNC = vector_norm);
SELECT pg_temp.sum_norm(v) FROM (VALUES ('[3,0]'::vector), ('[0,1]'), ('[0,3]')) AS t(v);
SELECT sum(v) FROM (VALUES ('[3e38]'::vector), ('[3e38]'), ('[-3e38]')) AS t(v);
SELECT sum(v) FROM (VALUES ('[1,2]'::halfvec), ('[1]')) AS t(v);
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
CREATE TABLE sum_rows AS SELECT '[1,0.5]'::halfvec AS h, '[0.1]'::vector AS v FROM generate_series(1, 30000);
ANALYZE sum_rows;
EXPLAIN (COSTS OFF) SELECT sum(v), sum(h) FROM sum_rows;
-- what each worker hands on is rounded to the type: how, depends on who read which rows
SELECT sum(v) <-> '[3000]' < 0.001 AS v, sum(h) <-> '[30000,15000]' < 50 AS h FROM sum_rows;
SET max_parallel_workers_per_gather = 0;
SELECT sum(v), sum(h) FROM sum_rows;
DROP TABLE sum_rows;
