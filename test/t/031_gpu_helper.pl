# kv.attend through the helper (CPU device, real socket and arena) answers as the CPU does: every codec and option, batches, several layers,
# forks, tokens that are not stored; and a step of decoding copies the new tiles only.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use GPUHelper;
use KVCache;
use PollGap;
use VectorKV;

my $node = gpu_node('gpu_helper');
is(status($node, "concat_ws(' ', setting, backend, reason)"), 'auto cpu', 'ready, on the CPU device');

# Every codec, every option.
my $one = "q_batch(0, 1)";
my %options = (
	plain => "0, $one",
	'three sequences' => undef,
	scale => "0, $one, scale => 0.3",
	window => "1, q_batch(1, 1), \"window\" => 150",
	'window and sinks' => "1, q_batch(1, 1), \"window\" => 70, sinks => 5",
	softcap => "0, $one, softcap => 20",
	'window of one' => "0, $one, \"window\" => 1",
	'16 positions' => "0, q(0)",
	'16 positions, window' => "0, q(0), \"window\" => 33, sinks => 2",
	'16 positions, not causal' => "1, q(1), causal => false",
	'fresh tokens' => "0, $one, k => kv.reshape(kv.slice(k(900, 7), 0, 0, 1), '{1,3,7,64}'), v => kv.reshape(kv.slice(v(900, 7), 0, 0, 1), '{1,3,7,64}')",
	'16 positions, the last 7 fresh' => "0, q(0), k => kv.reshape(kv.slice(k(900, 7), 0, 0, 1), '{1,3,7,64}'), v => kv.reshape(kv.slice(v(900, 7), 0, 0, 1), '{1,3,7,64}')");
foreach my $codec (qw(f16 int8 int4 int3 int2 int4_uniform int3_uniform int2_uniform))
{
	my $cache = "c_$codec";
	create_cache($node, $cache, "codec => '$codec', tail_tokens => 40");
	$node->safe_psql('postgres', "SELECT kv.append('$cache', 1, k(0, 700), v(0, 700)); SELECT kv.append('$cache', 2, k(700, 300), v(700, 300)); "
		  . "SELECT kv.append('$cache', 3, k(100, 900), v(100, 900)); SELECT kv.fork('$cache', 1, 4, 451); SELECT kv.append('$cache', 4, k(0, 500), v(0, 500)); "
		  . "SELECT kv.append('$cache', 5, k(0, 3), v(0, 3)); SELECT kv.truncate('$cache', 3, 400); SELECT kv.append('$cache', 3, k(0, 1), v(0, 1))");
	foreach my $name (sort keys %options)
	{
		my $call = defined $options{$name} ? "'{1}', $options{$name}" : "'{1,2,3}', 0, q_batch(0, 3)";
		# A window of one token sees the newest one, which is in no whole tile: nothing to ask for.
		ok_same($node, "SELECT kv.attend('$cache', $call)", "$codec, $name", requests => $name eq 'window of one' ? 0 : 1);
	}
	ok_same($node, "SELECT kv.attend('$cache', '{4,1,4,5,3}', 1, q_batch(1, 5))", "$codec, forks and short ones");
	ok_same($node, "SELECT kv.attend_layers('$cache', '{1,4}', '{1,0}', kv.concat(kv.reshape(q_batch(1, 2), '{1,2,9,64}'), kv.reshape(q_batch(0, 2), '{1,2,9,64}'), 0))", "$codec, two layers");
	ok_same($node, "SELECT (kv.attend('$cache', '{2,4}', 0, q_batch(0, 2), true)).lse", "$codec, the logarithm of the sum");
	$node->safe_psql('postgres', "SELECT kv.seal('$cache', 2); SELECT kv.recode('$cache', 1, 'int8')");
	ok_same($node, "SELECT kv.attend('$cache', '{1,2,4}', 0, q_batch(0, 3))", "$codec, sealed and recoded");
}

# Other geometry.
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION noise(heads int, tokens int, dim int, seed float8) RETURNS kv.tensor LANGUAGE sql AS
	$$ SELECT kv.reshape(array_agg(sin(i * seed) * 2)::float4[]::kv.tensor, ARRAY[1, heads, tokens, dim]) FROM generate_series(1, heads * tokens * dim) i $$;
SQL
foreach my $case ([128, 8, 2, ''], [96, 4, 4, ", codec => 'int4'"], [256, 4, 1, ", codec => 'int8'"], [80, 6, 2, ", codec => 'int3'"],
	[128, 4, 2, ", value_dim => 64, codec => 'int8'"], [192, 4, 1, ", value_dim => 128, values_in_keys => true"])
{
	my ($dim, $q_heads, $kv_heads, $more) = @$case;
	my $name = "g$dim" . ($more =~ /(value_dim|values_in_keys)/ ? "_$1" : '');
	my $dim_v = $more =~ /value_dim => (\d+)/ ? $1 : $dim;
	my $v = $more =~ /values_in_keys/ ? 'NULL' : "noise($kv_heads, 300, $dim_v, 0.77)";
	$node->safe_psql('postgres', "SELECT kv.create_cache('$name', 1, $q_heads, $kv_heads, $dim$more); SELECT kv.append('$name', 1, noise($kv_heads, 300, $dim, 0.37), $v)");
	ok_same($node, "SELECT kv.attend('$name', '{1}', 0, kv.reshape(noise($q_heads, 1, $dim, 0.11), '{1,$q_heads,$dim}'))", "$q_heads of $kv_heads heads of $dim$more");
}

# What the helper does not do is said under require, and computed by the CPU under on.
$node->safe_psql('postgres', "SELECT kv.create_cache('rotated', 2, 9, 3, 64, keys => 'before_rope', rope_theta => 10000); SELECT kv.append('rotated', 1, k(0, 300), v(0, 300))");
my $rotated = "SELECT kv.attend('rotated', '{1}', 0, $one)";
like(sqlstate_of($node, "SET vectorkv.gpu = require; $rotated"), qr/^0A000: the GPU helper does not support the call: keys before/, 'keys before their rotary embedding: an error under require');
my ($status, $here, $notice) = $node->psql('postgres', "SET vectorkv.gpu = on; $rotated; $rotated");
is($here, join("\n", ($node->safe_psql('postgres', "SET vectorkv.gpu = off; $rotated")) x 2), 'and the CPU under on');
is(() = $notice =~ /NOTICE:  the GPU helper does not support/g, 1, 'which is said once a session');
is($node->safe_psql('postgres', "$rotated IS NULL; SELECT last_reason FROM kv.gpu_session()"), "f\nthe GPU helper runs on the CPU", 'auto never uses the CPU device');

# A step of decoding: one token more, whatever the length.
create_cache($node, 'steps', "codec => 'f16'");
$node->safe_psql('postgres', "SELECT kv.append('steps', 1, k(0, 800), v(0, 800))");
my $session = $node->background_psql('postgres', on_error_stop => 0);
$session->query("SET vectorkv.gpu = require; SET client_min_messages = error");
my $attend = "SELECT kv.attend('steps', '{1}', 0, $one) IS NULL";
my $staged = sub { return $session->query('SELECT staged FROM kv.gpu_session()'); };
$session->query($attend);
my $first = $staged->();
is($first, 3 * int(800 / 31), 'the first request copies the tiles of three heads');
my $most = 0;
foreach my $step (1 .. 40)
{
	$node->safe_psql('postgres', "SELECT kv.append('steps', 1, k(" . (800 + $step) . ", 1), v(" . (800 + $step) . ", 1))");
	my $before = $staged->();
	is($session->query($attend), 'f', "step $step") if $step % 20 == 0;
	$session->query($attend) if $step % 20;
	my $copied = $staged->() - $before;
	$most = $copied if $copied > $most;
}
cmp_ok($most, '<=', 6, "no step of 40 copied more than one block a head and what was sealed: $most");
my $before = $staged->();
$session->query($attend) for 1 .. 5;
is($staged->(), $before, 'the same again copies nothing');
like($session->query('SELECT last_request FROM kv.gpu_session()'), qr/^helper: batch=1 tiles=\d+ cached=\d+ staged=0 read=[\d.]+ MB device=[\d.]+ ms wait=[\d.]+ ms$/, 'the line for people');
$session->quit;

# A new session reads neither index nor tiles of what the helper knows.
$node->safe_psql('postgres', "SELECT kv.append('steps', 2, k(0, 1000), v(0, 1000)) FROM generate_series(1, 5)");
my $long = "SELECT kv.attend('steps', '{2}', 0, $one)";
ok_same($node, $long, 'a long sequence');
ok_same($node, $long, 'a long sequence in a new session', most_staged => 0);
my $blocks = sub
{
	my ($plan) = join '', $node->safe_psql('postgres', "SET vectorkv.gpu = off; SELECT kv.attend('steps', '{1}', 0, $one) IS NULL; SET vectorkv.gpu = $_[0]; EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) $long");
	return $plan =~ /"Shared Hit Blocks": (\d+)/ ? $1 : die $plan;
};
cmp_ok($blocks->('off'), '>', 3 * 161, 'the CPU reads every tile');
my $read = $blocks->('require');
cmp_ok($read, '<', 150, "the helper has them: $read blocks");

# A query too large for its scale: one error, whoever would answer.
foreach my $large ("array_fill(3e38::real, ARRAY[1,9,64])::kv.tensor", "array_fill(1e38::real, ARRAY[1,9,64])::kv.tensor, scale => 1000", "array_fill(1::real, ARRAY[1,9,64])::kv.tensor, scale => 3e38")
{
	my @states = map { sqlstate_of($node, "SET vectorkv.gpu = $_; SELECT kv.attend('steps', '{2}', 0, $large)") } qw(off on require);
	like($states[0], qr/^22000: query of row 0 is too large: its scores would overflow/, "too large on the CPU: $large");
	is($states[1], $states[0], 'where the helper may answer');
	is($states[2], $states[0], 'and where it must');
}

# An older copy of the tables in place of the rows, and other tokens behind it: the same extents and the same tiles at first, which the
# helper knows as they went on before.  For a session that asked before, and for a new one.
create_cache($node, 'again', "codec => 'int8', tail_tokens => 16");
my $again = "SELECT kv.attend('again', '{1}', 1, q_batch(1, 1))";
my $kept = $node->background_psql('postgres', on_error_stop => 0);
my @tables = qw(again again_sealed again_tail);
$node->safe_psql('postgres', "SELECT kv.append('again', 1, k(0, 300), v(0, 300)); " . join('; ', map { "CREATE TABLE copy_$_ AS TABLE $_" } @tables));
$node->safe_psql('postgres', "SELECT kv.append('again', 1, k(300, 400), v(300, 400))");
ok_same($node, $again, 'before an older copy', session => $kept);
$node->safe_psql('postgres', 'BEGIN; ' . join('; ', map { "DELETE FROM $_; INSERT INTO $_ SELECT * FROM copy_$_" } @tables) . '; COMMIT');
$node->safe_psql('postgres', "SELECT kv.append('again', 1, k(600, 400), v(600, 400))");
ok_same($node, $again, 'an older copy, and others appended', session => $kept);
ok_same($node, $again, 'an older copy, and others appended: a new session');
$kept->quit;

# What the session does for a million queries, while it waits and when the answer is there, can be stopped.
SKIP:
{
	skip 'no C compiler or no headers', 1 unless load_poll_gap($node);
	$node->safe_psql('postgres', "CREATE FUNCTION same(n int, variadic shape int[]) RETURNS kv.tensor LANGUAGE sql AS \$\$ SELECT kv.reshape(array_fill(1::real, ARRAY[n])::kv.tensor, shape) \$\$; "
		  . "SELECT kv.create_cache('tiny', 1, 1, 1, 1); SELECT kv.append('tiny', 1, same(300, 1, 1, 300, 1), same(300, 1, 1, 300, 1))");
	my ($gap, $out) = shortest_gap($node, 50, 'SET vectorkv.gpu = require', "kv.attend('tiny', '{1}', 0, same(1100000, 1, 1, 1100000, 1), causal => false, k => same(1, 1, 1, 1, 1), v => same(1, 1, 1, 1, 1))");
	cmp_ok($gap, '<=', 50, 'a million queries: ms without looking for interrupts') or diag($out);
}

ok_at_rest($node, 'at the end');
cmp_ok(gpu_stat($node, 'requests'), '>=', gpu_stat($node, 'answered'), 'counted by helper and backends');
is(gpu_stat($node, 'answered > 100 AND hits > misses AND errors = 0 AND restarts = 0 AND wait_ms > 0 AND read_bytes > staged_bytes'), 't', 'figures make sense');
is(gpu_stat($node, 'on_cpu'), '{"cpu_device": 1, "not_supported": 3}', 'calls that went to the CPU, by cause');
$node->safe_psql('postgres', 'SELECT kv.reset_gpu_stats()');
is(gpu_stat($node, "concat_ws(' ', requests, answered, hits, fallbacks, on_cpu)"), '0 0 0 0 {}', 'reset');
like(sqlstate_of($node, 'CREATE ROLE somebody; SET ROLE somebody; SELECT kv.reset_gpu_stats()'), qr/^42501: /, 'not by everybody');
is($node->safe_psql('postgres', 'SET ROLE pg_monitor; SELECT state FROM kv.gpu_status(); SELECT requests FROM kv.gpu_stats'), "ready\n0", 'but everybody may look');

done_testing();
