-- An index through its life: changes, vacuum, rebuilding, and every kind of table and index that PostgreSQL has. Checked after each step.
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\set agree :abs_srcdir '/sql/hnsw_agree.inc'
\i :agree
\set ECHO all
SET hnsw.ef_search = 1000;
CREATE FUNCTION pg_temp.value(i int) RETURNS vector LANGUAGE sql IMMUTABLE AS $$ SELECT ARRAY[sin(i) * 10, cos(i * 1.3) * 10, i % 17, i * 0.01]::real[]::vector $$;
CREATE FUNCTION pg_temp.state(tbl text, idx regclass) RETURNS text LANGUAGE sql AS $$
  -- lvq4x8 tells distances from its second level, which is not fine enough for the order of all of these
  SELECT format('%s; %s rows indexed, %s dead nodes; problems: %s',
    pg_temp.agree(format('SELECT v <-> ''[1,2,3,4]'' FROM %s WHERE v IS NOT NULL ORDER BY v <-> ''[1,2,3,4]'' LIMIT 1000', tbl), codec <> 'lvq4x8'), heap_tuples, dead_nodes, pg_temp.problems(idx)) FROM hnsw_info(idx)
$$;

-- insert, update, delete, vacuum
CREATE TABLE hm (id int, note text, v vector(4)) WITH (autovacuum_enabled = off);
INSERT INTO hm SELECT i, '', pg_temp.value(i) FROM generate_series(1, 300) AS i;
CREATE INDEX hm_idx ON hm USING hnsw (v vector_l2_ops);
CREATE INDEX hm_none ON hm USING hnsw (v vector_l2_ops) WITH (codec = none);
CREATE INDEX hm_apart ON hm USING hnsw (v vector_l2_ops) WITH (codec = lvq4x8);
CREATE FUNCTION pg_temp.states() RETURNS TABLE (name text, state text) LANGUAGE plpgsql AS $$
DECLARE
  all_indexes text[] := ARRAY['hm_idx', 'hm_none', 'hm_apart'];
BEGIN
  -- one at a time, so that it is known which is used
  FOREACH name IN ARRAY all_indexes LOOP
    UPDATE pg_index SET indisvalid = (indexrelid = name::regclass) WHERE indexrelid = ANY (all_indexes::regclass[]);
    state := pg_temp.state('hm', name);
    RETURN NEXT;
  END LOOP;
  UPDATE pg_index SET indisvalid = true WHERE indexrelid = ANY (all_indexes::regclass[]);
END $$;
SELECT * FROM pg_temp.states();
INSERT INTO hm SELECT i, '', pg_temp.value(i) FROM generate_series(301, 500) AS i;
INSERT INTO hm VALUES (0, 'null', NULL);
SELECT * FROM pg_temp.states();
UPDATE hm SET note = 'changed' WHERE id % 3 = 0;
SELECT * FROM pg_temp.states();
UPDATE hm SET v = pg_temp.value(id + 1000) WHERE id % 4 = 0;
UPDATE hm SET v = NULL WHERE id BETWEEN 490 AND 495;
UPDATE hm SET v = '[1,2,3,4.5]' WHERE id = 0;
SELECT * FROM pg_temp.states();
DELETE FROM hm WHERE id % 5 = 1;
SELECT * FROM pg_temp.states();
VACUUM hm;
SELECT * FROM pg_temp.states();
-- the room of what is gone is used again
CREATE TEMP TABLE sizes AS SELECT relname, pg_relation_size(oid) AS bytes FROM pg_class WHERE relname IN ('hm_idx', 'hm_none', 'hm_apart');
INSERT INTO hm SELECT id, 'again', pg_temp.value(id + 2000) FROM generate_series(1, 500) AS id WHERE id % 5 = 1;
SELECT relname, pg_relation_size(relname::regclass) <= bytes * 1.5 AS reused FROM sizes ORDER BY 1;
SELECT * FROM pg_temp.states();
-- rolled back
BEGIN;
INSERT INTO hm SELECT i, 'rolled back', pg_temp.value(i) FROM generate_series(5001, 5100) AS i;
ROLLBACK;
SELECT pg_temp.agree('SELECT v <-> ''[1,2,3,4]'' FROM hm WHERE v IS NOT NULL ORDER BY v <-> ''[1,2,3,4]'' LIMIT 1000');
VACUUM hm;
SELECT * FROM pg_temp.states();
-- all gone, and begun again
DELETE FROM hm;
SELECT * FROM pg_temp.states();
VACUUM hm;
SELECT * FROM pg_temp.states();
INSERT INTO hm SELECT i, '', pg_temp.value(i) FROM generate_series(1, 100) AS i;
SELECT * FROM pg_temp.states();
VACUUM FULL hm;
SELECT * FROM pg_temp.states();

-- rebuilding
REINDEX INDEX hm_idx;
REINDEX INDEX CONCURRENTLY hm_none;
REINDEX TABLE CONCURRENTLY hm;
SELECT * FROM pg_temp.states();
SELECT relname FROM pg_class WHERE relname LIKE 'hm\_%' ORDER BY 1;
DROP INDEX hm_none;
DROP INDEX CONCURRENTLY hm_apart;
CREATE INDEX CONCURRENTLY hm_late ON hm USING hnsw (v vector_ip_ops);
SELECT pg_temp.agree('SELECT id FROM hm ORDER BY v <#> ''[1,2,3,4]'' LIMIT 20'), pg_temp.problems('hm_late');
-- an index whose concurrent build failed, until it is built again
CREATE FUNCTION hm_inverse(v vector) RETURNS vector LANGUAGE sql IMMUTABLE AS $$ SELECT ARRAY[1 / ((v::real[])[3])]::real[]::public.vector $$;
CREATE INDEX CONCURRENTLY hm_failed ON hm USING hnsw ((hm_inverse(v)::public.vector(1)) vector_l2_ops);
SELECT pg_temp.attempt('SELECT hnsw_check(''hm_failed'')'), pg_temp.attempt('SELECT hnsw_info(''hm_failed'')');
DELETE FROM hm WHERE (v::real[])[3] = 0;
REINDEX INDEX CONCURRENTLY hm_failed;
SELECT heap_tuples, pg_temp.problems('hm_failed') FROM hnsw_info('hm_failed');
DROP INDEX hm_failed;
DROP FUNCTION hm_inverse;
ALTER TABLE hm RENAME TO hm2;
ALTER INDEX hm_idx RENAME TO hm2_idx;
CLUSTER hm2 USING hm2_idx;
ALTER TABLE hm2 ALTER COLUMN v TYPE halfvec(4);
SELECT indexdef FROM pg_indexes WHERE tablename = 'hm2' ORDER BY 1;
DROP TABLE hm2;

-- a table that is not logged, and a temporary one
CREATE UNLOGGED TABLE hm (id int, v vector(4));
CREATE INDEX hm_idx ON hm USING hnsw (v vector_l2_ops);
INSERT INTO hm SELECT i, pg_temp.value(i) FROM generate_series(1, 200) AS i;
DELETE FROM hm WHERE id % 2 = 0;
VACUUM hm;
SELECT pg_temp.state('hm', 'hm_idx');
ALTER TABLE hm SET LOGGED;
SELECT pg_temp.state('hm', 'hm_idx');
DROP TABLE hm;
CREATE TEMP TABLE hm (id int, v vector(4));
INSERT INTO hm SELECT i, pg_temp.value(i) FROM generate_series(1, 200) AS i;
CREATE INDEX hm_idx ON hm USING hnsw (v vector_l2_ops);
INSERT INTO hm SELECT i, pg_temp.value(i) FROM generate_series(201, 300) AS i;
DELETE FROM hm WHERE id % 2 = 0;
VACUUM hm;
SELECT pg_temp.state('hm', 'hm_idx');
DROP TABLE hm;

-- partitions
CREATE TABLE hm (id int, v vector(4)) PARTITION BY RANGE (id);
CREATE TABLE hm_1 PARTITION OF hm FOR VALUES FROM (1) TO (100);
CREATE INDEX hm_idx ON hm USING hnsw (v vector_l2_ops) WITH (codec = lvq4);
CREATE TABLE hm_2 PARTITION OF hm FOR VALUES FROM (100) TO (1000);
INSERT INTO hm SELECT i, pg_temp.value(i) FROM generate_series(1, 300) AS i;
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM hm ORDER BY v <-> '[1,2,3,4]' LIMIT 5;
RESET enable_seqscan;
SELECT pg_temp.agree('SELECT id FROM hm ORDER BY v <-> ''[1,2,3,4]'' LIMIT 300');
SELECT relname, codec, heap_tuples, pg_temp.problems(oid) FROM pg_class, hnsw_info(oid) WHERE relname IN ('hm_1_v_idx', 'hm_2_v_idx') ORDER BY 1;
ALTER TABLE hm DETACH PARTITION hm_1;
SELECT pg_temp.agree('SELECT id FROM hm ORDER BY v <-> ''[1,2,3,4]'' LIMIT 300');
DROP TABLE hm, hm_1;

-- expressions and parts of a table
CREATE TABLE hm (id int, kind int, v vector(4));
INSERT INTO hm SELECT i, i % 3, pg_temp.value(i) FROM generate_series(1, 300) AS i;
CREATE INDEX hm_half ON hm USING hnsw ((v::halfvec(4)) halfvec_l2_ops);
CREATE INDEX hm_bits ON hm USING hnsw ((binary_quantize(v)::bit(4)) bit_hamming_ops);
CREATE INDEX hm_part ON hm USING hnsw ((subvector(v, 1, 2)::vector(2)) vector_l2_ops);
CREATE INDEX hm_kind ON hm USING hnsw (v vector_cosine_ops) WHERE kind = 1;
SELECT q, pg_temp.agree(q) FROM unnest(ARRAY[
  'SELECT v::halfvec(4) <-> ''[1,2,3,4]'' FROM hm ORDER BY v::halfvec(4) <-> ''[1,2,3,4]'' LIMIT 300',
  'SELECT binary_quantize(v)::bit(4) <~> ''1010'' FROM hm ORDER BY binary_quantize(v)::bit(4) <~> ''1010'' LIMIT 300',
  'SELECT id FROM hm ORDER BY subvector(v, 1, 2)::vector(2) <-> ''[1,2]'' LIMIT 300',
  'SELECT id FROM hm WHERE kind = 1 ORDER BY v <=> ''[1,2,3,4]'' LIMIT 300']) AS q;
-- nearest by signs first, then by the vectors themselves
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM (SELECT id, v FROM hm ORDER BY binary_quantize(v)::bit(4) <~> binary_quantize('[1,2,3,4]'::vector) LIMIT 20) AS t ORDER BY v <-> '[1,2,3,4]' LIMIT 5;
RESET enable_seqscan;
INSERT INTO hm SELECT i, i % 3, pg_temp.value(i) FROM generate_series(301, 400) AS i;
UPDATE hm SET kind = kind + 1 WHERE id % 2 = 0;
DELETE FROM hm WHERE id % 7 = 0;
VACUUM hm;
SELECT relname, type, dimensions, heap_tuples, pg_temp.problems(oid) FROM pg_class, hnsw_info(oid) WHERE relname LIKE 'hm\_%' ORDER BY 1;
SELECT pg_temp.agree('SELECT id FROM hm WHERE kind = 1 ORDER BY v <=> ''[1,2,3,4]'' LIMIT 300');
DROP TABLE hm;

-- vectors out of line, and compressed
CREATE TABLE hm (id int, v vector(3000));
INSERT INTO hm SELECT i, array_fill(i * i * 0.1, ARRAY[3000])::real[]::vector FROM generate_series(1, 60) AS i;
ALTER TABLE hm ALTER COLUMN v SET STORAGE extended;
INSERT INTO hm SELECT i, array_fill(i * i * 0.1, ARRAY[3000])::real[]::vector FROM generate_series(61, 80) AS i;
CREATE INDEX hm_idx ON hm USING hnsw (v vector_l2_ops);
INSERT INTO hm SELECT i, array_fill(i * i * 0.1, ARRAY[3000])::real[]::vector FROM generate_series(81, 90) AS i;
SELECT pg_temp.agree('SELECT id FROM hm ORDER BY v <-> array_fill(37.03::real, ARRAY[3000])::vector LIMIT 100'), pg_temp.problems('hm_idx');
DROP TABLE hm;

-- A column that loses its dimensions keeps its index, as PostgreSQL asks no access method: it goes on with those that it has, and is not built anew.
CREATE TABLE hm (id int, v vector(3));
INSERT INTO hm SELECT i, ARRAY[i, i % 7, i % 5]::vector FROM generate_series(1, 100) AS i;
CREATE INDEX hm_idx ON hm USING hnsw (v vector_l2_ops);
SELECT pg_relation_filenode('hm_idx') AS before \gset
ALTER TABLE hm ALTER COLUMN v TYPE vector;
SELECT pg_relation_filenode('hm_idx') = :before AS same, dimensions, pg_temp.problems('hm_idx') FROM hnsw_info('hm_idx');
INSERT INTO hm VALUES (101, '[1,2,4]');
SELECT pg_temp.agree('SELECT id FROM hm ORDER BY v <-> ''[1,2,3]'' LIMIT 101');
INSERT INTO hm VALUES (102, '[1,2,3,4]');
REINDEX INDEX hm_idx;
SELECT pg_temp.agree('SELECT id FROM hm ORDER BY v <-> ''[1,2,3]'' LIMIT 101'), pg_temp.problems('hm_idx');
ALTER TABLE hm ALTER COLUMN v TYPE vector(3);
REINDEX INDEX hm_idx;
SELECT pg_temp.agree('SELECT id FROM hm ORDER BY v <-> ''[1,2,3]'' LIMIT 101'), pg_temp.problems('hm_idx');
ALTER TABLE hm ALTER COLUMN v TYPE vector(4) USING array_append(v::real[], 4)::vector(4);
SELECT dimensions, pg_temp.problems('hm_idx') FROM hnsw_info('hm_idx');
DROP TABLE hm;

-- Few rows fit into the least memory.
CREATE TABLE hm AS SELECT ARRAY[i, 1]::vector(2) AS v FROM generate_series(1, 10) i;
SET maintenance_work_mem = '1MB';
CREATE INDEX ON hm USING hnsw (v vector_l2_ops);
RESET maintenance_work_mem;
DROP TABLE hm;
