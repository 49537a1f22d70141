# What the tests of the GPU helper share: a node whose helper runs the CPU device, what kv.gpu_status() and kv.gpu_stats say of it, and
# answers of the helper beside those of the CPU.
package GPUHelper;

use strict;
use warnings;
use Exporter 'import';
use KVCache;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use VectorKV;

our @EXPORT = qw(gpu_node load_compare status gpu_stat wait_for_status helper_pid supervisor_pid helper_processes wait_for_process ok_same ok_at_rest configure other_helper postmaster_facts wrapper);

# A server with both extensions and the sample, its library preloaded; settings are lines of postgresql.conf.  Nobody gives up on the
# helper, nor does the supervisor, because a busy machine makes a pause; tests of that say what they want.
sub gpu_node
{
	my ($name, @settings) = @_;
	my $node = kv_node($name, streaming => 1, settings => [ "shared_preload_libraries = 'vector'", "vectorkv.gpu_device = 'cpu'", 'vectorkv.gpu_memory = 64MB',
			'vectorkv.gpu_arena_size = 64MB', 'max_connections = 120', 'vectorkv.gpu_timeout = 60s', 'vectorkv.gpu_hang_timeout = 60s', @settings ]);
	load_compare($node);
	wait_for_status($node, 'state', qr/^ready$/);
	return $node;
}

# compare(sql) runs a query of one kv.tensor on the CPU and by the helper.  It returns the largest difference as a share of the largest
# number, how many requests the helper answered, and how many tiles were copied to it.
sub load_compare
{
	my ($node, $database) = @_;
	$node->safe_psql($database // 'postgres', <<'SQL');
CREATE FUNCTION compare(query text, OUT error float8, OUT requests bigint, OUT staged bigint) LANGUAGE plpgsql AS $$
DECLARE
	here kv.tensor;
	there kv.tensor;
	before record;
BEGIN
	SELECT s.requests, s.staged INTO before FROM kv.gpu_session() s;
	PERFORM set_config('vectorkv.gpu', 'off', false);
	EXECUTE query INTO here;
	PERFORM set_config('vectorkv.gpu', 'require', false);
	EXECUTE query INTO there;
	PERFORM set_config('vectorkv.gpu', 'on', false);
	IF kv.shape(here) <> kv.shape(there) THEN RAISE 'shapes differ: %, %', kv.shape(here), kv.shape(there); END IF;
	SELECT coalesce(max(abs(a - b)) / nullif(max(abs(a)), 0), 0), s.requests - before.requests, s.staged - before.staged INTO error, requests, staged
		FROM kv.gpu_session() s LEFT JOIN unnest(here::float4[], there::float4[]) AS t(a, b) ON a IS DISTINCT FROM b
		GROUP BY s.requests, s.staged;
END $$;
SQL
	return;
}

sub status { my ($node, $column) = @_; return $node->safe_psql('postgres', "SELECT $column FROM kv.gpu_status()"); }
sub gpu_stat { my ($node, $column) = @_; return $node->safe_psql('postgres', "SELECT $column FROM kv.gpu_stats"); }
sub helper_pid { return status($_[0], 'pid'); }

# The process that started the helper; pg_stat_activity does not show workers without a database.
sub supervisor_pid
{
	my ($node) = @_;
	my $stat = slurp_file('/proc/' . helper_pid($node) . '/stat');
	return $stat =~ /.*\) \S (\d+)/ ? $1 : die "no parent in: $stat";
}

# Waits until the column is like the pattern; returns what it is.
sub wait_for_status
{
	my ($node, $column, $pattern, $seconds) = @_;
	my $value;
	my $until = time + ($seconds // 60);
	do
	{
		$value = status($node, $column);
		return $value if $value =~ $pattern;
		sleep 0.05;
	} while (time < $until);
	return $value;
}

# Process ids of programs whose command line has this word and that work in the server's data directory.
sub helper_processes
{
	my ($node, $word) = @_;
	my @found;
	foreach my $folder (glob '/proc/[0-9]*')
	{
		next unless (readlink("$folder/cwd") // '') eq $node->data_dir;
		open my $file, '<', "$folder/cmdline" or next;
		my $line = join ' ', split /\0/, <$file> // '';
		push @found, $folder =~ /(\d+)$/ if $line =~ /\Q$word\E/;
	}
	return @found;
}

# Waits for such a process, which the supervisor is about to start.
sub wait_for_process
{
	my ($node, $word) = @_;
	my $until = time + 60;
	until (helper_processes($node, $word))
	{
		die "no process '$word' was started in 60 s; the helper is " . status($node, "concat_ws(', ', state, reason, last_error)") if time > $until;
		sleep 0.05;
	}
	return;
}

# Changes settings of the server and has the supervisor read them, which also makes it try again at once.
sub configure
{
	my ($node, %settings) = @_;
	foreach my $name (sort keys %settings)
	{
		$node->safe_psql('postgres', defined $settings{$name} ? "ALTER SYSTEM SET $name = '$settings{$name}'" : "ALTER SYSTEM RESET $name");
	}
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	return;
}

# The helper answers the query as the CPU does: in a new session, or in a background session.
sub ok_same
{
	my ($node, $query, $name, %param) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$query =~ s/'/''/g;
	my $sql = "SELECT * FROM compare('$query')";
	my $result = $param{session} ? $param{session}->query($sql) : $node->safe_psql($param{database} // 'postgres', $sql);
	return fail("$name: $result" . ($param{session} ? $param{session}{stderr} : '')) unless $result =~ /^([^|]+)\|(\d+)\|(\d+)$/;
	my ($error, $requests, $staged) = ($1, $2, $3);
	my $good = $error < 2e-5 && $requests >= ($param{requests} // 1) && $staged <= ($param{most_staged} // 1e9);
	return ok($good, sprintf '%s: differs by %.1e, %d requests, %d tiles copied', $name, $error, $requests, $staged);
}

# Settings that the helper is started with: waits for the one that has them.
sub other_helper
{
	my ($node, %settings) = @_;
	my $pid = helper_pid($node);
	configure($node, %settings);
	wait_for_status($node, "concat_ws(' ', state, pid <> $pid)", qr/^ready t$/);
	return;
}

# Nobody asks: no client but sessions that are still there, no slab but theirs.  A slab is freed when what used it has ended.
sub ok_at_rest
{
	my ($node, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(wait_for_status($node, "concat_ws(' ', state, clients, arena_used)", qr/^ready 0 0$/), 'ready 0 0', "$name: nothing is left in the helper");
}

# What changes when the postmaster restarts its processes.
sub postmaster_facts
{
	my ($node) = @_;
	my ($pid) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
	my $checkpointer = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'");
	return "$pid " . $node->safe_psql('postgres', 'SELECT pg_postmaster_start_time()') . " $checkpointer";
}

# A program that runs the real helper with further options.
sub wrapper
{
	my ($node, $options) = @_;
	my $program = $node->config_data('--bindir');
	my $path = $node->basedir . '/helper_' . int rand 1e9;
	append_to_file($path, "#!/bin/sh\nexec '$program/vectorkv_helper' \"\$@\" $options\n");
	chmod 0755, $path;
	return $path;
}

1;
