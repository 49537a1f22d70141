# Eight clients append to sequences of their own and to shared ones, fork, truncate, drop, seal, recode, attend and vacuum together.
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

my $seconds = ($ENV{VKV_STRESS_SECONDS} // 60) / 2;
my $node = kv_node('kv_concurrency', settings => ['max_connections = 40', 'deadlock_timeout = 200ms']);
create_cache($node, 'exact', "codec => 'f16'");
create_cache($node, 'small', "codec => 'int8', tail_tokens => 16, sink_tokens => 2");
my @caches = qw(exact small);
my $tokens = $KVCache::TOKENS;
my @shared = (1, 2);    # sequences that several clients append to

# A client's own share of the sample tells its tokens apart: client c appends tokens c * 128 .. c * 128 + 127 to shared sequences.
sub shared_append
{
	my ($number, $log) = @_;
	my $seq = $shared[ rand @shared ];
	my $count = 1 + int rand 6;
	my $from = $number * 128 + int rand(128 - $count);
	push @{ $log->{$seq} }, [ $from .. $from + $count - 1 ];
	return "SELECT kv.append('exact', $seq, k($from, $count), v($from, $count));\n";
}

# One client: batches of random transactions on its own sequences of a cache, mixed with work on the shared ones.
sub run_client
{
	my ($number, $file) = @_;
	srand(4711 + $number);
	my ($cache, $first) = ($caches[ $number % 2 ], 1000 + 10 * $number);
	my $state = { cache => $cache, first => $first, model => {}, shared => {}, forks => [], done => 0, error => '' };
	my ($end, $fork) = (time() + $seconds, 0);
	while (time() < $end && $state->{error} eq '')
	{
		my $work = random_work($cache, $state->{model}, $first, 25, lossy => $cache eq 'small');
		foreach my $step (@$work)
		{
			my $dice = rand 100;
			if ($dice < 30) { $step->{sql} .= shared_append($number, $state->{shared}); }
			elsif ($dice < 34)
			{
				my $to = 100_000 + 1000 * $number + $fork++;
				my $from = $shared[ rand @shared ];
				$step->{sql} .= "SELECT kv.fork('exact', $from, $to);\n";
				push @{ $state->{forks} }, [ $to, $from ];
			}
			elsif ($dice < 36 && @{ $state->{forks} })
			{
				# One's own fork of a shared sequence, whose tiles others use: cut it, or give it back.
				my $last = $state->{forks}[-1];
				if (rand() < 0.5) { $step->{sql} .= "SELECT kv.truncate('exact', $last->[0], least(kv.length('exact', $last->[0]), 40));\n"; }
				else { $step->{sql} .= "SELECT kv.drop_sequence('exact', $last->[0]);\n"; pop @{ $state->{forks} }; }
			}
			elsif ($dice < 50)
			{
				my $layer = int rand 2;
				$step->{sql} .= "SELECT kv.attend('exact', '{1,2,1}', $layer, q_batch($layer, 3)) IS NULL;\n";
			}
		}
		my ($done, $error) = finish_client(start_client($node, $work));
		$state->{done} += $done;
		$state->{error} = $error if $error ne '' || $done != @$work;
		$state->{model} = $work->[-1]{model};
	}
	nstore($state, $file);
	return;
}

$node->safe_psql('postgres', "SELECT kv.append('exact', seq, k(1000, 2), v(1000, 2)) FROM unnest(ARRAY[1, 2]) seq");
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
ok_contents($node, 'small', $model{small}, 'small holds what its clients wrote');
ok_contents($node, 'exact', $model{exact}, 'exact holds what its clients wrote', only => [ keys %{ $model{exact} } ]);

# Shared sequences: every append whole, in each client's order, nothing lost.
my %number;    # bytes of a token => its number in the sample
$number{ KVCache::sample_part('k', 0, [$_]) } = $_ foreach 0 .. $tokens - 1;
my %stored;
foreach my $seq (@shared)
{
	my $length = $node->safe_psql('postgres', "SELECT kv.length('exact', $seq)");
	my $bytes = pack 'H*', $node->safe_psql('postgres', "SELECT encode(kv.bytes(k), 'hex') FROM kv.fetch('exact', $seq, 0)");
	my $row = 2 * $KVCache::DIM;
	my @numbers;
	foreach my $at (0 .. $length - 1)
	{
		my $token = join '', map { substr $bytes, ($_ * $length + $at) * $row, $row } 0 .. $KVCache::KV_HEADS - 1;
		push @numbers, $number{$token} // -1;
	}
	$stored{$seq} = \@numbers;
	my @rest = @numbers[ 2 .. $#numbers ];
	my @queues = map { [ @{ $_->{shared}{$seq} // [] } ] } @states;
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
	is($problem, '', "shared sequence $seq: $length tokens, every append whole and in order");
	ok_contents($node, 'exact', { $seq => { tokens => $stored{$seq} } }, "shared sequence $seq: all layers", only => [$seq]);
}

# Forks of a shared sequence hold the tokens that it had.
my ($forks, $wrong) = (0, '');
foreach my $fork (map { @{ $_->{forks} } } @states)
{
	my ($to, $from) = @$fork;
	my $length = $node->safe_psql('postgres', "SELECT kv.length('exact', $to)");
	$forks++;
	next if $forks > 40;
	$wrong .= difference($node, 'exact', { $to => { tokens => [ @{ $stored{$from} }[ 0 .. $length - 1 ] ] } }, only => [$to]);
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
