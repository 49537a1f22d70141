-- Who may look at an index, and what that holds up: hnsw_check keeps writers out for those who could LOCK TABLE, and only as long as it
-- runs; an index tells nothing to a role that row security binds. What the index computes says which locks are held meanwhile, and
-- calls nothing that the caller's search path names.
CREATE FUNCTION hx_seen(vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
	RAISE NOTICE 'locked: %', (SELECT string_agg(mode, ', ' ORDER BY mode) FROM pg_locks WHERE relation = 'public.hx'::regclass AND pid = pg_backend_pid() AND mode LIKE '%Share%');
	RETURN $1; END $$;
CREATE TABLE hx (id int, v vector(3));
SET client_min_messages = warning;
CREATE INDEX hx_idx ON hx USING hnsw ((hx_seen(v)::vector(3)) vector_l2_ops);
INSERT INTO hx VALUES (1, '[1,2,3]');
RESET client_min_messages;
CREATE ROLE hx_reader;
CREATE ROLE hx_writer;
GRANT SELECT ON hx TO hx_reader, hx_writer;
GRANT UPDATE ON hx TO hx_writer;
CREATE VIEW hx_locked AS SELECT mode FROM pg_locks WHERE relation = 'hx'::regclass AND pid = pg_backend_pid();
GRANT SELECT ON hx_locked TO hx_reader, hx_writer;

-- the owner: writers wait for the check, not for the end of the transaction
BEGIN;
SELECT * FROM hnsw_check('hx_idx', heap_all => true);
SELECT * FROM hx_locked WHERE mode <> 'AccessShareLock';
COMMIT;
-- a role that may change rows: the same
SET ROLE hx_writer;
BEGIN;
LOCK TABLE hx IN SHARE MODE;
COMMIT;
SELECT * FROM hnsw_check('hx_idx', heap_all => true);
-- a role that may only read keeps nobody out, as with LOCK TABLE
SET ROLE hx_reader;
BEGIN;
LOCK TABLE hx IN SHARE MODE;
ROLLBACK;
BEGIN;
SELECT * FROM hnsw_check('hx_idx', heap_all => true);
SELECT nodes FROM hnsw_info('hx_idx');
SELECT * FROM hx_locked;
COMMIT;
RESET ROLE;
-- what the owner's function names without a schema is not what the caller's search path says
CREATE FUNCTION hx_abs(vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN ARRAY[abs(($1::real[])[1]::float8), 2, 3]::real[]::public.vector; END $$;
CREATE INDEX hx_path ON hx USING hnsw ((hx_abs(v)::vector(3)) vector_l2_ops);
CREATE SCHEMA hx_reader AUTHORIZATION hx_reader;
SET ROLE hx_reader;
CREATE FUNCTION hx_reader.abs(float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE NOTICE 'called by the caller: %', current_user = 'hx_reader'; RETURN -$1; END $$;
SET search_path = hx_reader, pg_catalog, public;
SELECT hx_abs('[1,2,3]');
SELECT * FROM hnsw_check('hx_path');
SELECT * FROM hnsw_check('hx_path', heap_all => true);
SELECT * FROM hnsw_check('hx_path', searches => true);
SELECT nodes FROM hnsw_info('hx_path');
SHOW search_path;
RESET search_path;
RESET ROLE;
DROP INDEX hx_path;
-- faults that it finds come with a notice then
CREATE INDEX hx_plain ON hx USING hnsw (v vector_l2_ops);
UPDATE pg_index SET indisready = false WHERE indexrelid = 'hx_plain'::regclass;
SET client_min_messages = warning;
INSERT INTO hx VALUES (2, '[3,2,1]');
RESET client_min_messages;
UPDATE pg_index SET indisready = true WHERE indexrelid = 'hx_plain'::regclass;
SELECT problem FROM hnsw_check('hx_plain', heap_all => true);
SET ROLE hx_reader;
SELECT problem FROM hnsw_check('hx_plain', heap_all => true);
RESET ROLE;
-- row security: counts are of rows that a policy hides
ALTER TABLE hx ENABLE ROW LEVEL SECURITY;
CREATE POLICY first ON hx USING (id = 1);
SET ROLE hx_reader;
SELECT count(*) FROM hx;
SELECT * FROM hnsw_check('hx_plain');
SELECT nodes FROM hnsw_info('hx_plain');
RESET ROLE;
ALTER ROLE hx_reader BYPASSRLS;
SET ROLE hx_reader;
SELECT nodes FROM hnsw_info('hx_plain');
RESET ROLE;
DROP VIEW hx_locked;
DROP TABLE hx;
DROP FUNCTION hx_seen, hx_abs, hx_reader.abs;
DROP SCHEMA hx_reader;
DROP ROLE hx_reader, hx_writer;
