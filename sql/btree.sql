-- B-tree operator classes: order, uniqueness, lookups, joins, DISTINCT.
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET enable_hashagg = off;

CREATE TABLE btree_t (id int, v vector, h halfvec, s sparsevec);
INSERT INTO btree_t
  SELECT i, ARRAY[i % 7 - 3, i % 3]::vector, ARRAY[i % 7 - 3, i % 3]::halfvec, ARRAY[i % 7 - 3, i % 3]::sparsevec FROM generate_series(1, 2000) AS i;
INSERT INTO btree_t VALUES (0, NULL, NULL, NULL), (-1, '[0]', '[0]', '{}/1'), (-2, '[0,0,0]', '[0,0,0]', '{}/3');
CREATE INDEX btree_v ON btree_t (v);
CREATE INDEX btree_h ON btree_t (h);
CREATE INDEX btree_s ON btree_t (s);
EXPLAIN (COSTS OFF) SELECT count(*) FROM btree_t WHERE v = '[0,0]';
SELECT count(*) FROM btree_t WHERE v = '[0,0]';
SELECT count(*) FROM btree_t WHERE h = '[0,0]';
SELECT count(*) FROM btree_t WHERE s = '{}/2';
SELECT count(*) FROM btree_t WHERE v > '[0]' AND v <= '[1,1]';
SELECT count(*) FROM btree_t WHERE h > '[0]' AND h <= '[1,1]';
SELECT count(*) FROM btree_t WHERE s > '{}/1' AND s <= '{1:1,2:1}/2';
SELECT DISTINCT v FROM btree_t ORDER BY v;
SELECT DISTINCT h FROM btree_t ORDER BY h DESC LIMIT 3;
SELECT DISTINCT s FROM btree_t WHERE s < '{1:-2,2:2}/2' ORDER BY s;
-- the index and a sort of the text agree on what is equal
SELECT (SELECT count(DISTINCT v) FROM btree_t) = (SELECT count(DISTINCT v::text) FROM btree_t), (SELECT count(DISTINCT s) FROM btree_t) = (SELECT count(DISTINCT s::text) FROM btree_t);
SELECT count(*) FROM (SELECT v FROM btree_t WHERE id < 50) AS a JOIN (SELECT v FROM btree_t WHERE id < 50) AS b ON a.v = b.v;
CREATE UNIQUE INDEX btree_unique ON btree_t (v) WHERE id < 22;
CREATE UNIQUE INDEX btree_unique_2 ON btree_t (v) WHERE id < 23;
DROP TABLE btree_t;
