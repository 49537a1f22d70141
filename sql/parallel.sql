-- Exact search and aggregates run in parallel, with the same answers.
CREATE TABLE parallel_t (id int, v vector(3), h halfvec(3), s sparsevec(3), b bit(3));
INSERT INTO parallel_t SELECT i, v, v, v, binary_quantize(v)
  FROM (SELECT i, ARRAY[i % 100 - 50, i % 37, i % 11 - 5]::vector AS v FROM generate_series(1, 5000) AS i) AS t;
ANALYZE parallel_t;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT id FROM parallel_t ORDER BY v <-> '[1,2,3]', id LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM parallel_t ORDER BY h <=> '[1,2,3]', id LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM parallel_t ORDER BY s <#> '{1:1}/3', id LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM parallel_t ORDER BY b <~> '101', id LIMIT 5;
EXPLAIN (COSTS OFF) SELECT avg(v), sum(h) FROM parallel_t;
CREATE TEMP TABLE parallel_answer AS
  SELECT 'v' AS q, array_agg(id) AS ids FROM (SELECT id FROM parallel_t ORDER BY v <-> '[1,2,3]', id LIMIT 50) AS t
  UNION ALL SELECT 'h', array_agg(id) FROM (SELECT id FROM parallel_t ORDER BY h <=> '[1,2,3]', id LIMIT 50) AS t
  UNION ALL SELECT 's', array_agg(id) FROM (SELECT id FROM parallel_t ORDER BY s <+> '{1:1}/3', id LIMIT 50) AS t
  UNION ALL SELECT 'b', array_agg(id) FROM (SELECT id FROM parallel_t ORDER BY b <~> '101', id LIMIT 50) AS t;
CREATE TEMP TABLE parallel_sum AS SELECT avg(v) AS av, sum(v) AS sv, avg(h) AS ah FROM parallel_t;
SET max_parallel_workers_per_gather = 0;
SELECT q, ids = CASE q
    WHEN 'v' THEN (SELECT array_agg(id) FROM (SELECT id FROM parallel_t ORDER BY v <-> '[1,2,3]', id LIMIT 50) AS t)
    WHEN 'h' THEN (SELECT array_agg(id) FROM (SELECT id FROM parallel_t ORDER BY h <=> '[1,2,3]', id LIMIT 50) AS t)
    WHEN 's' THEN (SELECT array_agg(id) FROM (SELECT id FROM parallel_t ORDER BY s <+> '{1:1}/3', id LIMIT 50) AS t)
    WHEN 'b' THEN (SELECT array_agg(id) FROM (SELECT id FROM parallel_t ORDER BY b <~> '101', id LIMIT 50) AS t) END AS same
  FROM parallel_answer ORDER BY q;
SELECT av = (SELECT avg(v) FROM parallel_t) AS avg_same, sv = (SELECT sum(v) FROM parallel_t) AS sum_same, ah = (SELECT avg(h) FROM parallel_t) AS half_same, av
  FROM parallel_sum;
DROP TABLE parallel_t;
