-- kv.truncate, kv.fork, kv.recode and kv.drop_sequence: shared tiles are shared, cut at the right token, and deleted with the last
-- sequence that needs them.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS vectorkv;
RESET client_min_messages;
SET search_path = public, kv;
CREATE FUNCTION numbers(seed float8, layers int, heads int, tokens int, dim int) RETURNS kv.tensor IMMUTABLE LANGUAGE sql AS $$
	SELECT kv."cast"(kv.reshape(coalesce(array_agg((2 * sin(seed + i * 0.7) * cos(i::float8 * i * 0.013))::real ORDER BY i), '{}')::kv.tensor,
		ARRAY[layers, heads, tokens, dim]), 'f16') FROM generate_series(1, layers * heads * tokens * dim) i $$;
-- Do two sequences hold the same tokens from first on?
CREATE FUNCTION alike(cache regclass, a bigint, b bigint, first int, count int) RETURNS boolean LANGUAGE sql AS $$
	SELECT bool_and(x.k = y.k AND x.v = y.v) FROM generate_series(0, 1) l, kv.fetch(cache, a, l, first, count) x, kv.fetch(cache, b, l, first, count) y $$;

SELECT kv.create_cache('s', 2, 4, 2, 32, codec => 'int8', tail_tokens => 16);
SELECT kv.append('s', 1, numbers(1, 2, 2, 700, 32), numbers(2, 2, 2, 700, 32));
CREATE TABLE before AS SELECT * FROM s WHERE seq = 1;
CREATE TABLE tiles_before AS SELECT ctid AS at, extent, layer, head, pos FROM s_sealed;

-- A fork copies no tile.
SELECT kv.fork('s', 1, 2);
SELECT count(*) = (SELECT count(*) FROM tiles_before) AS none_copied FROM s_sealed;
SELECT alike('s', 1, 2, 0, 700);
SELECT h.epoch <> b.epoch AS own_epoch, h.length = b.length AS same_length, h.extents[1] = b.extents[1] AS shared FROM s h, before b WHERE h.seq = 2;
-- In the middle of a tile, and inside the tail.
SELECT kv.fork('s', 1, 3, 333), kv.fork('s', 1, 4, 695), kv.fork('s', 3, 5, 100);
SELECT kv.length('s', 3), kv.length('s', 4), kv.length('s', 5), alike('s', 1, 3, 0, 333), alike('s', 1, 4, 0, 695), alike('s', 1, 5, 0, 100);
SELECT seq, length, sealed <= length AS ok, cardinality(extents) FROM s ORDER BY seq;
-- Each goes its own way.
SELECT kv.append('s', 2, numbers(3, 2, 2, 200, 32), numbers(4, 2, 2, 200, 32)), kv.append('s', 3, numbers(5, 2, 2, 200, 32), numbers(6, 2, 2, 200, 32));
-- What the fork seals of its copy of the tail is coded; the parent still has it exactly.
SELECT alike('s', 1, 2, 0, (SELECT sealed FROM before)), alike('s', 1, 3, 0, 333), alike('s', 1, 2, 690, 10) AS sealed_by_now;
SELECT kv.relative_error(k, kv.at(numbers(5, 2, 2, 200, 32), 0)) < 0.01 AS own_tokens FROM kv.fetch('s', 3, 0, 333);
SELECT kv.length('s', 1), (SELECT epoch FROM s WHERE seq = 1) = (SELECT epoch FROM before) AS parent_unchanged;
SELECT * FROM kv.check_cache('s');
-- Attention over a shared tile stops where the sequence stops.
CREATE TABLE q AS SELECT kv."cast"(kv.reshape(kv.at(numbers(9, 1, 1, 4, 32), 0), '{1,4,32}'), 'f32') AS q;
SELECT kv.append('s', 6, kv.reshape(kv.concat((kv.fetch('s', 5, 0)).k, (kv.fetch('s', 5, 1)).k, 0), '{2,2,100,32}'),
	kv.reshape(kv.concat((kv.fetch('s', 5, 0)).v, (kv.fetch('s', 5, 1)).v, 0), '{2,2,100,32}'));
SELECT kv.relative_error(kv.attend('s', '{5}', 1, q), kv.attend('s', '{6}', 1, q)) < 0.01 AS same FROM q;
SELECT kv.relative_error((SELECT kv.attention(kv.at(q, 0), tile) FROM s_tile WHERE seq = 5 AND layer = 1), kv.at(kv.attend('s', '{5}', 1, q), 0)) < 1e-5 AS view_agrees
FROM q;

-- Truncation: in the tail, in a shared tile, to nothing.
SELECT kv.truncate('s', 4, 690), kv.truncate('s', 2, 500), kv.truncate('s', 5, 0);
SELECT seq, length, sealed FROM s WHERE seq IN (2, 4, 5) ORDER BY seq;
SELECT alike('s', 1, 4, 0, 690), alike('s', 1, 2, 0, 500), alike('s', 1, 3, 0, 333);
SELECT kv.append('s', 2, numbers(13, 2, 2, 30, 32), numbers(14, 2, 2, 30, 32), "position" => 500), alike('s', 1, 2, 0, 500);
SELECT k = kv.slice(kv.at(numbers(13, 2, 2, 30, 32), 1), 1, 14, 16) AS new_tail FROM kv.fetch('s', 2, 1, 514);
SELECT kv.truncate('s', 2, 530), kv.truncate('s', 1, 700);
SELECT (SELECT epoch FROM s WHERE seq = 1) = (SELECT epoch FROM before) AS nothing_changed;
SELECT kv.attend('s', '{5}', 0, q) = kv.reshape(array_fill(0::real, ARRAY[128])::kv.tensor, '{1,4,32}') AS empty_sequence_gives_zero FROM q;
SELECT (a).lse FROM (SELECT kv.attend('s', '{5}', 0, q, return_lse => true) a FROM q) x;
SELECT * FROM kv.check_cache('s');

-- Another codec: for this sequence only.
SELECT kv.recode('s', 3, 'int4') > 0 AS recoded;
SELECT array_agg(DISTINCT (kv.info(tile)).codec ORDER BY (kv.info(tile)).codec) FROM s_tile WHERE seq = 3;
SELECT array_agg(DISTINCT (kv.info(tile)).codec ORDER BY (kv.info(tile)).codec) FROM s_tile WHERE seq = 1;
SELECT kv.relative_error(x.k, y.k) < 0.15 AS near FROM kv.fetch('s', 1, 0, 0, 333) x, kv.fetch('s', 3, 0, 0, 333) y;
SELECT kv.append('s', 3, numbers(15, 2, 2, 3, 32), numbers(16, 2, 2, 3, 32)) = kv.length('s', 3) AS still_old_in_this_snapshot;
SELECT kv.recode('s', 1, 'int8') > 0 AS same_codec, kv.recode('s', 5, 'int4') AS nothing_to_do;
SELECT alike('s', 1, 4, 600, 90);
SELECT * FROM kv.check_cache('s');

-- Tiles go with the last sequence that needs them.
SELECT kv.drop_sequence('s', 1), kv.drop_sequence('s', 3);
SELECT * FROM kv.check_cache('s');
SELECT kv.length('s', 2), kv.length('s', 4);
SELECT count(*) > 0 AS still_shared FROM s_sealed;
SELECT kv.drop_sequence('s', 4);
SELECT max(pos) < 500 AS beyond_is_gone FROM s_sealed JOIN before b ON s_sealed.extent = b.extents[1];
SELECT kv.drop_sequence('s', seq) FROM s ORDER BY seq;
SELECT (SELECT count(*) FROM s) AS sequences, (SELECT count(*) FROM s_sealed) AS tiles, (SELECT count(*) FROM s_tail) AS tail;
SELECT kv.drop_cache('s');

-- Tiles that carry means of channels, cut short by a fork and a truncation: the parts carry them, too.
CREATE FUNCTION biased(seed float8, tokens int) RETURNS kv.tensor IMMUTABLE LANGUAGE sql AS $$
	SELECT kv."cast"(kv.reshape(array_agg(((n.v)::float8 + CASE (n.i - 1) % 32 WHEN 3 THEN 40 WHEN 17 THEN -25 ELSE 0 END)::real ORDER BY n.i)::kv.tensor, ARRAY[2, 2, tokens, 32]), 'f16')
	FROM unnest(numbers(seed, 2, 2, tokens, 32)::float4[]) WITH ORDINALITY AS n (v, i) $$;
SELECT kv.create_cache('m', 2, 4, 2, 32, codec => 'int4', tail_tokens => 0, sink_tokens => 0);
SELECT kv.append('m', 1, biased(1, 500), biased(2, 500));
SELECT count(*) > 0 AND min(get_byte(kv.tile_send(tile), 14)) > 0 AS all_have_means FROM m_sealed;
CREATE TABLE whole AS SELECT l, k, v FROM generate_series(0, 1) l, kv.fetch('m', 1, l);
SELECT kv.fork('m', 1, 2, 333), kv.fork('m', 1, 3, 1), kv.truncate('m', 1, 450);
SELECT seq, bool_and(f.k = kv.slice(w.k, 1, 0, kv.length('m', seq)) AND f.v = kv.slice(w.v, 1, 0, kv.length('m', seq))) AS as_it_was
FROM m, whole w, kv.fetch('m', seq, w.l) f GROUP BY seq ORDER BY seq;
SELECT seq, kv.relative_error((SELECT kv.attention(kv.at(q, 0), tile) FROM m_tile t WHERE t.seq = m.seq AND layer = 1), kv.at(kv.attend('m', ARRAY[seq], 1, q), 0)) < 1e-5 AS view_agrees
FROM m, q ORDER BY seq;
SELECT * FROM kv.check_cache('m');
SELECT kv.drop_cache('m');
DROP TABLE whole;
DROP FUNCTION biased;
DROP TABLE before, tiles_before, q;
DROP FUNCTION numbers, alike;
