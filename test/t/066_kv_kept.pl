# What a session keeps of caches - tails, and where tiles lie - has a limit of memory, and making room takes no time to speak of however
# much there is (lib/PollGap.pm).  And a kept tail never outlives its rows: neither in a table that is emptied in place, nor when a trigger of
# somebody's changes it while ours are deleted.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PollGap;
use Test::More;
use VectorKV;

my $most = 20;    # ms; as in 015_interrupts.pl

my $node = new_node('kv_kept', settings => [ 'fsync = off', 'jit = off' ]);
my ($layers, $many) = (64, 100);
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION vectorkv;
CREATE FUNCTION of(half text, layers int, count int) RETURNS kv.tensor LANGUAGE sql AS \$\$ SELECT kv.tensor(decode(repeat(half, layers * count * 8), 'hex'), ARRAY[layers, 1, count, 8], 'f16') \$\$;
CREATE FUNCTION ask(cache regclass, seq bigint, layers int) RETURNS text LANGUAGE sql AS
	\$\$ SELECT kv.attend_layers(cache, ARRAY[seq], (SELECT array_agg(l) FROM generate_series(0, layers - 1) l), kv.tensor(decode(repeat('0000', layers * 8), 'hex'), ARRAY[layers, 1, 1, 8], 'f16'))::text \$\$;
SELECT kv.create_cache(name, $layers, 1, 1, 8, codec => 'f16', sink_tokens => 0, tail => tail) FROM (VALUES ('kept', 'logged'), ('lost', 'unlogged'), ('sealed', 'logged')) c (name, tail);
SELECT count(kv.append(cache, seq, of('003c', $layers, 2), of('003c', $layers, 2))) FROM kv.caches, generate_series(1, $many) seq;
SELECT count(kv.seal('sealed', seq)) FROM generate_series(1, $many) seq;
SQL
my $measures = load_poll_gap($node);
$node->safe_psql('postgres', 'CHECKPOINT');
$node->stop('immediate');
$node->start;

my $used = "SELECT 'used ' || sum(used_bytes) FROM pg_backend_memory_contexts WHERE name ~ '^vectorkv .*(tail|list)'";

# The longest time without looking for interrupts in the statements after the first ones, and what is kept then.
sub measured
{
	my ($before, $after) = @_;
	my $answer = $node->safe_psql('postgres', join(";\n", "SET client_min_messages = error", @$before, $measures ? 'SELECT poll_gap_start()' : (), @$after, $measures ? "SELECT 'gap ' || poll_gap_stop()" : (), $used));
	my ($gap) = $answer =~ /^gap ([\d.]+)/m;
	my ($bytes) = $answer =~ /^used (\d+)/m;
	return ($gap // 0, $bytes, $answer);
}

sub ok_room
{
	my ($name, $most_bytes, $before, $after) = @_;
	my ($least, $bytes, $answer) = ('inf');
	foreach my $attempt (1 .. 3)
	{
		(my $gap, $bytes, $answer) = measured($before, $after);
		$least = $gap if $gap < $least;
		last if $least <= $most;
		diag("$name, attempt $attempt: " . $answer =~ s/.*^(?=gap)//msr);
	}
	cmp_ok($least, '<=', $most, "$name: ms without looking for interrupts");
	cmp_ok($bytes, '<=', $most_bytes, "$name: bytes that are kept");
	return;
}

sub ask_all { my ($cache, $first, $last) = @_; return "SELECT count(ask('$cache', seq, $layers)) FROM generate_series($first, $last) seq"; }

# Of tails that are lost nothing is kept; so many more make room in no time.
ok_room('lost tails', 200_000, [], [ ask_all('lost', 1, $many) ]);
ok_room('room beside lost tails', 200_000, [ ask_all('lost', 1, $many), "SET vectorkv.tail_memory = 64" ], [ ask_all('kept', 1, 3) ]);

# A limit that falls, and one that holds.
my ($gap, $bytes) = measured([ "SET vectorkv.tail_memory = '1GB'", ask_all('kept', 1, $many) ], []);
cmp_ok($bytes, '>', 2_000_000, 'tails are kept, and are seen where memory is shown');
ok_room('a lower limit for tails', 400_000, [ "SET vectorkv.tail_memory = '1GB'", ask_all('kept', 2, $many), 'SET vectorkv.tail_memory = 64' ], [ ask_all('kept', 1, 1) ]);
ok_room('tails at their limit', 1_600_000, [ 'SET vectorkv.tail_memory = 1024' ], [ ask_all('kept', 1, $many) ]);
ok_room('a lower limit for lists', 900_000, [ ask_all('sealed', 1, $many), 'SET vectorkv.tile_list_memory = 64' ], [ "SELECT kv.append('sealed', 1, of('003c', $layers, 2), of('003c', $layers, 2)); SELECT kv.seal('sealed', 1)", ask_all('sealed', 1, 2) ]);
ok_room('lists at their limit', 900_000, [ 'SET vectorkv.tile_list_memory = 64' ], [ ask_all('sealed', 1, $many) ]);

# A table that its own transaction empties: other rows lie where the old ones lay, of the same transaction.
sub values_of { my ($session, $cache, $seq) = @_; my $text = $session->query("SELECT ask('$cache', $seq, 1)"); return $text =~ /(-?\d+(?:\.\d+)?)\D*$/ ? $1 : $text; }

my $session = $node->background_psql('postgres', on_error_stop => 1);
my $fill = "SELECT kv.append('CACHE', 1, of('003c', 1, 2), of('003c', 1, 2)); SELECT kv.append('CACHE', 2, of('0044', 1, 2), of('0044', 1, 2))";
my $create = "SELECT kv.create_cache('CACHE', 1, 1, 1, 8, codec => 'f16', sink_tokens => 0)";
sub run { my ($sql, $cache) = @_; $sql =~ s/CACHE/$cache/g; return $session->query($sql); }

my $extent = 'SELECT extents[cardinality(extents)] FROM CACHE WHERE seq =';
foreach my $cache ('made', 'emptied', 'within')
{
	# The second was there before and is emptied once as any table; the third in a subtransaction.
	if ($cache eq 'made') { run("BEGIN; $create; $fill", $cache); }
	elsif ($cache eq 'emptied') { run("$create; $fill; BEGIN", $cache); }
	else { run("$create; $fill; BEGIN; SAVEPOINT s", $cache); }
	run("CREATE TEMP TABLE copy_CACHE AS SELECT * FROM CACHE_tail", $cache);
	run("TRUNCATE CACHE_tail; INSERT INTO CACHE_tail SELECT * FROM copy_CACHE WHERE extent = ($extent 1)", $cache) if $cache ne 'made';
	is(values_of($session, $cache, 1), '1', "$cache: the tokens") foreach 1 .. 2;
	run("TRUNCATE CACHE_tail; INSERT INTO CACHE_tail SELECT ($extent 1), chunk, pos, kv FROM copy_CACHE WHERE extent = ($extent 2)", $cache);
	is(values_of($session, $cache, 1), '4', "$cache: others in their place");
	run('RELEASE s', $cache) if $cache eq 'within';
	run('COMMIT', $cache);
	is(values_of($session, $cache, 1), '4', "$cache: and when that is committed") foreach 1 .. 2;
}

# While rows of ours are deleted, others' triggers change and delete rows of the same table.
run("$create; $fill", 'watched');
foreach my $change ("UPDATE watched_tail SET kv = new_kv WHERE extent = changed AND pos = 0", "DELETE FROM watched_tail WHERE extent = changed AND pos = 0; INSERT INTO watched_tail VALUES (changed, 0, 0, new_kv)")
{
	foreach my $level ('ROW', 'STATEMENT')
	{
		my ($kind) = $change =~ /^(\w+)/;
		run("SELECT kv.drop_sequence('watched', s) FROM generate_series(1, 2) s; $fill; SELECT kv.append('watched', 3, of('003c', 1, 2), of('003c', 1, 2))", 'watched');
		$node->safe_psql('postgres', <<"SQL");
CREATE OR REPLACE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS \$\$ DECLARE
	changed bigint := (SELECT extents[cardinality(extents)] FROM watched WHERE seq = 1);
	new_kv bytea := (SELECT kv FROM watched_tail WHERE pos = 0 AND extent = (SELECT extents[cardinality(extents)] FROM watched WHERE seq = 2));
BEGIN
	IF pg_trigger_depth() = 1 THEN $change; END IF;
	RETURN CASE TG_LEVEL WHEN 'ROW' THEN OLD END;
END \$\$;
CREATE OR REPLACE TRIGGER before_ours BEFORE DELETE ON watched_tail FOR EACH $level EXECUTE FUNCTION meddle();
SQL
		is(values_of($session, 'watched', 1), '1', "$kind in a trigger for each $level: before");
		$node->safe_psql('postgres', "SELECT kv.drop_sequence('watched', 3)");
		is(values_of($session, 'watched', 1), '2.5', "$kind in a trigger for each $level: a session that keeps the tail is told");
		$node->safe_psql('postgres', 'DROP TRIGGER before_ours ON watched_tail');
	}
}
$session->quit;

done_testing();
