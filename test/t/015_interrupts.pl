# No command on an index goes on for long without looking for interrupts, and no loop of a vacuum without counting its cost. A library in
# the session measures both (lib/PollGap.pm).
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PollGap;
use Test::More;
use VectorKV;

my $most_uncounted = 100;    # ms; what a vacuum only sorts has no cost
my $most = 20;    # ms; the longest is 4 or so, and a loop over all rows that does not look takes 30 and more

# Segments of the log that are filled with zeros take as long as that takes.
my $node = new_node('interrupts', settings => [ 'wal_init_zero = off', 'fsync = off', 'jit = off', 'max_parallel_maintenance_workers = 1', 'max_parallel_workers_per_gather = 0', 'shared_buffers = 256MB' ]);
load_poll_gap($node) or plan skip_all => 'no C compiler or no headers';

# Runs it, and says how long it went without looking, and the cost of a vacuum. Before it is run once more, what `again` says.
sub ok_prompt
{
	my ($name, $settings, $again, @statements) = @_;
	my $sql = join("\n", map { "$_;" } 'SET enable_seqscan = off', 'SET client_min_messages = error', @$settings, 'SELECT poll_gap_start()', @statements, "SELECT 'gap ' || poll_gap_stop()", "SELECT 'cost ' || poll_gap_cost()");
	my ($answer, $gap, $uncounted, $count);
	foreach my $attempt (1 .. 3)
	{
		$node->safe_psql('postgres', $again) if $attempt > 1;
		$answer = $node->safe_psql('postgres', $sql);
		($gap) = $answer =~ /^gap ([\d.]+)/m;
		($uncounted, $count) = $answer =~ /^cost ([\d.]+) (\d+)/m;
		last if $gap <= $most && $uncounted <= $most_uncounted;
		diag("$name, attempt $attempt: $answer");
	}
	ok($gap <= $most, "$name: at most $gap ms without looking for interrupts");
	return ($uncounted, $count);
}

my $rows = 100_000;
$node->safe_psql('postgres', <<"SQL");
CREATE TABLE items (id int, v vector(4)) WITH (autovacuum_enabled = off);
INSERT INTO items SELECT i, ARRAY[sin(i), cos(i * 1.7), sin(i * 0.37), cos(i * 2.3)]::real[]::vector FROM generate_series(1, $rows) i;
CREATE TABLE same (id int, v vector(4)) WITH (autovacuum_enabled = off);
INSERT INTO same SELECT i, '[1,2,3,4]' FROM generate_series(1, $rows) i;
INSERT INTO same SELECT id, v FROM items WHERE id < 2000;
CHECKPOINT;
SQL

my $with = 'WITH (m = 4, ef_construction = 8';
ok_prompt('a build', ["SET maintenance_work_mem = '256MB'"], 'DROP INDEX items_idx', "CREATE INDEX items_idx ON items USING hnsw (v vector_l2_ops) $with, codec = lvq8)");
ok_prompt('a build with two levels, beyond its memory', ["SET maintenance_work_mem = '4MB'"], 'DROP INDEX items_apart', "CREATE INDEX items_apart ON items USING hnsw (v vector_l2_ops) $with, codec = lvq4x8)");
ok_prompt('a build of equal vectors', [], 'DROP INDEX same_idx', "CREATE INDEX same_idx ON same USING hnsw (v vector_l2_ops) $with)");
ok_prompt('a check', [], '', "SELECT hnsw_check('items_apart', true)", "SELECT hnsw_check('same_idx', true)", "SELECT hnsw_info('same_idx')");
ok_prompt('a check by searches', ['SET hnsw.ef_search = 10'], '', "SELECT count(*) FROM hnsw_check('items_idx', true, true)");
$node->safe_psql('postgres', 'DROP INDEX items_apart');
ok_prompt('insertions', [], "DELETE FROM items WHERE id > $rows; VACUUM items", "INSERT INTO items SELECT $rows + id, v * '[1.1,1.1,1.1,1.1]' FROM items WHERE id <= 1000", 'INSERT INTO same SELECT id, v FROM same WHERE id < 1000');
foreach my $order (qw(off strict_order relaxed_order))
{
	ok_prompt("a search that goes on ($order)", ["SET hnsw.iterative_scan = $order", 'SET hnsw.ef_search = 1000', 'SET hnsw.max_scan_tuples = 1000000', 'SET hnsw.scan_mem_multiplier = 100'], '',
		"SELECT count(*) FROM (SELECT id FROM items ORDER BY v <-> '[0,0,0,0]' LIMIT $rows) x", "SELECT count(*) FROM (SELECT id FROM same ORDER BY v <-> '[1,2,3,4]' LIMIT $rows) x");
}
ok_prompt('exact search', [], '', "SELECT count(*) FROM knn_exact('items', 'v', (SELECT array_agg(v) FROM items WHERE id <= 200), 10, 'l2')",
	"SELECT count(*) FROM knn_exact('items', 'v', (SELECT array_agg(v) FROM items WHERE id <= 2), 10000, 'l2')");

# A vacuum of much. Its cost is counted wherever it is, and it rests when the limit is reached; the rests are short here.
my %delete = (items => 'DELETE FROM items WHERE id % 2 = 0', same => 'DELETE FROM same WHERE id % 3 = 0');
foreach my $table (qw(items same))
{
	$node->safe_psql('postgres', "CREATE TABLE gone_$table AS SELECT * FROM $table WHERE @{[$delete{$table} =~ s/.*WHERE //r]}; $delete{$table}");
	my ($uncounted, $count) = ok_prompt("a vacuum of $table", ["SET maintenance_work_mem = '64MB'", "SET vacuum_cost_delay = '0.001ms'", 'SET vacuum_cost_limit = 1000'],
		"INSERT INTO $table SELECT * FROM gone_$table; $delete{$table}", "VACUUM (INDEX_CLEANUP ON) $table");
	cmp_ok($uncounted, '<=', $most_uncounted, "$table: ms without cost");
	cmp_ok($count, '<=', 2000, "$table: cost between two rests, of 1000");
}
ok_sound($node, 'items_idx');
ok_sound($node, 'same_idx');

done_testing();
