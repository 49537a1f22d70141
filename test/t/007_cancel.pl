# A cancelled build leaves no index and no file; a cancelled vacuum leaves a sound index that the next vacuum finishes.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $node = new_node('cancel', settings => ['maintenance_work_mem = 256MB']);
load_queries($node, 'queries', 'vector', rows => 100);
load_sample($node, 'sample', 'vector');
more_rows($node, 'items', 'sample', 'queries', 4);

my $build = 'CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops)';
my @files = index_files($node);
my $cancelled = 0;
foreach my $case ([50, 0], [200, 0], [500, 0], [1000, 0], [50, 2], [300, 2], [900, 2])
{
	my ($ms, $workers) = @$case;
	my $name = "after $ms ms with $workers workers";
	my $state = sqlstate_of($node, "SET max_parallel_maintenance_workers = $workers; SET statement_timeout = $ms; $build");
	if ($state eq '')
	{
		$node->safe_psql('postgres', 'DROP INDEX items_idx');
		next;
	}
	$cancelled++;
	like($state, qr/^57014/, "cancelled $name");
	is($node->safe_psql('postgres', "SELECT count(*) FROM pg_class WHERE relname ~ 'items_idx'"), '0', "no index $name");
	is_deeply([index_files($node)], \@files, "no file $name");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_ls_tmpdir()'), '0', "no temporary file $name");
}
cmp_ok($cancelled, '>=', 2, 'builds were cancelled');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'parallel'"), '0', 'no worker is left');

# A build without memory to hold it all spends its time elsewhere.
like(sqlstate_of($node, "SET maintenance_work_mem = '4MB'; SET statement_timeout = 200; $build"), qr/^57014/, 'cancelled beyond the memory budget');
is_deeply([index_files($node)], \@files, 'no file after it');

# The cancel of one build does not spoil the next in the same connection.
$node->safe_psql('postgres', "SET statement_timeout = 50; \\set ON_ERROR_STOP 0\n$build;\n\\set ON_ERROR_STOP 1\nSET statement_timeout = 0; $build");
ok_sound($node, 'items_idx', 'a build after a cancelled one');

# Building again, beside the old index.
foreach my $ms (100, 300, 600)
{
	like(sqlstate_of($node, "SET maintenance_work_mem = '8MB'; SET statement_timeout = $ms; REINDEX INDEX CONCURRENTLY items_idx"), qr/^57014/, "REINDEX CONCURRENTLY cancelled after $ms ms");
	$node->safe_psql('postgres', 'DROP INDEX IF EXISTS items_idx_ccnew');
}

# Vacuum.
$node->safe_psql('postgres', 'DELETE FROM items WHERE id % 2 = 0');
$cancelled = 0;
foreach my $ms (5, 20, 60, 150, 400)
{
	my $state = sqlstate_of($node, "SET statement_timeout = $ms; VACUUM (INDEX_CLEANUP ON) items");
	last if $state eq '';
	$cancelled++;
	like($state, qr/^57014/, "vacuum cancelled after $ms ms");
	ok_sound($node, 'items_idx', "sound after $ms ms of vacuum");
}
cmp_ok($cancelled, '>=', 1, 'vacuums were cancelled');
$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
ok_sound($node, 'items_idx', 'sound after the vacuum that went through');
is($node->safe_psql('postgres', "SELECT heap_tuples = (SELECT count(*) FROM items) FROM hnsw_info('items_idx')"), 't', 'the vacuum that went through took all deleted rows out');
remember_exact($node, 'exact', 'items', 'queries', 'cosine');
my @effort = (settings => ['hnsw.ef_search = 100']);
my $aged = recall($node, 'exact', 'items', 'queries', 'cosine', @effort);
$node->safe_psql('postgres', 'REINDEX INDEX items_idx');
my $fresh = recall($node, 'exact', 'items', 'queries', 'cosine', @effort);
ok_recall($aged, $fresh - 0.02, "half deleted, vacuum cancelled and finished, against a new index's $fresh");

# A search that is cancelled leaves nothing locked.
like(sqlstate_of($node, "SET statement_timeout = 20; SET enable_seqscan = off; SET hnsw.ef_search = 1000; SELECT count(*) FROM (SELECT * FROM queries, generate_series(1, 1000)) q "
		  . 'CROSS JOIN LATERAL (SELECT id FROM items s ORDER BY s.embedding <=> q.embedding LIMIT 10) r'), qr/^57014/, 'a search is cancelled');
$node->safe_psql('postgres', "SET lock_timeout = '2s'; INSERT INTO items SELECT id, embedding FROM sample WHERE id < 50; DROP INDEX items_idx");
pass('nothing was locked');

done_testing();
