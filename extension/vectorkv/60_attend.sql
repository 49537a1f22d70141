-- Attention over the sequences of a cache.

-- q: [batch, q_heads, head_dim] or [batch, q_heads, q_len, head_dim]; the result has q's shape, with the dimension of the values.
-- k, v: tokens that are not stored yet, [batch, kv_heads, tokens, head_dim], seen after the stored ones.
CREATE FUNCTION kv.attend(cache regclass, seqs bigint[], layer int, q kv.tensor,
	scale float8 DEFAULT NULL, causal boolean DEFAULT true, "window" int DEFAULT NULL, sinks int DEFAULT NULL, softcap float8 DEFAULT NULL,
	k kv.tensor DEFAULT NULL, v kv.tensor DEFAULT NULL, model text DEFAULT NULL) RETURNS kv.tensor
	AS 'MODULE_PATHNAME', 'kv_attend' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10000;

-- Several layers at once: q, k, v and the result have the layers as their first dimension.
CREATE FUNCTION kv.attend_layers(cache regclass, seqs bigint[], layers int[], q kv.tensor,
	scale float8 DEFAULT NULL, causal boolean DEFAULT true, "window" int DEFAULT NULL, sinks int DEFAULT NULL, softcap float8 DEFAULT NULL,
	k kv.tensor DEFAULT NULL, v kv.tensor DEFAULT NULL, model text DEFAULT NULL) RETURNS kv.tensor
	AS 'MODULE_PATHNAME', 'kv_attend_layers' LANGUAGE C STABLE PARALLEL RESTRICTED COST 100000;

-- With the logarithm of the softmax's sum, of q's shape without the last dimension.
CREATE FUNCTION kv.attend(cache regclass, seqs bigint[], layer int, q kv.tensor, return_lse boolean,
	scale float8 DEFAULT NULL, causal boolean DEFAULT true, "window" int DEFAULT NULL, sinks int DEFAULT NULL, softcap float8 DEFAULT NULL,
	k kv.tensor DEFAULT NULL, v kv.tensor DEFAULT NULL, model text DEFAULT NULL, OUT output kv.tensor, OUT lse kv.tensor) RETURNS record
	AS 'MODULE_PATHNAME', 'kv_attend_lse' LANGUAGE C STABLE PARALLEL RESTRICTED COST 10000;

CREATE FUNCTION kv.attend_layers(cache regclass, seqs bigint[], layers int[], q kv.tensor, return_lse boolean,
	scale float8 DEFAULT NULL, causal boolean DEFAULT true, "window" int DEFAULT NULL, sinks int DEFAULT NULL, softcap float8 DEFAULT NULL,
	k kv.tensor DEFAULT NULL, v kv.tensor DEFAULT NULL, model text DEFAULT NULL, OUT output kv.tensor, OUT lse kv.tensor) RETURNS record
	AS 'MODULE_PATHNAME', 'kv_attend_layers_lse' LANGUAGE C STABLE PARALLEL RESTRICTED COST 100000;

-- The weight of every stored token: for people who look. q: [q_heads, head_dim].
CREATE FUNCTION kv.weights(cache regclass, seq bigint, layer int, q kv.tensor,
	scale float8 DEFAULT NULL, "window" int DEFAULT NULL, sinks int DEFAULT NULL, softcap float8 DEFAULT NULL,
	OUT "position" int, OUT head int, OUT weight float4) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'kv_weights' LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 10000 COST 10000;

-- What the functions of this session did: calls, what they read, the time they took and the code that ran; of tiles those that the
-- GPU helper had and those that were copied to it.
CREATE FUNCTION kv.session_stats(OUT operation text, OUT calls bigint, OUT sequences bigint, OUT tokens bigint, OUT tiles bigint, OUT bytes bigint,
	OUT milliseconds float8, OUT last_tokens bigint, OUT last_tiles bigint, OUT last_bytes bigint, OUT last_milliseconds float8, OUT backend text,
	OUT requests bigint, OUT cached bigint, OUT staged bigint, OUT device_milliseconds float8, OUT wait_milliseconds float8, OUT last_line text) RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'kv_session_stats' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 3;
CREATE FUNCTION kv.reset_stats() RETURNS void
	AS 'MODULE_PATHNAME', 'kv_reset_stats' LANGUAGE C VOLATILE PARALLEL RESTRICTED;
CREATE VIEW kv.stats AS SELECT * FROM kv.session_stats();
GRANT SELECT ON kv.stats TO PUBLIC;
