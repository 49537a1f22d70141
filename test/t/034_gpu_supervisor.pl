# The supervisor starts the helper again whatever ends it, ever more slowly; says why there is none; gives up where no GPU is; follows the
# settings; and takes the helper along when the server stops in any way.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use GPUHelper;
use KVCache;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);
use VectorKV;

my $missing = '/nowhere/vectorkv_helper';
my $node = kv_node('gpu_supervisor', settings => [ "shared_preload_libraries = 'vector'", "vectorkv.gpu_device = 'cpu'", 'vectorkv.gpu_memory = 64MB',
		'vectorkv.gpu_arena_size = 64MB', 'vectorkv.gpu_faults = on', "vectorkv.gpu_helper = '$missing'", 'restart_after_crash = on' ]);
load_compare($node);
create_cache($node, 'c', "codec => 'int8', tail_tokens => 16");
$node->safe_psql('postgres', "SELECT kv.append('c', 1, k(0, 300), v(0, 300))");
my $attend = "SELECT kv.attend('c', '{1}', 0, q_batch(0, 1))";
my $answer = $node->safe_psql('postgres', $attend);

# A program in the place of the helper.
sub program
{
	my ($text, $mode) = @_;
	my $path = $node->basedir . '/program_' . int rand 1e9;
	append_to_file($path, $text);
	chmod $mode // 0755, $path;
	return $path;
}

sub ok_status
{
	my ($wanted, $reason, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $state = wait_for_status($node, "concat_ws(': ', state, reason)", qr/^$wanted: .*$reason/);
	return like($state, qr/^$wanted: .*$reason/, $name);
}

# What ended the last one is remembered: the next may be ready by the time that somebody looks.
sub ok_ended
{
	my ($reason, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return like(wait_for_status($node, "coalesce(last_error, '')", $reason), $reason, $name);
}

# Bit for bit what the CPU answers.
sub ok_cpu
{
	my ($use, $settings) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($node->safe_psql('postgres', "SET vectorkv.gpu = $use; $settings; $attend") eq $answer, "the CPU answers under $use $settings");
}

sub ok_ready
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(wait_for_status($node, 'state', qr/^ready$/), 'ready', "$name: ready");
	return ok_same($node, $attend, "$name: answers");
}

# None to start.
ok_status('waiting', qr/could not execute \Q$missing\E: No such file/, 'a program that is not there');
is(status($node, 'retry_at > now() AND pid IS NULL AND restarts = 0'), 't', 'another try is planned');
ok_cpu($_, '') foreach qw(auto on);
like(sqlstate_of($node, "SET vectorkv.gpu = require; $attend"), qr/^55000: the GPU helper cannot be used: could not execute/, 'require says why');
configure($node, 'vectorkv.gpu_helper' => program("#!/bin/sh\nexit 0\n", 0644));
ok_status('waiting', qr/could not execute .*: Permission denied/, 'a program that may not be executed');
configure($node, 'vectorkv.gpu_helper' => program('not a program'));
ok_status('waiting', qr/it ended with exit code 127: could not execute/, 'a file that is no program');

# Ends at once: a pause of one second, then two.
my $offset = -s $node->logfile;
my $restarts = status($node, 'restarts');
configure($node, 'vectorkv.gpu_helper' => program("#!/bin/sh\necho 'error: no luck' >&2\nexit 7\n"));
ok_status('waiting', qr/it ended with exit code 7: no luck/, 'a program that ends at once');
my $failure = qr/:(\d\d):(\d\d\.\d+) .*exit code 7: no luck; the next start is in (\d+) s/;
my @failures;
for (my $until = time + 60; time < $until && @failures < 9; sleep 0.05) { @failures = slurp_file($node->logfile, $offset) =~ /$failure/g; }
is(join(' ', @failures[2, 5, 8]), '1 2 4', 'the pause is one second, then two, then four');
my @rests = map { ($failures[ 3 * $_ + 3 ] - $failures[ 3 * $_ ]) % 60 * 60 + $failures[ 3 * $_ + 4 ] - $failures[ 3 * $_ + 1 ] } 0, 1;
ok($rests[0] > 0.5 && $rests[1] > 1.5, "and it rests so long: @rests s");
cmp_ok(status($node, 'restarts') - $restarts, '>=', 2, 'these are restarts');

# Makes no sense.
configure($node, 'vectorkv.gpu_helper' => program("#!/bin/sh\necho 'log: ready: nothing'\nexec sleep 100\n"));
ok_status('waiting', qr/it was killed: could not connect to the helper/, 'a program that says it listens and does not');
configure($node, 'vectorkv.gpu_helper' => program(<<'PYTHON'));
#!/usr/bin/env python3
import os, socket, struct, sys
path = sys.argv[sys.argv.index("--socket") + 1]
if os.path.exists(path):
    os.unlink(path)
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.bind(path)
server.listen()
print("log: ready: another version", flush=True)
while True:
    client, _ = server.accept()
    verb, zero, version, pid, c = struct.unpack("=IIQQQ", client.recv(32))
    client.send(struct.pack("=IIQQQ", 36, 0, 1, 0, 0))
PYTHON
ok_status('waiting', qr/it was killed: .*another version of the protocol/, 'a helper of another version');
is(status($node, 'pid IS NULL'), 't', 'and is gone');
is_deeply([ helper_processes($node, 'program_') ], [], 'none of these programs is left');

# The real one; reading the configuration is another try at once.
configure($node, 'vectorkv.gpu_helper' => '');
ok_ready('the real helper');
is(status($node, "concat_ws(' ', backend, last_error)"), 'cpu it was killed: the helper speaks another version of the protocol', 'what ended the one before is remembered');
my $facts = postmaster_facts($node);
my $pid = helper_pid($node);
is_deeply([ helper_processes($node, 'vectorkv_helper') ], [$pid], 'one process');
$restarts = status($node, 'restarts');
kill 9, $pid;
ok_ended(qr/it ended with signal 9/, 'killed');
ok_ready('after the kill');
is(status($node, 'restarts') - $restarts, 1, 'one restart is counted');
isnt(helper_pid($node), $pid, 'a new process');

# Stopped in its tracks, by a signal and by a launch that hangs.
configure($node, 'vectorkv.gpu_hang_timeout' => '2s');
wait_for_status($node, 'state', qr/^ready$/);
kill 'STOP', helper_pid($node);
ok_ended(qr/it was killed: it did not answer for 2000 ms/, 'a helper that does not answer');
ok_ready('after that');
my $faithful = $node->background_psql('postgres');
$faithful->query_safe("SET vectorkv.gpu = require; $attend");
$node->psql('postgres', "SET vectorkv.gpu = on; SET vectorkv.gpu_test_fault = hang; SET vectorkv.gpu_timeout = '100ms'; $attend");
ok_ended(qr/it was killed: a launch took longer than 2000 ms/, 'a launch that hangs');
wait_for_status($node, 'state', qr/^ready$/);
is($faithful->query_safe("SELECT ($attend) IS NULL"), 'f', 'a session that was connected to the one that hung is served by the next');
$faithful->quit;
ok_ready('after that');
# What takes longer than that and goes on is no launch that hangs, whoever asks for it and however long he waits.
other_helper($node, 'vectorkv.gpu_hang_timeout' => '500ms', 'vectorkv.gpu_helper' => wrapper($node, '--threads 1'));  # as fast everywhere
$node->safe_psql('postgres', "SELECT kv.create_cache('long', 1, 1, 1, 64, 'int8'); SELECT kv.append('long', 1, t, t), kv.seal('long', 1) FROM kv.reshape(array_fill(0.5::real, ARRAY[20000 * 64])::kv.tensor, '{1,1,20000,64}') t");
$pid = helper_pid($node);
my $long = "(SELECT kv.reshape(array_fill(0.5::real, ARRAY[40000 * 64])::kv.tensor, '{1,1,40000,64}'))";
is($node->safe_psql('postgres', "SET vectorkv.gpu = require; SET vectorkv.gpu_timeout = 0; SELECT kv.shape(kv.attend('long', '{1}', 0, $long, causal => false))"), '{1,1,40000,64}',
	'kv.attend with very many rows of queries is answered');
$node->safe_psql('postgres', "CREATE TABLE points AS SELECT i, ARRAY[sin(i), cos(i)]::vector(2) AS v FROM generate_series(1, 16000) i");
my $nearest = "SELECT * FROM knn_exact('points', 'v', (SELECT array_agg(v) FROM points WHERE i <= 8000), 1)";
is($node->safe_psql('postgres', "SET work_mem = '256MB'; CREATE TABLE here AS $nearest; SET vectorkv.gpu = require; CREATE TABLE there AS $nearest; SELECT requests > 3 FROM kv.gpu_session(); "
	  . 'SELECT count(*) FROM (TABLE here EXCEPT TABLE there) x'), "t\n0", 'knn_exact with very many queries comes in several requests');
$nearest = "SELECT * FROM knn_exact('points', 'v', (SELECT array_agg(v) FROM points WHERE i <= 300), 2500)";
is($node->safe_psql('postgres', "SET work_mem = '256MB'; CREATE TABLE most_here AS $nearest; SET vectorkv.gpu = require; CREATE TABLE most_there AS $nearest; SELECT requests > 8 FROM kv.gpu_session(); "
	  . 'SELECT count(*) FROM (TABLE most_here EXCEPT TABLE most_there) x'), "t\n0", '... and so does one that keeps more than a GPU does');
is(helper_pid($node), $pid, 'and the helper goes on');
$node->safe_psql('postgres', "SELECT kv.drop_cache('long'); DROP TABLE points, here, there, most_here, most_there");
other_helper($node, 'vectorkv.gpu_hang_timeout' => '2s', 'vectorkv.gpu_helper' => '');
ok_ready('after that');
foreach my $fault (['crash', qr/it ended with signal 6/], ['device_error', qr/it ended with exit code 3: the device failed: a test asked/])
{
	ok_cpu('on', "SET vectorkv.gpu_test_fault = $fault->[0]; SET client_min_messages = error");
	ok_ended($fault->[1], $fault->[0]);
	ok_ready("after $fault->[0]");
}
is(postmaster_facts($node), $facts, 'the server noticed none of it');

# Settings: what the helper was started with makes another one, the rest does not.
$pid = helper_pid($node);
$restarts = status($node, 'restarts');
configure($node, 'vectorkv.gpu_hang_timeout' => '5s', 'work_mem' => '5MB');
# Who connects with the new settings comes after all were told of them; the supervisor counts again in a pass of its loop that began later, or in the next.
ok($node->poll_query_until('postgres', "SELECT current_setting('work_mem') = '5MB'"), 'the server has read the new settings');
gpu_stat($node, 'requests') foreach 1 .. 2;
is(status($node, "concat_ws(' ', state, pid)"), "ready $pid", 'settings that are not the helper\'s leave it alone');
configure($node, 'vectorkv.gpu_memory' => '8MB');
isnt(wait_for_status($node, "coalesce(pid, $pid)", qr/^(?!$pid$)/), $pid, 'another memory is another process');
ok_ready('with other settings');
is(status($node, 'memory'), 8 << 20, 'and has it');
configure($node, 'vectorkv.gpu' => 'off');
ok_status('off', qr/off for the whole server/, 'off for the whole server');
is_deeply([ helper_processes($node, 'vectorkv_helper') ], [], 'no process');
like(sqlstate_of($node, "SET vectorkv.gpu = require; $attend"), qr/^55000: .*off for the whole server/, 'require says so');
configure($node, 'vectorkv.gpu' => undef);
ok_ready('on again');
is(status($node, 'restarts'), $restarts, 'what was asked for is no restart');
like(sqlstate_of($node, "ALTER SYSTEM SET vectorkv.gpu_device = 'gpu'"), qr/^22023: /, 'a device that nobody knows');

# Without a GPU there is no second try.
SKIP:
{
	configure($node, 'vectorkv.gpu_device' => 'auto');
	skip 'there is a GPU', 4 if wait_for_status($node, 'state', qr/^(no device|ready)$/) eq 'ready' && status($node, 'backend') eq 'cuda';
	ok_status('no device', qr/CUDA/, 'no GPU');
	is(status($node, 'retry_at IS NULL AND pid IS NULL'), 't', 'no other try is planned');
	ok_cpu('auto', '');
	is(status($node, 'restarts'), $restarts, 'no restart');
}
configure($node, 'vectorkv.gpu_device' => undef);
ok_ready('with a device again');

# The supervisor ends and comes back; a crash of the server takes both along.
is(kill('TERM', supervisor_pid($node)), 1, 'the supervisor is terminated');
ok_status('waiting', qr/the supervisor has ended/, 'without a supervisor');
ok_cpu('on', '');
ok_ready('with another supervisor');
is(postmaster_facts($node), $facts, 'of the same server');
$pid = helper_pid($node);
my $victim = $node->background_psql('postgres', on_error_stop => 0);
kill 9, scalar $victim->query('SELECT pg_backend_pid()');
# A psql that cannot connect ends before it is given the query, and the pipe breaks under the test.
my $restarted = time + 60;
sleep 0.05 until system('pg_isready', '-q', '-h', $node->host, '-p', $node->port) == 0 || time > $restarted;
ok($node->poll_query_until('postgres', "SELECT state = 'ready' AND pid <> $pid FROM kv.gpu_status()"), 'after a crash of the server');
isnt(postmaster_facts($node), $facts, 'which was one');
is_deeply([ helper_processes($node, 'vectorkv_helper') ], [ helper_pid($node) ], 'one helper');
eval { $victim->{run}->finish };

# Every way to stop.
foreach my $mode (qw(smart fast immediate))
{
	ok_ready("before a stop: $mode");
	$node->stop($mode);
	is_deeply([ helper_processes($node, 'vectorkv_helper') ], [], "$mode: no helper is left");
	$node->start;
}
ok_ready('before the end of the postmaster');
my ($postmaster) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');
kill 9, $postmaster;
my $until = time + 60;
sleep 0.05 while time < $until && helper_processes($node, 'vectorkv_helper');
is_deeply([ helper_processes($node, 'vectorkv_helper') ], [], 'a postmaster that was killed leaves no helper');
wait_until_gone($node);
ok(!grep({ -S } glob $node->data_dir . '/*'), 'no socket lies about in the data directory');
$node->{_pid} = undef;

done_testing();
