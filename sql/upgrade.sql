-- ALTER EXTENSION vector UPDATE from each version of pgvector that has its catalog: afterwards the extension is what CREATE EXTENSION makes.
-- pgvector 0.8.0 to 0.8.7 differ from each other in comments only, and from this extension in the functions that are dropped here.
CREATE TEMP VIEW extension_objects AS
  SELECT pg_describe_object(classid, objid, objsubid) AS object,
         CASE WHEN classid = 'pg_proc'::regclass AND (SELECT prokind = 'f' FROM pg_proc WHERE oid = objid) THEN pg_get_functiondef(objid) END AS definition
    FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'vector') AND deptype = 'e';
CREATE TEMP TABLE fresh AS SELECT * FROM extension_objects;
CREATE FUNCTION pg_temp.upgraded(version text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  lacking text;
BEGIN
  ALTER EXTENSION vector DROP FUNCTION hnsw_check(regclass, boolean, boolean);
  ALTER EXTENSION vector DROP FUNCTION hnsw_info(regclass);
  ALTER EXTENSION vector DROP FUNCTION knn_exact(regclass, name, vector[], integer, text);
  DROP FUNCTION hnsw_check(regclass, boolean, boolean), hnsw_info(regclass), knn_exact(regclass, name, vector[], integer, text);
  UPDATE pg_extension SET extversion = version WHERE extname = 'vector';
  SELECT string_agg(object, ', ' ORDER BY object) INTO lacking FROM (SELECT object FROM fresh EXCEPT SELECT object FROM extension_objects) AS t;
  ALTER EXTENSION vector UPDATE TO '0.8.6.1';
  RETURN format('%s; lacked %s; now %s differences', (SELECT extversion FROM pg_extension WHERE extname = 'vector'), lacking,
    (SELECT count(*) FROM ((SELECT * FROM fresh EXCEPT SELECT * FROM extension_objects) UNION ALL (SELECT * FROM extension_objects EXCEPT SELECT * FROM fresh)) AS t));
END $$;
SELECT source, pg_temp.upgraded(source) FROM pg_extension_update_paths('vector') WHERE target = '0.8.6.1' AND path IS NOT NULL ORDER BY source;
CREATE TABLE upgrade_t (v vector(2));
INSERT INTO upgrade_t VALUES ('[1,2]');
CREATE INDEX upgrade_idx ON upgrade_t USING hnsw (v vector_l2_ops);
SELECT nodes, (SELECT count(*) FROM hnsw_check('upgrade_idx')) AS problems FROM hnsw_info('upgrade_idx');
DROP TABLE upgrade_t;
