-- A sequence that a policy shows to a role, but does not let it change: every function that writes says 42501, none that it does not
-- exist. One that a policy hides does not exist for the functions; only its number is taken.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS vectorkv;
RESET client_min_messages;
CREATE FUNCTION seen_attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
	hint text;
BEGIN
	EXECUTE statement INTO result;
	RETURN coalesce(result, 'null');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(' | ', SQLSTATE, SQLERRM, nullif(hint, ''));
END $$;
CREATE FUNCTION seen_numbers(tokens int) RETURNS kv.tensor IMMUTABLE LANGUAGE sql AS
	$$ SELECT kv.reshape(array_fill(0.5::real, ARRAY[16 * tokens])::kv.tensor, ARRAY[1, 1, tokens, 16]) $$;
SELECT kv.create_cache('seen', 1, 1, 1, 16, tail_tokens => 16);
SELECT kv.append('seen', seq, seen_numbers(400), seen_numbers(400)) FROM generate_series(1, 3) AS seq;
CREATE ROLE seen_role;
GRANT ALL ON seen, seen_sealed, seen_tail TO seen_role;
ALTER TABLE seen ENABLE ROW LEVEL SECURITY;
CREATE POLICY look ON seen FOR SELECT USING (seq <> 2);
CREATE POLICY make ON seen FOR INSERT WITH CHECK (true);
CREATE POLICY change ON seen FOR UPDATE USING (seq > 2);
CREATE POLICY remove ON seen FOR DELETE USING (seq > 3);
SET ROLE seen_role;
\pset format unaligned
\pset tuples_only on
-- 1 is seen, 2 is hidden, 3 may be changed, but not deleted, 4 is the role's own, 5 is nobody's
SELECT seen_attempt('SELECT kv.fork(''seen'', 1, 4)');
SELECT format('%s of %s: %s', call, seq, seen_attempt(format('SELECT kv.%s', regexp_replace(call, '\(', format('(''seen'', %s', seq))))) FROM
	unnest(ARRAY['length()', 'append(, seen_numbers(1), seen_numbers(1))', 'truncate(, 395)', 'truncate(, 100)', 'recode(, ''int4'')', 'seal()', 'drop_sequence()']) WITH ORDINALITY AS c(call, n),
	unnest(ARRAY[1, 2, 3, 4]) AS seq ORDER BY n, seq;
SELECT seen_attempt('SELECT kv.truncate(''seen'', 5, 1)'), seen_attempt('SELECT kv.drop_sequence(''seen'', 5)');
RESET ROLE;
SELECT * FROM kv.check_cache('seen');
SELECT seq, kv.length('seen', seq) FROM seen ORDER BY seq;
-- Who looks holds up no writer: locks that are left until the transaction ends.
CREATE VIEW seen_locks AS SELECT string_agg(DISTINCT mode, ', ' ORDER BY mode) FROM pg_locks
	WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation IN ('seen'::regclass, 'seen_sealed'::regclass, 'seen_tail'::regclass, 'seen_tile'::regclass, 'kv.caches'::regclass);
BEGIN;
SELECT count(*) FROM kv.check_cache('seen');
SELECT kv.length('seen', 1), kv.shape(f.k), (SELECT count(*) > 0 FROM kv.weights('seen', 1, 0, kv.reshape(seen_numbers(1), '{1,16}'))),
	kv.shape(kv.attend('seen', '{1,3}', 0, kv.reshape(seen_numbers(2), '{2,1,16}'))) FROM kv.fetch('seen', 1, 0) f;
SELECT count(*) > 0 FROM seen_tile;
SELECT count(*) FROM kv.caches WHERE cache = 'seen'::regclass;
SELECT * FROM seen_locks;
SELECT kv.collect('seen', dry_run => true);
SELECT * FROM seen_locks;
COMMIT;
-- Counts of all tiles are not for whom row security binds.
SET ROLE seen_role;
SELECT kv.collect('seen', dry_run => true);
SELECT kv.reset_gpu_stats();
RESET ROLE;
DROP VIEW seen_locks;
SELECT kv.drop_cache('seen');
DROP FUNCTION seen_attempt, seen_numbers;
DROP ROLE seen_role;
