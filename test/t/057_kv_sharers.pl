# Ten thousand forks of a sealed prompt: a fork and a drop stay as cheap as they were, in WAL and in time, whoever else is at work.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use KVCache;
use VectorKV;

my $node = kv_node('kv_sharers', settings => ['max_connections = 20', 'synchronous_commit = off', 'checkpoint_timeout = 1h', 'max_wal_size = 2GB']);
create_cache($node, 'p', "codec => 'int8', tail_tokens => 16");
$node->safe_psql('postgres', <<'SQL');
SELECT kv.append('p', 1, k(0, 300), v(0, 300));
SELECT kv.seal('p', 1);
CREATE PROCEDURE forks(first int, n int) LANGUAGE plpgsql AS $$ BEGIN FOR i IN first .. first + n - 1 LOOP PERFORM kv.fork('p', 1, i); COMMIT; END LOOP; END $$;
CREATE PROCEDURE drops(first int, n int) LANGUAGE plpgsql AS $$ BEGIN FOR i IN first .. first + n - 1 LOOP PERFORM kv.drop_sequence('p', i); COMMIT; END LOOP; END $$;
SQL

# WAL of a call, and the processor's time that it takes in the quickest of five runs: a clock on the wall would count other load.
sub cost
{
	my ($what, $first) = @_;
	my ($bytes, $least) = (0, 1e9);
	my $ns = "split_part(pg_read_file('/proc/self/schedstat', 0, 100), ' ', 1)::bigint";
	foreach my $run (0 .. 4)
	{
		my $from = $first + 100 * $run;
		my $out = $node->safe_psql('postgres', "SELECT pg_current_wal_insert_lsn() AS l, $ns AS t \\gset\nCALL $what($from, 100);\n"
			  . "SELECT pg_current_wal_insert_lsn() - :'l', ($ns - :t) / 1e6");
		my ($wal, $ms) = split /\|/, $out;
		$bytes += $wal / 500;
		$least = $ms / 100 if $ms / 100 < $least;
	}
	return ($bytes, $least);
}

$node->safe_psql('postgres', "CALL forks(100, 100)");
my ($fork_few, $fork_few_ms) = cost('forks', 1000);
my ($drop_few, $drop_few_ms) = cost('drops', 1000);
$node->safe_psql('postgres', "CALL forks(10000, 10000)");
my ($fork_many, $fork_many_ms) = cost('forks', 2000);
my ($drop_many, $drop_many_ms) = cost('drops', 2000);
note(sprintf "100 sharers: a fork %d bytes, %.3f ms, a drop %d bytes, %.3f ms; 10,000: %d bytes, %.3f ms, %d bytes, %.3f ms",
	$fork_few, $fork_few_ms, $drop_few, $drop_few_ms, $fork_many, $fork_many_ms, $drop_many, $drop_many_ms);
cmp_ok($fork_many, '<', 2048, 'bytes of WAL of a fork');
cmp_ok($drop_many, '<', 2048, 'bytes of WAL of a drop');
cmp_ok($fork_many_ms, '<', 0.5, 'ms of a fork');
cmp_ok($drop_many_ms, '<', 0.5, 'ms of a drop');

# Fifty forks and drops while a transaction holds what it has forked, appended and dropped.
my $other = $node->background_psql('postgres', on_error_stop => 0);
$other->query("BEGIN; SELECT kv.fork('p', 1, 5); SELECT kv.append('p', 1, k(300, 1), v(300, 1)); SELECT kv.drop_sequence('p', 10000)");
my ($code, $out, $err) = $node->psql('postgres', "SET lock_timeout = '2s'; CALL forks(3000, 50); CALL drops(3000, 50); CALL drops(10001, 50)");
is("$code$err", '0', 'nobody waits for it');
$other->query('COMMIT');
$other->quit;
is($node->safe_psql('postgres', "SELECT kv.length('p', 1), kv.length('p', 5), kv.length('p', 10000)"), '301|300|', 'and it has done its work');

# A sharer's own tiles go with it at once; the prompt's stay until the last sharer is gone, also those that the prompt's drop left.
my $prompt = $node->safe_psql('postgres', 'SELECT count(*) FROM p_sealed');
$node->safe_psql('postgres', "SELECT kv.append('p', s, k(300, 200), v(300, 200)) FROM generate_series(11000, 11003) s");
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM p_sealed'), '>', $prompt, 'sharers have tiles of their own');
$node->safe_psql('postgres', "CALL drops(11000, 4)");
is($node->safe_psql('postgres', 'SELECT count(*) FROM p_sealed'), $prompt, 'which go with them');
$node->safe_psql('postgres', "SELECT kv.drop_sequence('p', 1); SELECT kv.collect('p')");
is($node->safe_psql('postgres', 'SELECT count(*) FROM p_sealed'), $prompt, "the prompt's tiles do not go with the prompt");
$node->safe_psql('postgres', "SELECT count(kv.drop_sequence('p', seq)) FROM p WHERE seq <> 15000");
is($node->safe_psql('postgres', "SELECT kv.collect('p'), (SELECT count(*) FROM p_sealed)"), "0|$prompt", 'nor as long as there is a sharer');
$node->safe_psql('postgres', "SELECT kv.drop_sequence('p', 15000)");
is($node->safe_psql('postgres', 'SELECT count(*) FROM p_sealed'), '0', 'but with the last one');
ok_cache($node, 'p', 'sound');

# Forks, drops and collections at once: whatever the order, a sequence has its tiles, and what nobody has is collected in the end.
$node->safe_psql('postgres', "SELECT kv.append('p', s, k(0, 200), v(0, 200)) FROM generate_series(1, 3) s");
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION try_fork(a int, b int, n int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM kv.fork('p', a, b, least(n, kv.length('p', a)));
	EXCEPTION WHEN undefined_object OR duplicate_object OR serialization_failure OR invalid_parameter_value OR insufficient_privilege THEN NULL; END $$;
CREATE FUNCTION try_make(a int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM kv.append('p', a, k(0, 200), v(0, 200), 0);
	EXCEPTION WHEN object_not_in_prerequisite_state OR insufficient_privilege THEN NULL; END $$;
SQL
my $fork = "\\set a random(1, 12)\n\\set b random(1, 12)\n\\set n random(1, 200)\nSELECT try_fork(:a, :b, :n) WHERE :a <> :b;\n";
my $drop = "\\set a random(1, 12)\nSELECT kv.drop_sequence('p', :a);\n\\sleep 1 ms\n";
my $make = "\\set a random(1, 12)\nSELECT try_make(:a);\n\\sleep 5 ms\n";
my $collect = "SELECT kv.collect('p');\n\\sleep 2 ms\n";
my $look = "SELECT 1 / (count(*) = 0)::int FROM kv.check_cache('p');\n";
my @clients = map { start_pgbench($node, $_->[0], 5, [1, $_->[1]]) } [3, $fork], [2, $drop], [1, $make], [1, $collect], [1, $look];
foreach my $client (@clients)
{
	my ($status, $output) = finish_pgbench($client);
	is($status, 0, 'a client ended without an error') or diag($output);
}
ok_cache($node, 'p', 'sound after the storm');
$node->safe_psql('postgres', "SELECT kv.collect('p')");
is($node->safe_psql('postgres', 'SELECT count(*) FROM p_sealed s WHERE NOT EXISTS (SELECT FROM p h WHERE kv.reaches(h.extents, h.stops, s.extent, s.pos))'), '0', 'no tile is left that nobody reaches');
$node->safe_psql('postgres', "SELECT kv.drop_sequence('p', seq) FROM p; SELECT kv.collect('p')");
is($node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM p) + (SELECT count(*) FROM p_sealed) + (SELECT count(*) FROM p_tail)'), '0', 'and none at all when all are dropped');

done_testing();
