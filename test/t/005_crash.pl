# A server that dies at any point: during inserts and vacuum, during a build, at rest.  After recovery the index is sound and answers
# as it did.  VKV_CRASH_ROUNDS sets how many crashes under load (5).
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use VectorKV;

my $rounds = $ENV{VKV_CRASH_ROUNDS} // 5;
srand(20240607);
my $node = new_node('crash', settings => ['checkpoint_timeout = 30s', 'wal_writer_delay = 10ms', 'restart_after_crash = off', 'max_parallel_maintenance_workers = 2']);
load_sample($node, 'sample', 'vector');
load_queries($node, 'queries', 'vector', rows => 50);

# At rest: the same answers, row for row.
$node->safe_psql('postgres', 'CREATE TABLE items (id serial PRIMARY KEY, body text, embedding vector(384)); '
	  . 'INSERT INTO items (body, embedding) SELECT body, embedding FROM sample WHERE id < 1500; '
	  . 'CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops); '
	  . 'INSERT INTO items (body, embedding) SELECT body, embedding FROM sample WHERE id BETWEEN 1500 AND 1999; '
	  . 'DELETE FROM items WHERE id % 7 = 0');
$node->safe_psql('postgres', 'VACUUM items');
my $before = answers($node, 'items', 'queries', 'cosine');
$node->stop('immediate');
$node->start;
is(answers($node, 'items', 'queries', 'cosine'), $before, 'the same answers after a crash at rest');
ok_sound($node, 'items_idx', 'sound after a crash at rest');

# Dies at a random moment of a mixed load; the postmaster alone by SIGKILL or all at once.
foreach my $round (1 .. $rounds)
{
	my $load = start_pgbench($node, 4, 60,
		[5, "\\set s random(0, 3999)\nINSERT INTO items (body, embedding) SELECT body, embedding FROM sample WHERE id = :s;\n"],
		[2, "\\set s random(0, 3999)\n\\set i random(1, 3000)\nUPDATE items SET embedding = (SELECT embedding FROM sample WHERE id = :s) WHERE id = :i;\n"],
		[2, "\\set i random(1, 3000)\nDELETE FROM items WHERE id = :i;\n"],
		[1, "VACUUM items;\n"],
		[1, "CHECKPOINT;\n"]);
	usleep(300_000 + int(rand(1_500_000)));
	if ($round % 2) { $node->stop('immediate'); }
	else { $node->kill9; }
	finish_pgbench($load);
	wait_until_gone($node);
	$node->start;
	ok_sound($node, 'items_idx', "round $round: sound after recovery");
	remember_exact($node, 'exact', 'items', 'queries', 'cosine');
	ok_recall(recall($node, 'exact', 'items', 'queries', 'cosine'), 0.94, "round $round");
	$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
	is($node->safe_psql('postgres', "SELECT count(*) = (SELECT heap_tuples FROM hnsw_info('items_idx')) FROM items"), 't',
		"round $round: after a vacuum every row and no other is indexed");
}

# Dies during a build: no index is left, and the next build is like any other.
$node->safe_psql('postgres', 'DROP INDEX items_idx');
more_rows($node, 'big', 'sample', 'queries', 5);
foreach my $round (1 .. 3)
{
	my $build = start_pgbench($node, 1, 60, [1, "CREATE INDEX big_idx ON big USING hnsw (embedding vector_cosine_ops);\n\\sleep 60 s\n"]);
	wait_for_backends($node, 'CREATE INDEX', 1);
	usleep(int(rand(700_000)));
	$node->stop('immediate');
	finish_pgbench($build);
	$node->start;
	my $state = $node->safe_psql('postgres', "SELECT count(*) FROM pg_class WHERE relname = 'big_idx'");
	ok_sound($node, 'big_idx', "build $round: finished before the crash, and sound") if $state == 1;
	is($state, '0', "build $round: nothing is left") if $state == 0;
	$node->safe_psql('postgres', 'DROP INDEX IF EXISTS big_idx');
}
$node->safe_psql('postgres', 'CREATE INDEX big_idx ON big USING hnsw (embedding vector_cosine_ops)');
ok_sound($node, 'big_idx', 'a build after the crashes');

# UNLOGGED: empty after a crash, whole after an orderly stop, and usable in both cases.
load_sample($node, 'loose', 'vector', kind => 'UNLOGGED', rows => 1000);
$node->safe_psql('postgres', 'CREATE INDEX loose_idx ON loose USING hnsw (embedding vector_cosine_ops)');
$node->restart;
is($node->safe_psql('postgres', 'SET enable_seqscan = off; SELECT count(*) FROM (' . knn('loose', 'queries', 'cosine') . ') x'), '500', 'UNLOGGED survives an orderly stop');
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', 'SET enable_seqscan = off; SELECT count(*) FROM (' . knn('loose', 'queries', 'cosine') . ') x'), '0', 'UNLOGGED is empty after a crash');
ok_sound($node, 'loose_idx', 'the emptied UNLOGGED index is sound');
load_sample($node, 'loose', 'vector', create => 0, rows => 1000);
remember_exact($node, 'exact', 'loose', 'queries', 'cosine');
ok_recall(recall($node, 'exact', 'loose', 'queries', 'cosine'), 0.96, 'UNLOGGED filled again');

done_testing();
