-- Casts: arrays, between the types, type modifiers, which are implicit.
SELECT ARRAY[1,2,3]::vector, ARRAY[1.5,2]::real[]::vector, ARRAY[1.5,2]::float8[]::vector, ARRAY[1.5,2]::numeric[]::vector;
SELECT ARRAY[1,2,3]::halfvec, ARRAY[1.5,2]::real[]::halfvec, ARRAY[1.5,2]::float8[]::halfvec, ARRAY[1.5,2]::numeric[]::halfvec;
SELECT ARRAY[1,0,3]::sparsevec, ARRAY[0,2]::real[]::sparsevec, ARRAY[1.5,0]::float8[]::sparsevec, ARRAY[0,0]::numeric[]::sparsevec;
SELECT '[5:7]={1,2,3}'::int[]::vector;
SELECT '[1,2.5]'::vector::real[], '[1,2.5]'::halfvec::real[];
SELECT '[1,0,2.5]'::vector::halfvec, '[1,0,2.5]'::vector::sparsevec, '[1,0,2.5]'::halfvec::vector, '[1,0,2.5]'::halfvec::sparsevec;
SELECT '{1:1,3:2.5}/3'::sparsevec::vector, '{1:1,3:2.5}/3'::sparsevec::halfvec, '{}/2'::sparsevec::vector;
SELECT '[0.1,65519,1e-8]'::vector::halfvec, '[0.1,65519,1e-8]'::vector::halfvec::vector;
-- every half there is survives the way through vector and text (NaN and infinities cannot be stored)
WITH half AS (
  SELECT decode('00010000' || lpad(to_hex(i), 4, '0'), 'hex') AS wire, i FROM generate_series(0, 65535) AS i WHERE (i >> 10) & 31 <> 31
), value AS (
  SELECT i, (CASE WHEN i > 32767 THEN -1 ELSE 1 END *
             CASE WHEN (i >> 10) & 31 = 0 THEN (i & 1023) * 2.0::float8 ^ -24
                  ELSE (1024 + (i & 1023)) * 2.0::float8 ^ (((i >> 10) & 31) - 25) END)::real AS x, wire FROM half
)
SELECT count(*), bool_and((ARRAY[x]::halfvec)::vector::halfvec::text::halfvec = ARRAY[x]::halfvec),
       bool_and(i = 32768 OR halfvec_send(ARRAY[x]::halfvec) = wire), bool_and((ARRAY[x]::halfvec::real[])[1] = x) FROM value;
-- halfway cases of all neighbours round to even
WITH half AS (SELECT i, ((1024 + (i & 1023)) * 2.0::float8 ^ ((i >> 10) - 25))::real AS x, 2.0::float8 ^ ((i >> 10) - 26) AS half_step FROM generate_series(1024, 31742) AS i)
SELECT count(*), bool_and(get_byte(halfvec_send(ARRAY[x + half_step]::halfvec), 5) % 2 = 0) FROM half;

-- type modifiers
SELECT '[1,2,3]'::vector(3), '[1,2,3]'::vector::vector(3), '[1,2,3]'::vector::halfvec(3), '[1,2,3]'::vector::sparsevec(3), ARRAY[1,2]::vector(2);
CREATE TABLE cast_t (v vector(2), h halfvec(2), s sparsevec(2), r real[]);
-- assignment casts
INSERT INTO cast_t VALUES (ARRAY[1,2], ARRAY[1,2], ARRAY[1,2], '[1,2]'::vector);
INSERT INTO cast_t VALUES ('[3,4]'::halfvec, '[3,4]'::vector, '[3,4]'::vector, '[3,4]'::halfvec);
INSERT INTO cast_t VALUES ('{1:5}/2'::sparsevec, '{1:5}/2'::sparsevec, '[5,0]'::halfvec, NULL);
SELECT * FROM cast_t;
INSERT INTO cast_t (v) VALUES ('[1,2,3]');
INSERT INTO cast_t (h) VALUES ('[1,2,3]'::vector);
INSERT INTO cast_t (s) VALUES (ARRAY[1,2,3]);
DROP TABLE cast_t;
-- implicit casts
CREATE FUNCTION pg_temp.first(real[]) RETURNS real LANGUAGE sql AS 'SELECT $1[1]';
SELECT '[1,2]'::vector <-> '[1,1]'::halfvec, pg_temp.first('[1,2]'::vector);
SELECT '{1:1}/2'::sparsevec <-> '[1,1]'::vector, '{1:1}/2'::sparsevec <-> '[1,1]'::halfvec;
-- not implicit
SELECT '[1,2]'::vector <-> ARRAY[1,2];
