# An index that grows row by row, and one that is updated, deleted from and vacuumed, answer like a fresh one.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $node = new_node('changes');
load_queries($node, 'queries', 'vector', rows => 100);

sub check
{
	my ($name, $floor) = @_;
	remember_exact($node, 'exact', 'items', 'queries', 'cosine');
	ok_recall(recall($node, 'exact', 'items', 'queries', 'cosine'), $floor, $name);
	ok_sound($node, 'items_idx', "$name: sound");
	return;
}

# Inserted one by one into an empty index.
load_sample($node, 'items', 'vector', rows => 1);
$node->safe_psql('postgres', 'CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops)');
load_sample($node, 'items', 'vector', create => 0, skip => 1);
is($node->safe_psql('postgres', 'SELECT count(*) FROM items'), '4000', 'all rows are there');
check('inserted row by row', 0.96);

# Half by a build, half by inserts.
$node->safe_psql('postgres', 'TRUNCATE items');
is($node->safe_psql('postgres', 'SET enable_seqscan = off; SELECT count(*) FROM (' . knn('items', 'queries', 'cosine') . ') x'), '0', 'a truncated index finds nothing');
load_sample($node, 'items', 'vector', create => 0, rows => 2000);
$node->safe_psql('postgres', 'REINDEX INDEX items_idx');
load_sample($node, 'items', 'vector', create => 0, skip => 2000);
check('half built, half inserted', 0.96);

# Deleted rows never come back, before vacuum and after it.
$node->safe_psql('postgres', 'DELETE FROM items WHERE id % 5 = 0');
check('deleted, not vacuumed', 0.96);
$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
check('vacuumed', 0.96);
is($node->safe_psql('postgres', "SELECT heap_tuples FROM hnsw_info('items_idx')"), '3200', 'vacuum took the deleted rows out');

# As good as a new one, where the neighbourhoods are dense.
more_rows($node, 'dense', 'items', 'queries', 4);
$node->safe_psql('postgres', 'CREATE INDEX dense_idx ON dense USING hnsw (embedding vector_cosine_ops); DELETE FROM dense WHERE id % 5 = 0');
$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) dense');
remember_exact($node, 'exact', 'dense', 'queries', 'cosine');
my @effort = (settings => ['hnsw.ef_search = 100']);
my $vacuumed = recall($node, 'exact', 'dense', 'queries', 'cosine', @effort);
$node->safe_psql('postgres', 'REINDEX INDEX dense_idx');
my $fresh = recall($node, 'exact', 'dense', 'queries', 'cosine', @effort);
ok_recall($vacuumed, $fresh - 0.015, "a fifth deleted and vacuumed, against a new index's $fresh");
$node->safe_psql('postgres', 'DROP TABLE dense');

# Space is used again: deleting and inserting the same share many times does not make the index grow on and on.
my $before = $node->safe_psql('postgres', "SELECT pg_relation_size('items_idx')");
foreach my $round (1 .. 5)
{
	load_sample($node, 'items', 'vector', create => 0, rows => 400);
	$node->safe_psql('postgres', 'DELETE FROM items WHERE id < 400');
	$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
}
my $after = $node->safe_psql('postgres', "SELECT pg_relation_size('items_idx')");
ok($after <= 1.25 * $before, "space is reused: $before bytes before, $after after");
check('five rounds later', 0.96);

# Updates: of the vector, and of another column in a row that moves to another page.
$node->safe_psql('postgres', 'UPDATE items SET embedding = (SELECT embedding FROM queries WHERE queries.id = items.id % 100) WHERE id % 50 = 1');
check('vectors updated', 0.96);
$node->safe_psql('postgres', "UPDATE items SET body = repeat(body, 10)");
check('another column updated', 0.96);
$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
check('updated and vacuumed', 0.96);

# Any number of duplicates: all are found.
$node->safe_psql('postgres', 'INSERT INTO items SELECT 100000 + g, NULL, (SELECT embedding FROM queries WHERE id = 3) FROM generate_series(1, 500) g');
is($node->safe_psql('postgres', 'SET enable_seqscan = off; SET hnsw.ef_search = 40; SET hnsw.iterative_scan = strict_order; SELECT count(*) FROM (SELECT id FROM items '
		  . 'ORDER BY embedding <=> (SELECT embedding FROM queries WHERE id = 3) LIMIT 500) s WHERE id > 100000'), '500', '500 duplicates are all found');
check('with duplicates', 0.95);

# Everything deleted: nothing is found, and the index takes rows again.
$node->safe_psql('postgres', 'DELETE FROM items');
$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
is($node->safe_psql('postgres', 'SET enable_seqscan = off; SELECT count(*) FROM (' . knn('items', 'queries', 'cosine') . ') x'), '0', 'an emptied index finds nothing');
ok_sound($node, 'items_idx', 'the emptied index is sound');
load_sample($node, 'items', 'vector', create => 0);
check('filled again', 0.96);

# What rolls back is not found.
$node->safe_psql('postgres', 'BEGIN; INSERT INTO items SELECT 200000 + id, body, embedding FROM queries; ROLLBACK');
is($node->safe_psql('postgres', 'SET enable_seqscan = off; SELECT count(*) FROM (' . knn('items', 'queries', 'cosine', k => 1) . ') x WHERE id >= 200000'), '0',
	'rolled back rows are not found');
check('after a rollback', 0.96);

# NULLs and, under cosine, zero vectors are in the table only.
$node->safe_psql('postgres', "INSERT INTO items VALUES (300000, 'null', NULL), (300001, 'zero', array_fill(0, ARRAY[384])::vector)");
$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
is($node->safe_psql('postgres', 'SELECT (SELECT heap_tuples FROM hnsw_info(\'items_idx\')) - (SELECT count(*) FROM items)'), '-2', 'NULL and the zero vector are not indexed');

done_testing();
