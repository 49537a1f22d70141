# Eight clients append to sequences of their own and to shared ones, fork, truncate, drop, seal, recode, attend and vacuum together, in
# caches with logged and unlogged tails, at every isolation level; some statements append and read several times, some in PL functions.
# Afterwards every sequence holds what its clients wrote, the cache is sound and no tile is left that no sequence refers to.
# Runs for half of VKV_STRESS_SECONDS (60).
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use File::Temp qw(tempdir);
use PostgreSQL::Test::Utils;
use Storable qw(nstore retrieve);
use Test::More;
use KVCache;
use VectorKV;

my $seconds = int(($ENV{VKV_STRESS_SECONDS} // 60) / 2);
my $node = kv_node('kv_concurrency', settings => ['max_connections = 40', 'deadlock_timeout = 200ms']);
create_cache($node, 'exact', "codec => 'f16'");
create_cache($node, 'small', "codec => 'int8', tail_tokens => 16, sink_tokens => 2");
create_cache($node, 'loose', "codec => 'f16', tail => 'unlogged'");
create_cache($node, 'lean', "codec => 'int8', tail_tokens => 16, sink_tokens => 2, tail => 'unlogged'");
my @caches = qw(exact small loose lean);
my @levels = ('read committed', 'read committed', 'read committed', 'read committed', 'read committed', 'repeatable read', 'serializable');
$node->safe_psql('postgres', <<'SQL');
-- An append in pieces, with reads between them; a trigger that reads at each change.
CREATE FUNCTION in_pieces(cache regclass, seq bigint, first int, count int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	n int;
BEGIN
	FOR i IN 0 .. count - 1 LOOP
		n := kv.append(cache, seq, k(first + i, 1), v(first + i, 1));
		ASSERT kv.length(cache, seq) = n;
	END LOOP;
	RETURN n;
END $$;
CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	ASSERT kv.length(TG_RELID, NEW.seq) = NEW.length, 'length ' || NEW.length || ' as its row says';
	RETURN NULL;
END $$;
CREATE TRIGGER look AFTER UPDATE OF length ON loose FOR EACH ROW WHEN (NEW.seq % 10 = 1) EXECUTE FUNCTION look();
SQL
my $tokens = $KVCache::TOKENS;
my @shared = (1, 2);    # sequences that several clients append to
my @shared_caches = qw(exact loose);

# A client's own share of the sample tells its tokens apart: client c appends tokens c * 128 .. c * 128 + 127 to shared sequences.
sub shared_append
{
	my ($number, $log) = @_;
	my ($cache, $seq) = ($shared_caches[ rand @shared_caches ], $shared[ rand @shared ]);
	my $count = 1 + int rand 6;
	my $from = $number * 128 + int rand(128 - $count);
	push @{ $log->{"$cache $seq"} }, [ $from .. $from + $count - 1 ];
	my $dice = rand 100;
	if ($dice < 30 && $count > 1)
	{
		my ($next, $rest) = ($from + 1, $count - 1);
		return "BEGIN; SELECT kv.append('$cache', $seq, k($from, 1), v($from, 1)), kv.length('$cache', $seq) > 0, kv.append('$cache', $seq, k($next, $rest), v($next, $rest)); COMMIT;\n";
	}
	return "SELECT in_pieces('$cache', $seq, $from, $count);\n" if $dice < 50;
	return "SELECT kv.append('$cache', $seq, k($from, $count), v($from, $count));\n";
}

# Work on the shared sequences that goes with a transaction.
sub shared_work
{
	my ($number, $state) = @_;
	my $dice = rand 100;
	return shared_append($number, $state->{shared}) if $dice < 30;
	if ($dice < 34)
	{
		my ($cache, $from) = ($shared_caches[ rand @shared_caches ], $shared[ rand @shared ]);
		my $to = 100_000 + 1000 * $number + $state->{forked}++;
		push @{ $state->{forks} }, [ $cache, $to, $from ];
		return "SELECT kv.fork('$cache', $from, $to);\n";
	}
	if ($dice < 36 && @{ $state->{forks} })
	{
		# One's own fork of a shared sequence, whose tiles others use: cut it, or give it back.
		my ($cache, $seq) = @{ $state->{forks}[-1] };
		return "SELECT kv.truncate('$cache', $seq, least(kv.length('$cache', $seq), 40));\n" if rand() < 0.5;
		pop @{ $state->{forks} };
		return "SELECT kv.drop_sequence('$cache', $seq);\n";
	}
	return attend_shared() if $dice < 50;
	return '';
}

sub attend_shared
{
	my ($cache, $layer) = ($shared_caches[ rand @shared_caches ], int rand 2);
	return "SELECT kv.attend('$cache', '{1,2,1}', $layer, q_batch($layer, 3)) IS NULL;\n";
}

# One client: batches of random transactions on its own sequences of a cache, mixed with work on the shared ones. Above READ COMMITTED it
# reads the shared ones only, all of it in transactions, and what fails to serialize is tried again.
sub run_client
{
	my ($number, $file) = @_;
	srand(4711 + $number);
	my ($cache, $first, $level) = ($caches[ $number % 4 ], 1000 + 10 * $number, $levels[$number]);
	my $lossy = $cache =~ /small|lean/ ? 1 : 0;
	my $state = { cache => $cache, first => $first, model => {}, shared => {}, forks => [], forked => 0, done => 0, tried => 0, error => '' };
	local $ENV{PGOPTIONS} = "-c default_transaction_isolation=" . ($level =~ s/ /\\ /gr);
	my $end = time() + $seconds;
	while (time() < $end && $state->{error} eq '')
	{
		my $work = random_work($cache, $state->{model}, $first, 25, lossy => $lossy);
		foreach my $step (@$work)
		{
			if ($level eq 'read committed') { $step->{sql} .= shared_work($number, $state); next; }
			my $sql = $step->{sql} =~ s/^BEGIN;\n//r;
			my $last = $sql =~ s/(COMMIT|ROLLBACK);\n$// ? $1 : 'COMMIT';
			$step->{sql} = "BEGIN;\n" . attend_shared() . "$sql$last;\n";
		}
		my @rest = @$work;
		while (@rest && $state->{error} eq '')
		{
			my ($done, $error) = finish_client(start_client($node, \@rest));
			$state->{done} += $done;
			splice @rest, 0, $done;
			if ($level ne 'read committed' && $error =~ /could not serialize access/) { $state->{tried}++; next; }
			$state->{error} = $error || 'it ended early' if $error ne '' || @rest;
		}
		$state->{model} = $work->[-1]{model};
	}
	nstore($state, $file);
	return;
}

$node->safe_psql('postgres', "SELECT kv.append(cache, seq, k(1000, 2), v(1000, 2)) FROM unnest('{exact,loose}'::regclass[]) cache, unnest(ARRAY[1, 2]) seq");
my $folder = tempdir(CLEANUP => 1);
my @clients;
foreach my $number (0 .. 6)
{
	my $child = fork // die "fork: $!";
	if ($child == 0)
	{
		eval { run_client($number, "$folder/$number"); };
		print STDERR $@ if $@;
		require POSIX;
		POSIX::_exit($@ ? 1 : 0);
	}
	push @clients, $child;
}
my $tables = join ', ', map { ($_, "${_}_sealed", "${_}_tail") } @caches;
my $vacuum = start_pgbench($node, 1, $seconds, [1, "VACUUM $tables;\nSELECT kv.collect('exact');\nSELECT kv.collect('small', 5);\n\\sleep 100 ms\n"]);
waitpid $_, 0 foreach @clients;
my ($code, $output) = finish_pgbench($vacuum);
is($code, 0, 'vacuum and kv.collect ended without an error') or diag($output);

# The clients' own sequences.
my (@states, $done, %model);
foreach my $number (0 .. 6)
{
	my $state = retrieve("$folder/$number");
	is($state->{error}, '', "client $number ended without an error");
	$done += $state->{done};
	$model{ $state->{cache} }{$_} = $state->{model}{$_} foreach keys %{ $state->{model} };
	push @states, $state;
}
cmp_ok($done, '>', 100, "the clients did work: $done transactions");
ok_cache($node, $_, "$_ is sound") foreach @caches;
foreach my $cache (@caches) { ok_contents($node, $cache, $model{$cache}, "$cache holds what its clients wrote", only => [ keys %{ $model{$cache} } ]); }
cmp_ok((grep { $_->{done} > 10 } @states), '==', 7, 'each client got on: ' . join(', ', map { "$_->{done} ($_->{tried} tried again)" } @states));

# Shared sequences: every append whole, in each client's order, nothing lost.
my %number;    # bytes of a token => its number in the sample
$number{ KVCache::sample_part('k', 0, [$_]) } = $_ foreach 0 .. $tokens - 1;
my %stored;
foreach my $shared (map { my $cache = $_; map { [ $cache, $_ ] } @shared } @shared_caches)
{
	my ($cache, $seq) = @$shared;
	my $length = $node->safe_psql('postgres', "SELECT kv.length('$cache', $seq)");
	my $bytes = pack 'H*', $node->safe_psql('postgres', "SELECT encode(kv.bytes(k), 'hex') FROM kv.fetch('$cache', $seq, 0)");
	my $row = 2 * $KVCache::DIM;
	my @numbers;
	foreach my $at (0 .. $length - 1)
	{
		my $token = join '', map { substr $bytes, ($_ * $length + $at) * $row, $row } 0 .. $KVCache::KV_HEADS - 1;
		push @numbers, $number{$token} // -1;
	}
	$stored{"$cache $seq"} = \@numbers;
	my @rest = @numbers[ 2 .. $#numbers ];
	my @queues = map { [ @{ $_->{shared}{"$cache $seq"} // [] } ] } @states;
	my $problem = '';
	while (@rest)
	{
		my $client = $rest[0] < 0 ? -1 : int($rest[0] / 128);
		my $wanted = $client >= 0 && $client < 7 ? shift @{ $queues[$client] } : undef;
		my @got = splice @rest, 0, $wanted ? scalar @$wanted : 1;
		next if $wanted && "@got" eq "@$wanted";
		$problem = "found (@got), client $client wrote (" . join(' ', @{ $wanted // [] }) . ')';
		last;
	}
	$problem ||= 'appends are missing' if grep { @$_ } @queues;
	is($problem, '', "shared sequence $seq of $cache: $length tokens, every append whole and in order");
	ok_contents($node, $cache, { $seq => { tokens => $stored{"$cache $seq"} } }, "shared sequence $seq of $cache: all layers", only => [$seq]);
}

# Forks of a shared sequence hold the tokens that it had.
my ($forks, $wrong) = (0, '');
foreach my $fork (map { @{ $_->{forks} } } @states)
{
	my ($cache, $to, $from) = @$fork;
	my $length = $node->safe_psql('postgres', "SELECT kv.length('$cache', $to)");
	$forks++;
	next if $forks > 40;
	$wrong .= difference($node, $cache, { $to => { tokens => [ @{ $stored{"$cache $from"} }[ 0 .. $length - 1 ] ] } }, only => [$to]);
}
is($wrong, '', "$forks forks of shared sequences hold what was there");

# What no sequence refers to is gone when it has been collected.
foreach my $cache (@caches)
{
	$node->safe_psql('postgres', "SELECT kv.collect('$cache')");
	is($node->safe_psql('postgres', "SELECT kv.collect('$cache')"), '0', "$cache: what was collected is not there to be collected");
	foreach my $table ("${cache}_sealed", "${cache}_tail")
	{
		is($node->safe_psql('postgres', "SELECT count(*) FROM $table t WHERE NOT EXISTS (SELECT FROM $cache h WHERE t.extent = ANY (h.extents))"),
			'0', "$table has no orphans");
	}
	$node->safe_psql('postgres', "SELECT kv.drop_sequence('$cache', seq) FROM $cache; SELECT kv.collect('$cache')");
	is($node->safe_psql('postgres', "SELECT (SELECT count(*) FROM $cache) + (SELECT count(*) FROM ${cache}_sealed) + (SELECT count(*) FROM ${cache}_tail)"),
		'0', "$cache: when the sequences are dropped, nothing is left");
}

done_testing();
