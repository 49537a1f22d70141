-- Exact search of many queries at once: the rows, order and distances of ORDER BY with the operator, over each kind of relation; what the user
-- may see; and what is refused.
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\set agree :abs_srcdir '/sql/hnsw_agree.inc'
\i :agree
\set ECHO all
LOAD '$libdir/vector';
SELECT setseed(0.5);

-- what it looks like
CREATE TABLE ke (v vector(2));
INSERT INTO ke VALUES ('[0,0]'), ('[3,4]'), (NULL), ('[1,0]'), ('[0,1]'), ('[-3,-4]');
SELECT * FROM knn_exact('ke', 'v', ARRAY['[0,0]', '[3,3]']::vector[], 3);
SELECT * FROM knn_exact('ke', 'v', ARRAY['[3,4]']::vector[], 10, 'inner_product');
SELECT * FROM knn_exact(rel => 'ke', col => 'v', queries => ARRAY['[1,0]']::vector[], k => 10, metric => 'cosine');
SELECT * FROM knn_exact('ke', 'v', ARRAY['[1,1]']::vector[], 2, 'l1');

-- Compares with one ORDER BY for each query.
CREATE FUNCTION pg_temp.same(rel regclass, col name, queries vector[], k int, metric text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  op text := CASE metric WHEN 'l2' THEN '<->' WHEN 'inner_product' THEN '<#>' WHEN 'cosine' THEN '<=>' ELSE '<+>' END;
  type text := (SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = rel AND attname = col);
  exact text[];
  found text[];
BEGIN
  EXECUTE format($q$
    SELECT coalesce(array_agg(concat_ws(' ', query, rank, id, distance, source) ORDER BY query, rank), '{}') FROM (
      SELECT n AS query, row_number() OVER (PARTITION BY n ORDER BY %1$I OPERATOR(public.%2$s) q::%3$s, tableoid, ctid) AS rank, ctid AS id,
          %1$I OPERATOR(public.%2$s) q::%3$s AS distance, tableoid::regclass AS source
        FROM %4$s, unnest($1) WITH ORDINALITY AS t(q, n) WHERE %1$I IS NOT NULL) AS u WHERE rank <= $2$q$, col, op, type, rel) INTO exact USING queries, k;
  SELECT coalesce(array_agg(concat_ws(' ', query, rank, id, distance, source)), '{}') INTO found FROM knn_exact(rel, col, queries, k, metric);
  IF found = exact THEN RETURN format('%s rows, the same', cardinality(found)); END IF;
  RETURN format('different: %s rows, not %s, the first that differs is number %s', cardinality(found), cardinality(exact),
    (SELECT min(i) FROM generate_series(1, greatest(cardinality(found), cardinality(exact))) AS i WHERE found[i] IS DISTINCT FROM exact[i]));
END $$;
CREATE FUNCTION pg_temp.random_vector(dim int) RETURNS vector LANGUAGE sql VOLATILE AS $$ SELECT array_agg(random() - 0.5)::vector FROM generate_series(1, dim) $$;

-- rows of each kind: equal ones, zeros, NULLs, deleted ones, ones that a column was added to
CREATE TABLE kr (n int, v vector(24), h halfvec(24));
INSERT INTO kr SELECT i, pg_temp.random_vector(24) FROM generate_series(1, 1500) AS i;
INSERT INTO kr SELECT n, v FROM kr WHERE n % 3 = 0;
INSERT INTO kr SELECT i, CASE WHEN i % 2 = 0 THEN array_fill(0, ARRAY[24])::vector END FROM generate_series(1, 100) AS i;
INSERT INTO kr SELECT i, (SELECT array_agg(1000 + random())::vector FROM generate_series(1, 24 + 0 * i)) FROM generate_series(1, 50) AS i;
DELETE FROM kr WHERE n % 10 = 7;
UPDATE kr SET h = v WHERE n % 2 = 0;
ALTER TABLE kr DROP COLUMN n, ADD COLUMN added vector(3) DEFAULT '[1,2,3]';
CREATE TABLE kq AS SELECT array_agg(v) AS v, array_agg(v) FILTER (WHERE i <= 1) AS one, array_agg(v) FILTER (WHERE i <= 3) AS few
  FROM (SELECT i, CASE WHEN i % 10 = 5 THEN (SELECT v FROM kr WHERE v IS NOT NULL LIMIT 1 OFFSET i) WHEN i % 10 = 6 THEN array_fill(0, ARRAY[24])::vector ELSE pg_temp.random_vector(24) END AS v
          FROM generate_series(1, 40) AS i) AS t;
SELECT metric, col, k, pg_temp.same('kr', col, v, k, metric) AS "40 queries", pg_temp.same('kr', col, few, k, metric) AS "3 queries", pg_temp.same('kr', col, one, k, metric) AS "1 query"
  FROM kq, unnest(ARRAY['l2', 'inner_product', 'cosine', 'l1']) AS metric, unnest(ARRAY['v', 'h']) AS col, unnest(ARRAY[1, 10, 5000]) AS k ORDER BY 1, 2, 3;
SELECT pg_temp.same('kr', 'added', ARRAY['[1,2,4]', '[0,0,0]', '[1,1,1]', '[2,2,2]']::vector[], 100, 'l2');
-- at the lowest level of instructions too, and in several passes
SET vectorkv.simd = scalar;
SET work_mem = '64kB';
SELECT metric, pg_temp.same('kr', 'v', v, 1000, metric) AS v, pg_temp.same('kr', 'h', v, 1000, metric) AS h
  FROM kq, unnest(ARRAY['l2', 'inner_product', 'cosine', 'l1']) AS metric;
RESET vectorkv.simd;
RESET work_mem;
-- values out of line
CREATE TABLE kl (v vector(16000), h halfvec(16000));
INSERT INTO kl SELECT v, v FROM (SELECT pg_temp.random_vector(16000 + 0 * i) AS v FROM generate_series(1, 70) AS i) AS t;
SELECT metric, pg_temp.same('kl', 'v', q, 5, metric) AS v, pg_temp.same('kl', 'h', q, 5, metric) AS h
  FROM (SELECT array_agg(v) AS q FROM (SELECT v FROM kl LIMIT 5) AS t) AS t, unnest(ARRAY['l2', 'inner_product', 'cosine', 'l1']) AS metric;

-- nothing to find, nothing asked
CREATE TABLE kn (v vector, h halfvec);
SELECT count(*) FROM knn_exact('kn', 'v', ARRAY['[1,2]']::vector[], 5);
INSERT INTO kn VALUES (NULL, NULL), (NULL, NULL);
SELECT count(*) FROM knn_exact('kn', 'v', ARRAY['[1,2]']::vector[], 5);
SELECT count(*) FROM knn_exact('ke', 'v', '{}', 5);
SELECT count(*) FROM knn_exact('ke', 'v', NULL, 5);
SELECT count(*) FROM knn_exact(NULL, 'v', ARRAY['[1,2]']::vector[], 5);

-- each row its own nearest neighbour; queries from another table
SELECT count(*) FILTER (WHERE id = own), count(*) FROM (SELECT array_agg(v ORDER BY ctid) AS vs, array_agg(ctid ORDER BY ctid) AS tids FROM (SELECT v, ctid FROM ke WHERE v IS NOT NULL) AS t) AS q,
  knn_exact('ke', 'v', vs, 1) AS n, LATERAL (SELECT tids[n.query] AS own) AS o;
SELECT n.query, ke.v FROM knn_exact('ke', 'v', ARRAY['[2,0]', '[0,9]']::vector[], 1) AS n JOIN ke ON ke.ctid = n.id ORDER BY 1;

-- the statement's snapshot
BEGIN;
INSERT INTO ke VALUES ('[7,7]');
SELECT n.distance FROM knn_exact('ke', 'v', ARRAY['[7,7]']::vector[], 1) AS n;
WITH more AS (INSERT INTO ke VALUES ('[9,9]') RETURNING 1) SELECT n.distance > 0 AS "not yet there" FROM more, knn_exact('ke', 'v', ARRAY['[9,9]']::vector[], 1) AS n;
DECLARE c CURSOR FOR SELECT n.distance FROM knn_exact('ke', 'v', ARRAY['[8,8]']::vector[], 1) AS n;
INSERT INTO ke VALUES ('[8,8]');
FETCH c;
ROLLBACK;
SELECT n.distance > 0 AS "rolled back" FROM knn_exact('ke', 'v', ARRAY['[7,7]']::vector[], 1) AS n;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM knn_exact('ke', 'v', ARRAY['[7,7]']::vector[], 10);
SELECT locktype, mode FROM pg_locks WHERE mode = 'SIReadLock' AND relation = 'ke'::regclass;
COMMIT;

-- other relations
CREATE TABLE kp (id int, v vector(24)) PARTITION BY RANGE (id);
CREATE TABLE kp1 PARTITION OF kp FOR VALUES FROM (0) TO (50);
CREATE TABLE kp2 (v vector(24), id int);
ALTER TABLE kp ATTACH PARTITION kp2 FOR VALUES FROM (50) TO (1000);
INSERT INTO kp SELECT row_number() OVER (), v FROM (SELECT v FROM kr LIMIT 200) AS t;
SELECT metric, pg_temp.same('kp', 'v', v, 20, metric) FROM kq, unnest(ARRAY['l2', 'inner_product', 'cosine', 'l1']) AS metric;
CREATE TABLE kparent (v vector(2));
CREATE TABLE kchild (more int) INHERITS (kparent);
INSERT INTO kparent VALUES ('[1,1]');
INSERT INTO kchild VALUES ('[2,2]', 1);
SELECT query, rank, distance, source FROM knn_exact('kparent', 'v', ARRAY['[2,2]']::vector[], 5);
CREATE VIEW kview AS SELECT ctid, tableoid, v AS w FROM kparent WHERE v <> '[1,1]';
CREATE VIEW kview_tid AS SELECT ctid, v AS w FROM kparent;
CREATE VIEW kview_null AS SELECT l.ctid, r.v AS w FROM kchild AS r LEFT JOIN kchild AS l ON false;
CREATE VIEW kview_none AS SELECT v AS w FROM kparent;
SELECT query, rank, id, distance, source FROM knn_exact('kview', 'w', ARRAY['[2,2]']::vector[], 5);
SELECT query, rank, id, distance, source FROM knn_exact('kview_tid', 'w', ARRAY['[2,2]']::vector[], 5);
SELECT query, rank, id, distance, source FROM knn_exact('kview_null', 'w', ARRAY['[2,2]']::vector[], 5);
CREATE MATERIALIZED VIEW kmat AS SELECT v FROM kr;
SELECT pg_temp.same('kmat', 'v', v, 5, 'l2') FROM kq;
CREATE TEMP TABLE ktemp AS SELECT v FROM kr;
SELECT pg_temp.same('ktemp', 'v', v, 5, 'l2') FROM kq;
CREATE DOMAIN unit AS vector CHECK (vector_norm(VALUE) <= 1);
CREATE TABLE "K d" ("The ""v""" unit, g vector(2) GENERATED ALWAYS AS ('[1,1]'::vector) STORED);
INSERT INTO "K d" VALUES ('[1,0]'), ('[0,1]');
SELECT * FROM knn_exact('"K d"', 'The "v"', ARRAY['[0,2]']::vector[], 5);
SELECT * FROM knn_exact('"K d"', 'g', ARRAY['[0,2]']::vector[], 5);
ALTER TABLE "K d" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;

-- what the user may see
CREATE ROLE regress_knn_owner;
CREATE ROLE regress_knn_reader;
CREATE TABLE ks (id int, v vector(2), other vector(2));
INSERT INTO ks VALUES (1, '[1,1]', '[1,1]'), (2, '[2,2]', '[2,2]'), (3, '[3,3]', '[3,3]');
ALTER TABLE ks OWNER TO regress_knn_owner;
ALTER TABLE "K d" OWNER TO regress_knn_owner;
CREATE FUNCTION pg_temp.seen(role name, rel text, col text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  result text;
BEGIN
  EXECUTE format('SET LOCAL ROLE %I', role);
  SELECT string_agg(distance::text, ' ' ORDER BY rank) INTO result FROM knn_exact(rel::regclass, col, ARRAY['[0,0]']::vector[], 10, 'l1');
  RESET ROLE;
  RETURN coalesce(result, 'nothing');
EXCEPTION WHEN OTHERS THEN
  RESET ROLE;
  RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
SELECT pg_temp.seen('regress_knn_owner', 'ks', 'v') AS owner, pg_temp.seen('regress_knn_reader', 'ks', 'v') AS reader;
GRANT SELECT (v) ON ks TO regress_knn_reader;
SELECT pg_temp.seen('regress_knn_reader', 'ks', 'v') AS "ctid is a column, too";
GRANT SELECT (ctid) ON ks TO regress_knn_reader;
SELECT pg_temp.seen('regress_knn_reader', 'ks', 'v') AS granted, pg_temp.seen('regress_knn_reader', 'ks', 'other') AS other;
GRANT SELECT ON ks TO regress_knn_reader;
SELECT pg_temp.seen('regress_knn_reader', 'ks', 'other') AS other;
CREATE POLICY p ON ks USING (id <> 2);
ALTER TABLE ks ENABLE ROW LEVEL SECURITY;
SELECT pg_temp.seen('regress_knn_owner', 'ks', 'v') AS owner, pg_temp.seen('regress_knn_reader', 'ks', 'v') AS reader;
ALTER TABLE ks FORCE ROW LEVEL SECURITY;
SELECT pg_temp.seen('regress_knn_owner', 'ks', 'v') AS owner, pg_temp.seen('regress_knn_reader', 'ks', 'v') AS reader, pg_temp.seen(current_user, 'ks', 'v') AS superuser;
SET row_security = off;
SELECT pg_temp.seen('regress_knn_reader', 'ks', 'v') AS reader, pg_temp.seen(current_user, 'ks', 'v') AS superuser;
RESET row_security;
SELECT pg_temp.seen('regress_knn_owner', '"K d"', 'g') AS "no policy lets rows through";
CREATE VIEW ksv AS SELECT ctid, v FROM ks;
ALTER VIEW ksv OWNER TO regress_knn_owner;
SELECT pg_temp.seen('regress_knn_reader', 'ksv', 'v') AS "no right to the view";
GRANT SELECT ON ksv TO regress_knn_reader;
REVOKE ALL ON ks FROM regress_knn_reader;
SELECT pg_temp.seen('regress_knn_reader', 'ksv', 'v') AS "through the view";

-- what is refused
CREATE TABLE kx (id int, v vector, h halfvec, s sparsevec(3), b bit(3), vb varbit);
INSERT INTO kx VALUES (1, '[1,2,3]', '[1,2,3]', '{1:1}/3', B'101', B'1'), (2, '[1,2]', '[1,2]', '{1:1}/3', B'101', B'1');
CREATE INDEX kx_id ON kx (id);
CREATE SEQUENCE kseq;
CREATE MATERIALIZED VIEW kempty AS SELECT v FROM kr WITH NO DATA;
SELECT call, pg_temp.attempt('SELECT count(*) FROM knn_exact(' || call || ')') FROM unnest(ARRAY[
  $$'ke', 'v', ARRAY['[1,2]']::vector[], 0$$,
  $$'ke', 'v', ARRAY['[1,2]']::vector[], -1$$,
  $$'ke', 'v', ARRAY['[1,2]']::vector[], 65537$$,
  $$'ke', 'v', ARRAY['[1,2]']::vector[], 1, 'euclid'$$,
  $$'ke', 'v', ARRAY['[1,2]']::vector[], 1, 'L2'$$,
  $$'ke', 'v', ARRAY['[1,2]', NULL]::vector[], 1$$,
  $$'ke', 'v', ARRAY['[1,2]', '[1,2,3]']::vector[], 1$$,
  $$'ke', 'v', ARRAY['[1,2,3]']::vector[], 1$$,
  $$'kx', 'v', ARRAY['[1,2,3]']::vector[], 1$$,
  $$'kx', 'h', ARRAY['[1,2]']::vector[], 1$$,
  $$'kx', 'h', ARRAY['[1,1e5]']::vector[], 1$$,
  $$'kx', 's', ARRAY['[1,2,3]']::vector[], 1$$,
  $$'kx', 'b', ARRAY['[1,2,3]']::vector[], 1$$,
  $$'kx', 'vb', ARRAY['[1,2,3]']::vector[], 1$$,
  $$'kx', 'id', ARRAY['[1,2,3]']::vector[], 1$$,
  $$'kx', 'ctid', ARRAY['[1,2,3]']::vector[], 1$$,
  $$'kx', 'w', ARRAY['[1,2,3]']::vector[], 1$$,
  $$'kr', '........pg.dropped.1........', ARRAY['[1,2,3]']::vector[], 1$$,
  $$'kx_id', 'id', ARRAY['[1,2,3]']::vector[], 1$$,
  $$'kseq', 'last_value', ARRAY['[1,2,3]']::vector[], 1$$,
  $$'kview_none', 'w', ARRAY['[2,2]']::vector[], 1$$,
  $$'kempty', 'v', ARRAY['[2,2]']::vector[], 1$$,
  $$1, 'v', ARRAY['[2,2]']::vector[], 1$$]) AS call;
-- an error in the middle of a scan leaves nothing open
DO $$
BEGIN
  FOR i IN 1 .. 100 LOOP
    BEGIN
      PERFORM knn_exact('kx', 'v', ARRAY['[1,2,3]']::vector[], 1);
      RAISE 'nothing was refused';
    EXCEPTION WHEN data_exception THEN NULL;
    END;
  END LOOP;
END $$;
SELECT distance FROM knn_exact('ke', 'v', ARRAY['[3,4]']::vector[], 1);
-- a statement that calls it a thousand times keeps no memory of the calls
CREATE FUNCTION pg_temp.memory(int) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT sum(used_bytes) FROM pg_backend_memory_contexts); END $$;
SELECT max(memory) - min(memory) < 100000 AS given_back
  FROM (SELECT CASE WHEN i IN (100, 1100) THEN pg_temp.memory(i) END AS memory
          FROM generate_series(1, 1100) AS i CROSS JOIN LATERAL knn_exact('ke', 'v', ARRAY['[3,4]']::vector[], i % 2 + 1) AS k) AS t;

DROP VIEW ksv;
DROP TABLE ks, "K d";
DROP ROLE regress_knn_owner, regress_knn_reader;
