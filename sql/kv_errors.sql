-- Bad input to the functions on caches: each is refused with its SQLSTATE, and nothing is left behind.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS vectorkv;
RESET client_min_messages;
SET search_path = public, kv;
-- Runs a statement and reports how it failed.
CREATE FUNCTION fails(statement text) RETURNS TABLE (state text, message text, hint text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN QUERY SELECT 'none'::text, ''::text, ''::text;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
	RETURN NEXT;
END $$;
CREATE FUNCTION filled(value real, VARIADIC shape int[]) RETURNS kv.tensor IMMUTABLE LANGUAGE sql AS $$
	SELECT kv.reshape(array_fill(value, ARRAY[coalesce(shape[1] * shape[2] * shape[3] * shape[4], shape[1] * shape[2] * shape[3], shape[1] * shape[2])])::kv.tensor, shape) $$;
\pset format unaligned
\pset tuples_only on

-- Making caches.
SELECT * FROM fails($$ SELECT kv.create_cache('e', 0, 4, 2, 16) $$);
SELECT * FROM fails($$ SELECT kv.create_cache('e', 2, 5, 2, 16) $$);
SELECT * FROM fails($$ SELECT kv.create_cache('e', 2, 4, 2, 1025) $$);
SELECT * FROM fails($$ SELECT kv.create_cache('e', 2, 4, 2, 16, codec => 'int5') $$);
SELECT * FROM fails($$ SELECT kv.create_cache('e', 2, 4, 2, 16, tail => 'maybe') $$);
SELECT * FROM fails($$ SELECT kv.create_cache('e', 2, 4, 2, 16, tail_tokens => -1) $$);
SELECT * FROM fails($$ SELECT kv.create_cache('e', 2, 4, 2, 16, sink_tokens => -1) $$);
SELECT * FROM fails($$ SELECT kv.create_cache('e', 2, 4, 2, 16, value_dim => 17, values_in_keys => true) $$);
SELECT * FROM fails($$ SELECT kv.create_cache('e', 2, 4, 2, 16, keys => 'sideways') $$);
SELECT * FROM fails($$ SELECT kv.create_cache('e', 2, 4, 2, 16, keys => 'before_rope') $$);
SELECT * FROM fails($$ SELECT kv.create_cache('e', 2, 4, 2, 16, keys => 'before_rope', rope_theta => 0.5) $$);
SELECT * FROM fails($$ SELECT kv.create_cache('e', 2, 4, 2, 16, rope_theta => 10000, rope_dims => 18) $$);
SELECT * FROM fails($$ SELECT kv.create_cache('e', 2, 4, 2, 16, rope_theta => 10000, rope_dims => 7) $$);
SELECT * FROM fails($$ SELECT kv.create_cache('e', 2, 4, 2, 16, rope_theta => 10000, rope_pairing => 'both') $$);
SELECT * FROM fails($$ SELECT kv.create_cache('e', 2, 4, 2, 16, rope_theta => 10000, rope_frequencies => '{1,0.1}') $$);
SELECT * FROM fails($$ SELECT kv.create_cache('e', 2, 4, 2, 16, rope_frequencies => '{1,NaN}') $$);
SELECT * FROM fails($$ SELECT kv.create_cache('pg_temp.e', 2, 4, 2, 16) $$);
SELECT * FROM fails($$ SELECT kv.create_cache('nowhere.e', 2, 4, 2, 16) $$);
SELECT * FROM fails($$ SELECT kv.create_cache(NULL, 2, 4, 2, 16) $$);
SELECT * FROM fails($$ SELECT kv.create_cache(repeat('e', 60), 2, 4, 2, 16) $$);
SELECT count(*) FROM pg_class WHERE relname ~ '^e(_|$)';
SELECT kv.create_cache('e', 2, 4, 2, 16, codec => 'int8', tail_tokens => 8, model => 'm', revision => 'r1');
SELECT * FROM fails($$ SELECT kv.create_cache('e', 2, 4, 2, 16) $$);

-- What is no cache.
CREATE TABLE plain (seq bigint);
SELECT * FROM fails($$ SELECT kv.length('plain', 1) $$);
SELECT * FROM fails($$ SELECT kv.length('missing', 1) $$);
SELECT * FROM fails($$ SELECT kv.drop_cache('plain') $$);

-- Appending: shapes, geometry, numbers, positions, models.
SELECT * FROM fails($$ SELECT kv.append('e', 1, filled(1, 2, 2, 3), filled(1, 2, 2, 3, 16)) $$);
SELECT * FROM fails($$ SELECT kv.append('e', 1, filled(1, 3, 2, 3, 16), filled(1, 3, 2, 3, 16)) $$);
SELECT * FROM fails($$ SELECT kv.append('e', 1, filled(1, 2, 2, 3, 16), filled(1, 2, 2, 3, 8)) $$);
SELECT * FROM fails($$ SELECT kv.append('e', 1, filled(1, 2, 2, 3, 16), filled(1, 2, 2, 4, 16)) $$);
SELECT * FROM fails($$ SELECT kv.append('e', 1, filled(1, 2, 2, 3, 16), NULL) $$);
SELECT * FROM fails($$ SELECT kv.append('e', NULL, filled(1, 2, 2, 3, 16), filled(1, 2, 2, 3, 16)) $$);
SELECT * FROM fails($$ SELECT kv.append('e', 1, filled('NaN', 2, 2, 3, 16), filled(1, 2, 2, 3, 16)) $$);
SELECT * FROM fails($$ SELECT kv.append('e', 1, filled(1, 2, 2, 3, 16), kv.concat(filled(1, 2, 2, 2, 16), filled('-Infinity', 2, 2, 1, 16), 2)) $$);
SELECT * FROM fails($$ SELECT kv.append('e', 1, filled(70000, 2, 2, 3, 16), filled(1, 2, 2, 3, 16)) $$);
SELECT * FROM fails($$ SELECT kv.append('e', 1, filled(1, 2, 2, 3, 16), filled(1, 2, 2, 3, 16), "position" => 5) $$);
SELECT * FROM fails($$ SELECT kv.append('e', 1, filled(1, 2, 2, 3, 16), filled(1, 2, 2, 3, 16), model => 'other') $$);
SELECT * FROM fails($$ SELECT kv.append('e', 1, filled(1, 2, 2, 3, 16), filled(1, 2, 2, 3, 16), model => 'm', revision => 'r2') $$);
SELECT count(*) FROM e;
SELECT kv.append('e', 1, filled(1, 2, 2, 30, 16), filled(2, 2, 2, 30, 16), "position" => 0, model => 'm', revision => 'r1');

-- Beyond a truncated point; before the end; lengths that are none.
SELECT kv.truncate('e', 1, 20);
SELECT * FROM fails($$ SELECT kv.append('e', 1, filled(1, 2, 2, 3, 16), filled(1, 2, 2, 3, 16), "position" => 30) $$);
SELECT * FROM fails($$ SELECT kv.append('e', 1, filled(1, 2, 2, 3, 16), filled(1, 2, 2, 3, 16), "position" => 19) $$);
SELECT * FROM fails($$ SELECT kv.truncate('e', 1, 21) $$);
SELECT * FROM fails($$ SELECT kv.truncate('e', 1, -1) $$);
SELECT * FROM fails($$ SELECT kv.truncate('e', 2, 0) $$);
SELECT * FROM fails($$ SELECT kv.fork('e', 1, 1) $$);
SELECT * FROM fails($$ SELECT kv.fork('e', 2, 3) $$);
SELECT * FROM fails($$ SELECT kv.fork('e', 1, 3, 21) $$);
SELECT kv.fork('e', 1, 3);
SELECT * FROM fails($$ SELECT kv.fork('e', 1, 3) $$);
SELECT * FROM fails($$ SELECT kv.seal('e', 2) $$);
SELECT * FROM fails($$ SELECT kv.recode('e', 1, 'zip') $$);
SELECT * FROM fails($$ SELECT kv.fetch('e', 1, 2) $$);
SELECT * FROM fails($$ SELECT kv.fetch('e', 1, 0, 21) $$);
SELECT * FROM fails($$ SELECT kv.fetch('e', 1, 0, 10, 11) $$);
SELECT * FROM fails($$ SELECT kv.fetch('e', 1, 0, 0, 1, 'f64') $$);

-- 2^31 positions: a header that says there are nearly as many refuses more.
CREATE TABLE kept AS SELECT * FROM e WHERE seq = 1;
UPDATE e SET length = 2147483640, sealed = 2147483640 WHERE seq = 1;
SELECT * FROM fails($$ SELECT kv.append('e', 1, filled(1, 2, 2, 7, 16), filled(1, 2, 2, 7, 16)) $$);
UPDATE e SET length = kept.length, sealed = kept.sealed FROM kept WHERE e.seq = 1;
SELECT * FROM fails($$ SELECT (kv.info(t)).tokens FROM kv.encode(filled(1, 1, 3, 16), filled(1, 1, 3, 16), 'int8', 2147483646) t $$);

-- Attention.
SELECT * FROM fails($$ SELECT kv.attend('e', '{1}', 2, filled(1, 1, 4, 16)) $$);
SELECT * FROM fails($$ SELECT kv.attend('e', '{1}', -1, filled(1, 1, 4, 16)) $$);
SELECT * FROM fails($$ SELECT kv.attend('e', '{1,9}', 0, filled(1, 2, 4, 16)) $$);
SELECT * FROM fails($$ SELECT kv.attend('e', '{1,NULL}', 0, filled(1, 2, 4, 16)) $$);
SELECT * FROM fails($$ SELECT kv.attend('e', '{1}', 0, filled(1, 2, 4, 16)) $$);
SELECT * FROM fails($$ SELECT kv.attend('e', '{1}', 0, filled(1, 1, 4, 17)) $$);
SELECT * FROM fails($$ SELECT kv.attend('e', '{1}', 0, filled('NaN', 1, 4, 16)) $$);
SELECT * FROM fails($$ SELECT kv.attend('e', '{1}', 0, filled(1, 1, 4, 16), scale => 'NaN') $$);
SELECT * FROM fails($$ SELECT kv.attend('e', '{1}', 0, filled(1, 1, 4, 16), "window" => 0) $$);
SELECT * FROM fails($$ SELECT kv.attend('e', '{1}', 0, filled(1, 1, 4, 16), softcap => -1) $$);
SELECT * FROM fails($$ SELECT kv.attend('e', '{1}', 0, filled(1, 1, 4, 16), k => filled(1, 1, 2, 1, 16)) $$);
SELECT * FROM fails($$ SELECT kv.attend('e', '{1}', 0, filled(1, 1, 4, 16), k => filled(1, 1, 2, 1, 16), v => filled(1, 1, 2, 2, 16)) $$);
SELECT * FROM fails($$ SELECT kv.attend('e', '{1}', 0, filled(1, 1, 4, 16), k => filled('NaN', 1, 2, 1, 16), v => filled(1, 1, 2, 1, 16)) $$);
SELECT * FROM fails($$ SELECT kv.attend('e', '{1}', 0, filled(1, 1, 4, 16), model => 'other') $$);
SELECT * FROM fails($$ SELECT kv.attend_layers('e', '{1}', '{0,2}', kv.reshape(filled(1, 2, 4, 16), '{2,1,4,16}')) $$);
SELECT * FROM fails($$ SELECT kv.attend_layers('e', '{1}', '{0,1}', filled(1, 1, 4, 16)) $$);
SELECT * FROM fails($$ SELECT kv.weights('e', 1, 0, filled(1, 4, 8)) $$);
SELECT * FROM fails($$ SELECT kv.weights('e', 9, 0, filled(1, 4, 16)) $$);
-- Nothing to attend to: zeros and minus infinity; no sequence: no rows.
SELECT kv.append('e', 5, filled(1, 2, 2, 0, 16), filled(1, 2, 2, 0, 16));
SELECT kv.max_error(output, filled(0, 1, 4, 16)), lse FROM kv.attend('e', '{5}', 0, filled(1, 1, 4, 16), return_lse => true);
SELECT kv.shape(kv.attend('e', '{}', 0, filled(1, 0, 4, 16)));
SELECT count(*) FROM kv.weights('e', 5, 0, filled(1, 4, 16));

-- A read-only transaction reads and writes nothing.
BEGIN READ ONLY;
SELECT kv.length('e', 1), kv.shape(kv.attend('e', '{1}', 0, filled(1, 1, 4, 16)));
SELECT call, state, message FROM unnest(ARRAY[
	$$ kv.append('e', 1, filled(1, 2, 2, 1, 16), filled(1, 2, 2, 1, 16)) $$, $$ kv.append('e', 99, filled(1, 2, 2, 1, 16), filled(1, 2, 2, 1, 16)) $$,
	$$ kv.append('e', 1, filled(1, 2, 2, 0, 16), filled(1, 2, 2, 0, 16)) $$, $$ kv.seal('e', 1) $$, $$ kv.truncate('e', 1, 1) $$, $$ kv.fork('e', 1, 99) $$,
	$$ kv.recode('e', 1, 'int4') $$, $$ kv.drop_sequence('e', 1) $$, $$ kv.create_cache('e2', 2, 4, 2, 16) $$, $$ kv.drop_cache('e') $$]) call,
	fails('SELECT ' || call);
COMMIT;

-- Damage is found where it is read, and named: a missing tile, a tile in the wrong place, a changed bit, a header that lies.
SELECT kv.seal('e', 1);
CREATE TABLE damage AS SELECT s.*, seq FROM e_sealed s JOIN e ON e.extents[1] = s.extent WHERE seq = 1 AND layer = 1 AND head = 1 AND pos = 4;
DELETE FROM e_sealed s USING damage d WHERE (s.extent, s.layer, s.head, s.pos) = (d.extent, d.layer, d.head, d.pos);
SELECT * FROM fails($$ SELECT kv.attend('e', '{1}', 1, filled(1, 1, 4, 16)) $$);
SELECT * FROM fails($$ SELECT kv.attend('e', '{1}', 0, filled(1, 1, 4, 16)) $$);
SELECT problem FROM kv.check_cache('e') WHERE seq = 1;
INSERT INTO e_sealed SELECT d.extent, d.layer, d.head, d.pos, s.tile FROM damage d JOIN e_sealed s ON s.extent = d.extent AND s.layer = 1 AND s.head = 0 AND s.pos = 4;
SELECT * FROM fails($$ SELECT kv.fetch('e', 1, 1) $$);
DELETE FROM e_sealed s USING damage d WHERE (s.extent, s.layer, s.head, s.pos) = (d.extent, d.layer, d.head, d.pos);
INSERT INTO e_sealed SELECT extent, layer, head, pos, tile FROM damage;
SELECT * FROM kv.check_cache('e') WHERE seq = 1;
UPDATE e SET stops = '{5}' WHERE seq = 1;
SELECT * FROM fails($$ SELECT kv.attend('e', '{1}', 1, filled(1, 1, 4, 16)) $$);
UPDATE e SET stops = kept.stops FROM kept WHERE e.seq = 1;
CREATE TABLE intact AS SELECT t.* FROM e_tail t JOIN e ON t.extent = e.extents[cardinality(e.extents)] WHERE e.seq = 3 AND t.pos = 18;
UPDATE e_tail t SET kv = substr(t.kv, 1, length(t.kv) - 1) FROM intact i WHERE (t.extent, t.pos) = (i.extent, i.pos);
SELECT * FROM fails($$ SELECT kv.fetch('e', 3, 1) $$);
SELECT * FROM fails($$ SELECT kv.seal('e', 3) $$);
SELECT count(*) FROM kv.check_cache('e') WHERE seq = 3;
UPDATE e_tail t SET kv = kv.pack_halves('f16{{1,2}}') FROM intact i WHERE (t.extent, t.pos) = (i.extent, i.pos);
SELECT * FROM fails($$ SELECT kv.fetch('e', 3, 1) $$);
SELECT * FROM fails($$ SELECT tile FROM e_tile WHERE seq = 3 AND pos = 18 $$);
UPDATE e_tail t SET kv = i.kv FROM intact i WHERE (t.extent, t.pos) = (i.extent, i.pos);
SELECT * FROM kv.check_cache('e') WHERE seq = 3;
DELETE FROM e_tail t USING e WHERE e.seq = 3 AND t.extent = e.extents[cardinality(e.extents)] AND t.pos = 19;
SELECT * FROM fails($$ SELECT kv.attend('e', '{3}', 1, filled(1, 1, 4, 16)) $$);
SELECT seq, problem FROM kv.check_cache('e') ORDER BY 1, 2;

SELECT kv.drop_cache('e');
DROP TABLE plain, damage, kept, intact;
DROP FUNCTION fails, filled;
