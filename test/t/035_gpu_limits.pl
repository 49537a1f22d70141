# Calls larger than the cache, the arena or a launch; more sessions than the arena has room for; damaged tiles; random work on caches while
# sessions with warm page tables look on, one of them on a standby.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use GPUHelper;
use KVCache;
use PostgreSQL::Test::Utils;
use Session;
use VectorKV;

srand(20261123);

# 512 slots, launches of 256 tiles, an arena of 1,024 slabs of which requests may have a part.
my $node = gpu_node('gpu_limits', "vectorkv.gpu_memory = '4MB'", "vectorkv.gpu_arena_size = '8MB'", 'vectorkv.gpu_max_launch_tiles = 256');
my $tiles = sub { my ($cache) = @_; return $node->safe_psql('postgres', "SELECT count(*) FROM ${cache}_sealed"); };
create_cache($node, 'wide', "codec => 'f16'");
$node->safe_psql('postgres', "SELECT kv.append('wide', seq, k(seq, 900), v(seq, 900)) FROM generate_series(1, 12) seq; SELECT kv.append('wide', 20, k(0, 900), v(0, 900)) FROM generate_series(1, 6)");
cmp_ok($tiles->('wide'), '>', 2 * 2 * 512, 'far more tiles than the cache has slots');
my $twelve = "'{1,2,3,4,5,6,7,8,9,10,11,12}'";
ok_same($node, "SELECT kv.attend('wide', $twelve, 0, q_batch(0, 12))", 'a batch that is cut', requests => 4);
ok_same($node, "SELECT kv.attend('wide', '{20}', 1, q_batch(1, 1))", 'a sequence that is cut', requests => 2);
ok_same($node, "SELECT kv.attend('wide', '{3,20,7}', 1, q_batch(1, 3), \"window\" => 4000, sinks => 300)", 'window and sinks that are cut', requests => 2);
ok_same($node, "SELECT kv.attend('wide', '{20}', 0, q(0), k => kv.reshape(kv.slice(k(900, 7), 0, 0, 1), '{1,3,7,64}'), v => kv.reshape(kv.slice(v(900, 7), 0, 0, 1), '{1,3,7,64}'))",
	'16 positions, 7 fresh ones, cut', requests => 2);
cmp_ok(gpu_stat($node, 'evictions'), '>', 512, 'tiles made room for others');

# A call of so much work that one launch of it could be taken for one that hangs is cut, by the rows of its queries, too.
other_helper($node, 'vectorkv.gpu_hang_timeout' => '500ms', 'vectorkv.gpu_helper' => wrapper($node, '--threads 1'));  # as fast everywhere
$node->safe_psql('postgres', "CREATE TABLE many AS SELECT n, kv.reshape((SELECT array_agg(sin(i * 0.7) + 2 * sin(i * 0.013 * n))::real[]::kv.tensor FROM generate_series(1, n * 9 * 700 * 64) i), ARRAY[n, 9, 700, 64]) AS q FROM generate_series(1, 2) n");
foreach my $case ([ "'{20}', 1", 1, 'causal' ], [ "'{20}', 1", 1, 'all see all', 'causal => false' ], [ "'{3,20}', 0", 2, 'two sequences' ], [ "'{20}', 0", 1, 'a window and sinks', '"window" => 3000, sinks => 40' ],
	[ "'{20}', 0", 1, 'a window, not causal', '"window" => 3000, causal => false' ],
	[ "'{20}', 0", 1, 'fresh tokens', "k => kv.reshape(kv.slice(k(900, 7), 0, 0, 1), '{1,3,7,64}'), v => kv.reshape(kv.slice(v(900, 7), 0, 0, 1), '{1,3,7,64}')" ])
{
	my ($of, $n, $name, $options) = @$case;
	ok_same($node, "SELECT kv.attend('wide', $of, (SELECT q FROM many WHERE n = $n)" . ($options ? ", $options" : '') . ')', "700 positions that are cut: $name", requests => 4);
}
other_helper($node, 'vectorkv.gpu_hang_timeout' => '60s', 'vectorkv.gpu_helper' => '');

# Smaller tiles than the cache's codec says: the estimate is wrong, and so is the first attempt.
create_cache($node, 'recoded', "codec => 'int2'");
$node->safe_psql('postgres', "SELECT kv.append('recoded', 1, k(0, 1000), v(0, 1000)) FROM generate_series(1, 6); SELECT kv.recode('recoded', 1, 'f16')");
cmp_ok($tiles->('recoded'), '>', 2 * 512, 'a recoded sequence of more tiles than there are slots');
ok_same($node, "SELECT kv.attend('recoded', '{1}', 0, q_batch(0, 1))", 'a recoded sequence is cut again', requests => 2);
is(gpu_stat($node, "on_cpu ? 'too_large'"), 'f', 'no call was too large after all');

# A request whose queries alone are larger than the arena can hold.
my $many = "kv.reshape(array_fill(0.5::float4, ARRAY[4000 * 9 * 64])::kv.tensor, '{1,9,4000,64}')";
$node->safe_psql('postgres', "SELECT kv.append('wide', 30, k(0, 100), v(0, 100))");  # little work, which would be cut
is($node->safe_psql('postgres', "SET client_min_messages = error; SET vectorkv.gpu = on; SELECT kv.shape(kv.attend('wide', '{30}', 0, $many, causal => false))"), '{1,9,4000,64}',
	'4,000 positions are answered');
is(gpu_stat($node, "on_cpu ? 'too_large'"), 't', 'by the CPU, since it is too large');
ok_at_rest($node, 'after what is too large');

# 40 sessions want 32 slabs each of the 1,024.
my @sessions = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 40;
my $attend = "SELECT kv.attend('wide', '{1}', 0, q_batch(0, 1))";
$node->safe_psql('postgres', "CREATE TABLE truth AS $attend AS answer");
my @answers = map { scalar $_->query("SET vectorkv.gpu = on; SELECT kv.relative_error(($attend), answer) < 2e-5 FROM truth") } @sessions;
is(join(',', @answers), join(',', ('t') x 40), '40 sessions are answered');
cmp_ok(gpu_stat($node, "on_cpu -> 'unreachable'"), '>=', 8, 'some by the CPU, for the arena is full');
cmp_ok(status($node, 'clients'), '>=', 20, 'most by the helper');
$_->quit foreach @sessions;
ok_at_rest($node, 'after they have gone');

# Damage is said as the CPU says it, whether the helper is asked or not.
create_cache($node, 'damaged', "codec => 'int8', tail_tokens => 16");
$node->safe_psql('postgres', "SELECT kv.append('damaged', 1, k(0, 400), v(0, 400)); DELETE FROM damaged_sealed WHERE layer = 0 AND head = 1 AND pos > 100 AND pos < 200");
my $bad = "SELECT kv.attend('damaged', '{1}', %d, q_batch(0, 1))";
my $said = sqlstate_of($node, sprintf $bad, 0);
like($said, qr/^XX001: tile of sequence 1, layer 0, head 1 at position \d+ .* is missing/, 'a tile that is missing');
is(sqlstate_of($node, sprintf "SET vectorkv.gpu = $_; $bad", 0), $said, "the same under $_") foreach qw(on require);
ok_same($node, sprintf($bad, 1), 'another layer is sound');
ok_same($node, "SELECT kv.attend('wide', '{1}', 0, q_batch(0, 1))", 'and so is the connection of a session', session => my $after = $node->background_psql('postgres', on_error_stop => 0));
$after->query("SET vectorkv.gpu = require; SET client_min_messages = fatal; " . sprintf $bad, 0);
ok_same($node, "SELECT kv.attend('wide', '{1}', 0, q_batch(0, 1))", 'after an error, too', session => $after);
$after->quit;

# Random work. Every session keeps its connection and what it believes of the helper's tables.
configure($node, 'vectorkv.gpu_memory' => '64MB');
wait_for_status($node, 'memory', qr/^67108864$/);
create_cache($node, $_, "codec => 'int8', tail_tokens => 16") foreach qw(first second);
$node->backup('base');
my $standby = Session::Node->new('gpu_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', 'hot_standby_feedback = on');
$standby->start;
wait_for_status($standby, 'state', qr/^ready$/);
my @watch = ([$node, 'the primary'], [$node, 'another session'], [$standby, 'the standby']);
foreach (@watch) { push @$_, $_->[0]->background_psql('postgres', on_error_stop => 0); }
my %model = (first => {}, second => {});
foreach my $round (1 .. 8)
{
	my $old = $node->background_psql('postgres', on_error_stop => 0);
	$old->query('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM first');
	my $had = join ',', sort { $a <=> $b } keys %{ $model{first} };
	my %work = map { $_ => KVCache::random_work($_, $model{$_}, 1, 25, lossy => 1) } keys %model;
	my %client = map { $_ => start_client($node, $work{$_}) } keys %model;
	foreach my $cache (sort keys %model)
	{
		my ($done, $error) = finish_client($client{$cache});
		is($error, '', "round $round: $cache");
		$model{$cache} = $work{$cache}[ $done - 1 ]{model};
	}
	$node->wait_for_catchup($standby, 'replay', $node->lsn('write'));
	foreach my $cache (sort keys %model)
	{
		# Sequences of a few tokens have nothing for the helper to do.
		my @long = grep { @{ $model{$cache}{$_}{tokens} } > 80 } sort { $a <=> $b } keys %{ $model{$cache} };
		next unless @long;
		my $layer = $round % 2;
		my $query = "SELECT kv.attend('$cache', '{" . join(',', @long) . "}', $layer, q_batch($layer, " . @long . "))";
		ok_same($_->[0], $query, "round $round: $cache, $_->[1]", session => $_->[2]) foreach @watch;
	}
	ok_same($node, "SELECT kv.attend('first', '{$had}', 0, q_batch(0, " . split(/,/, $had) . "))", "round $round: a snapshot of before", session => $old, requests => 0) if $had ne '';
	$old->quit;
}
$_->[2]->quit foreach @watch;
ok_cache($node, $_) foreach sort keys %model;
ok_at_rest($node, 'at the end');
is(gpu_stat($node, 'restarts'), '0', 'the helper never ended but when it was told to');
is(gpu_stat($standby, 'errors + restarts'), '0', 'nor did that of the standby');

done_testing();
