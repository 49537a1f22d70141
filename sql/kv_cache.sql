-- Caches from their making to their end: what kv.create_cache makes, appending, sealing, and the sizes it comes to.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS vectorkv;
RESET client_min_messages;
SET search_path = public, kv;

-- Numbers between -2 and 2, no two alike, [layers, heads, tokens, dim].
CREATE FUNCTION numbers(seed float8, layers int, heads int, tokens int, dim int) RETURNS kv.tensor IMMUTABLE LANGUAGE sql AS $$
	SELECT kv."cast"(kv.reshape(coalesce(array_agg((2 * sin(seed + i * 0.7) * cos(i::float8 * i * 0.013))::real ORDER BY i), '{}')::kv.tensor,
		ARRAY[layers, heads, tokens, dim]), 'f16') FROM generate_series(1, layers * heads * tokens * dim) i $$;

-- Attention in plain SQL over one head: k [tokens, dim], v [tokens, dim], q [dim].
CREATE FUNCTION plain_attention(k kv.tensor, v kv.tensor, q kv.tensor, scale float8) RETURNS float8[] IMMUTABLE LANGUAGE sql AS $$
	WITH logits AS (
		SELECT t, scale * (SELECT sum(kv.element(k, t, d)::float8 * kv.element(q, d)) FROM generate_series(0, (kv.shape(k))[2] - 1) d) z
		FROM generate_series(0, (kv.shape(k))[1] - 1) t),
	weights AS (SELECT t, exp(z - max(z) OVER ()) w FROM logits)
	SELECT array_agg(o ORDER BY d) FROM (
		SELECT d, sum(w * kv.element(v, t, d)) / sum(w) o FROM weights, generate_series(0, (kv.shape(v))[2] - 1) d GROUP BY d) x $$;

SELECT kv.create_cache('chat', layers => 2, q_heads => 4, kv_heads => 2, head_dim => 16, codec => 'int8', tail_tokens => 8,
	model => 'test-model', revision => 'r1');
SELECT cache, sealed, tail, tiles, layers, q_heads, kv_heads, head_dim, value_dim, codec, tail_logged, tail_tokens, sink_tokens, model, revision, keys
FROM kv.caches;
SELECT c.relname, c.relkind, c.relpersistence, pg_get_userbyid(c.relowner) = current_user AS mine FROM pg_class c
WHERE c.relname ~ '^chat(_sealed|_tail|_tile)?$' ORDER BY 1;

-- A sequence is made by its first tokens; one token or many.
SELECT kv.length('chat', 7);
SELECT kv.append('chat', 7, numbers(1, 2, 2, 1, 16), numbers(2, 2, 2, 1, 16));
SELECT kv.append('chat', 7, numbers(3, 2, 2, 5, 16), numbers(4, 2, 2, 5, 16), "position" => 1);
SELECT kv.append('chat', 7, numbers(5, 2, 2, 600, 16), numbers(6, 2, 2, 600, 16), "position" => 6, model => 'test-model', revision => 'r1');
SELECT kv.append('chat', 7, numbers(5, 2, 2, 0, 16), numbers(6, 2, 2, 0, 16));
SELECT kv.length('chat', 7);
SELECT length, sealed, cardinality(extents) AS extents, stops FROM chat WHERE seq = 7;

-- Sinks are halves, the rest is in the cache's codec, and all that is behind the tail and fills a tile is in tiles.
SELECT layer, head, pos, (kv.info(tile)).codec, (kv.info(tile)).tokens FROM chat_sealed ORDER BY layer, head, pos LIMIT 4;
SELECT count(*) = count(DISTINCT (layer, head, pos)) AS once, min(pos), max(pos) < 606 AS inside FROM chat_sealed;
SELECT count(*) AS tail_rows, min(pos) = (SELECT sealed FROM chat WHERE seq = 7) AS begins_behind, max(pos) FROM chat_tail;
SELECT count(*) FROM chat_sealed WHERE kv.check(tile) IS NOT NULL;
SELECT * FROM kv.check_cache('chat');

-- What was appended comes back: halves exactly, codes nearly.
SELECT kv.shape(k), kv.dtype(k), kv.at(kv.slice(k, 1, 0, 1), 0) = kv.at(numbers(1, 2, 2, 1, 16), 1, 0) AS first_token FROM kv.fetch('chat', 7, 1);
SELECT kv.at(kv.slice(k, 1, 1, 3), 0) = kv.slice(kv.at(numbers(3, 2, 2, 5, 16), 0, 0), 0, 0, 3) AS sinks FROM kv.fetch('chat', 7, 0);
SELECT kv.relative_error(k, kv.at(numbers(5, 2, 2, 600, 16), 1)) < 0.01 AS k, kv.relative_error(v, kv.at(numbers(6, 2, 2, 600, 16), 1)) < 0.01 AS v
FROM kv.fetch('chat', 7, 1, first => 6);
SELECT k = kv.slice(kv.at(numbers(5, 2, 2, 600, 16), 0), 1, 592, 8) AS tail_k, v = kv.slice(kv.at(numbers(6, 2, 2, 600, 16), 0), 1, 592, 8) AS tail_v
FROM kv.fetch('chat', 7, 0, 598, 8);
SELECT kv.shape(k) FROM kv.fetch('chat', 7, 0, 606);
SELECT kv.dtype(k), kv.dtype(v), kv.shape(v) FROM kv.fetch('chat', 7, 0, 100, 3, 'f32');

-- One token at a time gives what all at once gives.
DO $$
DECLARE
	k kv.tensor := numbers(11, 2, 2, 300, 16);
	v kv.tensor := numbers(12, 2, 2, 300, 16);
BEGIN
	FOR i IN 0 .. 299 LOOP PERFORM kv.append('chat', 8, kv.slice(k, 2, i, 1), kv.slice(v, 2, i, 1)); END LOOP;
	PERFORM kv.append('chat', 9, k, v);
END $$;
SELECT a.length, a.length = b.length AND a.sealed = b.sealed AS alike FROM chat a, chat b WHERE a.seq = 8 AND b.seq = 9;
SELECT count(*) AS layers, bool_and(a.k = b.k AND a.v = b.v) AS alike
FROM generate_series(0, 1) l, kv.fetch('chat', 8, l) a, kv.fetch('chat', 9, l) b;

-- kv.seal empties the tail; appending goes on behind it.
SELECT kv.seal('chat', 8) > 0 AS sealed_some, kv.seal('chat', 8) AS nothing_left;
SELECT length, sealed FROM chat WHERE seq = 8;
SELECT count(*) FROM chat_tail t JOIN chat h ON t.extent = ANY (h.extents) WHERE h.seq = 8;
SELECT kv.append('chat', 8, numbers(3, 2, 2, 5, 16), numbers(4, 2, 2, 5, 16));
SELECT * FROM kv.check_cache('chat');

-- An f16 cache needs no exact tail: all full tiles are sealed at once, and nothing is lost.
SELECT kv.create_cache('exact', 1, 2, 1, 64, codec => 'f16');
SELECT kv.append('exact', 1, numbers(1, 1, 1, 100, 64), numbers(2, 1, 1, 100, 64));
SELECT length, sealed FROM exact;
SELECT k = kv.at(numbers(1, 1, 1, 100, 64), 0) AS k, v = kv.at(numbers(2, 1, 1, 100, 64), 0) AS v FROM kv.fetch('exact', 1, 0);

-- Attention is what plain SQL says it is.
CREATE TABLE asked AS SELECT kv.at(numbers(21, 1, 1, 2, 64), 0) AS q;
SELECT max(abs(got - want)) < 1e-5 AS same FROM asked, kv.fetch('exact', 1, 0) f,
	generate_series(0, 1) h, LATERAL unnest(plain_attention(kv.at(f.k, 0), kv.at(f.v, 0), kv.at(q, 0, h), 0.125),
		kv.at(kv.attend('exact', '{1}', 0, q), 0, h)::real[]) AS u (want, got);

-- Values of other dimensions, and values inside the keys.
SELECT kv.create_cache('uneven', 2, 4, 2, 24, codec => 'int4', value_dim => 40);
SELECT kv.append('uneven', 1, numbers(1, 2, 2, 300, 24), numbers(2, 2, 2, 300, 40));
SELECT kv.shape(k), kv.shape(v) FROM kv.fetch('uneven', 1, 1);
SELECT kv.shape(kv.attend('uneven', '{1}', 0, kv.slice(numbers(3, 1, 4, 1, 24), 2, 0, 1)));
SELECT kv.create_cache('latent', 1, 4, 1, 48, codec => 'f16', value_dim => 32, values_in_keys => true);
SELECT kv.append('latent', 1, numbers(1, 1, 1, 100, 48), NULL);
SELECT kv.shape(v), v = kv.slice(kv.at(numbers(1, 1, 1, 100, 48), 0), 2, 0, 32) AS prefix FROM kv.fetch('latent', 1, 0);
SELECT kv.relative_error((SELECT kv.attention(q, tile) FROM latent_tile WHERE seq = 1), kv.at(kv.attend('latent', '{1}', 0, kv.reshape(q, '{1,4,48}')), 0)) < 1e-5 AS view_agrees
FROM (SELECT kv.at(numbers(3, 1, 1, 4, 48), 0, 0) AS q) x;
SELECT * FROM kv.check_cache('uneven') UNION ALL SELECT * FROM kv.check_cache('latent');

-- The largest halves stay finite, whatever the codec makes of them.
SELECT kv.create_cache('large', 1, 1, 1, 64, codec => 'int4', tail_tokens => 0, sink_tokens => 0);
SELECT kv.append('large', 1, x, x) FROM (SELECT kv.reshape(array_fill(65504::real, ARRAY[64 * 300])::kv.tensor, '{1,1,300,64}') AS x) t;
SELECT kv.max_error(k, k) AS k, kv.relative_error(v, kv.reshape(array_fill(65504::real, ARRAY[64 * 300])::kv.tensor, '{1,300,64}')) < 0.2 AS v FROM kv.fetch('large', 1, 0);
SELECT kv.drop_cache('large');

-- Renamed, moved to another schema, still a cache.
ALTER TABLE uneven RENAME TO odd;
CREATE SCHEMA elsewhere;
ALTER TABLE odd SET SCHEMA elsewhere;
SELECT kv.length('elsewhere.odd', 1), kv.append('elsewhere.odd', 1, numbers(1, 2, 2, 1, 24), numbers(2, 2, 2, 1, 40));
SELECT cache FROM kv.caches ORDER BY cache::text;
-- What names a cache there goes where a regclass goes.
SELECT coalesce(cache, 'pg_class'::regclass) AS either, cache::bigint = cache::oid::bigint AS number, cache = 'chat'::regclass AS chat FROM kv.caches ORDER BY cache::text;
SELECT cache FROM kv.caches UNION SELECT 'pg_class'::regclass ORDER BY 1 LIMIT 1;
SELECT c.relname FROM kv.caches JOIN pg_class c ON c.oid = cache WHERE cache IN ('chat'::regclass, 'exact'::regclass) ORDER BY 1;
SELECT ''::kv.relation;
SELECT '-'::kv.relation, 'no_such'::kv.relation;

-- A rollback leaves nothing, and what comes after it is right.
BEGIN;
SELECT kv.append('exact', 1, numbers(5, 1, 1, 90, 64), numbers(6, 1, 1, 90, 64));
SELECT kv.max_error(kv.attend('exact', '{1}', 0, q), kv.attend('exact', '{1}', 0, q)) AS twice FROM asked;
ROLLBACK;
SELECT kv.length('exact', 1), count(*) AS tiles FROM exact_sealed;
SELECT kv.append('exact', 1, numbers(7, 1, 1, 90, 64), numbers(8, 1, 1, 90, 64));
SELECT k = kv.at(numbers(7, 1, 1, 90, 64), 0) AS k FROM kv.fetch('exact', 1, 0, 100);
SELECT * FROM kv.check_cache('exact');

-- Halves hold what bf16 does but for the smallest numbers, which a notice says once.
CREATE FUNCTION same_bf16(x real) RETURNS kv.tensor LANGUAGE sql AS $$ SELECT kv."cast"(kv.reshape(array_fill(x, ARRAY[64])::kv.tensor, '{1,1,1,64}'), 'bf16') $$;
SELECT kv.append('exact', 3, same_bf16(0.01), same_bf16(0.00001)), kv.append('exact', 3, same_bf16(65280), same_bf16(0));
SELECT kv.append('exact', 3, same_bf16(1e-7), same_bf16(1));
SELECT kv.append('exact', 3, same_bf16(1e-7), same_bf16(1e-30));
SELECT kv.drop_sequence('exact', 3);
DROP FUNCTION same_bf16;

-- A cache is there for what follows in the statement that made it.
SELECT kv.append(kv.create_cache('fresh', 1, 1, 1, 64), 1, numbers(1, 1, 1, 3, 64), numbers(2, 1, 1, 3, 64));
SELECT kv.append('fresh', 1, numbers(1, 1, 1, 3, 64), numbers(2, 1, 1, 3, 64)), kv.append('fresh', 1, numbers(1, 1, 1, 3, 64), numbers(2, 1, 1, 3, 64));
SELECT kv.drop_cache('fresh');

-- The end.
SELECT kv.drop_sequence('chat', 7), kv.drop_sequence('chat', 7);
SELECT kv.drop_sequence('chat', 8), kv.drop_sequence('chat', 9);
SELECT (SELECT count(*) FROM chat) AS sequences, (SELECT count(*) FROM chat_sealed) AS tiles, (SELECT count(*) FROM chat_tail) AS tail;
SELECT kv.drop_cache('chat'), kv.drop_cache('exact'), kv.drop_cache('elsewhere.odd'), kv.drop_cache('latent');
SELECT count(*) FROM kv.caches;
SELECT count(*) FROM pg_class WHERE relname ~ '^(chat|exact|uneven|odd|latent)';
DROP SCHEMA elsewhere;
DROP TABLE asked;
DROP FUNCTION numbers, plain_attention;
