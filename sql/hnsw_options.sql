-- Options and settings: ranges, defaults, messages; how far a scan goes; cursors and rescans.
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\set agree :abs_srcdir '/sql/hnsw_agree.inc'
\i :agree
\set ECHO all
LOAD '$libdir/vector';
CREATE TABLE ho (id int, v vector(3));
INSERT INTO ho SELECT i, ARRAY[i, i * i % 101, i * 7 % 13]::vector FROM generate_series(1, 400) AS i;
ANALYZE ho;

-- options of an index
SELECT options, pg_temp.attempt(format('CREATE INDEX ON ho USING hnsw (v vector_l2_ops) WITH (%s)', options))
  FROM unnest(ARRAY['m = 1', 'm = 2, ef_construction = 4', 'm = 100, ef_construction = 200', 'm = 101', 'm = x', 'm = 2.5', 'ef_construction = 3', 'ef_construction = 1000',
    'ef_construction = 1001', 'm = 16, ef_construction = 31', 'm = 16, ef_construction = 32', 'm = 33', 'm = -1', 'lists = 10', 'fillfactor = 50', 'codec = lvq5', 'codec']) AS options;
SELECT m, ef_construction, count(*), max(pg_temp.problems(oid)) FROM pg_class, hnsw_info(oid) WHERE relam = (SELECT oid FROM pg_am WHERE amname = 'hnsw') AND relnamespace = 'public'::regnamespace GROUP BY 1, 2 ORDER BY 1, 2;
DROP TABLE ho;
CREATE TABLE ho (id int, v vector(3));
INSERT INTO ho SELECT i, ARRAY[i, i * i % 101, i * 7 % 13]::vector FROM generate_series(1, 400) AS i;
ANALYZE ho;
CREATE INDEX ho_idx ON ho USING hnsw (v vector_l2_ops) WITH (m = 8);
SELECT m, ef_construction, codec FROM hnsw_info('ho_idx');
-- new options count from the next REINDEX on
ALTER INDEX ho_idx SET (m = 12, ef_construction = 100, codec = none);
SELECT m, ef_construction, codec FROM hnsw_info('ho_idx');
REINDEX INDEX ho_idx;
SELECT m, ef_construction, codec FROM hnsw_info('ho_idx');
ALTER INDEX ho_idx RESET (m, ef_construction, codec);
SELECT pg_temp.attempt('ALTER INDEX ho_idx SET (m = 101)'), pg_temp.attempt('ALTER INDEX ho_idx SET (codec = lvq5)');
REINDEX INDEX ho_idx;
SELECT m, ef_construction, codec FROM hnsw_info('ho_idx');

-- settings
SELECT name, boot_val, min_val, max_val, enumvals, vartype, context FROM pg_settings WHERE name ~ '^(hnsw|vectorkv)\.' ORDER BY name;
SELECT s, pg_temp.attempt('SET LOCAL ' || s) FROM unnest(ARRAY['hnsw.ef_search = 0', 'hnsw.ef_search = 1', 'hnsw.ef_search = 1000', 'hnsw.ef_search = 1001', 'hnsw.ef_search = x',
    'hnsw.iterative_scan = on', 'hnsw.iterative_scan = strict_order', 'hnsw.iterative_scan = relaxed_order', 'hnsw.iterative_scan = off', 'hnsw.max_scan_tuples = 0',
    'hnsw.max_scan_tuples = 1', 'hnsw.max_scan_tuples = 2147483647', 'hnsw.scan_mem_multiplier = 0', 'hnsw.scan_mem_multiplier = 0.9', 'hnsw.scan_mem_multiplier = 1000',
    'hnsw.scan_mem_multiplier = 1001', 'vectorkv.scan_past_ef = maybe', 'vectorkv.scan_past_ef = off', 'hnsw.no_such_setting = 1', 'vectorkv.no_such_setting = 1']) AS s;

-- how many rows a scan returns: hnsw.ef_search at most when it may not go on, all when it may
CREATE FUNCTION pg_temp.returned(ef int, mode text, past boolean, wanted int, where_clause text DEFAULT 'true') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  total int;
  once int;
  descents int;
BEGIN
  PERFORM set_config('hnsw.ef_search', ef::text, true), set_config('hnsw.iterative_scan', mode, true), set_config('vectorkv.scan_past_ef', past::text, true),
          set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true);
  EXECUTE format('SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE d < before)
    FROM (SELECT id, d, lag(d) OVER () AS before FROM (SELECT id, v <-> ''[200,50,5]'' AS d FROM ho WHERE %s ORDER BY v <-> ''[200,50,5]'' LIMIT %s) AS t) AS u', where_clause, wanted)
    INTO total, once, descents;
  -- what is beyond ef_search is approximate
  -- which of the ef_search nearest pass a filter is up to the graph
  IF where_clause <> 'true' AND mode = 'off' AND NOT past AND ef < 500 THEN RETURN CASE WHEN total <= ef THEN 'no more than ef_search' ELSE 'too many' END; END IF;
  RETURN format('%s%s%s', CASE WHEN total > ef THEN 'more' ELSE total || ' rows' END, CASE WHEN once <> total THEN ', some twice' ELSE '' END, CASE WHEN descents > 0 AND mode <> 'relaxed_order' THEN ', out of order' ELSE '' END);
END $$;
SELECT ef, mode, past, pg_temp.returned(ef, mode, past, 5) AS "LIMIT 5", pg_temp.returned(ef, mode, past, 1000) AS "LIMIT 1000", pg_temp.returned(ef, mode, past, 10, 'id % 10 = 3') AS filtered
  FROM unnest(ARRAY['off', 'strict_order', 'relaxed_order']) AS mode, unnest(ARRAY[true, false]) AS past, unnest(ARRAY[1, 10, 500]) AS ef
 WHERE mode <> 'strict_order' OR ef = 500;
-- strict order holds for any number of candidates
SELECT pg_temp.returned(10, 'strict_order', true, 1000);
-- hnsw.max_scan_tuples: where a search ends; what it has met is returned
SET hnsw.iterative_scan = relaxed_order;
SET hnsw.ef_search = 10;
SET hnsw.max_scan_tuples = 1;
SET enable_seqscan = off;
SET enable_sort = off;
SELECT count(*) BETWEEN 10 AND 399 AS ends_early FROM (SELECT id FROM ho ORDER BY v <-> '[200,50,5]') AS t;
SET hnsw.max_scan_tuples = 1000000;
SELECT count(*) FROM (SELECT id FROM ho ORDER BY v <-> '[200,50,5]') AS t;
RESET hnsw.max_scan_tuples;
RESET hnsw.iterative_scan;

-- a cursor goes on where it was; backwards it cannot go
SET hnsw.ef_search = 500;
BEGIN;
DECLARE c NO SCROLL CURSOR FOR SELECT id, round((v <-> '[200,50,5]')::numeric, 3) AS d FROM ho ORDER BY v <-> '[200,50,5]';
FETCH 3 FROM c;
FETCH 2 FROM c;
MOVE 390 FROM c;
FETCH 3 FROM c;
FETCH 10 FROM c;
CLOSE c;
DECLARE c SCROLL CURSOR FOR SELECT id FROM ho ORDER BY v <-> '[200,50,5]';
FETCH 2 FROM c;
FETCH BACKWARD 1 FROM c;
COMMIT;
RESET hnsw.ef_search;

SET hnsw.ef_search = 500;
-- rescans: a query of its own for every outer row, NULL among them
EXPLAIN (COSTS OFF) SELECT q.id, n.id FROM (SELECT id, CASE WHEN id <> 30 THEN v END AS v FROM ho WHERE id % 10 = 0 LIMIT 5) AS q CROSS JOIN LATERAL (SELECT id FROM ho ORDER BY v <-> q.v LIMIT 2) AS n;
SELECT count(*), count(*) FILTER (WHERE q.id = n.id) AS itself FROM ho AS q CROSS JOIN LATERAL (SELECT id FROM ho ORDER BY v <-> q.v LIMIT 3) AS n;
SELECT q.id, count(n.id) FROM (VALUES (1, '[1,2,3]'::vector), (2, NULL), (3, '[4,5,6]')) AS q(id, v) CROSS JOIN LATERAL (SELECT id FROM ho ORDER BY v <-> q.v LIMIT 3) AS n GROUP BY 1 ORDER BY 1;
-- a prepared query, generic plan
SET plan_cache_mode = force_generic_plan;
PREPARE nearest(vector) AS SELECT id FROM ho ORDER BY v <-> $1 LIMIT 1;
EXPLAIN (COSTS OFF) EXECUTE nearest('[5,25,9]');
EXECUTE nearest('[5,25,9]');
EXECUTE nearest('[6,36,3]');
RESET enable_seqscan;
DROP TABLE ho;
