-- Columns that owners add to the tables of a cache are theirs, whatever they hold: null or not, older than the rows or younger,
-- computed, dropped again.
CREATE EXTENSION IF NOT EXISTS vectorkv;
SET client_min_messages = warning;

CREATE FUNCTION waves(count int, shape int[], s float) RETURNS kv.tensor LANGUAGE sql AS
	$$ SELECT kv.reshape(array_agg(sin(i * s))::real[]::kv.tensor, shape) FROM generate_series(1, count) AS i $$;
-- What a sequence of 300 tokens answers, by every way in which it is read.
CREATE FUNCTION answers(cache regclass, sequence bigint) RETURNS text LANGUAGE sql AS
	$$ SELECT concat_ws(' ', kv.length(cache, sequence), kv.attend(cache, ARRAY[sequence], 0, waves(32, '{1,2,16}', 0.2)),
		(SELECT md5(kv.bytes(f.k) || kv.bytes(f.v)) FROM kv.fetch(cache, sequence, 0) f),
		(SELECT count(*) FROM kv.weights(cache, sequence, 0, waves(32, '{2,16}', 0.2)))) $$;
CREATE FUNCTION filled(cache regclass, sequence bigint, tokens int) RETURNS int LANGUAGE sql AS
	$$ SELECT kv.append(cache, sequence, waves(tokens * 16, ARRAY[1, 1, tokens, 16], 0.37), waves(tokens * 16, ARRAY[1, 1, tokens, 16], 0.73)) $$;

CREATE TABLE plain AS SELECT kv.create_cache('plain_cache', layers => 1, q_heads => 2, kv_heads => 1, head_dim => 16, tail_tokens => 8) AS cache;
SELECT filled('plain_cache', 1, 300);

SELECT kv.create_cache('added', layers => 1, q_heads => 2, kv_heads => 1, head_dim => 16, tail_tokens => 8) IS NOT NULL;
DO $$
DECLARE
	change text;
	name text;
	n int := 0;
	wanted text := answers('plain_cache', 1);
BEGIN
	FOREACH change IN ARRAY ARRAY['ADD COLUMN no_value text', 'ADD COLUMN a_default int DEFAULT 5', 'ADD COLUMN a_volatile_default float DEFAULT random()',
		'ADD COLUMN computed text GENERATED ALWAYS AS (''x'') STORED', 'ADD COLUMN dropped int DEFAULT 7', 'DROP COLUMN dropped',
		'ADD COLUMN c1 int, ADD COLUMN c2 int, ADD COLUMN c3 int, ADD COLUMN c4 int, ADD COLUMN c5 int, ADD COLUMN c6 int, ADD COLUMN c7 int, ADD COLUMN c8 int, ADD COLUMN c9 int',
		'DROP COLUMN a_default', 'DROP COLUMN no_value']
	LOOP
		FOREACH name IN ARRAY ARRAY['added', 'added_sealed', 'added_tail'] LOOP
			EXECUTE format('ALTER TABLE %I %s', name, change);
			n := n + 1;
			PERFORM filled('added', n, 300);
			PERFORM kv.fork('added', n, 1000 + n, 250);
			FOR i IN 1 .. n LOOP
				IF answers('added', i) IS DISTINCT FROM wanted THEN RAISE EXCEPTION 'after % on %, sequence % answers otherwise', change, name, i; END IF;
			END LOOP;
			IF EXISTS (SELECT FROM kv.check_cache('added')) THEN RAISE EXCEPTION 'after % on %: %', change, name, (SELECT c FROM kv.check_cache('added') c LIMIT 1); END IF;
		END LOOP;
	END LOOP;
	RAISE INFO '% changes', n;
END $$;
SELECT count(*), count(*) FILTER (WHERE s.c9 IS NULL) AS with_nulls FROM added_sealed s;
-- What is done to such rows.
SELECT kv.truncate('added', 1, 100), kv.recode('added', 2, 'int4') > 0, kv.seal('added', 3), kv.drop_sequence('added', 4);
SELECT kv.length('added', seq) FROM generate_series(1, 4) seq;
SELECT * FROM kv.check_cache('added');

-- A tile that is null itself is damaged, as it was.
ALTER TABLE added_sealed ALTER COLUMN tile DROP NOT NULL;
UPDATE added_sealed SET tile = NULL WHERE ctid = (SELECT s.ctid FROM added_sealed s JOIN added h ON s.extent = h.extents[1] WHERE h.seq = 5 ORDER BY pos LIMIT 1);
\set VERBOSITY sqlstate
SELECT answers('added', 5);
\set VERBOSITY default
SELECT kv.drop_cache('plain_cache'), kv.drop_cache('added');
DROP TABLE plain;
DROP FUNCTION waves, answers, filled;
