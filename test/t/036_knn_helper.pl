# knn_exact with the helper (CPU device, real socket and arena) gives what it gives without: rows, order and distances, for both types and
# every metric, over values that floats have trouble with; when the helper refuses, hangs or dies, too; and under require it says so.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use GPUHelper;
use VectorKV;

my $node = gpu_node('knn_helper', 'vectorkv.gpu_arena_size = 8MB', 'work_mem = 256MB');
load_queries($node, 'queries', 'vector');
$node->safe_psql('postgres', <<'SQL');
-- The same search on the CPU and by the helper: how it differs, and how many requests were answered.
CREATE FUNCTION search(rel regclass, metric text, k int, count int, OUT result text[]) LANGUAGE sql AS $$
  SELECT coalesce(array_agg(concat_ws(' ', query, rank, id, distance, source)), '{}')
    FROM (SELECT array_agg(embedding ORDER BY id) AS v FROM (SELECT * FROM queries ORDER BY id LIMIT count) AS t) AS q, knn_exact(rel, 'embedding', v, k, metric)
$$;
CREATE FUNCTION beside(rel regclass, metric text, k int, count int, gpu text DEFAULT 'require', OUT differing bigint, OUT rows int, OUT requests bigint) LANGUAGE plpgsql AS $$
DECLARE
  here text[];
  there text[];
  before bigint := s.requests FROM kv.gpu_session() AS s;
BEGIN
  PERFORM set_config('vectorkv.gpu', 'off', false);
  here := search(rel, metric, k, count);
  PERFORM set_config('vectorkv.gpu', gpu, false);
  there := search(rel, metric, k, count);
  differing := (SELECT count(*) FROM unnest(here, there) AS t(a, b) WHERE a IS DISTINCT FROM b);
  rows := cardinality(here);
  requests := s.requests - before FROM kv.gpu_session() AS s;
END $$;
SQL
foreach my $type (qw(vector halfvec))
{
	load_sample($node, $type . 's', $type);
	# Twice the same, none, zero, far from zero, and what squares of floats cannot hold.
	my $big = $type eq 'vector' ? '1e20' : '1.5e4';
	my $small = $type eq 'vector' ? '1e-25' : '6e-8';
	$node->safe_psql('postgres', "INSERT INTO ${type}s SELECT id + 10000, NULL, embedding FROM ${type}s WHERE id % 9 = 0; INSERT INTO ${type}s VALUES (20000, NULL, NULL); "
		  . "INSERT INTO ${type}s SELECT i, NULL, array_fill(x * (i % 5), ARRAY[384])::vector FROM generate_series(30000, 30010) AS i, unnest(ARRAY[0, $small, $big, 100]) AS x");
}
$node->safe_psql('postgres', 'INSERT INTO queries SELECT -i, NULL, array_fill(x, ARRAY[384])::vector FROM unnest(ARRAY[0, 100, 6e4]) WITH ORDINALITY AS t(x, i)');

# vector, 384 dimensions: rows of 1.5 kB, so that the table makes several blocks.
foreach my $type (qw(vector halfvec))
{
	foreach my $metric (qw(l2 inner_product cosine l1))
	{
		foreach my $case ([1, 1], [10, 63], [500, 20], [20000, 4])
		{
			my ($k, $queries) = @$case;
			my ($differing, $rows, $requests) = split /\|/, $node->safe_psql('postgres', "SELECT * FROM beside('${type}s', '$metric', $k, $queries)");
			my $all = $k < 20000 ? $k * $queries : 4 * $node->safe_psql('postgres', "SELECT count(embedding) FROM ${type}s");
			ok($differing == 0 && $rows == $all && $requests == 2, "$type, $metric, $queries queries, k $k: $differing of $rows rows differ, $requests requests");
		}
	}
}
my ($requests) = $node->safe_psql('postgres', "SELECT requests FROM beside('vectors', 'l2', 10, 20)");
cmp_ok($requests, '>=', 2, 'a table of several blocks makes several requests');
cmp_ok(gpu_stat($node, 'requests'), '>=', 34, 'the helper counted them');

# Through the planner: row security, with a cursor open while the helper is waited for.
$node->safe_psql('postgres', 'CREATE ROLE reader; GRANT SELECT ON vectors, queries TO reader; ALTER TABLE vectors ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON vectors USING (id % 2 = 0)');
like($node->safe_psql('postgres', "SET ROLE reader; SELECT differing, rows, requests > 0 FROM beside('vectors', 'cosine', 10, 20)"), qr/^0\|200\|t$/, 'under row security');
$node->safe_psql('postgres', 'ALTER TABLE vectors DISABLE ROW LEVEL SECURITY');
ok_at_rest($node, 'after searches');

# auto: the CPU device is no gain, and the user is told why.
is($node->safe_psql('postgres', "SELECT differing, requests FROM beside('vectors', 'l2', 10, 20, 'auto')"), '0|0', 'auto stays on the CPU');
is($node->safe_psql('postgres', "SET vectorkv.gpu = auto; SELECT cardinality(search('vectors', 'l2', 10, 20)); SELECT on_cpu FROM kv.gpu_session()"), "200\n1",
	'auto counts the search it left to the CPU once');

# Answers larger than the arena.
is($node->safe_psql('postgres', "SELECT differing, requests FROM beside('vectors', 'l2', 5000, 203, 'on')"), '0|0', 'too large for the arena: the CPU answers');
like(sqlstate_of($node, "SET vectorkv.gpu = require; SELECT count(*) FROM search('vectors', 'l2', 5000, 203)"), qr/^0A000/, '... and under require says so');
is($node->safe_psql('postgres', "SELECT differing, requests > 0 FROM beside('vectors', 'l2', 10, 20)"), '0|t', 'the helper goes on');
ok_at_rest($node, 'after refusals');

# An error of our own between two requests.
$node->safe_psql('postgres', "CREATE TABLE odd AS SELECT id, embedding::vector FROM vectors; INSERT INTO odd VALUES (0, '[1,2]')");
like(sqlstate_of($node, "SET vectorkv.gpu = require; SELECT count(*) FROM search('odd', 'l2', 10, 20)"), qr/^22000/, 'a row of another dimension');
is($node->safe_psql('postgres', <<'SQL'), "0|t", 'a transaction that caught it goes on');
DO $$ BEGIN PERFORM set_config('vectorkv.gpu', 'require', false); PERFORM search('odd', 'l2', 10, 20); EXCEPTION WHEN data_exception THEN NULL; END $$;
SELECT differing, requests > 0 FROM beside('vectors', 'l2', 10, 20);
SQL

# A helper that takes its time: the deadline, cancel.
configure($node, 'vectorkv.gpu_helper' => wrapper($node, '--launch-delay-us 1500000'));
wait_for_process($node, '--launch-delay-us');
wait_for_status($node, 'state', qr/^ready$/);
is($node->safe_psql('postgres', "SET vectorkv.gpu_timeout = '200ms'; SELECT differing, requests FROM beside('vectors', 'l2', 10, 20, 'on')"), '0|0', 'no answer in time: the CPU answers');
ok_at_rest($node, 'after a timeout');  # until its launch ends, a request takes up the small arena
like(sqlstate_of($node, "SET vectorkv.gpu_timeout = '200ms'; SET vectorkv.gpu = require; SELECT count(*) FROM search('vectors', 'l2', 10, 20)"), qr/^55000/, '... and under require says so');
ok_at_rest($node, 'after another');
like(sqlstate_of($node, "SET statement_timeout = '300ms'; SET vectorkv.gpu = on; SELECT count(*) FROM search('vectors', 'l2', 10, 20)"), qr/^57014/, 'cancelled while it waits');

ok_at_rest($node, 'after a cancel');

# The helper dies while it is asked, which takes longer than it has to live.
configure($node, 'vectorkv.gpu_helper' => wrapper($node, '--launch-delay-us 10000000'));
wait_for_process($node, '--launch-delay-us 10000000');
wait_for_status($node, 'state', qr/^ready$/);
my $asked = helper_pid($node);
my ($out, $err) = ('', '');
my $session = IPC::Run::start(['psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', "SELECT differing, requests FROM beside('vectors', 'l2', 10, 20, 'on')"], '>', \$out, '2>', \$err);
$node->poll_query_until('postgres', "SELECT count(*) > 0 FROM pg_stat_activity WHERE query ~ '^SELECT differing' AND wait_event_type = 'Extension'") or die 'nobody waits for the helper';
kill 'KILL', $asked;
$session->finish;
is($out, "0|0\n", 'the helper is killed while it is asked: the CPU answers');

# No helper at all.
configure($node, 'vectorkv.gpu_helper' => '/nonexistent/vectorkv_helper');
wait_for_status($node, 'state', qr/^waiting$/);
is($node->safe_psql('postgres', "SELECT differing, requests FROM beside('vectors', 'l2', 10, 20, 'on')"), '0|0', 'without a helper the CPU answers');
like(sqlstate_of($node, "SET vectorkv.gpu = require; SELECT count(*) FROM search('vectors', 'l2', 10, 20)"), qr/^55000/, '... and under require says so');
configure($node, 'vectorkv.gpu_helper' => undef);
wait_for_status($node, 'staging_per_second', qr/^[1-9]/);  # while it measures itself it takes up the small arena
ok_at_rest($node, 'measured');
is($node->safe_psql('postgres', "SELECT differing, requests > 0 FROM beside('vectors', 'l2', 10, 20)"), '0|t', 'back again');
ok_at_rest($node, 'at the end');

$node->stop;
done_testing();
