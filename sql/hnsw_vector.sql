-- hnsw on vector: every distance, NULL, zero vectors, duplicates, any number of dimensions.
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\set agree :abs_srcdir '/sql/hnsw_agree.inc'
\i :agree
\set ECHO all
SET hnsw.ef_search = 500;

CREATE TABLE hv (id int, v vector(8));
INSERT INTO hv SELECT i, ARRAY(SELECT sin(i * 1.3 + j * j * 0.7 + i * j * 0.11) * (1 + i % 5) FROM generate_series(1, 8) AS j)::real[]::vector
  FROM generate_series(1, 300) AS i;
INSERT INTO hv VALUES (1001, NULL), (1002, '[0,0,0,0,0,0,0,0]'), (1003, NULL);
ANALYZE hv;

-- planning: for ORDER BY ... LIMIT with the operator of the class, and for nothing else
CREATE INDEX hv_l2 ON hv USING hnsw (v vector_l2_ops);
CREATE INDEX hv_ip ON hv USING hnsw (v vector_ip_ops);
CREATE INDEX hv_cosine ON hv USING hnsw (v vector_cosine_ops);
CREATE INDEX hv_l1 ON hv USING hnsw (v vector_l1_ops);
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM hv ORDER BY v <-> '[1,2,3,4,5,6,7,8]' LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM hv ORDER BY v <#> '[1,2,3,4,5,6,7,8]' LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM hv ORDER BY v <=> '[1,2,3,4,5,6,7,8]' LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM hv ORDER BY v <+> '[1,2,3,4,5,6,7,8]' LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM hv ORDER BY v <-> '[1,2,3,4,5,6,7,8]' DESC LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM hv WHERE v <-> '[1,2,3,4,5,6,7,8]' < 1;
EXPLAIN (COSTS OFF) SELECT count(*) FROM hv;
RESET enable_seqscan;
EXPLAIN (COSTS OFF) SELECT count(*) FROM hv WHERE v IS NULL;

-- answers, each operator with its index, by id
SELECT op, q, pg_temp.agree(format('SELECT id FROM hv ORDER BY v %s %L LIMIT 50', op, q))
  FROM unnest(ARRAY['<->', '<#>', '<=>', '<+>']) AS op, unnest(ARRAY['[1,2,3,4,5,6,7,8]', '[-1,0.5,0,0,0.25,2,-3,1]', '[100,0,0,0,0,0,0,0]']) AS q;
SELECT op, pg_temp.agree(format('SELECT id, v %s %L AS d FROM hv WHERE v IS NOT NULL AND id <> 1002 ORDER BY v %1$s %2$L LIMIT 400', op, '[3,-1,4,-1,5,-9,2,6]'))
  FROM unnest(ARRAY['<->', '<#>', '<=>', '<+>']) AS op;
SELECT relname, heap_tuples, distance, type, dimensions, pg_temp.problems(oid) FROM pg_class, hnsw_info(oid) WHERE relname LIKE 'hv\_%' ORDER BY relname;

-- NULL and zero: a NULL is in no index, a zero vector in none for cosine; a query without direction returns every indexed row
SET enable_seqscan = off;
SET enable_sort = off;
SELECT count(*) FROM (SELECT id FROM hv ORDER BY v <-> (SELECT NULL::vector)) AS t;
SELECT count(*) FROM (SELECT id FROM hv ORDER BY v <=> (SELECT NULL::vector)) AS t;
SELECT count(*), count(*) FILTER (WHERE id = 1002) AS zero FROM (SELECT id FROM hv ORDER BY v <-> '[0,0,0,0,0,0,0,0]') AS t;
SELECT count(*), count(*) FILTER (WHERE id = 1002) AS zero FROM (SELECT id FROM hv ORDER BY v <=> '[0,0,0,0,0,0,0,0]') AS t;
SELECT count(*), count(*) FILTER (WHERE id = 1002) AS zero FROM (SELECT id FROM hv ORDER BY v <=> '[1,0,0,0,0,0,0,0]') AS t;
RESET enable_seqscan;
RESET enable_sort;

-- a query of other dimensions
SET enable_seqscan = off;
SELECT id FROM hv ORDER BY v <-> '[1,2,3]' LIMIT 1;
SELECT id FROM hv ORDER BY v <=> '[0,0]' LIMIT 1;
RESET enable_seqscan;
DROP TABLE hv;

-- an index that is empty at first
CREATE TABLE hv (id serial, v vector(3));
CREATE INDEX hv_idx ON hv USING hnsw (v vector_l2_ops);
SELECT codec, levels, nodes, heap_tuples, pg_temp.problems('hv_idx') FROM hnsw_info('hv_idx');
SELECT pg_temp.agree('SELECT id FROM hv ORDER BY v <-> ''[1,1,1]'' LIMIT 5');
INSERT INTO hv (v) VALUES (NULL);
INSERT INTO hv (v) VALUES ('[1,2,3]'), ('[4,5,6]'), ('[0,0,0]');
INSERT INTO hv (v) SELECT ARRAY[i % 17, i % 13 + 0.001 * i, i % 7]::real[]::vector FROM generate_series(1, 300) AS i;
SELECT pg_temp.agree(format('SELECT v <-> %1$L FROM hv WHERE v IS NOT NULL ORDER BY v <-> %1$L LIMIT %2$s', q, n)) FROM unnest(ARRAY['[1,1,1.01]', '[9,9.005,9]']) AS q, unnest(ARRAY[1, 10, 100]) AS n;
SELECT nodes, heap_tuples, pg_temp.problems('hv_idx') FROM hnsw_info('hv_idx');
TRUNCATE hv;
SELECT nodes, heap_tuples, pg_temp.problems('hv_idx') FROM hnsw_info('hv_idx');
INSERT INTO hv (v) VALUES ('[1,2,3]');
SELECT pg_temp.agree('SELECT v FROM hv ORDER BY v <-> ''[1,1,1]'' LIMIT 5');
DROP TABLE hv;

-- duplicates: one node, however many rows; by a build and by insertion
CREATE TABLE hv (id int, v vector(3));
INSERT INTO hv SELECT i, '[1,2,3]' FROM generate_series(1, 4) AS i;
CREATE INDEX hv_idx ON hv USING hnsw (v vector_l2_ops) WITH (codec = 'none');
SELECT nodes, heap_tuples, bytes_tids FROM hnsw_info('hv_idx');
INSERT INTO hv VALUES (5, '[1,2,3]');
SELECT nodes, heap_tuples, bytes_tids > 0 AS chained FROM hnsw_info('hv_idx');
INSERT INTO hv SELECT i, '[1,2,3]' FROM generate_series(6, 1500) AS i;
INSERT INTO hv SELECT i, '[3,2,1]' FROM generate_series(1501, 4500) AS i;
INSERT INTO hv SELECT i, ARRAY[i, i, i]::vector FROM generate_series(4501, 4520) AS i;
SELECT nodes, heap_tuples, pg_temp.problems('hv_idx') FROM hnsw_info('hv_idx');
SELECT pg_temp.agree('SELECT v FROM hv ORDER BY v <-> ''[1,2,2.5]'' LIMIT 6000');
REINDEX INDEX hv_idx;
SELECT nodes, heap_tuples, pg_temp.problems('hv_idx') FROM hnsw_info('hv_idx');
SELECT pg_temp.agree('SELECT v FROM hv ORDER BY v <-> ''[1,2,2.5]'' LIMIT 6000');
SET enable_seqscan = off;
SELECT count(*), count(DISTINCT id) FROM (SELECT id FROM hv ORDER BY v <-> '[1,2,3]' LIMIT 4000) AS t;
RESET enable_seqscan;
DELETE FROM hv WHERE id % 3 <> 0;
VACUUM hv;
SELECT nodes, heap_tuples, pg_temp.problems('hv_idx') FROM hnsw_info('hv_idx');
SELECT pg_temp.agree('SELECT v FROM hv ORDER BY v <-> ''[1,2,2.5]'' LIMIT 6000');
DROP TABLE hv;

-- dimensions: each number of them under each codec, with nodes that fit a page and nodes that do not
CREATE FUNCTION pg_temp.dimensions(type text, dims int, codec text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  q text;
  answer text;
BEGIN
  EXECUTE format('CREATE TABLE hd (id int, v %s(%s))', type, dims);
  INSERT INTO hd SELECT i, ARRAY(SELECT 0.1 * sin(i * 0.37 + j * 0.9) + i * i * 0.01 FROM generate_series(1, dims) AS j)::real[]::vector FROM generate_series(1, 20) AS i;
  EXECUTE format('CREATE INDEX hd_idx ON hd USING hnsw (v %s_l2_ops) WITH (codec = %s)', type, codec);
  INSERT INTO hd SELECT i, ARRAY(SELECT 0.1 * sin(i * 0.37 + j * 0.9) + i * i * 0.01 FROM generate_series(1, dims) AS j)::real[]::vector FROM generate_series(21, 24) AS i;
  UPDATE hd SET id = -id WHERE id % 5 = 0;
  SELECT v::text INTO q FROM hd WHERE id = 7;
  answer := pg_temp.agree(format('SELECT id FROM hd ORDER BY v <-> %L LIMIT 30', q));
  SELECT answer || format('; %s nodes, bytes apart from the node: %s; problems: %s', nodes, bytes_payload > 0, pg_temp.problems('hd_idx')) INTO answer FROM hnsw_info('hd_idx');
  DROP TABLE hd;
  RETURN answer;
END $$;
SELECT codec, dims, pg_temp.dimensions('vector', dims, codec) FROM unnest(ARRAY['none', 'lvq8', 'lvq4', 'lvq4x8']) AS codec, unnest(ARRAY[1, 2, 2001, 4096, 16000]) AS dims;
