# A storm: calls are cancelled, time out, their backends and clients are killed, helpers are killed and hang, all at once.  No answer is wrong,
# nothing of it is left in the helper, and the server does not restart.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run;
use Test::More;
use GPUHelper;
use KVCache;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);
use VectorKV;

my ($CLIENTS, $CANCELS, $BACKEND_KILLS, $CLIENT_KILLS, $HELPER_KILLS, $HANGS) = (12, 1000, 50, 30, 20, 5);
my $MOST_SECONDS = 300; # which only something that hangs needs

srand(20261201);
my $node = gpu_node('gpu_storm', 'vectorkv.gpu_faults = on', "vectorkv.gpu_hang_timeout = '500ms'", "log_min_messages = 'fatal'");

# A launch takes a while, so that most of a client's time is spent in the helper; its cache holds less than what is asked for.
configure($node, 'vectorkv.gpu_helper' => wrapper($node, '--launch-delay-us 2000'), 'vectorkv.gpu_memory' => '4MB');
ok(wait_for_status($node, 'memory', qr/^4194304$/), 'a slow helper with a small cache');
my $SEQUENCES = 12;
create_cache($node, 'c', "codec => 'int8', tail_tokens => 16");
$node->safe_psql('postgres', "SELECT kv.append('c', seq, k(seq * 10, 900), v(seq * 10, 900)) FROM generate_series(1, $SEQUENCES) seq");
$node->safe_psql('postgres', <<"SQL");
CREATE TABLE truth AS SELECT seq, layer, kv.attend('c', ARRAY[seq], layer, q_batch(layer, 1)) AS answer FROM generate_series(1, $SEQUENCES) seq, generate_series(0, 1) layer;
-- Sequences count whatever becomes of a transaction.
CREATE SEQUENCE answers; CREATE SEQUENCE cancels; CREATE SEQUENCE wrong; CREATE SEQUENCE errors;
SELECT setval(s, 1, false) FROM unnest('{answers,cancels,wrong,errors}'::regclass[]) s;
CREATE TABLE said (message text);
-- Asks for one sequence after the other.  A cancel rolls back a part of the transaction, as it does a statement outside of one.
CREATE PROCEDURE ask(count int) LANGUAGE plpgsql AS \$\$
DECLARE
	asked record;
	got kv.tensor;
	said text;
BEGIN
	FOR i IN 1 .. count LOOP
		BEGIN
			SELECT * INTO asked FROM truth OFFSET floor(random() * $SEQUENCES * 2) LIMIT 1;
			got := kv.attend('c', ARRAY[asked.seq], asked.layer, q_batch(asked.layer, 1));
			PERFORM nextval('answers');
			IF (SELECT max(abs(a - b)) / max(abs(b)) FROM unnest(got::float4[], asked.answer::float4[]) AS t(a, b)) >= 2e-5 THEN
				PERFORM nextval('wrong');
			END IF;
		EXCEPTION
			WHEN query_canceled THEN PERFORM nextval('cancels');
			WHEN OTHERS THEN
				PERFORM nextval('errors');
				GET STACKED DIAGNOSTICS said = MESSAGE_TEXT;
				RAISE WARNING 'storm: %', said;
		END;
	END LOOP;
END \$\$;
SQL
my $facts = postmaster_facts($node);
my $supervisor = supervisor_pid($node);
sub supervisor_files { my @files = glob "/proc/$supervisor/fd/*"; return scalar @files; }
wait_for_status($node, 'state', qr/^ready$/);
my $files = supervisor_files();

# Clients in the background; one that has gone is replaced.  Some give up on the helper early, some on the statement.
my (@clients, $started);
sub start_asking
{
	my $number = $started++;
	my $settings = "SET application_name = 'storm'; SET vectorkv.gpu = on; SET client_min_messages = warning;";
	my $sql = "$settings CALL ask(100000);";
	$sql = "$settings SET vectorkv.gpu_timeout = '20ms'; CALL ask(100000);" if $number % 6 == 4;
	$sql = "$settings SET statement_timeout = '15ms';" . ' CALL ask(100000);' x 2000 if $number % 6 == 5;
	my $client = { out => '', err => '' };
	my $file = $node->basedir . "/client$number.sql";
	append_to_file($file, "$sql\n");
	$client->{handle} = IPC::Run::start([ 'psql', '-X', '-q', '-f', $file, '-d', $node->connstr('postgres') ], '<', \undef, '>', \$client->{out}, '2>', \$client->{err});
	return $client;
}

my %messages;
sub look_after_clients
{
	foreach my $client (@clients)
	{
		$client->{handle}->pump_nb;
		$messages{$1}++ while $client->{err} =~ /(?:WARNING|ERROR|FATAL):  (.*)/g;
		$client->{err} = '';
		next if $client->{handle}->pumpable;
		eval { $client->{handle}->finish };
		$client = start_asking();
	}
	return;
}

my $control = $node->background_psql('postgres', on_error_stop => 0);
$control->set_query_timer_restart;
my $begun = time;
@clients = map { start_asking() } 1 .. $CLIENTS;
my %done = (cancels => 0, backends => 0, clients => 0, helpers => 0, hangs => 0);
my $in_helper = "application_name = 'storm' AND wait_event_type = 'Extension'";
my $hanging;

# Each helper lives until it has borne its share of the cancels: on a busy machine they would else be killed before anybody asks them.
my ($its_pid, $before_it) = (0, 0);
sub has_lived { return $done{cancels} >= $CANCELS || $done{cancels} - $before_it >= $CANCELS / ($HELPER_KILLS + $HANGS); }
my $late = sub { return time - $begun > $MOST_SECONDS };
until ($late->() || ($done{cancels} >= $CANCELS && $done{backends} >= $BACKEND_KILLS && $done{clients} >= $CLIENT_KILLS && $done{helpers} >= $HELPER_KILLS && $done{hangs} >= $HANGS))
{
	look_after_clients();
	if (rand() < 0.5 && $done{backends} < $BACKEND_KILLS)
	{
		$done{backends} += $control->query("SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE $in_helper LIMIT 1) x");
	}

	# Not so many that nobody is left to be ended otherwise.
	foreach (1 .. 3)
	{
		sleep 0.003;
		next if $done{cancels} > $CANCELS * (0.1 + $done{backends} / $BACKEND_KILLS);
		$done{cancels} += $control->query("SELECT count(*) FILTER (WHERE pg_cancel_backend(pid)) FROM pg_stat_activity WHERE $in_helper");
	}
	if (rand() < 0.15 && $done{clients} < $CLIENT_KILLS)
	{
		# Another takes its place here: to pump one that was killed starts its psql again, with what is left of its input.
		my $which = int rand @clients;
		$clients[$which]{handle}->kill_kill(grace => 0);
		$clients[$which] = start_asking();
		$done{clients}++;
	}
	my ($state, $pid, $ended_by) = split /\|/, $control->query("SELECT state, coalesce(pid, 0), coalesce(last_error, '') FROM kv.gpu_status()");
	($its_pid, $before_it) = ($pid, $done{cancels}) if $state eq 'ready' && $pid != $its_pid;

	# The next helper may be ready by the time that somebody looks.
	if ($hanging && $pid != $hanging->{pid})
	{
		$done{hangs}++ if $ended_by =~ /a launch took longer/;
		$hanging = undef;
	}
	$hanging = undef if $hanging && time > $hanging->{since} + 10;
	# Reading the configuration has it start at once.
	if ($state eq 'waiting')
	{
		$control->query('SELECT pg_reload_conf()');
	}
	elsif ($state eq 'ready' && !$hanging && has_lived() && rand() < 0.4 && $done{helpers} < $HELPER_KILLS)
	{
		$done{helpers} += kill 9, $pid;
		sleep 0.02 until $control->query('SELECT state FROM kv.gpu_status()') ne 'ready' || $late->();
	}
	elsif ($state eq 'ready' && !$hanging && has_lived() && rand() < 0.4 && $done{hangs} < $HANGS)
	{
		$hanging = { since => time, pid => $pid };
		# From a session of its own: one that has lost helpers rests before it asks the next.
		my (undef, undef, $said) = $node->psql('postgres', "SET vectorkv.gpu = require; SET vectorkv.gpu_test_fault = hang; SET vectorkv.gpu_timeout = '5s'; "
			  . "SELECT kv.attend('c', '{1}', 0, q_batch(0, 1)) IS NULL");
		$messages{"hang: $said"}++;
	}
}
my $seconds = time - $begun;
note($control->query("SELECT string_agg(format('%s %s %s %s %s', pid, state, wait_event_type, wait_event, now() - query_start), E'\n') FROM pg_stat_activity WHERE application_name = 'storm'") . "\n" . $control->query('SELECT s::text FROM kv.gpu_status() s')) if $late->();
foreach my $client (@clients)
{
	$client->{handle}->kill_kill(grace => 0);
}
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'storm'");
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'storm'");
$control->quit;

my %count = map { $_ => $node->safe_psql('postgres', "SELECT last_value - (NOT is_called)::int FROM $_") } qw(answers cancels wrong errors);
my $stats = $node->safe_psql('postgres', "SELECT json_build_object('requests', requests, 'answered', answered, 'batch', round(average_batch::numeric, 1), 'evictions', evictions, "
	  . "'dropped', dropped, 'restarts', restarts, 'on_cpu', on_cpu) FROM kv.gpu_stats");
note(sprintf '%.0f s: %s; %s; %s', $seconds, join(', ', map { "$_ $done{$_}" } sort keys %done), join(', ', map { "$_ $count{$_}" } sort keys %count), $stats);
note("$messages{$_} times: $_") foreach sort keys %messages;
cmp_ok($done{cancels}, '>=', $CANCELS, 'calls were cancelled while they waited for the helper');
cmp_ok($count{cancels}, '>=', $CANCELS / 2, 'most of which ended them there');
cmp_ok($done{backends}, '>=', $BACKEND_KILLS, 'backends were terminated');
cmp_ok($done{clients}, '>=', $CLIENT_KILLS, 'clients were killed');
cmp_ok($done{helpers}, '>=', $HELPER_KILLS, 'helpers were killed');
cmp_ok($done{hangs}, '>=', $HANGS, 'helpers hung');
cmp_ok($count{answers}, '>=', 1000, "$count{answers} calls were answered");
is($count{wrong}, 0, 'none of them wrongly');
is($count{errors}, 0, 'and no call failed for another reason than being cancelled');
cmp_ok(gpu_stat($node, 'answered'), '>=', 500, 'the helper answered many');
cmp_ok(gpu_stat($node, 'evictions'), '>=', 100, 'tiles were thrown out of its cache');
cmp_ok(gpu_stat($node, 'restarts'), '>=', $HELPER_KILLS + $HANGS, 'restarts are counted');
is(postmaster_facts($node), $facts, 'the server is the one that was started');

# At rest: nothing is held, and the whole cache can be used.
configure($node, 'vectorkv.gpu_helper' => wrapper($node, '--launch-delay-us 2000'));
wait_for_status($node, 'state', qr/^ready$/);
$node->safe_psql('postgres', "SET vectorkv.gpu = require; CALL ask(20)");
ok_at_rest($node, 'after the storm');
is($node->safe_psql('postgres', 'SELECT last_value - (NOT is_called)::int FROM errors'), 0, 'the helper answers');
is(supervisor_files(), $files, 'the supervisor has as many files open as before');
is_deeply([ helper_processes($node, 'vectorkv_helper') ], [ helper_pid($node) ], 'there is one helper');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE pid <> pg_backend_pid()"), '0', 'no lock is held');

# No pause of a busy machine ends it from here on.
configure($node, 'vectorkv.gpu_hang_timeout' => '30s');

# The same helper bears cancels alone: it is not killed here, so what they would leave would add up.
my $pid = helper_pid($node);
my @victims = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 4;
$_->query_until(qr/go/, "SET application_name = 'storm'; SET vectorkv.gpu = on; SET client_min_messages = error;\n\\echo go\nCALL ask(100000);\n") foreach @victims;
my $cancelled = 0;
my $until = time + 120;
while ($cancelled < 300 && time < $until)
{
	$cancelled += $node->safe_psql('postgres', "SELECT count(*) FILTER (WHERE pg_cancel_backend(pid)) FROM pg_stat_activity WHERE $in_helper");
}
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'storm'");
eval { $_->{run}->finish } foreach @victims;
cmp_ok($cancelled, '>=', 300, "$cancelled cancels more");
ok_at_rest($node, 'after these');
is(helper_pid($node), $pid, 'of one helper');
$node->safe_psql('postgres', "SELECT kv.append('c', 99, k(0, 1000), v(0, 1000)); SELECT kv.append('c', 99, k(0, 1000), v(0, 1000)); SELECT kv.append('c', 99, k(0, 1000), v(0, 1000)) FROM generate_series(1, 2)");
my ($slots, $used) = split / /, status($node, "slots || ' ' || slots_used");
note("$used of $slots slots are used");
ok_same($node, "SELECT kv.attend('c', '{99}', 0, q_batch(0, 1))", 'a call that needs nearly all of the cache finds room');

done_testing();
