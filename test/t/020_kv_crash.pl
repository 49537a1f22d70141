# A server that dies at any moment of appends (of one token and of hundreds), seals, forks, truncations and recodes: every committed
# token is there afterwards, with what was in it, nothing else is, and the cache is sound.  The transaction that was under way may have
# happened or not, but whole.  With an unlogged tail the sealed tokens are there, kv.length says so and appends go on.
# VKV_CRASH_ROUNDS sets how many crashes (5).
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use KVCache;
use VectorKV;

my $rounds = $ENV{VKV_CRASH_ROUNDS} // 5;
srand(20240711);
my $node = kv_node('kv_crash', settings => ['checkpoint_timeout = 30s', 'wal_writer_delay = 10ms', 'restart_after_crash = off', 'max_connections = 30']);
create_cache($node, 'exact', "codec => 'f16'");
create_cache($node, 'small', "codec => 'int8', tail_tokens => 16, sink_tokens => 2");
create_cache($node, 'loose', "codec => 'f16', tail => 'unlogged'");

# Each client has sequences of its own in one cache; its model is what the server has acknowledged.
my @clients = (
	{ cache => 'exact', first => 0, model => {} },
	{ cache => 'exact', first => 10, model => {} },
	{ cache => 'small', first => 0, model => {}, lossy => 1 },
	{ cache => 'loose', first => 0, model => {}, prefix => 1 });
my $acknowledged = 0;

# The state that the client's sequences are in: the last acknowledged one or the next; undef, and a note, when neither.
sub state_after
{
	my ($client, $done, $name) = @_;
	my @states = ($done ? $client->{work}[ $done - 1 ]{model} : $client->{model});
	push @states, $client->{work}[$done]{model} if $done < @{ $client->{work} };
	my $only = [ $client->{first} .. $client->{first} + 4 ];
	my @problems;
	foreach my $state (@states)
	{
		my $problem = difference($node, $client->{cache}, $state, only => $only, prefix => $client->{prefix});
		return $state if $problem eq '';
		push @problems, $problem;
	}
	diag("$name: acknowledged $done: " . join('; or: ', @problems) . "\nthe next was:\n" . ($client->{work}[$done]{sql} // 'none'));
	return;
}

# An unlogged tail is gone: what is left is what was sealed.
sub adopt_lengths
{
	my ($client) = @_;
	my ($cache, %kept) = ($client->{cache});
	foreach my $row (split /\n/, $node->safe_psql('postgres', "SELECT seq, kv.length('$cache', seq), sealed FROM $cache"))
	{
		my ($seq, $length, $sealed) = split /\|/, $row;
		is($length, $sealed, "sequence $seq: kv.length says what was sealed") if $length != $sealed;
		$kept{$seq} = { tokens => [ @{ $client->{model}{$seq}{tokens} }[ 0 .. $length - 1 ] ] };
	}
	$client->{model} = \%kept;
	return;
}

foreach my $round (1 .. $rounds)
{
	foreach my $client (@clients)
	{
		$client->{work} = random_work($client->{cache}, $client->{model}, $client->{first}, 400, lossy => $client->{lossy});
		$client->{run} = start_client($node, $client->{work});
	}
	my $other = start_pgbench($node, 1, 60, [1, "VACUUM exact, exact_sealed, exact_tail, small_tail, loose_tail;\nCHECKPOINT;\n\\sleep 100 ms\n"]);
	usleep(300_000 + int(rand(1_700_000)));
	if ($round % 2) { $node->stop('immediate'); }
	else { $node->kill9; }
	finish_pgbench($other);
	my @done = map { finish_client($_->{run}) } @clients;
	wait_until_gone($node);
	$node->start;
	foreach my $number (0 .. $#clients)
	{
		my ($client, $done, $error) = ($clients[$number], @done[ 2 * $number, 2 * $number + 1 ]);
		my $name = "round $round, $client->{cache} from $client->{first}";
		like($error, qr/^\s*$|terminat|server closed the connection|connection to server/, "$name: nothing failed before the crash");
		unlike($error, qr/ERROR/, "$name: no error");
		my $state = state_after($client, $done, $name);
		ok($state, "$name: every token of $done transactions");
		$client->{model} = $state or die 'what is there is not known any more';
		$acknowledged += $done;
		adopt_lengths($client) if $client->{prefix};
	}
	ok_cache($node, $_, "round $round: $_ is sound") foreach qw(exact small loose);
}
cmp_ok($acknowledged, '>', 20 * $rounds, "the crashes hit work: $acknowledged transactions were acknowledged");

# At rest, an unlogged tail: whole after an orderly stop, sealed tokens only after a crash; then appends go on where it ends.
my $loose = $clients[3]{model};
$node->safe_psql('postgres', "SELECT kv.append('loose', 100, k(0, 200), v(0, 200))");
$loose->{100} = { tokens => [ 0 .. 199 ] };
$node->restart;
ok_contents($node, 'loose', $loose, 'an unlogged tail survives an orderly stop');
my $sealed = $node->safe_psql('postgres', 'SELECT sealed FROM loose WHERE seq = 100');
cmp_ok($sealed, '>', 150, "$sealed of 200 tokens are sealed");
cmp_ok($sealed, '<', 200, 'the others are in the tail');
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', "SELECT kv.length('loose', 100)"), $sealed, 'after a crash kv.length counts the sealed tokens');
is($node->safe_psql('postgres', "SELECT kv.append('loose', 100, k(500, 3), v(500, 3))"), $sealed + 3, 'appends go on there');
is($node->safe_psql('postgres', "SELECT kv.append('loose', 100, k(600, 100), v(600, 100), $sealed + 3)"), $sealed + 103, 'and on');
$loose->{100} = { tokens => [ 0 .. $sealed - 1, 500 .. 502, 600 .. 699 ] };
ok_contents($node, 'loose', $loose, 'old and new tokens', only => [100]);
ok_cache($node, 'loose', 'loose is sound at the end');

done_testing();
