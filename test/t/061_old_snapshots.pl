# Under old_snapshot_threshold vacuum may remove rows that old snapshots still see: once it has removed any, a scan of such a snapshot is an
# error, as with btree, and never an answer without them.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

plan skip_all => 'needs a server with old_snapshot_threshold' if `pg_config --version` =~ /(\d+)/ && $1 >= 17;

# 0: six seconds are old, although vacuum then removes only what nobody sees. Whoever is that old cannot know, and is refused all the same.
my $node = new_node('old_snapshots', settings => ['old_snapshot_threshold = 0']);
foreach my $table (qw(t untouched))
{
	$node->safe_psql('postgres', "CREATE TABLE $table (id int PRIMARY KEY, v vector(3)); "
		  . "INSERT INTO $table SELECT i, ARRAY[i, i % 7, 1]::vector FROM generate_series(1, 1000) i; CREATE INDEX ${table}_v ON $table USING hnsw (v vector_l2_ops) WITH (m = 4)");
}
$node->safe_psql('postgres', 'DELETE FROM t WHERE id BETWEEN 400 AND 600 AND id <> 500');
sub nearest { my ($table) = @_; return "SELECT id FROM $table ORDER BY v <-> '[500,3,1]' LIMIT 1"; }
my @sessions = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 2;
my ($asks, $reads) = @sessions;
$_->query('SET enable_seqscan = off; SET enable_bitmapscan = off; BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1') foreach @sessions;
$reads->query('DECLARE c CURSOR FOR ' . nearest('t') =~ s/LIMIT 1//r);
is($reads->query('FETCH c'), '500', 'a scan begins');
$node->poll_query_until('postgres', "SELECT count(*) = 2 FROM pg_stat_activity WHERE state = 'idle in transaction' AND now() - xact_start > '7 s'");
$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) t');
is($node->safe_psql('postgres', "SELECT heap_tuples FROM hnsw_info('t_v')"), '800', 'vacuum removes rows');

sub ask
{
	my ($session, $sql) = @_;
	$session->{stderr} = '';
	my $out = $session->query("SAVEPOINT s;\n$sql;\n\\echo :SQLSTATE\nROLLBACK TO s");
	return $out;
}
is(ask($asks, nearest('untouched')), "500\n00000", 'an index that has not changed answers');
is(ask($asks, 'SELECT id FROM t WHERE id = 500'), '72000', 'btree refuses the old snapshot');
is(ask($asks, nearest('t')), '72000', 'hnsw too');
is(ask($reads, 'FETCH c'), '72000', 'and a scan that had begun');
is($node->safe_psql('postgres', 'SET enable_seqscan = off; ' . nearest('t')), '500', 'a new snapshot is answered');
$_->quit foreach @sessions;

done_testing();
