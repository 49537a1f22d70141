# A build beyond maintenance_work_mem says so, with the size that would have been enough, and makes an index as good.  A build with
# worker threads is as good as one without.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use VectorKV;

my $node = new_node('memory', settings => ['max_worker_processes = 6']);
load_sample($node, 'items', 'vector');
load_queries($node, 'queries', 'vector');
remember_exact($node, 'exact', 'items', 'queries', 'cosine');

sub build
{
	my ($memory, $workers, $with) = @_;
	my ($status, $out, $err) = $node->psql('postgres', "SET maintenance_work_mem = '$memory'; SET max_parallel_maintenance_workers = $workers; DROP INDEX IF EXISTS items_idx; "
		  . 'SET client_min_messages = notice; CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops) ' . ($with // ''));
	is($status, 0, "a build with $memory and $workers workers goes through") or diag($err);
	$err =~ s/^.*items_idx.* does not exist, skipping\n?//m;
	return $err;
}

is(build('256MB', 0), '', 'a build that fits says nothing');
my $whole = recall($node, 'exact', 'items', 'queries', 'cosine');
ok_recall($whole, 0.97, 'all in memory');
ok_sound($node, 'items_idx');

my $notice = build('1MB', 0);
like($notice, qr/NOTICE: .*maintenance_work_mem/, 'a build that does not fit says so');
my ($enough, $unit) = $notice =~ /(\d+) ?(kB|MB|GB)(?!.*\d ?(?:kB|MB|GB))/s;
ok(defined $enough, 'it names a size');
ok_recall(recall($node, 'exact', 'items', 'queries', 'cosine'), $whole - 0.02, 'a small budget costs no recall');
ok_sound($node, 'items_idx', 'the index of a small budget is sound');
is($node->safe_psql('postgres', "SELECT heap_tuples FROM hnsw_info('items_idx')"), '4000', 'and complete');
is(build("$enough$unit", 0), '', "$enough $unit are enough, as it said");

is(build('256MB', 2), '', 'a build with threads that fits says nothing');
ok_recall(recall($node, 'exact', 'items', 'queries', 'cosine'), $whole - 0.01, 'threads cost no recall');
ok_sound($node, 'items_idx', 'the index of threads is sound');
like(build('1MB', 2, "WITH (codec = 'none')"), qr/NOTICE: .*maintenance_work_mem/, 'threads and no codec in a small budget');
ok_sound($node, 'items_idx', 'that index is sound too');

# Whoever builds may set how many threads he wants; he gets as many as PostgreSQL would have workers.
foreach my $case ([ 'max_worker_processes', 1024, 8, '', 6 ], [ 'max_parallel_workers', 1024, 3, '', 3 ], [ 'max_parallel_maintenance_workers', 2, 8, '', 2 ],
	[ "the table's parallel_workers", 1024, 8, 'parallel_workers = 1', 1 ], [ "the table's parallel_workers beyond the others", 1024, 8, 'parallel_workers = 1024', 6 ])
{
	my ($name, $maintenance, $parallel, $option, $expected) = @$case;
	my (undef, undef, $err) = $node->psql('postgres', ($option ? "ALTER TABLE items SET ($option);" : '') . 'DROP INDEX IF EXISTS items_idx;'
		  . "SET max_parallel_maintenance_workers = $maintenance; SET max_parallel_workers = $parallel; SET client_min_messages = debug1; "
		  . 'CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops)');
	is(join(',', $err =~ /using (\d+) parallel workers/g), $expected, "threads are limited by $name");
}
$node->safe_psql('postgres', 'ALTER TABLE items RESET (parallel_workers)');

# The file counts against temp_file_limit together with the session's others: those that are there before it, and those that come to it.
# It has room for each of them alone.
my $limited = "SET temp_file_limit = '8MB'; SET work_mem = '64kB'; SET maintenance_work_mem = '1MB'; DROP INDEX IF EXISTS items_idx;";
my $cursor = "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT repeat('x', 1000) FROM generate_series(1, 7000); COMMIT;";
$node->safe_psql('postgres', 'CREATE FUNCTION sorts(id int, v vector) RETURNS vector IMMUTABLE LANGUAGE plpgsql AS $$ '
	  . "BEGIN IF id = 3990 THEN PERFORM count(*) FROM (SELECT repeat(i::text, 200) AS t FROM generate_series(1, 8500) i ORDER BY t OFFSET 1) x; END IF; RETURN v; END \$\$");
my $on_column = 'CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops)';
my $on_sorts = 'CREATE INDEX items_idx ON items USING hnsw ((sorts(id, embedding)::vector(384)) vector_cosine_ops)';
is(sqlstate_of($node, "$limited $_->[1]"), '', "temp_file_limit: room for $_->[0]")
  foreach [ 'the file', $on_column ], [ 'a cursor', $cursor ], [ 'a sort', 'SELECT sorts(id, embedding) IS NULL FROM items WHERE id = 3990' ];
like(sqlstate_of($node, "$limited $_->[1]"), qr/^53400: temporary file size exceeds "?temp_file_limit"?/, "temp_file_limit: none for the file and $_->[0]")
  foreach [ 'a cursor', "$cursor $on_column" ], [ 'a sort', $on_sorts ];
like(sqlstate_of($node, "$limited SET temp_file_limit = '1MB'; $on_column"), qr/^53400: temporary file size exceeds "temp_file_limit" \(1024kB\)/, 'temp_file_limit: none for the file alone');

# Options reach the index; out of range they are refused.
foreach my $case (['m = 8', 8, 64], ['m = 32, ef_construction = 100', 32, 100], ['ef_construction = 200', 16, 200])
{
	build('256MB', 0, "WITH ($case->[0])");
	is($node->safe_psql('postgres', "SELECT m, ef_construction FROM hnsw_info('items_idx')"), "$case->[1]|$case->[2]", "options $case->[0]");
}
like(sqlstate_of($node, "CREATE INDEX ON items USING hnsw (embedding vector_cosine_ops) WITH ($_)"), qr/^22023/, "$_ is refused")
  foreach ('m = 1', 'm = 101', 'ef_construction = 3', 'ef_construction = 1001', "codec = 'zip'", 'm = 32, ef_construction = 60');

# The file lies where temp_tablespaces says, and is there again after PostgreSQL closed it for want of file descriptors.
my $folder = PostgreSQL::Test::Utils::tempdir();
$node->safe_psql('postgres', 'DROP INDEX items_idx');
$node->append_conf('postgresql.conf', 'max_files_per_process = 64');
$node->restart;
$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION '$folder'");
$node->safe_psql('postgres', join ';', map { "CREATE TABLE one_$_ AS SELECT $_ AS id" } 0 .. 89);
$node->safe_psql('postgres', "CREATE FUNCTION through_many(id int, v vector) RETURNS vector IMMUTABLE LANGUAGE plpgsql AS \$\$ "
	  . "BEGIN IF id % 20 = 0 THEN FOR i IN 0 .. 89 LOOP EXECUTE 'SELECT id FROM public.one_' || i; END LOOP; END IF; RETURN v; END \$\$");
is(sqlstate_of($node, "SET temp_tablespaces = elsewhere; SET maintenance_work_mem = '1MB'; "
	  . 'CREATE INDEX many_idx ON items USING hnsw ((through_many(id, embedding)::vector(384)) vector_cosine_ops)'), '', 'a build whose file is closed meanwhile');
ok_sound($node, 'many_idx');
my @there = glob("$folder/PG_*/pgsql_tmp");
is(scalar @there, 1, 'temp_tablespaces is obeyed');

# At a limit of processes no thread can be started: the build goes on without, as one without workers of any other index does.
SKIP:
{
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query('SELECT pg_backend_pid()');
	skip('no prlimit', 2) if system("prlimit --pid $pid --nproc=1:1") != 0;
	like(slurp_file("/proc/$pid/limits"), qr/^Max processes +1 +1 /m, 'a session that may start nothing');
	$session->query('SET max_parallel_maintenance_workers = 4; DROP INDEX IF EXISTS items_idx; CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops)');
	$session->quit;
	ok_sound($node, 'items_idx', 'builds all the same');
}

done_testing();
