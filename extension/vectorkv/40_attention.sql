-- aggregate kv.attention: attention of q over all tiles of a group, in any order and on any number of workers. Everything that is said of
-- q, scale, softcap and rope at kv.partial holds here; they must be the same for all tiles of a group. Rows whose q or tile is null do
-- not count, and the result over none is null. The result is f32 [q_heads, dim], or [q_heads * positions, dim].
--
-- The transition type is the plain kv.state, which plans of several processes and servers can exchange. The cost of the transition
-- function is what it takes, roughly, so that parallel plans are considered for large caches.

CREATE FUNCTION kv.attention_step(kv.state, kv.tensor, kv.tile) RETURNS kv.state
    AS 'MODULE_PATHNAME', 'kv_attention_step' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 200;

CREATE FUNCTION kv.attention_step(kv.state, kv.tensor, kv.tile, double precision) RETURNS kv.state
    AS 'MODULE_PATHNAME', 'kv_attention_step' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 200;

CREATE FUNCTION kv.attention_step(kv.state, kv.tensor, kv.tile, double precision, double precision) RETURNS kv.state
    AS 'MODULE_PATHNAME', 'kv_attention_step' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 200;

CREATE FUNCTION kv.attention_step(kv.state, kv.tensor, kv.tile, double precision, double precision, kv.rope) RETURNS kv.state
    AS 'MODULE_PATHNAME', 'kv_attention_step' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 200;

CREATE FUNCTION kv.attention_output(kv.state) RETURNS kv.tensor
    AS 'MODULE_PATHNAME', 'kv_state_output' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE AGGREGATE kv.attention(q kv.tensor, tile kv.tile) (
    SFUNC = kv.attention_step,
    STYPE = kv.state,
    SSPACE = 16384,
    FINALFUNC = kv.attention_output,
    COMBINEFUNC = kv.merge,
    PARALLEL = SAFE
);

CREATE AGGREGATE kv.attention(q kv.tensor, tile kv.tile, scale double precision) (
    SFUNC = kv.attention_step,
    STYPE = kv.state,
    SSPACE = 16384,
    FINALFUNC = kv.attention_output,
    COMBINEFUNC = kv.merge,
    PARALLEL = SAFE
);

CREATE AGGREGATE kv.attention(q kv.tensor, tile kv.tile, scale double precision, softcap double precision) (
    SFUNC = kv.attention_step,
    STYPE = kv.state,
    SSPACE = 16384,
    FINALFUNC = kv.attention_output,
    COMBINEFUNC = kv.merge,
    PARALLEL = SAFE
);

CREATE AGGREGATE kv.attention(q kv.tensor, tile kv.tile, scale double precision, softcap double precision, rope kv.rope) (
    SFUNC = kv.attention_step,
    STYPE = kv.state,
    SSPACE = 16384,
    FINALFUNC = kv.attention_output,
    COMBINEFUNC = kv.merge,
    PARALLEL = SAFE
);

-- The same before the last step, for what merges it further or wants the sum of exponentials: kv.merge and kv.finish take it.

CREATE AGGREGATE kv.attention_state(q kv.tensor, tile kv.tile) (
    SFUNC = kv.attention_step,
    STYPE = kv.state,
    SSPACE = 16384,
    COMBINEFUNC = kv.merge,
    PARALLEL = SAFE
);

CREATE AGGREGATE kv.attention_state(q kv.tensor, tile kv.tile, scale double precision) (
    SFUNC = kv.attention_step,
    STYPE = kv.state,
    SSPACE = 16384,
    COMBINEFUNC = kv.merge,
    PARALLEL = SAFE
);

CREATE AGGREGATE kv.attention_state(q kv.tensor, tile kv.tile, scale double precision, softcap double precision) (
    SFUNC = kv.attention_step,
    STYPE = kv.state,
    SSPACE = 16384,
    COMBINEFUNC = kv.merge,
    PARALLEL = SAFE
);

CREATE AGGREGATE kv.attention_state(q kv.tensor, tile kv.tile, scale double precision, softcap double precision, rope kv.rope) (
    SFUNC = kv.attention_step,
    STYPE = kv.state,
    SSPACE = 16384,
    COMBINEFUNC = kv.merge,
    PARALLEL = SAFE
);

