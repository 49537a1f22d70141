-- type kv.tensor: dense arrays of f32, f16 or bf16 of up to five dimensions. Dimensions and indices count from 0.

CREATE TYPE kv.tensor;

CREATE FUNCTION kv.tensor_in(cstring) RETURNS kv.tensor
    AS 'MODULE_PATHNAME', 'kv_tensor_in' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.tensor_out(kv.tensor) RETURNS cstring
    AS 'MODULE_PATHNAME', 'kv_tensor_out' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.tensor_recv(internal) RETURNS kv.tensor
    AS 'MODULE_PATHNAME', 'kv_tensor_recv' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.tensor_send(kv.tensor) RETURNS bytea
    AS 'MODULE_PATHNAME', 'kv_tensor_send' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE TYPE kv.tensor (
    INPUT = kv.tensor_in,
    OUTPUT = kv.tensor_out,
    RECEIVE = kv.tensor_recv,
    SEND = kv.tensor_send,
    ALIGNMENT = double,
    STORAGE = external
);
COMMENT ON TYPE kv.tensor IS 'dense array of f32, f16 or bf16 of up to five dimensions: f16[2,3]{1,2,3,4,5,6}';

-- raw elements, row-major, little-endian

CREATE FUNCTION kv.tensor(data bytea, shape integer[], dtype text DEFAULT 'f32') RETURNS kv.tensor
    AS 'MODULE_PATHNAME', 'kv_tensor_from_bytes' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kv.tensor(bytea, integer[], text) IS 'tensor of raw elements, row-major and little-endian';

CREATE FUNCTION kv.bytes(kv.tensor) RETURNS bytea
    AS 'MODULE_PATHNAME', 'kv_tensor_bytes' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kv.bytes(kv.tensor) IS 'raw elements, row-major and little-endian';

-- one value

CREATE FUNCTION kv.shape(kv.tensor) RETURNS integer[]
    AS 'MODULE_PATHNAME', 'kv_tensor_shape' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.dtype(kv.tensor) RETURNS text
    AS 'MODULE_PATHNAME', 'kv_tensor_dtype' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv."cast"(tensor kv.tensor, dtype text) RETURNS kv.tensor
    AS 'MODULE_PATHNAME', 'kv_tensor_cast' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kv."cast"(kv.tensor, text) IS 'the tensor in another dtype, rounded to nearest';

CREATE FUNCTION kv.reshape(tensor kv.tensor, shape integer[]) RETURNS kv.tensor
    AS 'MODULE_PATHNAME', 'kv_tensor_reshape' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kv.reshape(kv.tensor, integer[]) IS 'the same elements in another shape; one dimension may be -1: what is left';

-- parts

CREATE FUNCTION kv.at(tensor kv.tensor, VARIADIC indices integer[]) RETURNS kv.tensor
    AS 'MODULE_PATHNAME', 'kv_tensor_at' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kv.at(kv.tensor, integer[]) IS 'the part at the given first indices, from 0; fewer than there are dimensions';

CREATE FUNCTION kv.element(tensor kv.tensor, VARIADIC indices integer[]) RETURNS real
    AS 'MODULE_PATHNAME', 'kv_tensor_element' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kv.element(kv.tensor, integer[]) IS 'the number at the given indices, from 0';

CREATE FUNCTION kv.slice(tensor kv.tensor, dim integer, first integer, count integer) RETURNS kv.tensor
    AS 'MODULE_PATHNAME', 'kv_tensor_slice' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kv.slice(kv.tensor, integer, integer, integer) IS 'a range of one dimension, from 0';

CREATE FUNCTION kv.concat(a kv.tensor, b kv.tensor, dim integer) RETURNS kv.tensor
    AS 'MODULE_PATHNAME', 'kv_tensor_concat' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kv.concat(kv.tensor, kv.tensor, integer) IS 'two tensors joined at one dimension, from 0';

-- comparison: the same dtype, shape and bytes; for GROUP BY, DISTINCT and hash joins

CREATE FUNCTION kv.tensor_eq(kv.tensor, kv.tensor) RETURNS boolean
    AS 'MODULE_PATHNAME', 'kv_tensor_eq' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.tensor_ne(kv.tensor, kv.tensor) RETURNS boolean
    AS 'MODULE_PATHNAME', 'kv_tensor_ne' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OPERATOR kv.= (
    LEFTARG = kv.tensor, RIGHTARG = kv.tensor, FUNCTION = kv.tensor_eq,
    COMMUTATOR = OPERATOR(kv.=), NEGATOR = OPERATOR(kv.<>),
    RESTRICT = eqsel, JOIN = eqjoinsel, HASHES
);

CREATE OPERATOR kv.<> (
    LEFTARG = kv.tensor, RIGHTARG = kv.tensor, FUNCTION = kv.tensor_ne,
    COMMUTATOR = OPERATOR(kv.<>), NEGATOR = OPERATOR(kv.=),
    RESTRICT = neqsel, JOIN = neqjoinsel
);

CREATE FUNCTION kv.tensor_hash(kv.tensor) RETURNS integer
    AS 'MODULE_PATHNAME', 'kv_tensor_hash' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.tensor_hash_extended(kv.tensor, bigint) RETURNS bigint
    AS 'MODULE_PATHNAME', 'kv_tensor_hash_extended' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE OPERATOR CLASS kv.tensor_hash_ops
    DEFAULT FOR TYPE kv.tensor USING hash AS
    OPERATOR 1 kv.=,
    FUNCTION 1 kv.tensor_hash(kv.tensor),
    FUNCTION 2 kv.tensor_hash_extended(kv.tensor, bigint);

CREATE FUNCTION kv.max_error(a kv.tensor, b kv.tensor) RETURNS double precision
    AS 'MODULE_PATHNAME', 'kv_tensor_max_error' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kv.max_error(kv.tensor, kv.tensor) IS 'the largest absolute difference of elements';

CREATE FUNCTION kv.relative_error(a kv.tensor, b kv.tensor) RETURNS double precision
    AS 'MODULE_PATHNAME', 'kv_tensor_relative_error' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION kv.relative_error(kv.tensor, kv.tensor) IS '|a - b| / |b|, Euclidean norms over all elements';

-- casts

CREATE FUNCTION kv.array_to_tensor(integer[]) RETURNS kv.tensor
    AS 'MODULE_PATHNAME', 'kv_array_to_tensor' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.array_to_tensor(real[]) RETURNS kv.tensor
    AS 'MODULE_PATHNAME', 'kv_array_to_tensor' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.array_to_tensor(double precision[]) RETURNS kv.tensor
    AS 'MODULE_PATHNAME', 'kv_array_to_tensor' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.array_to_tensor(numeric[]) RETURNS kv.tensor
    AS 'MODULE_PATHNAME', 'kv_array_to_tensor' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.tensor_to_float4(kv.tensor) RETURNS real[]
    AS 'MODULE_PATHNAME', 'kv_tensor_to_float4' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.vector_to_tensor(vector) RETURNS kv.tensor
    AS 'MODULE_PATHNAME', 'kv_vector_to_tensor' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.halfvec_to_tensor(halfvec) RETURNS kv.tensor
    AS 'MODULE_PATHNAME', 'kv_halfvec_to_tensor' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.tensor_to_vector(kv.tensor, integer, boolean) RETURNS vector
    AS 'MODULE_PATHNAME', 'kv_tensor_to_vector' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE FUNCTION kv.tensor_to_halfvec(kv.tensor, integer, boolean) RETURNS halfvec
    AS 'MODULE_PATHNAME', 'kv_tensor_to_halfvec' LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;

CREATE CAST (integer[] AS kv.tensor)
    WITH FUNCTION kv.array_to_tensor(integer[]) AS ASSIGNMENT;

CREATE CAST (real[] AS kv.tensor)
    WITH FUNCTION kv.array_to_tensor(real[]) AS ASSIGNMENT;

CREATE CAST (double precision[] AS kv.tensor)
    WITH FUNCTION kv.array_to_tensor(double precision[]) AS ASSIGNMENT;

CREATE CAST (numeric[] AS kv.tensor)
    WITH FUNCTION kv.array_to_tensor(numeric[]) AS ASSIGNMENT;

CREATE CAST (kv.tensor AS real[])
    WITH FUNCTION kv.tensor_to_float4(kv.tensor) AS ASSIGNMENT;

CREATE CAST (vector AS kv.tensor)
    WITH FUNCTION kv.vector_to_tensor(vector) AS ASSIGNMENT;

CREATE CAST (halfvec AS kv.tensor)
    WITH FUNCTION kv.halfvec_to_tensor(halfvec) AS ASSIGNMENT;

CREATE CAST (kv.tensor AS vector)
    WITH FUNCTION kv.tensor_to_vector(kv.tensor, integer, boolean) AS ASSIGNMENT;

CREATE CAST (kv.tensor AS halfvec)
    WITH FUNCTION kv.tensor_to_halfvec(kv.tensor, integer, boolean) AS ASSIGNMENT;

