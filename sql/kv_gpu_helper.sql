-- The GPU helper's answers beside those of the CPU, on whatever device it has. Only where the library is preloaded and a helper runs
-- (vectorkv.gpu_device = 'cpu' is enough); elsewhere there is nothing to compare.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS vectorkv;
DO $$
BEGIN
	FOR i IN 1 .. 300 LOOP
		EXIT WHEN (SELECT state IN ('ready', 'absent', 'off', 'no device') FROM kv.gpu_status());
		PERFORM pg_sleep(0.1);
	END LOOP;
END $$;
SELECT state = 'ready' AS ready FROM kv.gpu_status() \gset
\if :ready
\else
\quit
\endif
RESET client_min_messages;
CREATE FUNCTION noise(heads int, tokens int, dim int, seed float8) RETURNS kv.tensor LANGUAGE sql AS $$
	SELECT kv."cast"(kv.reshape(array_agg((2 * sin(i * seed) * cos(i * seed * 0.013 * i))::float4)::kv.tensor, ARRAY[1, heads, tokens, dim]), 'f16')
	FROM generate_series(1, heads * tokens * dim) i $$;
CREATE TEMP TABLE given AS SELECT dim, noise(2, 400, dim, 0.37) AS k, noise(2, 400, dim, 0.77) AS v, noise(6, 2, dim, 0.11) AS q_two,
	kv.reshape(noise(6, 16, dim, 0.19), ARRAY[1, 6, 16, dim]) AS q_many FROM unnest('{64,96,128,256}'::int[]) dim;

-- The largest error of the helper against the CPU, over calls with every option, as a share of the largest number.
CREATE FUNCTION worst(cache text, layer_dim int, OUT error float8, OUT requests bigint, OUT cpu bigint) LANGUAGE plpgsql AS $$
DECLARE
	g record;
	one kv.tensor;
	two kv.tensor;
	call text;
	here kv.tensor;
	there kv.tensor;
	before record;
BEGIN
	SELECT * INTO g FROM given WHERE dim = layer_dim;
	two := kv.reshape(g.q_two, ARRAY[2, 6, layer_dim]);
	one := kv.slice(two, 0, 0, 1);
	error := 0;
	SELECT s.requests, s.on_cpu INTO before FROM kv.gpu_session() s;
	FOREACH call IN ARRAY ARRAY[
		$q$kv.attend($1, '{1}', 0, $2)$q$, $q$kv.attend($1, '{1}', 0, $2, scale => 0.4)$q$, $q$kv.attend($1, '{1}', 0, $2, softcap => 15)$q$,
		$q$kv.attend($1, '{1}', 0, $2, "window" => 333)$q$, $q$kv.attend($1, '{1}', 0, $2, "window" => 333, sinks => 40)$q$,
		$q$kv.attend($1, '{1,2}', 0, $3)$q$, $q$kv.attend($1, '{3,1}', 0, $3, "window" => 390, sinks => 3)$q$,
		$q$kv.attend($1, '{1}', 0, $4)$q$, $q$kv.attend($1, '{2}', 0, $4, causal => false)$q$, $q$kv.attend($1, '{1}', 0, $4, "window" => 301, sinks => 7)$q$,
		$q$kv.attend($1, '{1}', 0, $4, k => kv.slice($5, 2, 0, 16), v => kv.slice($6, 2, 0, 16))$q$]
	LOOP
		call := 'SELECT ' || call;
		PERFORM set_config('vectorkv.gpu', 'off', false);
		EXECUTE call INTO here USING cache::regclass, one, two, g.q_many, g.k, g.v;
		PERFORM set_config('vectorkv.gpu', 'on', false);
		EXECUTE call INTO there USING cache::regclass, one, two, g.q_many, g.k, g.v;
		error := greatest(error, kv.relative_error(there, here));
	END LOOP;
	SELECT s.requests - before.requests, s.on_cpu - before.on_cpu INTO requests, cpu FROM kv.gpu_session() s;
END $$;
CREATE FUNCTION all_codecs(layer_dim int) RETURNS TABLE (codec text, same text, requests bigint, cpu bigint) LANGUAGE plpgsql AS $$
DECLARE
	seen record;
	most float8 := CASE (SELECT backend FROM kv.gpu_status()) WHEN 'cpu' THEN 2e-5 ELSE 2e-3 END;
BEGIN
	FOREACH codec IN ARRAY '{f16,int8,int4,int3,int2,int4_uniform,int3_uniform,int2_uniform}'::text[] LOOP
		PERFORM kv.create_cache('kv_gpu_helper', 1, 6, 2, layer_dim, codec => codec, tail_tokens => 20);
		PERFORM kv.append('kv_gpu_helper', 1, k, v) FROM given WHERE dim = layer_dim;
		PERFORM kv.append('kv_gpu_helper', 2, v, k) FROM given WHERE dim = layer_dim;
		PERFORM kv.fork('kv_gpu_helper', 1, 3, 251);
		PERFORM kv.append('kv_gpu_helper', 3, v, k) FROM given WHERE dim = layer_dim;
		SELECT * INTO seen FROM worst('kv_gpu_helper', layer_dim);
		same := CASE WHEN seen.error < most THEN 'same' ELSE 'differs by ' || seen.error END;
		requests := seen.requests;
		cpu := seen.cpu;
		RETURN NEXT;
		PERFORM kv.drop_cache('kv_gpu_helper');
	END LOOP;
END $$;
SELECT * FROM all_codecs(64);
SELECT * FROM all_codecs(96);
SELECT * FROM all_codecs(128);
SELECT * FROM all_codecs(256);
SELECT requests >= 32 * 11 AS requests, restarts FROM kv.gpu_stats;
DROP FUNCTION noise, worst, all_codecs;
