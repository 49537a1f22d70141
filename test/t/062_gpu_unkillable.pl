# A helper that is killed and does not end, as one in uninterruptible sleep: `ready` is withdrawn at once, sessions that wait for it are
# answered by the CPU, another helper takes its place, and the server stops as fast as ever.
#
# A process cannot sleep so at will.  A tracer that collects nothing comes close: what it traces dies of SIGKILL, but stays a process that
# its parent cannot wait for, and its threads hold on to nothing else that anybody waits for.
use strict;
use warnings;
use Config;
use FindBin;
use lib "$FindBin::RealBin/lib";
use GPUHelper;
use KVCache;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use VectorKV;

my ($ptrace, $prctl) = $Config{archname} =~ /^x86_64/ ? (101, 157) : $Config{archname} =~ /^aarch64/ ? (117, 167) : ();
plan skip_all => 'system calls of this machine are not known' unless defined $ptrace;

my $node = kv_node('gpu_unkillable', settings => [ "shared_preload_libraries = 'vector'", "vectorkv.gpu_device = 'cpu'", 'vectorkv.gpu_memory = 64MB',
		'vectorkv.gpu_arena_size = 64MB', 'vectorkv.gpu_faults = on', "vectorkv.gpu_hang_timeout = '1s'" ]);

# Runs the real helper; where a file says so, traced by a process that stays until the file `let_go` is there, 5 minutes at most:
# longer than anything below waits.
my $base = $node->basedir;
my $real = $node->config_data('--bindir') . '/vectorkv_helper';
my $program = "$base/traced_helper";
append_to_file($program, <<"PERL");
#!$Config{perlpath}
use strict;
use warnings;
if (unlink '$base/trace')
{
	my \$traced = \$\$;
	syscall($prctl, 0x59616d61, -1, 0, 0, 0);
	pipe my \$in, my \$out;
	if (!fork)
	{
		open STDIN, '<', '/dev/null';
		my \$failed = syscall($ptrace, 0x4206, \$traced + 0, 0, 0) < 0;
		open my \$file, '>', '$base/' . (\$failed ? 'refused' : 'tracing');
		close \$file;
		\$^F = 2;
		close \$_ foreach \$in, \$out, *STDOUT, *STDERR;
		require POSIX;
		POSIX::close(\$_) foreach 0 .. 20;
		for (1 .. 3000) { last if -e '$base/let_go' || !-d '$base'; select undef, undef, undef, 0.1; }
		exit;
	}
	close \$out;
	<\$in>;
}
exec '$real', \@ARGV;
PERL
chmod 0755, $program;

load_compare($node);
create_cache($node, 'c', "codec => 'int8', tail_tokens => 16");
$node->safe_psql('postgres', "SELECT kv.append('c', 1, k(0, 300), v(0, 300))");
my $attend = "SELECT kv.attend('c', '{1}', 0, q_batch(0, 1))";
my $answer = $node->safe_psql('postgres', "SET vectorkv.gpu = off; $attend");

# The settings make the supervisor start another helper, which is traced.
sub start_traced
{
	append_to_file("$base/trace", '');
	configure($node, @_);
	for (1 .. 600) { last if -e "$base/tracing" || -e "$base/refused"; sleep 0.1; }
	return is(wait_for_status($node, 'state', qr/^ready$/), 'ready', 'a traced helper is ready');
}

start_traced('vectorkv.gpu_helper' => $program);
if (-e "$base/refused")
{
	$node->stop('fast');
	done_testing();
	exit;
}
ok(-e "$base/tracing", 'it is traced');
ok_same($node, $attend, 'it answers');
my $stuck = helper_pid($node);

# A launch hangs; sessions wait without end for it, the supervisor kills it in vain.
my $begun = time;
my ($got, $why) = split /\n/, $node->safe_psql('postgres', "SET vectorkv.gpu = on; SET vectorkv.gpu_timeout = 0; SET vectorkv.gpu_test_fault = hang; $attend; SELECT last_reason FROM kv.gpu_session()");
my $took = time - $begun;
ok($got eq $answer, 'the CPU answers who waits for a helper that was killed');
cmp_ok($took, '<', 60, sprintf 'soon (%.1f s)', $took);
like($why, qr/killed|ended|lost|died/, "because it was lost: $why");
ok(kill(0, $stuck), 'the killed process is still there');
isnt(status($node, 'state'), 'ready', 'nobody is sent to it');
is($node->safe_psql('postgres', "SELECT (on_cpu->>'lost')::int FROM kv.gpu_stats"), 1, 'it counts as lost');
like(wait_for_status($node, "concat_ws(' ', state, last_error, reason)", qr/does not end|^ready/), qr/does not end|ready/, 'it is given up');
is(wait_for_status($node, 'state', qr/^ready$/), 'ready', 'another helper is started');
isnt(helper_pid($node), $stuck, 'as another process');
ok(kill(0, $stuck), 'while the killed one is still there');
ok_same($node, $attend, 'it answers');
my $log = slurp_file($node->logfile);
like($log, qr/process $stuck was killed and does not end: a launch took longer/, 'the log says so');

# The server stops, too.
unlink "$base/tracing";
start_traced('vectorkv.gpu_batch_wait' => 1);
ok(-e "$base/tracing", 'it is traced');
my $last = helper_pid($node);
kill 'USR1', $last;  # which waits for the tracer: it does not hear of SIGTERM either
$begun = time;
$node->stop('fast');
$took = time - $begun;
cmp_ok($took, '<', 60, sprintf 'the server stops in %.1f s', $took);
ok(kill(0, $last), 'before its helper has');
append_to_file("$base/let_go", '');
done_testing();
