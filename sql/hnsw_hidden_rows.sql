-- An index on an expression does not show rows that row security hides to functions of the user's search path: a search and
-- an insertion do not compute it then, unless it calls nothing by name.
CREATE ROLE hh_reader;
CREATE ROLE hh_keeper;
CREATE SCHEMA hh_reader AUTHORIZATION hh_reader;
SET ROLE hh_reader;
CREATE FUNCTION hh_reader.abs(float8) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
	IF $1 < 0 THEN RAISE NOTICE 'sees a hidden row'; END IF; RETURN pg_catalog.abs($1); END $$;
RESET ROLE;
CREATE FUNCTION hh_first(v vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN ARRAY[abs((v::real[])[1]::float8), 1, 2]::real[]::public.vector; END $$;
-- every second row is hidden, and all lie closer together than codes can tell
CREATE TABLE hh (id int, v vector);
INSERT INTO hh SELECT i, ARRAY[CASE WHEN i % 2 = 0 THEN -1 ELSE 1 END * (5 + (i * 7919 % 1000) * 0.00001), 1, 2]::real[]::vector FROM generate_series(1, 1000) i;
CREATE INDEX hh_computed ON hh USING hnsw ((hh_first(v)::vector(3)) vector_l2_ops);
CREATE INDEX hh_cast ON hh USING hnsw ((v::vector(3)) vector_l2_ops);
GRANT SELECT, INSERT ON hh TO hh_reader, hh_keeper;
GRANT USAGE ON SCHEMA hh_reader TO hh_keeper;
ALTER TABLE hh ENABLE ROW LEVEL SECURITY;
CREATE POLICY odd ON hh USING (id % 2 = 1);
-- its own owner's rights on the table
CREATE VIEW hh_view AS SELECT * FROM hh;
ALTER VIEW hh_view OWNER TO hh_keeper;
GRANT SELECT ON hh_view TO hh_reader;
CREATE PROCEDURE hh_compare(source text, expression text) LANGUAGE plpgsql AS $$
DECLARE
	ask text := format('SELECT array_agg(%s <-> ''[5.005,1,2]'') FROM (SELECT v FROM %s ORDER BY %1$s <-> ''[5.005,1,2]'' LIMIT 20) x', expression, source);
	plan json; scanned float8[]; sorted float8[];
BEGIN
	SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off;
	EXECUTE 'EXPLAIN (FORMAT json) ' || ask INTO plan;
	EXECUTE ask INTO scanned;
	SET LOCAL enable_seqscan = on; SET LOCAL enable_sort = on; SET LOCAL enable_indexscan = off;
	EXECUTE ask INTO sorted;
	RAISE INFO '% of % by %: % rows, in order: %, the nearest: %', expression, source, substring(plan::text FROM 'hh_c[a-z]+'), cardinality(scanned),
		scanned = (SELECT array_agg(d ORDER BY d) FROM unnest(scanned) d), scanned = sorted;
END $$;
SET search_path = hh_reader, pg_catalog, public;
SET ROLE hh_reader;
CALL hh_compare('hh', 'hh_first(v)::vector(3)');
CALL hh_compare('hh', 'v::vector(3)');
RESET ROLE;
REVOKE SELECT ON hh FROM hh_reader;
SET ROLE hh_reader;
CALL hh_compare('hh_view', 'hh_first(v)::vector(3)');
RESET ROLE;
-- who may see all rows gets them in order
ALTER TABLE hh DISABLE ROW LEVEL SECURITY;
GRANT SELECT (v) ON hh TO hh_reader;
UPDATE hh SET v = (SELECT ARRAY[abs((v::real[])[1]), 1, 2]::real[]::vector);
SET ROLE hh_reader;
CALL hh_compare('hh', 'hh_first(v)::vector(3)');
RESET ROLE;
-- an insertion among rows that codes cannot tell apart, as the index was created empty, does not compute it on those that are there
RESET search_path;
CREATE TABLE hh_late (id int, v vector);
CREATE INDEX hh_late_computed ON hh_late USING hnsw ((hh_first(v)::vector(3)) vector_l2_ops);
INSERT INTO hh_late SELECT i, ARRAY[CASE WHEN i % 2 = 0 THEN -1 ELSE 1 END * (5 + (i * 7919 % 1000) * 0.00001), 1, 2]::real[]::vector FROM generate_series(1, 300) i;
GRANT SELECT, INSERT ON hh_late TO hh_reader;
ALTER TABLE hh_late ENABLE ROW LEVEL SECURITY;
CREATE POLICY odd ON hh_late USING (id % 2 = 1);
SET search_path = hh_reader, pg_catalog, public;
SET ROLE hh_reader;
INSERT INTO hh_late SELECT i, ARRAY[5.005 + i * 0.000001, 1, 2]::real[]::vector FROM generate_series(301, 399, 2) i;
RESET ROLE;
RESET search_path;
SELECT * FROM hnsw_check('hh_late_computed', true);
DROP VIEW hh_view;
DROP TABLE hh, hh_late;
DROP PROCEDURE hh_compare;
DROP FUNCTION hh_first, hh_reader.abs;
DROP SCHEMA hh_reader;
DROP ROLE hh_reader, hh_keeper;
