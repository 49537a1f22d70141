# A REPEATABLE READ reader sees its old sequence, bit for bit, while others append, truncate, fork, recode, seal and drop; what is rolled
# back leaves nothing; of two transactions that write one sequence the second waits; who waits for a DROP is told what is gone.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use KVCache;
use VectorKV;

my $node = kv_node('kv_isolation', settings => ['max_connections = 20', 'max_prepared_transactions = 5']);
create_cache($node, 'exact', "codec => 'f16'");
create_cache($node, 'small', "codec => 'int8', tail_tokens => 16");

# A connection that keeps its transaction.
sub session { return $node->background_psql('postgres', on_error_stop => 0); }

foreach my $cache (qw(exact small))
{
	my $look = "SELECT kv.length('$cache', 1), kv.attend('$cache', '{1}', 1, q_batch(1, 1)), md5(kv.bytes(f.k) || kv.bytes(f.v)) FROM kv.fetch('$cache', 1, 1) f";
	foreach my $change (
		['append', "SELECT kv.append('$cache', 1, k(700, 200), v(700, 200))"],
		['truncate', "SELECT kv.truncate('$cache', 1, 150); VACUUM $cache, ${cache}_sealed, ${cache}_tail"],
		['truncate and append', "SELECT kv.truncate('$cache', 1, 100); SELECT kv.append('$cache', 1, k(100, 100), v(100, 100))"],
		['fork over a dropped one', "SELECT kv.drop_sequence('$cache', 1); SELECT kv.fork('$cache', 2, 1, 50)"],
		['recode', "SELECT kv.recode('$cache', 1, 'int4')"],
		['seal', "SELECT kv.seal('$cache', 1); VACUUM ${cache}_tail"],
		['drop', "SELECT kv.drop_sequence('$cache', 1); VACUUM ${cache}_sealed, ${cache}_tail"])
	{
		my ($name, $sql) = @$change;
		$node->safe_psql('postgres', "SELECT kv.drop_sequence('$cache', seq) FROM $cache; SELECT kv.append('$cache', 1, k(0, 300), v(0, 300)); "
			  . "SELECT kv.append('$cache', 2, k(500, 300), v(500, 300))");
		my $reader = session();
		$reader->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
		my $before = $reader->query($look);
		like($before, qr/^300\|/, "$cache, $name: the reader sees 300 tokens");
		$node->safe_psql('postgres', $sql);
		is($reader->query($look), $before, "$cache, $name: the reader sees them still");
		$reader->query('COMMIT');
		isnt($reader->query("SELECT exists(SELECT FROM $cache WHERE seq = 1)") eq 't' ? $reader->query($look) : '', $before,
			"$cache, $name: and the change afterwards") if $name ne 'seal';
		$reader->quit;
		ok_cache($node, $cache, "$cache, $name: sound");
	}
}

# Rolled back: nothing is left, in any table, and the next append goes where the last committed one ended.
foreach my $cache (qw(exact small))
{
	$node->safe_psql('postgres', "SELECT kv.drop_sequence('$cache', seq) FROM $cache; SELECT kv.append('$cache', 1, k(0, 300), v(0, 300))");
	my $content = "SELECT (SELECT jsonb_agg(to_jsonb(h) ORDER BY seq) FROM $cache h), (SELECT md5(string_agg(s::text, '' ORDER BY extent, layer, head, pos)) FROM ${cache}_sealed s), "
	  . "(SELECT md5(string_agg(t::text, '' ORDER BY extent, chunk, pos)) FROM ${cache}_tail t)";
	my $before = $node->safe_psql('postgres', $content);
	$node->safe_psql('postgres', "BEGIN; SELECT kv.append('$cache', 1, k(300, 500), v(300, 500)); SELECT kv.append('$cache', 9, k(0, 1), v(0, 1)); "
		  . "SELECT kv.truncate('$cache', 1, 40); SELECT kv.fork('$cache', 1, 8); SELECT kv.recode('$cache', 1, 'int4'); SELECT kv.seal('$cache', 8); "
		  . "SELECT kv.drop_sequence('$cache', 1); ROLLBACK");
	is($node->safe_psql('postgres', $content), $before, "$cache: what is rolled back leaves nothing");
	$node->safe_psql('postgres', "BEGIN; SAVEPOINT a; SELECT kv.append('$cache', 1, k(1, 1), v(1, 1)); ROLLBACK TO a; "
		  . "SELECT kv.append('$cache', 1, k(300, 10), v(300, 10)); COMMIT");
	ok_contents($node, $cache, { 1 => { tokens => [ 0 .. 309 ], lossy => $cache eq 'small' } }, "$cache: a savepoint that is rolled back");
	# An error in the middle of an append leaves nothing either.
	like(sqlstate_of($node, "SELECT kv.append('$cache', 1, k(0, 2), v(0, 3))"), qr/^22/, "$cache: a wrong shape is refused");
	is($node->safe_psql('postgres', "SELECT kv.length('$cache', 1)"), '310', "$cache: and changes nothing");
	ok_cache($node, $cache, "$cache: sound");
}

# Writers of one sequence wait for each other; writers of different ones do not.
my ($first, $second) = (session(), session());
$first->query("BEGIN");
is($first->query("SELECT kv.append('exact', 1, k(400, 1), v(400, 1))"), '311', 'the first writer appends');
$second->query("SET lock_timeout = '200ms'; SET client_min_messages = fatal");
is($second->query("SELECT kv.append('exact', 5, k(1, 1), v(1, 1))"), '1', 'a writer of another sequence does not wait');
is($second->query("SELECT kv.length('exact', 1)"), '310', 'a reader does not wait');
$second->query("SELECT kv.append('exact', 1, k(500, 1), v(500, 1))");
is($second->query("SELECT kv.length('exact', 1)"), '310', 'a writer of the same sequence does');
$second->query("SET lock_timeout = 0");
$second->query_until(qr/sent/, "\\echo sent\nSELECT kv.append('exact', 1, k(500, 1), v(500, 1));\n");
ok(wait_for_backends($node, "k.500, 1", 1), 'it waits');
$first->query("COMMIT");
like($second->query("SELECT 'x'"), qr/312\nx$/, 'and goes on after the first');
ok_contents($node, 'exact', { 1 => { tokens => [ 0 .. 309, 400, 500 ] } }, 'both tokens are there, in order', only => [1]);

# What the second does holds for what the first has left: it waits before it judges the position, and extends the row as it is then.
my $n = 312;
foreach my $case (
	['a position behind the first', "kv.append('exact', 1, k(400, 1), v(400, 1))", 'COMMIT', $n + 1, $n + 2],
	['a position where the first was', "kv.append('exact', 1, k(400, 1), v(400, 1))", 'ROLLBACK', $n, $n + 1],
	['a truncated sequence', "kv.truncate('exact', 1, 70)", 'COMMIT', 70, 71],
	['a sequence cut and as long again', "kv.truncate('exact', 1, 70), kv.append('exact', 1, k(70, 242), v(70, 242))", 'COMMIT', $n, $n + 1],
	['a recoded sequence', "kv.recode('exact', 1, 'int8')", 'COMMIT', $n, $n + 1],
	['a dropped sequence', "kv.drop_sequence('exact', 1)", 'COMMIT', 0, 1],
	['a sequence dropped and made again', "kv.drop_sequence('exact', 1), kv.append('exact', 1, k(0, 312), v(0, 312))", 'COMMIT', $n, $n + 1])
{
	my ($name, $change, $end, $position, $length) = @$case;
	$node->safe_psql('postgres', "SELECT kv.drop_sequence('exact', 1); SELECT kv.append('exact', 1, k(0, 312), v(0, 312))");
	$first->query("BEGIN; SELECT $change");
	$second->query_until(qr/sent/, "\\echo sent\nSELECT kv.append('exact', 1, k(500, 1), v(500, 1), $position);\n");
	ok(wait_for_backends($node, "k.500, 1", 1), "$name: the second waits");
	$first->query($end);
	like($second->query("SELECT 'x'"), qr/$length\nx$/, "$name: and goes on");
	is($node->safe_psql('postgres', "SELECT kv.length('exact', 1)"), $length, "$name: its token is there");
	ok_cache($node, 'exact', "$name: sound");
}
$node->safe_psql('postgres', "SELECT kv.drop_sequence('exact', 1); SELECT kv.append('exact', 1, k(0, 310), v(0, 310)); "
	  . "SELECT kv.append('exact', 1, k(400, 1), v(400, 1)), kv.append('exact', 1, k(500, 1), v(500, 1))");

# Under REPEATABLE READ the second writer of a sequence is told, as for any row.
$first->query("BEGIN ISOLATION LEVEL REPEATABLE READ");
$first->query("SELECT kv.length('exact', 1)");
$node->safe_psql('postgres', "SELECT kv.append('exact', 1, k(600, 1), v(600, 1))");
$first->query("SELECT kv.append('exact', 1, k(700, 1), v(700, 1))");
is($first->query("\\echo :LAST_ERROR_SQLSTATE"), '40001', 'a concurrent append under REPEATABLE READ is a serialization failure');
$first->query("ROLLBACK");
ok_contents($node, 'exact', { 1 => { tokens => [ 0 .. 309, 400, 500, 600 ] } }, 'and changes nothing', only => [1]);

# Sequences that share tiles are forked, cut, recoded and dropped at the same time: none waits for another's transaction.
foreach my $change (['drop_sequence', ''], ['truncate', ', 10'], ['recode', ", 'int4'"])
{
	my ($function, $argument) = @$change;
	$node->safe_psql('postgres', "SELECT kv.drop_sequence('small', seq) FROM small; SELECT kv.append('small', 1, k(0, 300), v(0, 300)); "
		  . "SELECT kv.fork('small', 1, 2); SELECT kv.fork('small', 1, 3)");
	my $third = session();
	$_->{stderr} = '' foreach $first, $second;
	$third->query("BEGIN");
	is($third->query("SELECT kv.append('small', 1, k(300, 1), v(300, 1))"), '301', "$function: a writer that has not committed");
	$_->query("SET lock_timeout = '5s'; BEGIN") foreach $first, $second;
	is($first->query("SELECT kv.fork('small', 1, 4)"), '300', "$function: the first forks what is committed");
	is($second->query("SELECT kv.fork('small', 1, 5)"), '300', "$function: so does the second");
	isnt($first->query("SELECT kv.$function('small', 2$argument)"), '', "$function: the first changes a sharer");
	isnt($second->query("SELECT kv.$function('small', 3$argument)"), '', "$function: the second another");
	$_->query('COMMIT') foreach $first, $second, $third;
	is($first->{stderr} . $second->{stderr} . $third->{stderr}, '', "$function: and no errors");
	$third->quit;
	ok_cache($node, 'small', "$function: sound");
	is($node->safe_psql('postgres', "SELECT kv.length('small', 1)"), '301', "$function: the writer's token is there");
}

# A fork waits for a transaction that is about to take the tokens away, and only for such a one.
foreach my $case (
	['dropped', "kv.drop_sequence('small', 1)", 'COMMIT', qr/^42704: /],
	['not dropped', "kv.drop_sequence('small', 1)", 'ROLLBACK', qr/^$/],
	['cut', "kv.truncate('small', 1, 70)", 'COMMIT', qr/^22023: /],
	['cut, and the fork needs no more', "kv.truncate('small', 1, 70)", 'COMMIT', qr/^$/, 50],
	['recoded', "kv.recode('small', 1, 'int4')", 'COMMIT', qr/^$/],
	['recoded twice', "kv.recode('small', 1, 'int4'), kv.recode('small', 1, 'int8')", 'ROLLBACK', qr/^$/])
{
	my ($name, $change, $end, $expected, $length) = @$case;
	$length //= 250;
	$node->safe_psql('postgres', "SELECT kv.drop_sequence('small', seq) FROM small; SELECT kv.append('small', 1, k(0, 300), v(0, 300))");
	$first->query("BEGIN");
	$first->query("SELECT $change");
	$second->{stderr} = '';
	$second->query_until(qr/sent/, "\\echo sent\nSELECT kv.fork('small', 1, 2, $length);\n");
	# (Its answer may have come with the line before.)
	if ($name =~ /needs no more/) { like($second->query("SELECT 'x'"), qr/^(?:$length\n)?x$/, "$name: the fork does not wait"); }
	else { ok(wait_for_backends($node, 'kv.fork', 1), "$name: the fork waits"); }
	$first->query($end);
	$second->query("SELECT 'x'");
	my $state = $second->query("\\echo :LAST_ERROR_SQLSTATE");
	my $made = $node->safe_psql('postgres', "SELECT kv.length('small', 2)");
	like($made eq '' ? "$state: " : '', $expected, "$name: and goes on as it is then");
	is($made, $made eq '' ? '' : $length, "$name: all tokens or none");
	ok_cache($node, 'small', "$name: sound");
	is($node->safe_psql('postgres', "SELECT kv.collect('small')"), '0', "$name: nothing is left over") if $name !~ /fork needs/;
}

# Under REPEATABLE READ a fork of what is gone meanwhile is a serialization failure, and nothing is made of tiles that may be gone.
foreach my $change ("kv.drop_sequence('small', 1)", "kv.truncate('small', 1, 70)", "kv.recode('small', 1, 'int4')")
{
	$node->safe_psql('postgres', "SELECT kv.drop_sequence('small', seq) FROM small; SELECT kv.append('small', 1, k(0, 300), v(0, 300))");
	$first->query("BEGIN ISOLATION LEVEL REPEATABLE READ");
	is($first->query("SELECT kv.length('small', 1)"), '300', "$change: seen before");
	$node->safe_psql('postgres', "SELECT $change; SELECT kv.collect('small'); VACUUM small, small_sealed");
	is($first->query("SELECT kv.length('small', 1)"), '300', "$change: and after it");
	$first->query("SELECT kv.fork('small', 1, 2, 200)");
	is($first->query("\\echo :LAST_ERROR_SQLSTATE"), '40001', "$change: forked under REPEATABLE READ");
	$first->query("ROLLBACK");
	ok_cache($node, 'small', "$change: sound");
}

# A fork that has been prepared counts, as one in progress does.
$node->safe_psql('postgres', "SELECT kv.drop_sequence('small', seq) FROM small; SELECT kv.append('small', 1, k(0, 300), v(0, 300))");
$node->safe_psql('postgres', "BEGIN; SELECT kv.fork('small', 1, 2); PREPARE TRANSACTION 'fork'");
$node->safe_psql('postgres', "SELECT kv.drop_sequence('small', 1); SELECT kv.collect('small')");
$node->safe_psql('postgres', "COMMIT PREPARED 'fork'");
ok_cache($node, 'small', 'a prepared fork keeps its tiles');
ok_contents($node, 'small', { 2 => { tokens => [ 0 .. 299 ], lossy => 1 } }, 'and has its tokens');
$node->safe_psql('postgres', "BEGIN; SELECT kv.fork('small', 2, 3); PREPARE TRANSACTION 'fork'");
$node->safe_psql('postgres', "SELECT kv.drop_sequence('small', 2)");
isnt($node->safe_psql('postgres', 'SELECT count(*) FROM small_sealed'), '0', 'as long as it may be committed');
$node->safe_psql('postgres', "ROLLBACK PREPARED 'fork'");
isnt($node->safe_psql('postgres', "SELECT kv.collect('small', dry_run => true)"), '0', 'a prepared fork that is rolled back leaves tiles to collect');
isnt($node->safe_psql('postgres', "SELECT kv.collect('small')"), '0', 'which are collected');
is($node->safe_psql('postgres', 'SELECT count(*) FROM small_sealed'), '0', 'all of them');

# Sums are rounded as tokens are grouped: what a session has read of a tail before, and when, changes no bit.
foreach my $cache (qw(exact small))
{
	my $look = "SELECT kv.attend('$cache', '{1}', 1, q_batch(1, 1))";
	$node->safe_psql('postgres', "SELECT kv.drop_sequence('$cache', seq) FROM $cache; SELECT kv.append('$cache', 1, k(0, 300), v(0, 300))");
	$first->query($look);
	foreach my $step (1 .. 12)
	{
		my $at = 289 + 11 * $step;
		$first->query("SELECT kv.append('$cache', 1, k($at, 11), v($at, 11))");
		is($first->query($look), $node->safe_psql('postgres', $look), "$cache, step $step: a new session answers as one that has kept the tail");
	}
	$first->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
	my $before = $first->query($look);
	$node->safe_psql('postgres', "DELETE FROM ${cache}_tail WHERE false");
	is($first->query($look), $before, "$cache: so does a transaction that has to read the tail again");
	$first->query('COMMIT');
}

# A call that waits for a DROP of what it works on says that it is gone.
my $gone = 0;
my $nothing = "array_fill(0, ARRAY[16])::real[]::kv.tensor";
foreach my $call ("kv.attend(CACHE, '{1}', 0, kv.reshape($nothing, '{1,2,8}'))", "kv.attend_layers(CACHE, '{1}', '{0}', kv.reshape($nothing, '{1,1,2,8}'))", 'kv.length(CACHE, 1)',
	"kv.fetch(CACHE, 1, 0)", "kv.weights(CACHE, 1, 0, kv.reshape($nothing, '{2,8}'))", "kv.append(CACHE, 1, kv.reshape($nothing, '{1,1,2,8}'), kv.reshape($nothing, '{1,1,2,8}'))",
	'kv.fork(CACHE, 1, 2)', 'kv.truncate(CACHE, 1, 1)', 'kv.seal(CACHE, 1)', "kv.recode(CACHE, 1, 'int8')", 'kv.drop_sequence(CACHE, 1)', 'kv.collect(CACHE)', 'kv.check_cache(CACHE)',
	'hnsw_info(INDEX)', 'hnsw_check(INDEX)')
{
	foreach my $drop ('kv.drop_cache', 'DROP TABLE', $call =~ /CACHE/ ? 'used' : ())
	{
		my $name = 'gone' . ++$gone;
		$node->safe_psql('postgres', "SELECT kv.create_cache('$name', 1, 2, 1, 8, tail_tokens => 8); SELECT kv.append('$name', 1, kv.reshape(v, '{1,1,300,8}'), kv.reshape(v, '{1,1,300,8}')) FROM (SELECT array_fill(1, ARRAY[2400])::real[]::kv.tensor) v (v); "
			  . "CREATE TABLE ${name}_t (e vector(2)); INSERT INTO ${name}_t VALUES ('[1,2]'); CREATE INDEX ${name}_i ON ${name}_t USING hnsw (e vector_l2_ops)");
		(my $sql = $call) =~ s/(CACHE|INDEX)/$node->safe_psql('postgres', "SELECT '$name" . ($1 eq 'INDEX' ? '_i' : '') . "'::regclass::oid")/e;
		$second->query("SELECT kv.length('$name', 1)") if $drop eq 'used';
		$first->query('BEGIN; DROP TABLE ' . ($drop eq 'DROP TABLE' && $call =~ /CACHE/ ? "$name CASCADE" : "${name}_t") . ($drop eq 'DROP TABLE' ? '' : "; SELECT kv.drop_cache('$name')"));
		$second->query_until(qr/sent/, "\\echo sent\nSELECT $sql;\n");
		$node->poll_query_until('postgres', "SELECT exists(SELECT FROM pg_locks WHERE NOT granted)");
		$first->query('COMMIT');
		like($second->query('\echo :SQLSTATE'), qr/(42P01|42704|55000)$/, "$sql waits for $drop");
	}
}
$_->quit foreach $first, $second;

done_testing();
