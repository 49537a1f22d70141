# No committed token is lost, whatever runs between the statements of a call: several appends and reads in one statement, PL functions,
# DO blocks, triggers on the cache's tables, and writers that waited for another; with both kinds of tail, at every isolation level.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use KVCache;
use VectorKV;

my $node = kv_node('kv_statements', settings => ['max_connections = 20']);
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION add(cache regclass, seq bigint, first int, count int) RETURNS int LANGUAGE sql AS 'SELECT kv.append(cache, seq, k(first, count), v(first, count))';
-- Appends and reads by turns: lengths as the function sees them.
CREATE FUNCTION by_turns(cache regclass, seq bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	seen text := kv.length(cache, seq);
BEGIN
	FOR i IN 0 .. 4 LOOP
		PERFORM add(cache, seq, 500 + i * 10, 10);
		seen := seen || ',' || kv.length(cache, seq);
		PERFORM kv.attend(cache, ARRAY[seq], 1, q_batch(1, 1));
		BEGIN
			PERFORM add(cache, seq, 0, 40);
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
	END LOOP;
	RETURN seen;
END $$;
SQL

my %options = (logged => "codec => 'f16', tail => 'logged'", unlogged => "codec => 'f16', tail => 'unlogged'", coded => "codec => 'int8', tail_tokens => 40, tail => 'unlogged'");
my $model = {};

sub session
{
	my ($level) = @_;
	my $session = $node->background_psql('postgres', on_error_stop => 0);
	$session->query("SET default_transaction_isolation = '$level'; SET client_min_messages = error");
	return $session;
}

# A sequence of 100 tokens, 96 of them sealed if the cache is of halves.
sub start_sequence
{
	my ($cache, $seq) = @_;
	$node->safe_psql('postgres', "SELECT kv.drop_sequence('$cache', $seq); SELECT add('$cache', $seq, 0, 100)");
	return;
}

sub holds
{
	my ($cache, $seq, $tokens, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok_contents($node, $cache, { $seq => { tokens => $tokens, lossy => $cache eq 'coded' } }, "$name: the tokens", only => [$seq]);
	return;
}

foreach my $cache (sort keys %options)
{
	create_cache($node, $cache, $options{$cache});
	foreach my $level ('read committed', 'repeatable read', 'serializable')
	{
		my ($name, $one) = ("$cache, $level", session($level));
		start_sequence($cache, 1);
		is($one->query("SELECT add('$cache', 1, 100, 5), add('$cache', 1, 105, 300), add('$cache', 1, 405, 1)"), '105|405|406', "$name: three appends in one statement");
		holds($cache, 1, [ 0 .. 405 ], "$name, three appends");
		is($one->query("SELECT add('$cache', 1, 406, 1), kv.length('$cache', 1), add('$cache', 1, 407, 1), kv.length('$cache', 1)"), '407|406|408|406',
			"$name: kv.length is of the statement's snapshot");
		is($one->query("SELECT sum(add('$cache', 1, 408 + i, 1)) > 0 FROM generate_series(0, 49) i"), 't', "$name: fifty appends in one statement");
		holds($cache, 1, [ 0 .. 457 ], "$name, fifty appends");
		is($one->query("SELECT add('$cache', 1, 458, 3), kv.fork('$cache', 1, 9), kv.seal('$cache', 9) >= 0, add('$cache', 1, 461, 2), kv.truncate('$cache', 9, 460), kv.drop_sequence('$cache', 9)"),
			'461|461|t|463|460|t', "$name: append, fork, seal, append, truncate and drop in one statement");
		holds($cache, 1, [ 0 .. 462 ], "$name, all at once");
		start_sequence($cache, 1);
		is($one->query("SELECT by_turns('$cache', 1)"), '100,110,120,130,140,150', "$name: a PL function reads what it appended");
		holds($cache, 1, [ 0 .. 99, 500 .. 549 ], "$name, PL function");
		$one->query("DO \$\$ DECLARE n int; BEGIN n := add('$cache', 1, 0, 7); n := kv.append('$cache', 1, k(7, 3), v(7, 3), n); ASSERT kv.length('$cache', 1) = 160; END \$\$");
		is($one->query('\echo :ERROR'), 'false', "$name: a DO block");
		holds($cache, 1, [ 0 .. 99, 500 .. 549, 0 .. 9 ], "$name, DO block");
		is($one->query("BEGIN; SELECT add('$cache', 1, 10, 2); SAVEPOINT a; SELECT add('$cache', 1, 900, 100); ROLLBACK TO a; SELECT add('$cache', 1, 12, 1); COMMIT"),
			"162\n262\n163", "$name: a savepoint");
		holds($cache, 1, [ 0 .. 99, 500 .. 549, 0 .. 12 ], "$name, savepoint");

		# The second writer waits for the first, and goes on from what the first has left; above READ COMMITTED it is told to try again.
		my $other = session('read committed');
		foreach my $call (["add('$cache', 1, 900, 3)", 1, [ 0 .. 100, 900 .. 902 ]], ["kv.fork('$cache', 1, 2)", 2, [ 0 .. 100 ]],
			["kv.recode('$cache', 1, '" . ($cache eq 'coded' ? 'int8' : 'f16') . "')", 1, [ 0 .. 100 ]], ["kv.seal('$cache', 1)", 1, [ 0 .. 100 ]],
			["kv.truncate('$cache', 1, 99)", 1, [ 0 .. 98 ]])
		{
			my ($sql, $seq, $tokens) = @$call;
			start_sequence($cache, 1);
			$node->safe_psql('postgres', "SELECT kv.drop_sequence('$cache', 2)");
			$other->query("BEGIN; SELECT add('$cache', 1, 100, 1)");
			$one->query_until(qr/sent/, "\\echo sent\nSELECT $sql;\n");
			# A fork need not wait; what it takes is whole all the same.
			my $fork = $sql =~ /fork/;
			ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"), "$name, $sql: it waits") if !$fork;
			$other->query('COMMIT');
			$one->query('SELECT 1');
			my $there = $node->safe_psql('postgres', "SELECT coalesce(kv.length('$cache', $seq), 0)");
			if ($fork) { like($there, $level eq 'read committed' ? qr/^10[01]$/ : qr/^(0|10[01])$/, "$name, $sql: whole"); $tokens = [ 0 .. $there - 1 ]; }
			elsif ($level ne 'read committed') { is($there, '101', "$name, $sql: refused, and nothing is changed"); $tokens = [ 0 .. 100 ]; }
			holds($cache, $seq, $tokens, "$name, $sql") if $there;
			ok_cache($node, $cache, "$name, $sql: sound");
		}
		$_->quit foreach $one, $other;
	}

	# AFTER triggers see the sequence whole, and may write: to others and to the same.
	start_sequence($cache, 1);
	$node->safe_psql('postgres', <<"SQL");
CREATE TABLE seen_$cache (seq bigint, length int, attended boolean);
CREATE FUNCTION look_$cache() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	IF pg_trigger_depth() > 1 THEN RETURN NULL; END IF;
	INSERT INTO seen_$cache SELECT NEW.seq, kv.length('$cache', NEW.seq), kv.attend('$cache', ARRAY[NEW.seq], 1, q_batch(1, 1)) IS NOT NULL;
	PERFORM add('$cache', 50, 200, 1), add('$cache', NEW.seq, 300, 1);
	RETURN NULL;
END \$\$;
CREATE TRIGGER look AFTER UPDATE ON $cache FOR EACH ROW EXECUTE FUNCTION look_$cache();
SQL
	is($node->safe_psql('postgres', "SELECT add('$cache', 1, 100, 20)"), '120', "$cache: append with a trigger");
	is($node->safe_psql('postgres', "TABLE seen_$cache"), '1|120|t', "$cache: the trigger saw the tokens");
	holds($cache, 1, [ 0 .. 119, 300 ], "$cache, trigger");
	holds($cache, 50, [200], "$cache, trigger on another sequence");
	ok_cache($node, $cache, "$cache: sound after triggers");

	# BEFORE triggers on the tail come when the sequence is half written: they are refused what they ask of it, and nothing is changed.
	$node->safe_psql('postgres', "DROP TRIGGER look ON $cache; CREATE FUNCTION back_$cache() RETURNS trigger LANGUAGE plpgsql AS \$\$ "
		  . "BEGIN EXECUTE current_setting('test.back'); RETURN NEW; END \$\$; CREATE TRIGGER back BEFORE INSERT ON ${cache}_tail FOR EACH ROW EXECUTE FUNCTION back_$cache()");
	foreach my $sql ("add(''$cache'', 1, 0, 1)", "kv.attend(''$cache'', ''{1}'', 1, q_batch(1, 1))", "kv.length(''$cache'', 1)", "kv.fork(''$cache'', 1, 77)", "kv.seal(''$cache'', 1)")
	{
		like(sqlstate_of($node, "SET test.back = 'SELECT $sql'; SELECT add('$cache', 1, 400, 1)"), qr/^55006: sequence 1 of cache/, "$cache: a BEFORE trigger that calls $sql");
	}
	is($node->safe_psql('postgres', "SET test.back = 'SELECT kv.length(''$cache'', 50)'; SELECT add('$cache', 1, 301, 1)"), '122', "$cache: one that reads another sequence");
	is($node->safe_psql('postgres', "SET test.back = 'SELECT kv.length(''$cache'', 1)'; DO \$\$ BEGIN PERFORM add('$cache', 1, 0, 1); EXCEPTION WHEN object_in_use THEN NULL; END \$\$; "
			  . "SELECT kv.length('$cache', 1)"), '122', "$cache: after the refusal the sequence can be read");
	holds($cache, 1, [ 0 .. 119, 300, 301 ], "$cache, BEFORE trigger");
	ok_cache($node, $cache, "$cache: sound at the end");
}

# A tail that row security hides is not one that a crash lost: nothing is appended in its place.
$node->safe_psql('postgres', "CREATE ROLE half; GRANT ALL ON unlogged, unlogged_sealed, unlogged_tail TO half; ALTER TABLE unlogged_tail ENABLE ROW LEVEL SECURITY; "
	  . "DROP TRIGGER back ON unlogged_tail");
foreach my $sql ("add('unlogged', 50, 0, 1)", "kv.length('unlogged', 50)", "kv.attend('unlogged', '{50}', 1, q_batch(1, 1))", "kv.seal('unlogged', 50)", "kv.truncate('unlogged', 50, 0)")
{
	like(sqlstate_of($node, "SET ROLE half; SELECT $sql"), qr/^42501: the tail of sequence 50/, "hidden: $sql");
}
holds('unlogged', 50, [200], 'hidden');

# A cache is there for what follows in the statement that made it.
is($node->safe_psql('postgres', "SELECT kv.append(kv.create_cache('fresh', 2, 9, 3, 64), 1, k(0, 3), v(0, 3))"), '3', 'made and appended to in one statement');
is($node->safe_psql('postgres', "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1; SELECT add(kv.create_cache('fresh2', 2, 9, 3, 64), 1, 0, 3); COMMIT"), "1\n3", 'and under REPEATABLE READ');

done_testing();
