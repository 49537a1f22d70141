# The way of a user: the sample, the default index, its recall, its order, what it says about itself.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $node = new_node('sample');
load_sample($node, 'items', 'vector');
load_queries($node, 'queries', 'vector');
remember_exact($node, 'exact', 'items', 'queries', 'cosine');

is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT id), min(vector_dims(embedding)) FROM items'), '4000|4000|384', 'the sample is loaded');
is($node->safe_psql('postgres', 'SELECT sum(rows) FROM exact'), '2000', 'exact search returns k rows a query');

$node->safe_psql('postgres', 'CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops)');
ok_uses_index($node, 'items_idx', 'items', 'queries', 'cosine');
ok_recall(recall($node, 'exact', 'items', 'queries', 'cosine'), 0.97, 'default settings');
ok_recall(recall($node, 'exact', 'items', 'queries', 'cosine', settings => ['hnsw.ef_search = 100']), 0.99, 'ef_search 100');
ok_sound($node, 'items_idx');

# Exact distances of what the index returns come in order.
my $unsorted = $node->safe_psql('postgres', 'SET enable_seqscan = off; SELECT count(*) FROM (SELECT distance < lag(distance) OVER (PARTITION BY q ORDER BY n) AS wrong '
	  . 'FROM (SELECT *, row_number() OVER () AS n FROM (' . knn('items', 'queries', 'cosine', k => 40) . ') a) b) c WHERE wrong');
is($unsorted, '0', 'rows come in order of their distance');

is($node->safe_psql('postgres', 'SELECT nodes, dead_nodes, m, ef_construction, dimensions FROM hnsw_info(\'items_idx\')'), '4000|0|16|64|384', 'hnsw_info counts');
my $bytes = $node->safe_psql('postgres', "SELECT pg_relation_size('items_idx') / 4000");
ok($bytes <= 1025, "the default codec takes $bytes bytes a vector, at most half of 2,050");

# Every row is found as its own nearest neighbour.
is($node->safe_psql('postgres', 'SET enable_seqscan = off; SET hnsw.ef_search = 100; SELECT count(*) FROM items i WHERE (SELECT s.embedding <=> i.embedding '
		  . 'FROM items s ORDER BY s.embedding <=> i.embedding LIMIT 1) > 1e-6'), '0', 'each row is its own nearest neighbour');

done_testing();
