-- Attention over caches: every option against plain SQL, every codec against its own decoded tensors, batches, layers, positions that are
-- not stored yet, and the statistics.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS vectorkv;
RESET client_min_messages;
SET search_path = public, kv;
CREATE FUNCTION numbers(seed float8, layers int, heads int, tokens int, dim int) RETURNS kv.tensor IMMUTABLE LANGUAGE sql AS $$
	SELECT kv."cast"(kv.reshape(coalesce(array_agg((2 * sin(seed + i * 0.7) * cos(i::float8 * i * 0.013))::real ORDER BY i), '{}')::kv.tensor,
		ARRAY[layers, heads, tokens, dim]), 'f16') FROM generate_series(1, layers * heads * tokens * dim) i $$;
-- One query head over one KV head in plain SQL. k [tokens, dim], v [tokens, dim], q [dim]; the query is at the last position.
CREATE FUNCTION plain(k kv.tensor, v kv.tensor, q kv.tensor, scale float8 DEFAULT 0.25, win int DEFAULT 1000000, sinks int DEFAULT 0,
	softcap float8 DEFAULT NULL, seen int DEFAULT 1000000) RETURNS kv.tensor LANGUAGE sql AS $$
	WITH raw AS MATERIALIZED (
		SELECT t, scale * (SELECT sum(x::float8 * y) FROM unnest(kv.at(k, t)::real[], q::real[]) AS u (x, y)) z
		FROM generate_series(0, (kv.shape(k))[1] - 1) t),
	logits AS (SELECT t, CASE WHEN softcap IS NULL THEN z ELSE softcap * tanh(z / softcap) END z FROM raw
		WHERE t < seen AND (t < sinks OR t >= least((kv.shape(k))[1], seen) - win)),
	weights AS MATERIALIZED (SELECT t, exp(z - (SELECT max(z) FROM logits)) w FROM logits)
	SELECT (array_agg(o ORDER BY d))::real[]::kv.tensor FROM (
		SELECT d, (sum(w * x) / sum(w))::real o FROM weights, unnest(kv.at(v, t)::real[]) WITH ORDINALITY AS u (x, d) GROUP BY d) s $$;

SELECT kv.create_cache('a_' || c, 2, 4, 2, 16, codec => c, tail_tokens => 8) FROM unnest('{f16,int8,int4,int3,int2,int4_uniform,int4_rotated}'::text[]) c;
CREATE TABLE kv_new AS SELECT numbers(1, 2, 2, 520, 16) AS k, numbers(2, 2, 2, 520, 16) AS v;
CREATE TABLE caches_here AS SELECT c, ('a_' || c)::regclass AS cache FROM unnest('{f16,int8,int4,int3,int2,int4_uniform,int4_rotated}'::text[]) c;
SELECT c, kv.append(cache, 1, k, v) FROM caches_here, kv_new ORDER BY c;
CREATE TABLE asked AS SELECT kv.slice(numbers(5, 1, 4, 1, 16), 0, 0, 1) AS q4, kv.reshape(numbers(5, 1, 4, 1, 16), '{1,4,16}') AS q;

-- Every codec: the error against plain SQL over what kv.fetch decodes.
SELECT c, max(kv.max_error(kv.at(kv.attend(cache, '{1}', l, q), 0, h), plain(kv.at(f.k, h / 2), kv.at(f.v, h / 2), kv.at(q, 0, h)))) < 2e-5 AS right
FROM asked, caches_here, generate_series(0, 1) l, generate_series(0, 3) h, LATERAL kv.fetch(cache, 1, l, dtype => 'f32') f GROUP BY c ORDER BY c;

-- Options, on halves and on codes.
CREATE TABLE options AS SELECT * FROM (VALUES
	('scale', 0.1::float8, NULL::int, NULL::int, NULL::float8), ('window', NULL, 40, NULL, NULL), ('window and sinks', NULL, 40, 6, NULL),
	('softcap', NULL, NULL, NULL, 1.5), ('all', 0.3, 100, 3, 2), ('one token', NULL, 1, 0, NULL)) o (name, scale, win, sinks, softcap);
SELECT c, name, max(kv.max_error(kv.at(kv.attend(cache, '{1}', 1, q, scale => o.scale, "window" => o.win, sinks => o.sinks, softcap => o.softcap), 0, h),
	plain(kv.at(f.k, h / 2), kv.at(f.v, h / 2), kv.at(q, 0, h), coalesce(o.scale, 0.25), coalesce(o.win, 1000000), coalesce(o.sinks, 0), o.softcap))) < 2e-5 AS right
FROM asked, caches_here, options o, generate_series(0, 3) h, LATERAL kv.fetch(cache, 1, 1, dtype => 'f32') f WHERE c IN ('f16', 'int8', 'int2')
GROUP BY c, name ORDER BY c, name;

-- Several query positions: causal by default.
CREATE TABLE asked5 AS SELECT numbers(7, 1, 4, 5, 16) AS q;
SELECT c, causal, max(kv.max_error(kv.at(kv.attend(cache, '{1}', 0, q, causal => causal), 0, h, i),
	plain(kv.at(f.k, h / 2), kv.at(f.v, h / 2), kv.at(q, 0, h, i), seen => CASE WHEN causal THEN 516 + i ELSE 520 END))) < 2e-5 AS right
FROM asked5, caches_here, unnest('{t,f}'::boolean[]) causal, generate_series(0, 3) h, generate_series(0, 4) i, LATERAL kv.fetch(cache, 1, 0, dtype => 'f32') f
WHERE c IN ('f16', 'int4') GROUP BY c, causal ORDER BY c, causal;

-- Tokens that are not stored yet count as if they were.
SELECT kv.append('a_f16', 2, kv.slice(k, 2, 0, 500), kv.slice(v, 2, 0, 500)) FROM kv_new;
SELECT l, kv.max_error(kv.attend('a_f16', '{1}', l, q), kv.attend('a_f16', '{2}', l, q,
	k => kv.reshape(kv.slice(kv.at(k, l), 1, 500, 20), '{1,2,20,16}'), v => kv.reshape(kv.slice(kv.at(v, l), 1, 500, 20), '{1,2,20,16}'))) < 1e-6 AS same
FROM asked5, kv_new, generate_series(0, 1) l ORDER BY l;
SELECT kv.max_error(kv.attend('a_f16', '{2}', 0, q, "window" => 30), kv.attend('a_f16', '{2}', 0, q, "window" => 30, causal => false)) > 0.01 AS causal_matters FROM asked5;

-- Batches of sequences of different lengths, several layers at once, the logarithm of the sum.
SELECT kv.append('a_int8', 3, numbers(31, 2, 2, 3, 16), numbers(32, 2, 2, 3, 16));
SELECT kv.fork('a_int8', 1, 4, 77);
-- The same to the bit, unless a helper answers: it adds up in an order that depends on the batch.
SELECT bool_and(kv.relative_error(kv.at(kv.attend('a_int8', '{4,3,1,3}', 1, b), i), kv.at(kv.attend('a_int8', ARRAY[('{4,3,1,3}'::bigint[])[i + 1]], 1,
	kv.slice(b, 0, i, 1)), 0)) <= CASE (SELECT state FROM kv.gpu_status()) WHEN 'absent' THEN 0 ELSE 1e-6 END) AS same
FROM (SELECT kv.reshape(numbers(8, 1, 4, 4, 16), '{4,4,16}') AS b) x, generate_series(0, 3) i;
SELECT kv.at(kv.attend_layers('a_int8', '{3,1}', '{1,0,1}', q), 0) = kv.attend('a_int8', '{3,1}', 1, kv.at(q, 0)) AS layer_1,
	kv.at(kv.attend_layers('a_int8', '{3,1}', '{1,0,1}', q), 1) = kv.attend('a_int8', '{3,1}', 0, kv.at(q, 1)) AS layer_0
FROM (SELECT kv.reshape(numbers(9, 3, 4, 2, 16), '{3,2,4,16}') AS q) x;
SELECT kv.shape(output), kv.shape(lse) FROM asked5, kv.attend('a_int8', '{1}', 0, q, return_lse => true);
SELECT kv.shape(output), lse IS NULL AS none FROM asked5, kv.attend('a_int8', '{1}', 0, q, return_lse => false);
SELECT kv.shape(output), kv.shape(lse) FROM kv.attend_layers('a_int8', '{3,1}', '{1,0}', kv.reshape(numbers(9, 2, 4, 2, 16), '{2,2,4,16}'), return_lse => true);
SELECT max(abs(kv.element(lse, 0, h) - (SELECT ln(sum(exp(0.25 * kv.element(kv.reshape(kv.at(f.k, h / 2), ARRAY[520, 16]), t, 0) * 0)))
	FROM generate_series(0, 519) t))) < 1e-5 AS lse_of_zero_query
FROM kv.fetch('a_f16', 1, 0, dtype => 'f32') f, generate_series(0, 3) h,
	kv.attend('a_f16', '{1}', 0, kv.reshape(array_fill(0::real, ARRAY[64])::kv.tensor, '{1,4,16}'), return_lse => true);

-- The aggregate over the view gives the same; so do partial states merged.
SELECT c, kv.relative_error((SELECT kv.attention(kv.at(q, 0), t.tile) FROM a_int8_tile t WHERE seq = 1 AND layer = 1), kv.at(kv.attend('a_int8', '{1}', 1, q), 0)) < 1e-5 AS whole,
	kv.relative_error((SELECT (kv.finish(kv.merge(s))).output FROM (SELECT kv.merge(kv.partial(kv.at(q, 0), t.tile)) s FROM a_int8_tile t
		WHERE seq = 1 AND layer = 1 GROUP BY t.head, t.pos % 3) x), kv.at(kv.attend('a_int8', '{1}', 1, q), 0)) < 1e-5 AS in_parts
FROM asked, caches_here WHERE c = 'int8';

-- Weights sum to one, and their mean of the values is the output.
SELECT head, count(*), max(abs(weight - 1)) < 1e-5 AS one, kv.max_error((array_agg(o ORDER BY d))::real[]::kv.tensor, kv.at((SELECT kv.attend('a_int4', '{1}', 0, q) FROM asked), 0, head)) < 2e-5 AS output
FROM (SELECT head, d, sum(weight * x)::real AS o, count(*), sum(weight) AS weight FROM asked, kv.fetch('a_int4', 1, 0, dtype => 'f32') f,
	kv.weights('a_int4', 1, 0, kv.at(q, 0)) w, unnest(kv.at(f.v, head / 2, w."position")::real[]) WITH ORDINALITY AS u (x, d) GROUP BY head, d) s
GROUP BY head ORDER BY head;
SELECT min("position"), max("position"), count(*) FROM asked, kv.weights('a_int8', 1, 0, kv.at(q, 0), "window" => 10, sinks => 2);

-- Keys stored before RoPE give what keys stored after it give.
SELECT kv.create_cache('pre', 1, 2, 1, 8, codec => 'f16', keys => 'before_rope', rope_theta => 10000, rope_pairing => p) FROM unnest('{half}'::text[]) p;
SELECT kv.create_cache('pre2', 1, 2, 1, 8, codec => 'f16', keys => 'before_rope', rope_frequencies => '{1,0.1,0.01,0.001}', rope_pairing => 'interleaved');
SELECT kv.create_cache('post', 1, 2, 1, 8, codec => 'f16', rope_theta => 10000);
CREATE FUNCTION turned(k kv.tensor, pairing text) RETURNS kv.tensor LANGUAGE sql AS $$
	SELECT kv.reshape(array_agg(CASE WHEN second THEN y * cos(a) + x * sin(a) ELSE x * cos(a) - y * sin(a) END::real ORDER BY t, d)::real[]::kv.tensor, kv.shape(k))
	FROM (SELECT t, d, CASE pairing WHEN 'half' THEN d >= 4 ELSE d % 2 = 1 END AS second,
			kv.element(k, 0, 0, t, CASE pairing WHEN 'half' THEN d % 4 ELSE d / 2 * 2 END)::float8 AS x,
			kv.element(k, 0, 0, t, CASE pairing WHEN 'half' THEN d % 4 + 4 ELSE d / 2 * 2 + 1 END)::float8 AS y,
			t * 10000::float8 ^ (-(CASE pairing WHEN 'half' THEN d % 4 ELSE d / 2 END) / 4.0) AS a
		FROM generate_series(0, (kv.shape(k))[3] - 1) t, generate_series(0, 7) d) s $$;
CREATE TABLE pre_keys AS SELECT numbers(41, 1, 1, 300, 8) AS k, numbers(42, 1, 1, 300, 8) AS v, kv.reshape(numbers(43, 1, 1, 2, 8), '{1,2,8}') AS q;
SELECT kv.append('pre', 1, k, v), kv.append('pre2', 1, k, v), kv.append('post', 1, turned(k, 'half'), v), kv.append('post', 2, turned(k, 'interleaved'), v) FROM pre_keys;
SET client_min_messages = warning; -- a helper leaves them to the CPU, and says so
SELECT kv.relative_error(kv.attend('pre', '{1}', 0, q), kv.attend('post', '{1}', 0, q)) < 2e-3 AS half,
	kv.relative_error(kv.attend('pre2', '{1}', 0, q), kv.attend('post', '{2}', 0, q)) < 2e-3 AS interleaved,
	kv.relative_error(kv.attend('pre', '{1}', 0, q), kv.attend('post', '{2}', 0, q)) > 2e-2 AS pairing_matters FROM pre_keys;
RESET client_min_messages;
SELECT kv.recode('pre', 1, 'int8') AS recoded;
SELECT kv.relative_error(kv.attend('pre', '{1}', 0, q), kv.attend('post', '{1}', 0, q)) < 2e-2 AS coded FROM pre_keys;

-- The statistics of the session.
SELECT kv.reset_stats();
SELECT kv.shape(kv.attend('a_int8', '{1,3}', 0, kv.reshape(numbers(8, 1, 4, 2, 16), '{2,4,16}')));
SELECT operation, calls, sequences, tokens, tiles > 2 AS tiles, bytes > 0 AS bytes, milliseconds > 0 AS time, last_tokens, backend ~ '^(cpu|helper) ' AS named FROM kv.stats ORDER BY operation;

SELECT count(kv.drop_cache(cache)) FROM kv.caches;
DROP TABLE kv_new, caches_here, asked, asked5, options, pre_keys;
DROP FUNCTION numbers, plain, turned;
