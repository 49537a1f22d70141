-- type kv.state: the mergeable state of attention (largest logit, sum of exponentials, weighted sum of values, a row of queries each)

CREATE TYPE kv.state;

CREATE FUNCTION kv.state_in(cstring) RETURNS kv.state
    AS 'MODULE_PATHNAME', 'kv_state_in' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.state_out(kv.state) RETURNS cstring
    AS 'MODULE_PATHNAME', 'kv_state_out' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.state_recv(internal) RETURNS kv.state
    AS 'MODULE_PATHNAME', 'kv_state_recv' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.state_send(kv.state) RETURNS bytea
    AS 'MODULE_PATHNAME', 'kv_state_send' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE TYPE kv.state (
    INPUT = kv.state_in,
    OUTPUT = kv.state_out,
    RECEIVE = kv.state_recv,
    SEND = kv.state_send,
    ALIGNMENT = double,
    STORAGE = external
);
COMMENT ON TYPE kv.state IS 'state of attention over some tokens: states of other tokens can be merged into it';

CREATE FUNCTION kv.merge(kv.state, kv.state) RETURNS kv.state
    AS 'MODULE_PATHNAME', 'kv_state_merge' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION kv.merge(kv.state, kv.state) IS 'the state over the tokens of both';

CREATE AGGREGATE kv.merge(kv.state) (
    SFUNC = kv.merge,
    STYPE = kv.state,
    COMBINEFUNC = kv.merge,
    PARALLEL = SAFE
);
COMMENT ON AGGREGATE kv.merge(kv.state) IS 'the state over the tokens of all; null when there are none';

CREATE FUNCTION kv.finish(state kv.state, OUT output kv.tensor, OUT lse kv.tensor) RETURNS record
    AS 'MODULE_PATHNAME', 'kv_state_finish' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION kv.finish(kv.state) IS
    'attention [rows, dim] and the logarithm of the sum of exponentials [rows]; 0 and -infinity in rows that saw no token';

-- q: [q_heads, dim] or [q_heads, positions, dim]; the state has a row for each query head and position, and those that the tile's KV
-- head does not serve are empty. scale null: 1 / sqrt(dim). softcap null or 0: none, else softcap * tanh(logit / softcap).
-- rope: what turns keys that are stored before the rotary embedding, by their positions; null for tiles whose keys are turned already.
-- q is turned already in either case.
CREATE FUNCTION kv.partial(q kv.tensor, tile kv.tile, scale double precision DEFAULT NULL, softcap double precision DEFAULT NULL,
        rope kv.rope DEFAULT NULL) RETURNS kv.state
    AS 'MODULE_PATHNAME', 'kv_partial' LANGUAGE C IMMUTABLE PARALLEL SAFE COST 300;
COMMENT ON FUNCTION kv.partial(kv.tensor, kv.tile, double precision, double precision, kv.rope) IS 'attention of q over the tokens of a tile';

