-- hnsw on halfvec: every distance, NULL, zero vectors, any number of dimensions.
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\set agree :abs_srcdir '/sql/hnsw_agree.inc'
\i :agree
\set ECHO all
SET hnsw.ef_search = 500;

CREATE TABLE hh (id int, v halfvec(8));
INSERT INTO hh SELECT i, ARRAY(SELECT sin(i * 1.3 + j * j * 0.7 + i * j * 0.11) * (1 + i % 5) FROM generate_series(1, 8) AS j)::real[]::halfvec
  FROM generate_series(1, 300) AS i;
INSERT INTO hh VALUES (1001, NULL), (1002, '[0,0,0,0,0,0,0,0]'), (1003, '[-0,0,0,0,0,0,0,0]');
ANALYZE hh;
CREATE INDEX hh_l2 ON hh USING hnsw (v halfvec_l2_ops);
CREATE INDEX hh_ip ON hh USING hnsw (v halfvec_ip_ops);
CREATE INDEX hh_cosine ON hh USING hnsw (v halfvec_cosine_ops);
CREATE INDEX hh_l1 ON hh USING hnsw (v halfvec_l1_ops);
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM hh ORDER BY v <-> '[1,2,3,4,5,6,7,8]' LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM hh ORDER BY v <#> '[1,2,3,4,5,6,7,8]' LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM hh ORDER BY v <=> '[1,2,3,4,5,6,7,8]' LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM hh ORDER BY v <+> '[1,2,3,4,5,6,7,8]' LIMIT 5;
RESET enable_seqscan;
-- by distance: halves are often equally far
SELECT op, q, pg_temp.agree(format('SELECT v %s %L FROM hh ORDER BY v %1$s %2$L LIMIT 50', op, q))
  FROM unnest(ARRAY['<->', '<#>', '<=>', '<+>']) AS op, unnest(ARRAY['[1,2,3,4,5,6,7,8]', '[-1,0.5,0,0,0.25,2,-3,1]', '[60000,0,0,0,0,0,0,0]']) AS q;
SELECT relname, codec, heap_tuples, distance, type, dimensions, pg_temp.problems(oid) FROM pg_class, hnsw_info(oid) WHERE relname LIKE 'hh\_%' ORDER BY relname;
SET enable_seqscan = off;
SET enable_sort = off;
SELECT count(*) FROM (SELECT id FROM hh ORDER BY v <-> (SELECT NULL::halfvec)) AS t;
SELECT count(*) FROM (SELECT id FROM hh ORDER BY v <=> (SELECT NULL::halfvec)) AS t;
SELECT count(*) FROM (SELECT id FROM hh ORDER BY v <=> '[0,0,0,0,0,0,0,0]') AS t;
SELECT id FROM hh ORDER BY v <-> '[1,2,3]' LIMIT 1;
RESET enable_seqscan;
RESET enable_sort;
-- insertion, update, removal
INSERT INTO hh SELECT i, ARRAY(SELECT cos(i * 2.3 + j * 0.7) * 3 FROM generate_series(1, 8) AS j)::real[]::halfvec FROM generate_series(301, 350) AS i;
UPDATE hh SET v = v + '[1,1,1,1,1,1,1,1]' WHERE id % 7 = 0;
DELETE FROM hh WHERE id % 5 = 0;
VACUUM hh;
SELECT op, pg_temp.agree(format('SELECT v %s %L FROM hh WHERE v IS NOT NULL AND l2_norm(v) > 0 ORDER BY v %1$s %2$L LIMIT 500', op, '[1,2,3,4,5,6,7,8]'))
  FROM unnest(ARRAY['<->', '<#>', '<=>', '<+>']) AS op;
SELECT relname, heap_tuples, pg_temp.problems(oid) FROM pg_class, hnsw_info(oid) WHERE relname LIKE 'hh\_%' ORDER BY relname;
DROP TABLE hh;

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
SELECT codec, dims, pg_temp.dimensions('halfvec', dims, codec) FROM unnest(ARRAY['none', 'lvq8', 'lvq4', 'lvq4x8']) AS codec, unnest(ARRAY[1, 2, 2001, 4096, 16000]) AS dims;
