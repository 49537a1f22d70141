-- Rows come in the order of the operator, to its last bit, although codes and sums make distances in other ways.
--
-- In each table are many rows whose distances from the query are the same but for what rounding does: the same differences in another
-- order, far from the origin and near it, long and short; under cosine also so long and so short that single precision cannot hold the
-- square of a length, where the operator may say NaN. The operator is asked about each row by itself, and may never say less than for
-- the row before.
SET enable_seqscan = off;
SET jit = off;
SET hnsw.ef_search = 1000;  -- all rows are met at once: no order is lost in the graph
CREATE TABLE hnoo (id int, kind int, v vector(48), h halfvec(48), s sparsevec(48));
-- a number of (0, 1) that is the same everywhere
CREATE FUNCTION pg_temp.noise(a bigint, b bigint) RETURNS float8 LANGUAGE sql IMMUTABLE AS $$ SELECT ((hashint8(a * 1000003 + b)::bigint & 1048575) + 0.5) / 1048576 $$;
INSERT INTO hnoo
  SELECT id, kind, v, CASE WHEN kind < 5 THEN v::real[]::halfvec(48) END, v::sparsevec FROM (
    SELECT r AS id, kind, (array_agg((CASE kind
        WHEN 0 THEN 3 + sin(p * 7.7) / 8                                   -- permuted differences, far from the origin
        WHEN 1 THEN sin(p * 7.7)                                           -- ... around it
        WHEN 2 THEN 1000 + pg_temp.noise(r, p) / 64                        -- far away, close together
        WHEN 3 THEN (1 + (r % 4)) * (0.5 + pg_temp.noise(r % 40, p))       -- directions that repeat, at several lengths
        WHEN 4 THEN 1 + pg_temp.noise(r, p) / 4096                         -- nearly parallel
        ELSE power(10, (r % 3 - 1) * 25) * (0.5 + pg_temp.noise(r, p)) END)::real  -- too long and too short for single precision, and not
      ORDER BY d))::vector(48) AS v
    FROM generate_series(0, 5) AS kind, generate_series(1, 250) AS r,
      LATERAL (SELECT d, row_number() OVER (ORDER BY pg_temp.noise(r + 4001 * kind, d)) AS p FROM generate_series(1, 48) AS d) AS x
    GROUP BY r, kind) AS y;
CREATE TABLE hnoo_query (kind int, v vector(48));
INSERT INTO hnoo_query SELECT kind, array_agg(CASE kind WHEN 0 THEN 3 WHEN 1 THEN 0.7 WHEN 2 THEN 1000 ELSE 1 END::real)::vector(48)
  FROM generate_series(0, 5) AS kind, generate_series(1, 48) GROUP BY kind;
INSERT INTO hnoo_query SELECT kind, v FROM hnoo WHERE id = 1 OR (kind = 5 AND id <= 3);

-- How many rows are farther, by the operator, than the one that comes after them; and how many rows came.
CREATE FUNCTION pg_temp.disorder(type text, opclass text, op text, options text, OUT wrong bigint, OUT rows bigint) LANGUAGE plpgsql AS $$
DECLARE
  col text := CASE type WHEN 'vector' THEN 'v' WHEN 'halfvec' THEN 'h' ELSE 's' END;
  q record;
  found record;
BEGIN
  wrong := 0;
  rows := 0;
  FOR kind_of IN 0 .. CASE WHEN op = '<=>' AND type <> 'halfvec' THEN 5 ELSE 4 END LOOP
    EXECUTE 'CREATE TEMP TABLE hnoo_some AS SELECT id, v, h, s FROM hnoo WHERE kind = ' || kind_of;
    EXECUTE format('CREATE INDEX hnoo_some_idx ON hnoo_some USING hnsw (%s %s) WITH (m = 8, ef_construction = 40, %s)', col, opclass, options);
    FOR q IN SELECT v FROM hnoo_query WHERE kind = kind_of LOOP
      EXECUTE format('WITH answer AS MATERIALIZED (SELECT id, row_number() OVER () AS place FROM (SELECT id FROM hnoo_some ORDER BY %1$s %2$s $1::%3$s LIMIT 250) a),
          told AS MATERIALIZED (SELECT place, hnoo_some.%1$s %2$s $1::%3$s AS distance FROM answer JOIN hnoo_some USING (id))
        SELECT count(*) FILTER (WHERE distance < before) AS wrong, count(*) AS rows FROM (SELECT distance, lag(distance) OVER (ORDER BY place) AS before FROM told) AS b', col, op, type)
        INTO found USING q.v;
      wrong := wrong + found.wrong;
      rows := rows + found.rows;
    END LOOP;
    DROP TABLE hnoo_some;
  END LOOP;
END $$;
SELECT type, metric, codec, wrong, rows FROM
    (VALUES ('l2', '<->'), ('ip', '<#>'), ('cosine', '<=>'), ('l1', '<+>')) AS m (metric, op),
    unnest(ARRAY['vector', 'halfvec', 'sparsevec']) AS type, unnest(ARRAY['none', 'lvq8', 'lvq4', 'lvq4x8']) AS codec,
    LATERAL pg_temp.disorder(type, format('%s_%s_ops', type, metric), op, 'codec = ' || codec)
  WHERE (metric <> 'l1' AND type <> 'sparsevec') OR codec = 'none' ORDER BY 1, 2, 3;
DROP TABLE hnoo, hnoo_query;
