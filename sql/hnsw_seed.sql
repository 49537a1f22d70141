-- vectorkv.build_seed: the same rows in the same order give the same index, byte for byte
SET max_parallel_maintenance_workers = 0;
CREATE FUNCTION pg_temp.value(i int) RETURNS vector LANGUAGE sql IMMUTABLE AS $$ SELECT ARRAY[sin(i) * 10, cos(i * 1.3) * 10, i % 17, i * 0.01]::real[]::vector $$;
-- pages but for log position and checksum
CREATE FUNCTION pg_temp.bytes(idx regclass) RETURNS bytea LANGUAGE sql AS $$
  SELECT string_agg(substr(pg_read_binary_file(pg_relation_filepath(idx), p * 8192, 8192), 11), '' ORDER BY p) FROM generate_series(0, pg_relation_size(idx) / 8192 - 1) AS p
$$;
CREATE TABLE hs_1 (id int, v vector(4)) WITH (autovacuum_enabled = off);
CREATE TABLE hs_2 (LIKE hs_1) WITH (autovacuum_enabled = off);
CREATE TABLE hs_3 (LIKE hs_1) WITH (autovacuum_enabled = off);
CREATE PROCEDURE hs_steps(step text) LANGUAGE plpgsql AS $$
BEGIN
  FOR i IN 1 .. 3 LOOP
    IF i = 1 THEN PERFORM set_config('vectorkv.build_seed', '1', false); END IF;
    IF i = 3 THEN PERFORM set_config('vectorkv.build_seed', '2', false); END IF;
    EXECUTE format(step, 'hs_' || i);
  END LOOP;
END $$;
CREATE FUNCTION pg_temp.same(OUT same bool, OUT other_seed_differs bool) LANGUAGE plpgsql AS $$
BEGIN
  SELECT pg_temp.bytes('hs_1_idx') = pg_temp.bytes('hs_2_idx'), pg_temp.bytes('hs_2_idx') <> pg_temp.bytes('hs_3_idx') INTO same, other_seed_differs;
END $$;
CALL hs_steps('INSERT INTO %s SELECT i, pg_temp.value(i) FROM generate_series(1, 1000) AS i');
CALL hs_steps('CREATE INDEX %1$s_idx ON %1$s USING hnsw (v vector_l2_ops) WITH (m = 4, ef_construction = 20)');
CHECKPOINT;
SELECT * FROM pg_temp.same();
CALL hs_steps('INSERT INTO %s SELECT i, pg_temp.value(i) FROM generate_series(1001, 1500) AS i');
CHECKPOINT;
SELECT * FROM pg_temp.same();
-- vacuum searches for some of the nodes that lost links by chance
CALL hs_steps('DELETE FROM %s WHERE mod(id, 4) = 0');
SET vectorkv.build_seed = 1;
VACUUM hs_1;
VACUUM hs_2;
CHECKPOINT;
SELECT same FROM pg_temp.same();
-- whoever knows the seed can make vectors of equal hashes
CREATE ROLE hs_somebody;
SET ROLE hs_somebody;
SET vectorkv.build_seed = 1;
RESET ROLE;
DROP ROLE hs_somebody;
DROP TABLE hs_1, hs_2, hs_3;
DROP PROCEDURE hs_steps;
