# A cache is its tables, whatever they are called.  Schemas are renamed without a lock on any table, so that a cache's names lead to the tables
# of another, between the calls of a session and while a command waits.  Whoever may not change a table locks nobody out of it, and what a
# header says is looked for before memory is taken for it.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $node = new_node('kv_names');
my $connection = 'host=' . $node->host . ' port=' . $node->port . ' dbname=postgres';
my %tensor = map { $_ => "'f32[1,1,1,8]{" . join(',', ($_) x 8) . "}'" } 1, 2;
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION vectorkv CASCADE; CREATE EXTENSION dblink;
CREATE ROLE att LOGIN; CREATE ROLE nobody LOGIN; GRANT CREATE ON DATABASE postgres TO att; GRANT ALL ON SCHEMA public TO nobody;
CREATE FUNCTION refused(sql text) RETURNS text LANGUAGE plpgsql AS 'BEGIN EXECUTE sql; RETURN ''served''; EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE || '': '' || SQLERRM; END';
CREATE FUNCTION filled(cache regclass, n int, value real) RETURNS int LANGUAGE sql AS 'SELECT kv.append(cache, 1, kv.reshape(array_fill(value, ARRAY[8 * n])::kv.tensor, ARRAY[1, 1, n, 8]), kv.reshape(array_fill(value, ARRAY[8 * n])::kv.tensor, ARRAY[1, 1, n, 8]))';
-- What both caches hold, by the tables themselves.
CREATE FUNCTION rows_of(header oid) RETURNS text LANGUAGE plpgsql AS \$\$
DECLARE
	t kv.caches;
	n bigint[];
	m bigint;
BEGIN
	SELECT * INTO t FROM kv.caches WHERE cache = header;
	EXECUTE format('SELECT count(*) FROM %s', t.cache) INTO m; n := n || m;
	EXECUTE format('SELECT count(*) FROM %s', t.sealed) INTO m; n := n || m;
	EXECUTE format('SELECT count(*) FROM %s', t.tail) INTO m; n := n || m;
	RETURN n::text;
END \$\$;
SQL

# Two caches of the same kind, one of ones and one of twos, with tiles, a tail and a fork.
sub make_two
{
	$node->safe_psql('postgres', join ';', 'DROP TABLE IF EXISTS two', 'CREATE TABLE two (value int PRIMARY KEY, cache oid)',
		map { ("CREATE SCHEMA s$_", "INSERT INTO two SELECT $_, kv.create_cache('s$_.c', 1, 1, 1, 8, codec => 'f16', tail_tokens => 0)", "SELECT filled('s$_.c', 600, $_), kv.fork('s$_.c', 1, 7)") } 1, 2);
	return;
}
make_two();
my %cache = map { $_ => $node->safe_psql('postgres', "SELECT cache FROM two WHERE value = $_") } 1, 2;
my $swap = 'ALTER SCHEMA s1 RENAME TO was; ALTER SCHEMA s2 RENAME TO s1; ALTER SCHEMA was RENAME TO s2';

# Every function, by the number of the cache; what it answers tells which one it was.
sub calls
{
	my ($value, $seq) = @_;
	my $cache = $cache{$value};
	return (
		"SELECT kv.append($cache, 1, $tensor{$value}, $tensor{$value})",
		"SELECT kv.length($cache, 1)",
		"SELECT sum(x), count(*) FROM kv.fetch($cache, 1, 0) f, unnest(f.k::real[]) x",
		"SELECT kv.attend($cache, '{1}', 0, 'f32[1,1,8]{1,2,3,4,5,6,7,8}')",
		"SELECT count(*) FROM kv.weights($cache, 1, 0, 'f32[1,8]{1,2,3,4,5,6,7,8}')",
		"SELECT kv.fork($cache, 1, $seq)",
		"SELECT kv.seal($cache, $seq)",
		"SELECT kv.recode($cache, $seq, 'int8')",
		"SELECT kv.truncate($cache, $seq, 100)",
		"SELECT sum(x) FROM kv.fetch($cache, $seq, 0) f, unnest(f.k::real[]) x",
		"SELECT kv.append($cache, $seq, $tensor{$value}, $tensor{$value})",
		"SELECT * FROM kv.check_cache($cache)",
		"SELECT kv.collect($cache)",
		"SELECT kv.drop_sequence($cache, $seq)",
		"SELECT rows_of($cache)");
}

# Whoever asks: a session that has called all functions on both caches before, one that has not, with plans and without.
foreach my $setting ('', "SET default_transaction_isolation = serializable")
{
	my $pooled = $node->background_psql('postgres', on_error_stop => 0);
	$pooled->query_safe($setting) if $setting;
	$pooled->query_safe($_) foreach calls(1, 20), calls(2, 20);
	my %lengths = map { $_ => $node->safe_psql('postgres', "SELECT kv.length($cache{$_}, 1)") } 1, 2;
	foreach my $by ('another session', 'the session itself')
	{
		$by eq 'another session' ? $node->safe_psql('postgres', $swap) : $pooled->query_safe($swap);
		foreach my $value (1, 2)
		{
			my $name = "cache of ${value}s after a rename by $by" . ($setting && ', planned');
			my $before = $node->safe_psql('postgres', "SELECT rows_of($cache{ 3 - $value })");
			my @said = map { $pooled->query_safe($_) } calls($value, 30);
			my $length = ++$lengths{$value};
			is_deeply([ @said[ 0 .. 2 ] ], [ $length, $length, $length * 8 * $value . '|' . $length * 8 ], "$name: appended to and read");
			is($said[3], $node->safe_psql('postgres', "SELECT kv.attend($cache{$value}, '{1}', 0, 'f32[1,1,8]{1,2,3,4,5,6,7,8}')"), "$name: attention");
			is($said[9], 800 * $value, "$name: the fork");
			is_deeply([ @said[ 11, 13 ] ], [ '', 't' ], "$name: is sound, and its sequence is dropped");
			is($node->safe_psql('postgres', "SELECT rows_of($cache{ 3 - $value })"), $before, "$name: the other is as it was");
		}
	}
	$pooled->quit;
}

# Commands on tables go by names alone: the schema keeps its name while they run.
my $att = "$connection user=att options=''-c lock_timeout=30s''";
$node->safe_psql('postgres', <<"SQL");
SET ROLE att; CREATE SCHEMA s; GRANT USAGE ON SCHEMA s TO PUBLIC; SELECT kv.create_cache('s.c', 1, 1, 1, 8, tail_tokens => 0);
CREATE SCHEMA u; CREATE FUNCTION u.evil(u bigint) RETURNS bool LANGUAGE plpgsql AS 'BEGIN IF session_user <> ''att'' THEN PERFORM dblink_exec(''$connection'', ''CREATE TABLE public.evil ()''); END IF; RETURN true; END';
CREATE TABLE u.c (LIKE s.c INCLUDING ALL); INSERT INTO u.c (seq) VALUES (1); ALTER TABLE u.c ADD CHECK (u.evil(seq)) NOT VALID;
CREATE TABLE u.c_sealed (LIKE s.c_sealed INCLUDING ALL); CREATE TABLE u.c_tail (LIKE s.c_tail INCLUDING ALL);
SQL
my $header = $node->safe_psql('postgres', "SELECT 's.c'::regclass::oid");
# The command waits for the owner, who renames both schemas, and lets it go on.
sub overtaken
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', <<"SQL");
DO \$do\$ BEGIN
	PERFORM dblink_connect('owner', '$att'), dblink_connect('more', '$att'), dblink_connect('super', '$connection');
	PERFORM dblink_exec('owner', 'BEGIN'), dblink_exec('owner', 'LOCK TABLE s.c, s.c_sealed, s.c_tail');
	PERFORM dblink_send_query('super', \$call\$$sql\$call\$);
	WHILE NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'relation' AND NOT granted) AND dblink_is_busy('super') = 1 LOOP
		PERFORM pg_sleep(0.001);
	END LOOP;
	PERFORM dblink_exec('more', 'ALTER SCHEMA s RENAME TO was'), dblink_exec('more', 'ALTER SCHEMA u RENAME TO s');
	PERFORM dblink_exec('owner', 'COMMIT');
	PERFORM FROM dblink_get_result('super', false) r(said text);
	RAISE NOTICE '%', dblink_error_message('super');
	PERFORM dblink_disconnect('owner'), dblink_disconnect('more'), dblink_disconnect('super');
END \$do\$;
SQL
}
my $back = 'ALTER SCHEMA s RENAME TO u; ALTER SCHEMA was RENAME TO s';
overtaken("SELECT kv.enable_tenants('s.c')::text");
is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT polrelid::regclass::text, ' ' ORDER BY polrelid::regclass::text) FROM pg_policy"), 'was.c was.c_sealed was.c_tail', 'kv.enable_tenants: the tables of the cache, by their new names');
is($node->safe_psql('postgres', "SELECT to_regclass('public.evil')"), '', 'and no code of its owner runs');
$node->safe_psql('postgres', $back);
# A rename waits for the command.
foreach my $command ('kv.enable_tenants(\'\'s.c\'\')::text', 'kv.drop_cache(\'\'s.c\'\')::text', 'kv.create_cache(\'\'s.d\'\', 1, 1, 1, 8)::oid::text')
{
	is($node->safe_psql('postgres', <<"SQL"), "55P03: canceling statement due to lock timeout", "$command: a schema that it names is not renamed before its transaction ends");
SELECT FROM dblink_connect('super', '$connection'), dblink_exec('super', 'BEGIN') \\gset
SELECT FROM dblink('super', 'SELECT $command') r(said text) \\gset
BEGIN;
SET LOCAL lock_timeout = '50ms';
SELECT refused('ALTER SCHEMA s RENAME TO t');
ROLLBACK;
SQL
}
overtaken("SELECT kv.drop_cache('s.c')::text");
is($node->safe_psql('postgres', "SELECT to_regclass('was.c'), to_regclass('s.c'), count(*) FROM kv.caches WHERE cache = $header"), '|s.c|0', 'kv.drop_cache: the tables of the cache, by their new names');

# Whoever may not change a table is told so at once, and keeps nobody waiting.
$node->safe_psql('postgres', "CREATE SCHEMA private; CREATE TABLE private.t (x int); SELECT kv.create_cache('private.c', 1, 1, 1, 8); CREATE TABLE public.v (v vector(2)); CREATE INDEX ON public.v USING hnsw (v vector_l2_ops)");
my $private = $node->safe_psql('postgres', "SELECT 'private.c'::regclass::oid");
my $table = $node->safe_psql('postgres', "SELECT 'private.t'::regclass::oid");
my $writer = $node->background_psql('postgres');
$writer->query_safe('BEGIN; INSERT INTO private.t VALUES (1); INSERT INTO public.v VALUES (\'[1,2]\'); LOCK TABLE private.t, private.c, private.c_sealed, private.c_tail, public.v IN ACCESS EXCLUSIVE MODE');
foreach my $call ("kv.adopt_cache($table, 1, 1, 1, 8)", "kv.enable_tenants($private)", "kv.drop_cache($private)", "kv.create_cache('private.d', 1, 1, 1, 8)", "hnsw_info('public.v_v_idx')", "hnsw_check('public.v_v_idx')")
{
	like($node->safe_psql('postgres', "SET SESSION AUTHORIZATION nobody; SET lock_timeout = '2s'; SELECT refused(\$\$SELECT $call\$\$)"), qr/^42501: /, "$call of somebody without rights");
}
$writer->quit;

# Headers that say what is not there.
$node->safe_psql('postgres', "SELECT kv.create_cache('public.big', 32767, 32767, 32767, 8, codec => 'f16'); INSERT INTO big (seq, length, sealed, extents, stops) VALUES (2, 100, 0, '{2}', '{2147483647}'), (3, 2000000, 2000000, '{3}', '{2147483647}'), (4, 2147483646, 0, '{4}', '{2147483647}'), (5, 2147483646, 2147483646, '{5}', '{2147483647}')");
my $q = "kv.reshape(array_fill(1::real, ARRAY[32767 * 8])::kv.tensor, ARRAY[32767, 8])";
my ($no_tail, $no_tile) = (qr/^XX001: tail of sequence \d+ in cache "big" has 0 rows instead of \d+/, qr/^XX001: .* is missing/);
my $peak = q{SELECT substring(pg_read_file('/proc/self/status') FROM 'VmPeak:\s+(\d+)')};
foreach my $seq (2 .. 5)
{
	my $is_not_there = $seq == 2 || $seq == 4 ? $no_tail : $no_tile;
	my @calls = ("kv.fetch('big', $seq, 0)", "kv.weights('big', $seq, 0, $q)", "kv.recode('big', $seq, 'int8')");
	push @calls, "kv.seal('big', $seq)", "kv.fork('big', $seq, 9)" if $seq == 2 || $seq == 4;
	like(sqlstate_of($node, "SELECT $_"), $is_not_there, $_) foreach @calls;
	# Memory that is taken and not touched costs nothing yet, but is taken all the same.
	my ($before, undef, $after) = split /\n/, $node->safe_psql('postgres', join ';', map { $_ eq '' ? "SELECT left(refused('SELECT kv.recode(''big'', $seq, ''int8'')'), 5)" : $_ } $peak, '', $peak);
	cmp_ok($after - $before, '<', 600_000, "kB that kv.recode takes for sequence $seq");
}
done_testing();
