-- hnsw on sparsevec: every distance, NULL, zero vectors, from no to 16,000 non-zeros.
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\set agree :abs_srcdir '/sql/hnsw_agree.inc'
\i :agree
\set ECHO all
SET hnsw.ef_search = 500;

CREATE TABLE hs (id int, v sparsevec(1000));
INSERT INTO hs SELECT i, (SELECT format('{%s}/1000', string_agg(format('%s:%s', 1 + (j * 97 + i % 40) % 1000, round((sin(i * j) * 5 + 6 + i * 0.01)::numeric, 3)), ','))
    FROM generate_series(1, 2 + i % 9) AS j)::sparsevec FROM generate_series(1, 300) AS i;
INSERT INTO hs VALUES (1001, NULL), (1002, '{}/1000'), (1003, '{1:0}/1000'), (1004, '{1000:1}/1000');
ANALYZE hs;
CREATE INDEX hs_l2 ON hs USING hnsw (v sparsevec_l2_ops);
CREATE INDEX hs_ip ON hs USING hnsw (v sparsevec_ip_ops);
CREATE INDEX hs_cosine ON hs USING hnsw (v sparsevec_cosine_ops);
CREATE INDEX hs_l1 ON hs USING hnsw (v sparsevec_l1_ops);
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM hs ORDER BY v <-> '{1:1,38:2}/1000' LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM hs ORDER BY v <#> '{1:1,38:2}/1000' LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM hs ORDER BY v <=> '{1:1,38:2}/1000' LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM hs ORDER BY v <+> '{1:1,38:2}/1000' LIMIT 5;
RESET enable_seqscan;
SELECT op, q, pg_temp.agree(format('SELECT v %s %L FROM hs ORDER BY v %1$s %2$L LIMIT 50', op, q))
  FROM unnest(ARRAY['<->', '<#>', '<=>', '<+>']) AS op, unnest(ARRAY['{98:1,195:2,292:3,389:4,110:1}/1000', '{120:5,217:0.5,1000:1}/1000']) AS q;
-- no non-zeros: a query like others, but for cosine, where it has no direction
SELECT op, pg_temp.agree(format('SELECT v %s %L FROM hs ORDER BY v %1$s %2$L LIMIT 50', op, '{}/1000')) FROM unnest(ARRAY['<->', '<#>', '<+>']) AS op;
SELECT relname, codec, heap_tuples, distance, type, dimensions, pg_temp.problems(oid) FROM pg_class, hnsw_info(oid) WHERE relname LIKE 'hs\_%' ORDER BY relname;
SET enable_seqscan = off;
SET enable_sort = off;
SELECT count(*) FROM (SELECT id FROM hs ORDER BY v <-> (SELECT NULL::sparsevec)) AS t;
SELECT count(*) FROM (SELECT id FROM hs ORDER BY v <=> (SELECT NULL::sparsevec)) AS t;
SELECT count(*) FROM (SELECT id FROM hs ORDER BY v <=> '{}/1000') AS t;
SELECT id FROM hs ORDER BY v <-> '{1:1}/999' LIMIT 1;
RESET enable_seqscan;
RESET enable_sort;
INSERT INTO hs SELECT i, format('{%s:1,%s:2}/1000', i, i + 100)::sparsevec FROM generate_series(301, 350) AS i;
DELETE FROM hs WHERE id % 5 = 0;
UPDATE hs SET v = '{7:1,500:3.5}/1000' WHERE id % 7 = 0;
VACUUM hs;
SELECT op, pg_temp.agree(format('SELECT v %s %L FROM hs WHERE v IS NOT NULL AND l2_norm(v) > 0 ORDER BY v %1$s %2$L LIMIT 500', op, '{98:1,195:2,292:3,389:4,110:1}/1000'))
  FROM unnest(ARRAY['<->', '<#>', '<=>', '<+>']) AS op;
SELECT relname, heap_tuples, pg_temp.problems(oid) FROM pg_class, hnsw_info(oid) WHERE relname LIKE 'hs\_%' ORDER BY relname;
DROP TABLE hs;

-- the largest dimension, and numbers of non-zeros up to the type's limit: nodes of a page and of many
CREATE TABLE hs (id int, v sparsevec(1000000000));
INSERT INTO hs SELECT i, (SELECT format('{%s}/1000000000', string_agg(format('%s:%s', j * 62500 - i, i + j % 7), ',')) FROM generate_series(1, n) AS j)::sparsevec
  FROM (VALUES (1, 1), (2, 10), (3, 999), (4, 1000), (5, 1001), (6, 2000), (7, 5000), (8, 15999), (9, 16000)) AS t(i, n);
INSERT INTO hs VALUES (10, '{}/1000000000'), (11, '{1000000000:3}/1000000000');
CREATE INDEX hs_idx ON hs USING hnsw (v sparsevec_l2_ops);
SELECT pg_temp.agree('SELECT id FROM hs ORDER BY v <-> ''{1:2}/1000000000'' LIMIT 20');
INSERT INTO hs SELECT 20 + i, (SELECT format('{%s}/1000000000', string_agg(format('%s:%s', j * 62500, i + j % 5), ',')) FROM generate_series(1, n) AS j)::sparsevec
  FROM (VALUES (1, 3), (2, 700), (3, 16000)) AS t(i, n);
SELECT pg_temp.agree('SELECT id FROM hs ORDER BY v <-> ''{62500:2,125000:4}/1000000000'' LIMIT 20');
DELETE FROM hs WHERE id IN (9, 23, 10);
VACUUM hs;
SELECT pg_temp.agree('SELECT id FROM hs ORDER BY v <-> ''{62500:2,125000:4}/1000000000'' LIMIT 20');
SELECT heap_tuples, pg_temp.problems('hs_idx') FROM hnsw_info('hs_idx');
DROP TABLE hs;
