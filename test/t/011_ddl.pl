# Indexes of every kind that PostgreSQL offers: concurrently built and rebuilt, on partitions, on expressions, partial.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $node = new_node('ddl');
load_sample($node, 'items', 'vector');
load_queries($node, 'queries', 'vector', rows => 100);
$node->safe_psql('postgres', 'ALTER TABLE items ADD PRIMARY KEY (id)');

# Writers go on while the index is built and rebuilt concurrently.
my $writers = start_pgbench($node, 2, 6, [1, "\\set i random(0, 3999)\nUPDATE items SET body = body || ' ' WHERE id = :i;\n"],
	[1, "\\set i random(0, 3999)\nUPDATE items SET embedding = (SELECT embedding FROM queries WHERE id = :i % 100) WHERE id = :i;\n"]);
$node->safe_psql('postgres', 'CREATE INDEX CONCURRENTLY items_idx ON items USING hnsw (embedding vector_cosine_ops)');
ok_sound($node, 'items_idx', 'sound when built concurrently');
$node->safe_psql('postgres', 'REINDEX INDEX CONCURRENTLY items_idx');
ok_sound($node, 'items_idx', 'sound when rebuilt concurrently');
my ($code, $output) = finish_pgbench($writers);
is($code, 0, 'writers saw no error') or diag($output);
$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
ok_sound($node, 'items_idx', 'sound after the writers');
is($node->safe_psql('postgres', "SELECT heap_tuples FROM hnsw_info('items_idx')"), '4000', 'every row is indexed once');
remember_exact($node, 'exact', 'items', 'queries', 'cosine');
ok_recall(recall($node, 'exact', 'items', 'queries', 'cosine', settings => ['hnsw.ef_search = 100']), 0.95, 'built under writers');
$node->safe_psql('postgres', 'DROP INDEX CONCURRENTLY items_idx');

# Partial.
$node->safe_psql('postgres', 'CREATE INDEX part_idx ON items USING hnsw (embedding vector_cosine_ops) WHERE id < 1000');
is($node->safe_psql('postgres', "SELECT heap_tuples FROM hnsw_info('part_idx')"), '1000', 'a partial index holds its rows only');
like($node->safe_psql('postgres', 'SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off; EXPLAIN (COSTS OFF) ' . knn('items', 'queries', 'cosine', where => 's.id < 1000')), qr/Index Scan using part_idx/, 'and is used');
remember_exact($node, 'exact', 'items', 'queries', 'cosine', where => 's.id < 1000');
ok_recall(recall($node, 'exact', 'items', 'queries', 'cosine', where => 's.id < 1000', settings => ['enable_sort = off']), 0.95, 'partial');
$node->safe_psql('postgres', 'DROP INDEX part_idx');

# Expressions: a cast, a part, signs.
$node->safe_psql('postgres', 'CREATE INDEX half_idx ON items USING hnsw ((embedding::halfvec(384)) halfvec_cosine_ops)');
$node->safe_psql('postgres', 'CREATE INDEX sub_idx ON items USING hnsw ((subvector(embedding, 1, 64)::vector(64)) vector_cosine_ops)');
$node->safe_psql('postgres', 'CREATE INDEX sign_idx ON items USING hnsw ((binary_quantize(embedding)::bit(384)) bit_hamming_ops)');
foreach my $case (['half_idx', 'embedding::halfvec(384) <=> q.embedding::halfvec(384)'], ['sub_idx', 'subvector(embedding, 1, 64)::vector(64) <=> subvector(q.embedding, 1, 64)'],
	['sign_idx', 'binary_quantize(embedding)::bit(384) <~> binary_quantize(q.embedding)'])
{
	my $sql = "SELECT (SELECT min(d) FROM (SELECT $case->[1] AS d FROM items ORDER BY $case->[1] LIMIT 5) x) FROM (SELECT * FROM queries WHERE id = 8) q";
	like($node->safe_psql('postgres', "SET enable_seqscan = off; EXPLAIN (COSTS OFF) $sql"), qr/Index Scan using $case->[0]/, "$case->[0] is used");
	is($node->safe_psql('postgres', "SET enable_seqscan = off; SET hnsw.ef_search = 200; $sql"), $node->safe_psql('postgres', "SET enable_indexscan = off; $sql"), "$case->[0] finds the nearest");
	ok_sound($node, $case->[0]);
}

# Partitions: an index on the parent is one on each, merged in order.
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE parts (id int, body text, embedding vector(384)) PARTITION BY HASH (id);
CREATE TABLE parts_0 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO parts SELECT * FROM items;
CREATE INDEX parts_idx ON parts USING hnsw (embedding vector_cosine_ops);
SQL
my $plan = $node->safe_psql('postgres', 'SET enable_seqscan = off; EXPLAIN (COSTS OFF) ' . knn('parts', 'queries', 'cosine'));
like($plan, qr/Merge Append.*Index Scan using parts_0_embedding_idx.*Index Scan using parts_1_embedding_idx/s, 'partitions are merged');
remember_exact($node, 'exact', 'parts', 'queries', 'cosine');
ok_recall(recall($node, 'exact', 'parts', 'queries', 'cosine'), 0.95, 'partitions');

# Temporary and empty tables, more than one index a column, TRUNCATE, a column that is dropped.
is($node->safe_psql('postgres', <<'SQL'), "0\n3\n0\n1", 'temporary and empty tables');
CREATE TEMP TABLE scratch (id int, v vector(3));
CREATE INDEX ON scratch USING hnsw (v vector_l2_ops);
CREATE INDEX ON scratch USING hnsw (v vector_ip_ops);
SET enable_seqscan = off;
SELECT count(*) FROM (SELECT * FROM scratch ORDER BY v <-> '[1,2,3]' LIMIT 5) x;
INSERT INTO scratch SELECT g, ARRAY[g, 1, 1]::vector FROM generate_series(1, 3) g;
SELECT count(*) FROM (SELECT * FROM scratch ORDER BY v <-> '[1,2,3]' LIMIT 5) x;
TRUNCATE scratch;
SELECT count(*) FROM (SELECT * FROM scratch ORDER BY v <#> '[1,2,3]' LIMIT 5) x;
INSERT INTO scratch VALUES (1, '[1,2,3]');
SELECT count(*) FROM (SELECT * FROM scratch ORDER BY v <#> '[1,2,3]' LIMIT 5) x;
ALTER TABLE scratch DROP COLUMN v;
SQL

# A dump brings table and index back.
my $dump = $node->backup_dir . '/items.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, '-t', 'parts*', $node->connstr('postgres') ], 'pg_dump');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->safe_psql('copy', 'CREATE EXTENSION vector');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, $node->connstr('copy') ], 'the dump loads');
is($node->safe_psql('copy', "SELECT count(*), sum((SELECT count(*) FROM hnsw_check(indexrelid))) FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE relname ~ '^parts_._embedding_idx'"), '2|0',
	'its indexes are sound');

done_testing();
