-- hnsw on bit: Hamming and Jaccard distance, lengths from 1 to 64,000, bit varying.
\set ECHO none
\getenv abs_srcdir PG_ABS_SRCDIR
\set agree :abs_srcdir '/sql/hnsw_agree.inc'
\i :agree
\set ECHO all
SET hnsw.ef_search = 500;

CREATE TABLE hb (id int, v bit(50));
INSERT INTO hb SELECT i, (i::bigint * i * 1234567 % (1::bigint << 50))::bit(50) FROM generate_series(1, 300) AS i;
INSERT INTO hb VALUES (1001, NULL), (1002, repeat('0', 50)::bit(50)), (1003, repeat('1', 50)::bit(50));
ANALYZE hb;
CREATE INDEX hb_hamming ON hb USING hnsw (v bit_hamming_ops);
CREATE INDEX hb_jaccard ON hb USING hnsw (v bit_jaccard_ops);
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT id FROM hb ORDER BY v <~> (5::bigint)::bit(50) LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM hb ORDER BY v <%> (5::bigint)::bit(50) LIMIT 5;
RESET enable_seqscan;
SELECT op, q, pg_temp.agree(format('SELECT v %s %L::bigint::bit(50) FROM hb ORDER BY v %1$s %2$L::bigint::bit(50) LIMIT 100', op, q))
  FROM unnest(ARRAY['<~>', '<%>']) AS op, unnest(ARRAY[0, 1, 123456789012345, 1234567 * 49]) AS q;
SELECT relname, codec, heap_tuples, distance, type, dimensions, pg_temp.problems(oid) FROM pg_class, hnsw_info(oid) WHERE relname LIKE 'hb\_%' ORDER BY relname;
SET enable_seqscan = off;
SET enable_sort = off;
SELECT count(*) FROM (SELECT id FROM hb ORDER BY v <~> (SELECT NULL::bit(50))) AS t;
SELECT count(*) FROM (SELECT id FROM hb ORDER BY v <%> (SELECT NULL::bit(50))) AS t;
SELECT id FROM hb ORDER BY v <~> B'101' LIMIT 1;
RESET enable_seqscan;
RESET enable_sort;
DELETE FROM hb WHERE id % 4 = 0;
INSERT INTO hb SELECT i, (i::bigint * 99991 * 4321)::bit(50) FROM generate_series(301, 350) AS i;
VACUUM hb;
SELECT op, pg_temp.agree(format('SELECT v %s %L::bigint::bit(50) FROM hb WHERE v IS NOT NULL ORDER BY v %1$s %2$L::bigint::bit(50) LIMIT 500', op, 987654321))
  FROM unnest(ARRAY['<~>', '<%>']) AS op;
SELECT relname, heap_tuples, pg_temp.problems(oid) FROM pg_class, hnsw_info(oid) WHERE relname LIKE 'hb\_%' ORDER BY relname;
DROP TABLE hb;

-- lengths
CREATE FUNCTION pg_temp.lengths(bits int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  answer text;
BEGIN
  EXECUTE format('CREATE TABLE hb (id int, v bit(%s))', bits);
  EXECUTE format('INSERT INTO hb SELECT i, substr(repeat(repeat(''0'', i) || ''1'', %1$s / i + 1), 1, %1$s)::bit(%1$s) FROM generate_series(1, 30) AS i', bits);
  CREATE INDEX hb_idx ON hb USING hnsw (v bit_hamming_ops);
  EXECUTE format('INSERT INTO hb SELECT i, substr(repeat(repeat(''1'', i) || ''0'', %1$s / i + 1), 1, %1$s)::bit(%1$s) FROM generate_series(31, 35) AS i', bits);
  answer := pg_temp.agree(format('SELECT v <~> %L FROM hb ORDER BY v <~> %1$L LIMIT 50', (SELECT v FROM hb WHERE id = 3)));
  SELECT answer || format('; %s bits, %s rows, problems: %s', dimensions, heap_tuples, pg_temp.problems('hb_idx')) INTO answer FROM hnsw_info('hb_idx');
  DROP TABLE hb;
  RETURN answer;
END $$;
SELECT pg_temp.lengths(bits) FROM unnest(ARRAY[1, 7, 8, 9, 63, 64, 65, 1536, 16001, 63999, 64000]) AS bits;
CREATE TABLE hb (v bit(64001), w varbit(3), x bit);
SELECT pg_temp.attempt('CREATE INDEX ON hb USING hnsw (v bit_hamming_ops)');
-- bit varying has no length of its own: a cast does
SELECT pg_temp.attempt('CREATE INDEX ON hb USING hnsw (w bit_hamming_ops)');
SELECT pg_temp.attempt('CREATE INDEX hb_cast ON hb USING hnsw ((w::bit(3)) bit_hamming_ops)');
SELECT pg_temp.attempt('CREATE INDEX ON hb USING hnsw ((v::bit(64001)) bit_hamming_ops)');
SELECT pg_temp.attempt('CREATE INDEX ON hb USING hnsw (x bit_hamming_ops)');
INSERT INTO hb (w) VALUES ('1'), ('01'), ('110'), ('111'), (NULL);
SELECT pg_temp.agree('SELECT w FROM hb WHERE w IS NOT NULL ORDER BY w::bit(3) <~> ''111'' LIMIT 3');
DROP TABLE hb;
