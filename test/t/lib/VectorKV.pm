# What the server tests share: a node with the extension, the sample of test/data in a table of any type, recall of an index against
# exact search, the state of an index, and pgbench in the background.  Distances decide recall, so that ties (bit) do not.
package VectorKV;

use strict;
use warnings;
use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(new_node load_sample load_queries remember_exact recall ok_recall ok_sound ok_uses_index answers more_rows index_files
  start_pgbench finish_pgbench sqlstate_of operator_of opclass_of knn wait_for_backends wait_until_gone);

my $data = abs_path(dirname(__FILE__) . '/../../data');
our $K = 10;

# Metric => operator, and the operator class of a type.
my %operator = (l2 => '<->', ip => '<#>', cosine => '<=>', l1 => '<+>', hamming => '<~>', jaccard => '<%>');
my %column = (vector => 'vector(384)', halfvec => 'halfvec(384)', sparsevec => 'sparsevec(384)', bit => 'bit(384)');

sub operator_of { return $operator{ $_[0] }; }
sub opclass_of { my ($type, $metric) = @_; return "${type}_${metric}_ops"; }

# A started server with the extension; the settings are lines of postgresql.conf.  Its indexes are the same in every run: their seed is
# fixed (VKV_BUILD_SEED), and they are built by one thread unless the settings say otherwise.
sub new_node
{
	my ($name, %param) = @_;
	my $node = Session::Node->new($name);
	$node->init(allows_streaming => $param{streaming} // 0);
	$node->append_conf('postgresql.conf', join("\n", "shared_buffers = 64MB", "log_statement = none", "max_wal_size = 1GB",
			"autovacuum = off", 'vectorkv.build_seed = ' . ($ENV{VKV_BUILD_SEED} // 1), 'max_parallel_maintenance_workers = 0', @{ $param{settings} // [] }, ''));
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION vector');
	return $node;
}

sub copy_part
{
	my ($node, $part, $table, $type, $options) = @_;
	$node->safe_psql('postgres', "COPY $table FROM PROGRAM 'python3 $data/sample.py $part --type $type $options' WITH (FORMAT binary)");
	return;
}

# The sample in a table (id, body, embedding); rows and skip choose a part of it, create => 0 adds to a table.
sub load_sample
{
	my ($node, $table, $type, %param) = @_;
	my $options = join ' ', map { "--$_ $param{$_}" } grep { defined $param{$_} } qw(rows skip);
	if ($param{create} // 1)
	{
		my $kind = $param{kind} // '';
		$node->safe_psql('postgres', "CREATE $kind TABLE $table (id int, body text, embedding $column{$type})");
	}
	copy_part($node, 'sample', $table, $type, $options);
	return;
}

# The real queries in a table (id, body, embedding).
sub load_queries
{
	my ($node, $table, $type, %param) = @_;
	$node->safe_psql('postgres', "CREATE TABLE $table (id int PRIMARY KEY, body text, embedding $column{$type})");
	copy_part($node, 'query', $table, $type, defined $param{rows} ? "--rows $param{rows}" : '');
	return;
}

# A larger table: each sample row TIMES times, moved a little towards another query each time.
sub more_rows
{
	my ($node, $table, $sample, $queries, $times) = @_;
	$node->safe_psql('postgres', "CREATE TABLE $table (id int, embedding vector(384)); "
		  . "INSERT INTO $table SELECT s.id * $times + g, s.embedding + q.embedding * array_fill(0.3, ARRAY[384])::vector FROM $sample s "
		  . "CROSS JOIN generate_series(0, $times - 1) g JOIN $queries q ON q.id = (s.id * 7 + g * 13) % (SELECT count(*) FROM $queries)");
	return;
}

# A k-nearest query of the whole query table, as SQL; columns q (query), id, distance.
sub knn
{
	my ($table, $queries, $metric, %param) = @_;
	my $k = $param{k} // $K;
	my $where = $param{where} ? "WHERE $param{where}" : '';
	my $distance = "s.embedding $operator{$metric} q.embedding";
	return "SELECT q.id AS q, r.id, r.distance FROM $queries q CROSS JOIN LATERAL "
	  . "(SELECT s.id, $distance AS distance FROM $table s $where ORDER BY $distance LIMIT $k) r";
}

# Keeps the distance of the k-th exact neighbour of each query in table NAME.
sub remember_exact
{
	my ($node, $name, $table, $queries, $metric, %param) = @_;
	my $knn = knn($table, $queries, $metric, %param);
	$node->safe_psql('postgres', "SET enable_indexscan = off; DROP TABLE IF EXISTS $name; "
		  . "CREATE TABLE $name AS SELECT q, max(distance) AS distance, count(*) AS rows FROM ($knn) x GROUP BY q");
	return;
}

# Share of the exact neighbours that the index returns; a row counts when it is as near as the k-th exact one.  Dies when the
# answer has a row twice.
sub recall
{
	my ($node, $exact, $table, $queries, $metric, %param) = @_;
	my $knn = knn($table, $queries, $metric, %param);
	my $settings = join ' ', map { "SET $_;" } @{ $param{settings} // [] };
	my ($recall, $twice) = split /\|/, $node->safe_psql('postgres',
		"SET enable_seqscan = off; $settings WITH answer AS MATERIALIZED ($knn) "
		  . "SELECT sum(hits)::float8 / sum(rows), max(twice) FROM (SELECT e.rows, count(a.id) - count(DISTINCT a.id) AS twice, "
		  . "count(a.id) FILTER (WHERE a.distance <= e.distance + 1e-6 * (1 + abs(e.distance))) AS hits "
		  . "FROM $exact e LEFT JOIN answer a ON a.q = e.q GROUP BY e.q, e.rows) x");
	die "an answer has a row twice" if $twice > 0;
	return $recall;
}

sub ok_recall
{
	my ($got, $floor, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($got >= $floor, sprintf('%s: recall %.4f, at least %.3f', $name, $got, $floor));
}

# hnsw_check finds nothing, and no row of the table that the index lacks.
sub ok_sound
{
	my ($node, $index, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($node->safe_psql('postgres', "SELECT * FROM hnsw_check('$index', true) LIMIT 5"), '', $name // "$index is sound");
}

# The planner takes the index for a nearest-neighbour query.
sub ok_uses_index
{
	my ($node, $index, $table, $queries, $metric) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $plan = $node->safe_psql('postgres', "SET enable_seqscan = off; EXPLAIN (COSTS OFF) " . knn($table, $queries, $metric));
	return like($plan, qr/Index Scan using $index/, "$index is used");
}

# The answers of the index to every query, as text; the same text means the same answers.
sub answers
{
	my ($node, $table, $queries, $metric, %param) = @_;
	my $settings = join ' ', map { "SET $_;" } @{ $param{settings} // [] };
	my $knn = knn($table, $queries, $metric, %param);
	return $node->safe_psql('postgres', "SET enable_seqscan = off; $settings "
		  . "SELECT q, string_agg(id::text, ',' ORDER BY distance, id) FROM ($knn) x GROUP BY q ORDER BY q");
}

# The relation files of the database, after what is to be deleted is gone.
sub index_files
{
	my ($node) = @_;
	my $path = $node->safe_psql('postgres', "CHECKPOINT; SELECT 'base/' || oid FROM pg_database WHERE datname = 'postgres'");
	my $folder = $node->data_dir . "/$path";
	opendir(my $handle, $folder) or die "$folder: $!";
	my @files = sort grep { /^\d+(_\w+)?(\.\d+)?$/ } readdir $handle;
	closedir $handle;
	return @files;
}

# SQLSTATE and message of a statement that must fail: "XX002: message".
sub sqlstate_of
{
	my ($node, $sql) = @_;
	my ($status, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql", on_error_stop => 1);
	return '' if $status == 0;
	return $err =~ /(?:ERROR|FATAL|PANIC):  (\w{5}: .*)/ ? $1 : "none: $err";
}

# Backends of a killed postmaster leave on their own.  A container may keep the dead postmaster's process number, which would stop
# the next server by its lock files.
sub wait_until_gone
{
	my ($server) = @_;
	my $data = $server->data_dir;
	foreach my $attempt (1 .. 300)
	{
		last unless grep { (readlink("$_/cwd") // '') eq $data } glob('/proc/[0-9]*');
		usleep(100_000);
	}
	unlink "$data/postmaster.pid", $server->host . '/.s.PGSQL.' . $server->port . '.lock';
	return;
}

# pgbench in the background: scripts are [weight, text] pairs.  finish_pgbench waits and returns its exit code and output.
sub start_pgbench
{
	my ($node, $clients, $seconds, @scripts) = @_;
	my $folder = tempdir(CLEANUP => 1);
	my ($number, @files) = (0);
	foreach my $script (@scripts)
	{
		my $file = "$folder/script" . $number++;
		append_to_file($file, $script->[1]);
		push @files, '-f', "$file\@$script->[0]";
	}
	my $run = { output => '', folder => $folder };
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	$run->{handle} = IPC::Run::start(
		[ 'pgbench', '-n', '-c', $clients, '-j', 1, '-T', $seconds, '-M', 'prepared', @files, 'postgres' ],
		'<', \undef, '>&', \$run->{output});
	return $run;
}

sub finish_pgbench
{
	my ($run) = @_;
	eval { $run->{handle}->finish; };
	return ($run->{handle}->result(0) // -1, $run->{output});
}

# Waits until so many backends run, or have just run, a query that matches.
sub wait_for_backends
{
	my ($node, $pattern, $wanted) = @_;
	return $node->poll_query_until('postgres',
		"SELECT count(*) = $wanted FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' AND query ~ '$pattern'");
}

1;
