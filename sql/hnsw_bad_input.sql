-- What is refused about hnsw indexes, with which SQLSTATE and words.
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\set agree :abs_srcdir '/sql/hnsw_agree.inc'
\i :agree
\set ECHO all
CREATE TABLE hi (id int PRIMARY KEY, v vector(3), h halfvec(3), w vector, x vector(16000), t text, a real[]);

-- columns that cannot be indexed
SELECT definition, pg_temp.attempt('CREATE INDEX ON hi USING hnsw ' || definition) FROM unnest(ARRAY[
  '(w vector_l2_ops)', '(w)', '(v)', '((w::vector(3)) vector_l2_ops)', '(x vector_l2_ops)', '((v || v) vector_l2_ops)', '(t)', '(a)', '(t vector_l2_ops)', '(h vector_l2_ops)', '(v no_such_ops)',
  '(v vector_l2_ops, v vector_ip_ops)', '(v vector_l2_ops) INCLUDE (id)', '(v vector_l2_ops DESC)', '(v vector_l2_ops NULLS FIRST)',
  '((v::vector(0)) vector_l2_ops)', '((w::vector(16001)) vector_l2_ops)', '((v::halfvec(16001)) halfvec_l2_ops)', '((v::sparsevec(1000000001)) sparsevec_l2_ops)']) AS definition;
SELECT pg_temp.attempt('CREATE UNIQUE INDEX ON hi USING hnsw (v vector_l2_ops)'),
       pg_temp.attempt('ALTER TABLE hi ADD CONSTRAINT c EXCLUDE USING hnsw (v WITH <->)');
SELECT count(*) FROM pg_index WHERE indrelid = 'hi'::regclass;

-- a domain counts as what it is over
CREATE DOMAIN hd AS vector(3);
CREATE DOMAIN hd_of_hd AS hd CHECK (VALUE IS NOT NULL);
CREATE DOMAIN hd_any AS vector;
CREATE DOMAIN hd_bits AS bit varying(8);
CREATE TABLE hdt (id int, v hd_of_hd, w hd_any, b hd_bits);
SELECT definition, pg_temp.attempt('CREATE INDEX ON hdt USING hnsw ' || definition) FROM unnest(ARRAY['(w vector_l2_ops)', '((w::vector(3)) vector_l2_ops)', '(b bit_hamming_ops)']) AS definition;
INSERT INTO hdt SELECT i, ARRAY[i, i % 3, 1]::real[]::vector FROM generate_series(1, 30) AS i;
CREATE INDEX hdt_idx ON hdt USING hnsw (v vector_l2_ops);
INSERT INTO hdt SELECT i, ARRAY[i, i % 3, 1]::real[]::vector FROM generate_series(31, 35) AS i;
SELECT pg_temp.agree('SELECT id FROM hdt ORDER BY v <-> ''[1,1,1]'' LIMIT 10'), pg_temp.problems('hdt_idx');
DROP TABLE hdt;
DROP DOMAIN hd_bits, hd_any, hd_of_hd, hd;

-- an operator class that is none of ours
CREATE OPERATOR CLASS pg_temp.other_ops FOR TYPE vector USING hnsw AS OPERATOR 1 <-> (vector, vector) FOR ORDER BY float_ops, FUNCTION 1 l2_distance(vector, vector);
SELECT pg_temp.attempt('CREATE INDEX ON hi USING hnsw (v pg_temp.other_ops)');

-- no value with NaN or infinity gets as far as an index
CREATE INDEX hi_idx ON hi USING hnsw (v vector_l2_ops);
SELECT value, pg_temp.attempt(format('INSERT INTO hi (id, v) VALUES (1, %L)', value)) FROM unnest(ARRAY['[NaN,1,2]', '[1,Infinity,2]', '[1,2,-inf]', '[1,2]', '[1,2,3,4]', '[]']) AS value;
SELECT pg_temp.attempt('INSERT INTO hi (id, v) SELECT 1, v * v FROM (SELECT ''[1e38,1,1]''::vector AS v) AS t'),
       pg_temp.attempt('INSERT INTO hi (id, v) VALUES (1, ARRAY[1, ''NaN'', 2]::real[])');
SELECT count(*), pg_temp.problems('hi_idx') FROM hi;
-- a row that another index refuses leaves nothing behind
INSERT INTO hi (id, v) VALUES (1, '[1,2,3]');
SELECT pg_temp.attempt('INSERT INTO hi (id, v) VALUES (2, ''[3,2,1]''), (1, ''[1,1,1]'')');
SELECT pg_temp.agree('SELECT id FROM hi ORDER BY v <-> ''[1,1,1]'' LIMIT 10'), pg_temp.problems('hi_idx');
VACUUM hi;
SELECT heap_tuples, pg_temp.problems('hi_idx') FROM hnsw_info('hi_idx');

-- hnsw_check and hnsw_info on other objects
CREATE TABLE hp (v vector(3)) PARTITION BY RANGE (v);
CREATE INDEX hp_idx ON hp USING hnsw (v vector_l2_ops);
CREATE VIEW hw AS SELECT 1;
SELECT f, object, pg_temp.attempt(format('SELECT * FROM %s(%s)', f, object)) FROM unnest(ARRAY['hnsw_check', 'hnsw_info']) AS f,
  unnest(ARRAY['''hi''', '''hi_pkey''', '''hp''', '''hp_idx''', '''hw''', '''pg_class_oid_index''', '0', '4294967295', 'NULL', '''no_such_index''']) AS object;
DROP TABLE hp;
-- whose reading needs the right to read the table
CREATE ROLE hnsw_test_role;
SET ROLE hnsw_test_role;
SELECT * FROM hnsw_check('hi_idx');
SELECT nodes FROM hnsw_info('hi_idx');
RESET ROLE;
GRANT SELECT ON hi TO hnsw_test_role;
SET ROLE hnsw_test_role;
SELECT * FROM hnsw_check('hi_idx');
SELECT nodes FROM hnsw_info('hi_idx');
RESET ROLE;
REVOKE ALL ON hi FROM hnsw_test_role;
DROP ROLE hnsw_test_role;
-- an index that is not valid
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'hi_idx'::regclass;
SELECT pg_temp.attempt('SELECT * FROM hnsw_check(''hi_idx'')');
UPDATE pg_index SET indisvalid = true WHERE indexrelid = 'hi_idx'::regclass;
-- a read-only transaction may look
BEGIN READ ONLY;
SELECT nodes FROM hnsw_info('hi_idx');
SELECT * FROM hnsw_check('hi_idx', true);
COMMIT;
DROP VIEW hw;
DROP TABLE hi;
