-- Codecs: which there are for which operator class, how one is chosen, and that answers are exact for well separated data under each.
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\set agree :abs_srcdir '/sql/hnsw_agree.inc'
\i :agree
\set ECHO all
LOAD '$libdir/vector';
SET hnsw.ef_search = 500;
CREATE TABLE hc (id int, v vector(32), h halfvec(32), s sparsevec(32), b bit(32));
-- on half a circle, and a query before its begin: the way along it is the order for every distance, and the steps are larger than a code's error
INSERT INTO hc SELECT i, v, v, v, binary_quantize(v)
  FROM (SELECT i, ARRAY(SELECT cos(i * (i + 20) * 2e-4) * cos(j * 1.7) + sin(i * (i + 20) * 2e-4) * sin(j * 1.7) FROM generate_series(1, 32) AS j)::real[]::vector AS v
          FROM generate_series(1, 100) AS i) AS t;
ANALYZE hc;
CREATE TABLE hq AS SELECT v, v::halfvec(32) AS h FROM (SELECT ARRAY(SELECT cos(-0.5) * cos(j * 1.7) + sin(-0.5) * sin(j * 1.7) FROM generate_series(1, 32) AS j)::real[]::vector(32) AS v) AS t;

-- which codec for which operator class
CREATE FUNCTION pg_temp.made(col text, class text, options text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  answer text := pg_temp.attempt(format('CREATE INDEX hc_idx ON hc USING hnsw (%s %s) %s', col, class, options));
BEGIN
  IF answer <> 'ok' THEN RETURN answer; END IF;
  SELECT format('%s (%s, %s), problems: %s', codec, type, distance, pg_temp.problems('hc_idx')) INTO answer FROM hnsw_info('hc_idx');
  DROP INDEX hc_idx;
  RETURN answer;
END $$;
CREATE TEMP TABLE class (n serial, col text, class text, op text);
INSERT INTO class (col, class, op) SELECT c.col, c.type || '_' || m.name || '_ops', m.op
  FROM (VALUES ('v', 'vector'), ('h', 'halfvec'), ('s', 'sparsevec')) AS c(col, type), (VALUES ('l2', '<->'), ('ip', '<#>'), ('cosine', '<=>'), ('l1', '<+>')) AS m(name, op);
INSERT INTO class (col, class, op) VALUES ('b', 'bit_hamming_ops', '<~>'), ('b', 'bit_jaccard_ops', '<%>');
SELECT class, pg_temp.made(col, class, '') FROM class ORDER BY n;
SELECT codec, class, pg_temp.made(col, class, format('WITH (codec = %L)', codec)) FROM class, unnest(ARRAY['none', 'lvq8', 'lvq4', 'lvq4x8']) AS codec
 WHERE codec = 'lvq8' OR class LIKE '%ip_ops' ORDER BY codec, n;

-- names
SELECT codec, pg_temp.made('v', 'vector_l2_ops', format('WITH (codec = %L)', codec)) FROM unnest(ARRAY['', 'lvq', 'lvq5', 'LVQ8', 'pq', 'auto', '8', 'none ']) AS codec;

-- vectorkv.default_codec: for indexes that name none; types and distances without codecs keep "none"
SELECT name, boot_val, enumvals, context FROM pg_settings WHERE name IN ('vectorkv.default_codec', 'vectorkv.scan_past_ef') ORDER BY name;
CREATE FUNCTION pg_temp.with_default(codec text, col text, class text, options text DEFAULT '') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('vectorkv.default_codec', codec, true);
  RETURN pg_temp.made(col, class, options);
END $$;
SELECT codec, pg_temp.with_default(codec, 'v', 'vector_cosine_ops') AS vector, pg_temp.with_default(codec, 'h', 'halfvec_l1_ops') AS l1,
       pg_temp.with_default(codec, 's', 'sparsevec_l2_ops') AS sparsevec, pg_temp.with_default(codec, 'b', 'bit_hamming_ops') AS bit,
       pg_temp.with_default(codec, 'v', 'vector_l2_ops', 'WITH (codec = lvq4)') AS named
  FROM unnest(ARRAY['auto', 'none', 'lvq8', 'lvq4', 'lvq4x8']) AS codec;
SET vectorkv.default_codec = 'lvq5';
SHOW vectorkv.default_codec;

-- answers under each codec: built, then with rows inserted, and of an index that was empty
CREATE FUNCTION pg_temp.answers(col text, class text, op text, codec text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  q text := format('(SELECT %s FROM hq)', col);
  query text := format('SELECT id FROM hc ORDER BY %s %s %s LIMIT 60', col, op, q);
  answer text;
BEGIN
  EXECUTE format('CREATE INDEX hc_idx ON hc USING hnsw (%s %s) WITH (codec = %s)', col, class, codec);
  answer := 'built: ' || pg_temp.agree(query);
  INSERT INTO hc SELECT 1000 + id, v * array_fill(-1, ARRAY[32])::vector, h * array_fill(-1, ARRAY[32])::halfvec FROM hc WHERE id % 3 = 0 AND id < 1000;
  answer := answer || '; inserted: ' || pg_temp.agree(query) || ', problems: ' || pg_temp.problems('hc_idx');
  DELETE FROM hc WHERE id > 1000;
  DROP INDEX hc_idx;
  RETURN answer;
END $$;
SELECT codec, class, pg_temp.answers(col, class, op, codec) FROM class, unnest(ARRAY['none', 'lvq8', 'lvq4', 'lvq4x8']) AS codec WHERE col IN ('v', 'h') AND op <> '<+>' ORDER BY codec, n;
CREATE TABLE he (LIKE hc);
CREATE INDEX he_lvq8 ON he USING hnsw (v vector_l2_ops) WITH (codec = lvq8);
CREATE INDEX he_lvq4x8 ON he USING hnsw (h halfvec_cosine_ops) WITH (codec = lvq4x8);
CREATE INDEX he_lvq4 ON he USING hnsw (v vector_ip_ops) WITH (codec = lvq4);
INSERT INTO he SELECT * FROM hc;
SELECT pg_temp.agree('SELECT id FROM he ORDER BY v <-> (SELECT v FROM hq) LIMIT 60') AS lvq8,
       pg_temp.agree('SELECT id FROM he ORDER BY h <=> (SELECT h FROM hq) LIMIT 60') AS lvq4x8,
       pg_temp.agree('SELECT id FROM he ORDER BY v <#> (SELECT v FROM hq) LIMIT 60') AS lvq4;
SELECT relname, codec, heap_tuples, pg_temp.problems(oid) FROM pg_class, hnsw_info(oid) WHERE relname LIKE 'he\_%' ORDER BY relname;

-- vectors that a grid has no steps for: constant, zero, huge, tiny
CREATE TABLE hx (id int, v vector(4));
INSERT INTO hx VALUES (1, '[1,1,1,1]'), (2, '[2,2,2,2]'), (3, '[0,0,0,0]'), (4, '[1e30,1e30,1e30,1e30]'), (5, '[1e-30,1e-38,0,0.1]'), (6, '[-3,-3,-3,-3]'), (7, '[0.5,0.25,0,0]');
SELECT codec, pg_temp.attempt(format('CREATE INDEX hx_%s ON hx USING hnsw (v vector_l2_ops) WITH (codec = %1$s)', codec)) FROM unnest(ARRAY['none', 'lvq8', 'lvq4', 'lvq4x8']) AS codec;
SELECT relname, heap_tuples, pg_temp.problems(oid) FROM pg_class, hnsw_info(oid) WHERE relname LIKE 'hx\_%' ORDER BY relname;
CREATE FUNCTION pg_temp.only(codec text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('CREATE INDEX hy_idx ON hx USING hnsw ((v::vector(4)) vector_l2_ops) WITH (codec = %s)', codec);
  RETURN pg_temp.agree('SELECT id FROM hx ORDER BY v::vector(4) <-> ''[1,1,1,1.5]'' LIMIT 6');
END $$;
DROP INDEX hx_none, hx_lvq8, hx_lvq4, hx_lvq4x8;
SELECT codec, pg_temp.only(codec), pg_temp.attempt('DROP INDEX hy_idx') FROM unnest(ARRAY['none', 'lvq8', 'lvq4', 'lvq4x8']) AS codec;
DROP TABLE hc, he, hq;
-- so large that squares overflow in single precision: such vectors have no order, but most are found
TRUNCATE hx;
CREATE INDEX hx_idx ON hx USING hnsw (v vector_l2_ops) WITH (codec = none);
INSERT INTO hx SELECT i, ARRAY[i * 1e30, -i * 1e30, 1e38, i]::real[]::vector FROM generate_series(1, 50) AS i;
SET enable_seqscan = off;
SET enable_sort = off;
SELECT count(DISTINCT id) >= 25 AS most, pg_temp.problems('hx_idx') FROM (SELECT id FROM hx ORDER BY v <-> '[0,0,0,0]' LIMIT 100) AS t;
REINDEX INDEX hx_idx;
SELECT count(DISTINCT id) >= 25 AS most, pg_temp.problems('hx_idx') FROM (SELECT id FROM hx ORDER BY v <-> '[0,0,0,0]' LIMIT 100) AS t;
ALTER INDEX hx_idx SET (codec = lvq8);
REINDEX INDEX hx_idx;
SELECT count(DISTINCT id) >= 25 AS most, pg_temp.problems('hx_idx') FROM (SELECT id FROM hx ORDER BY v <-> '[0,0,0,0]' LIMIT 100) AS t;
DROP TABLE hx;
