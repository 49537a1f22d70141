-- Distances on PostgreSQL's bit strings.
SELECT hamming_distance('111', '110'), hamming_distance(B'', B''), B'1010' <~> B'0101';
SELECT jaccard_distance('1111', '1100'), jaccard_distance('1100', '0011'), jaccard_distance('0000', '0000'), jaccard_distance('101', '101'), B'1110' <%> B'0111';
SELECT hamming_distance('111', '11');
SELECT jaccard_distance('111', '11');
SELECT hamming_distance(B'1'::varbit, B'1'::varbit);
-- every length around words and registers: all bits differ, then one bit in common
SELECT count(*), bool_and(a <~> ~a = n), bool_and(a <~> a = 0), bool_and(a <%> ~a = 1),
       bool_and((a <%> set_bit((~a)::bit varying::text::varbit, 0, 1)::varbit) = 1 - 1.0::float8 / n)
  FROM (SELECT n, repeat('1', n)::varbit::bit varying AS a FROM generate_series(1, 1100, 7) AS n) AS t;
SELECT hamming_distance(repeat('10', 32000)::varbit, repeat('01', 32000)::varbit);
-- quantized vectors
CREATE TABLE bit_t (id int, v vector(4));
INSERT INTO bit_t VALUES (1, '[1,1,1,1]'), (2, '[-1,1,1,1]'), (3, '[-1,-1,-1,-1]');
SELECT id, binary_quantize(v) <~> B'1111' AS hamming, binary_quantize(v)::bit(4) <%> B'1110' AS jaccard FROM bit_t ORDER BY 2, 1;
DROP TABLE bit_t;
