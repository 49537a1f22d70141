# Nobody's code runs as somebody else, continued: what the owner of a cache's tables makes of them between the look at the tables and the
# statement, with locks that keep no reader or writer out. A superuser's call stops at each place where it may be overtaken.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $node = new_node('kv_code_races');
my $connection = 'host=' . $node->host . ' port=' . $node->port . ' dbname=postgres';
my $tensor = "'f32[1,1,1,8]{1,2,3,4,5,6,7,8}'";
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION vectorkv CASCADE; CREATE EXTENSION dblink;
CREATE ROLE att LOGIN; CREATE ROLE dave LOGIN; GRANT att TO dave; CREATE SCHEMA att AUTHORIZATION att; CREATE SCHEMA code AUTHORIZATION att; GRANT USAGE ON SCHEMA att, code TO PUBLIC; GRANT CREATE ON DATABASE postgres TO att;
CREATE SEQUENCE hits; GRANT ALL ON hits TO PUBLIC;
SET ROLE att;
-- A sequence keeps what a refused call takes back.
CREATE FUNCTION code.evil(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS 'BEGIN IF current_user <> ''att'' THEN PERFORM nextval(''public.hits''); END IF; RETURN 1; END';
CREATE FUNCTION code.set_evil(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE SET work_mem = '1MB' AS 'BEGIN IF current_user <> ''att'' THEN PERFORM nextval(''public.hits''); END IF; RETURN 1; END';
CREATE FUNCTION code.sql_evil(bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT code.evil(\$1)';
CREATE FUNCTION code.set_trap() RETURNS trigger LANGUAGE plpgsql SET work_mem = '1MB' AS 'BEGIN PERFORM nextval(''public.hits''); RETURN NEW; END';
CREATE FUNCTION code.same(int, int) RETURNS boolean LANGUAGE plpgsql SET work_mem = '1MB' AS 'BEGIN PERFORM nextval(''public.hits''); RETURN true; END';
CREATE OPERATOR code.=== (FUNCTION = code.same, LEFTARG = int, RIGHTARG = int, RESTRICT = eqsel);
CREATE FUNCTION code.trap() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM nextval(''public.hits''); RETURN NEW; END';
SELECT kv.create_cache('att.c', 1, 1, 1, 8, tail_tokens => 0);
SELECT kv.append('att.c', 1, kv.reshape(array_fill(0.5::real, '{8000}')::kv.tensor, '{1,1,1000,8}'), kv.reshape(array_fill(0.5::real, '{8000}')::kv.tensor, '{1,1,1000,8}'));
RESET ROLE;
-- The answers of the call, where it was overtaken. What is made CONCURRENTLY waits for the call, and is given up then.
CREATE FUNCTION races(role text, setting text, call text, late text, undo text) RETURNS SETOF text LANGUAGE plpgsql AS \$\$
DECLARE
	stopped boolean;
BEGIN
	PERFORM dblink_connect('b', '$connection user=att options=''-c lock_timeout=200ms''');
	FOR place IN 1 .. 300 LOOP
		PERFORM pg_advisory_lock(11);
		PERFORM dblink_connect('a', '$connection');
		PERFORM dblink_exec('a', format('SET vectorkv.wait_after = %s; SET ROLE %s; %s', place, role, setting));
		PERFORM dblink_send_query('a', call);
		LOOP
			stopped := EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted);
			EXIT WHEN stopped OR dblink_is_busy('a') = 0;
			PERFORM pg_sleep(0.001);
		END LOOP;
		IF stopped THEN
			PERFORM dblink_send_query('b', late);
			LOOP
				EXIT WHEN dblink_is_busy('b') = 0 OR EXISTS (SELECT FROM pg_class WHERE relname = 'late');
				PERFORM pg_sleep(0.001);
			END LOOP;
		END IF;
		PERFORM pg_advisory_unlock(11);
		PERFORM FROM dblink_get_result('a', false) r(said text);
		IF stopped THEN
			RETURN NEXT split_part(dblink_error_message('a'), E'\n', 1);
			PERFORM dblink_cancel_query('b'), dblink_disconnect('b');
			PERFORM dblink_connect('b', '$connection user=att options=''-c lock_timeout=200ms''');
			PERFORM dblink_exec('b', undo);
		END IF;
		PERFORM dblink_disconnect('a');
		EXIT WHEN NOT stopped;
	END LOOP;
	PERFORM dblink_disconnect('b');
END \$\$;
SQL

# What comes late, and what takes it back.
sub at_once { return 'DO $do$ BEGIN ' . join('; ', @_, '') . 'END $do$'; }
sub statistics
{
	my ($code) = @_;
	return (at_once(map { "CREATE STATISTICS att.late$_ ON (code.$code(1)), (1 + 1) FROM att.c$_" } '', '_sealed', '_tail'), 'DROP STATISTICS IF EXISTS att.late, att.late_sealed, att.late_tail');
}
sub index_on
{
	my ($code) = @_;
	return ("CREATE INDEX CONCURRENTLY late ON att.c ((code.$code(1)))", 'DROP INDEX IF EXISTS att.late');
}
# Other tables by the same names, in another schema by the same name.
sub others
{
	my ($schema) = @_;
	return (at_once('ALTER SCHEMA att RENAME TO was', "ALTER SCHEMA $schema RENAME TO att"),
		at_once("IF EXISTS (SELECT FROM pg_namespace WHERE nspname = 'was') THEN ALTER SCHEMA att RENAME TO $schema", 'ALTER SCHEMA was RENAME TO att', 'END IF'));
}
sub make_others
{
	my ($schema, @code) = @_;
	$node->safe_psql('postgres', join ';', "SET ROLE att; CREATE SCHEMA $schema; GRANT USAGE ON SCHEMA $schema TO PUBLIC",
		map { my $suffix = $_; map { s/CACHE/$schema.c$suffix/gr } "CREATE TABLE CACHE (LIKE att.c$suffix INCLUDING ALL)", "INSERT INTO CACHE SELECT * FROM att.c$suffix", @code } '', '_sealed', '_tail');
	return;
}
make_others('folded', 'CREATE INDEX ON CACHE ((code.evil(1)))');
make_others('trapped', 'CREATE TRIGGER trap BEFORE INSERT OR UPDATE ON CACHE FOR EACH ROW EXECUTE FUNCTION code.trap()');
make_others('trapped_after', 'CREATE TRIGGER trap AFTER INSERT OR UPDATE ON CACHE FOR EACH ROW EXECUTE FUNCTION code.trap()');
make_others('trapped_set', 'CREATE TRIGGER trap BEFORE INSERT OR UPDATE ON CACHE FOR EACH ROW EXECUTE FUNCTION code.set_trap()');
# Nothing but built-in functions, and a view that has a function called while the statement is planned.
make_others('reads', q{ALTER TABLE CACHE ADD COLUMN file text}, q{ALTER TABLE CACHE ALTER COLUMN file SET DEFAULT pg_read_file('PG_VERSION')});
$node->safe_psql('postgres', q{SET ROLE att; CREATE SCHEMA viewed; GRANT USAGE ON SCHEMA viewed TO PUBLIC; CREATE TABLE viewed.below (LIKE att.c INCLUDING ALL); INSERT INTO viewed.below SELECT * FROM att.c;
	ANALYZE viewed.below; CREATE VIEW viewed.c AS SELECT * FROM viewed.below WHERE length OPERATOR(code.===) 1; CREATE TABLE viewed.c_sealed (LIKE att.c_sealed INCLUDING ALL); CREATE TABLE viewed.c_tail (LIKE att.c_tail INCLUDING ALL)});

my $append = "SELECT kv.append('att.c', 1, $tensor, $tensor)::text";
my $attend = "SELECT kv.attend('att.c', '{1}', 0, 'f32[1,1,8]{1,2,3,4,5,6,7,8}')::text";
my $super = $node->safe_psql('postgres', 'SELECT current_user');
foreach my $case (
	[ $super, '', $append, statistics('evil') ],
	[ 'dave', '', $append, statistics('set_evil') ],
	[ $super, '', "SELECT count(*)::text FROM kv.check_cache('att.c')", statistics('sql_evil') ],
	[ $super, '', "SELECT kv.collect('att.c')::text", statistics('evil') ],
	[ $super, 'SET default_transaction_isolation = serializable', $attend, statistics('evil') ],
	[ $super, '', $append, index_on('evil') ],
	[ $super, '', $append, others('folded') ],
	(map { [ $super, '', $append, others($_) ] } qw(trapped trapped_after trapped_set reads)),
	[ 'att', '', $append, others('trapped') ],
	[ $super, '', "SELECT count(*)::text FROM kv.check_cache('att.c')", others('viewed') ],
	[ $super, 'DELETE FROM kv.caches', "SELECT kv.adopt_cache('att.c', 1, 1, 1, 8)::text", others('folded') ])
{
	my ($role, $setting, $call, $late, $undo) = @$case;
	my $name = "$call of $role, " . $late =~ s/^DO \$do\$ BEGIN |; CREATE.*//gsr;
	$node->safe_psql('postgres', 'ALTER SEQUENCE hits RESTART');
	my %said = map { split /\|/ } split /\n/, $node->safe_psql('postgres', "SET statement_timeout = '30s'; SELECT said, count(*) FROM races('$role', '$setting', \$call\$$call\$call\$, \$late\$$late\$late\$, \$undo\$$undo\$undo\$) said GROUP BY 1");
	my ($function) = $late =~ /code\.(\w+)/;
	my $refusal = $function ? qq{function "$function" would run code of role "att" with the rights of role "$role"} : 'the tables of cache "c" were renamed while a call was under way';
	my @refused = grep { /^ERROR:  $refusal$/ } keys %said;
	is(@refused, 1, "$name: refused where the statement was about to run it, $said{$refused[0] // ''} times");
	is(join("\n", grep { !/^(OK$|ERROR:  (a statistics object|an index) of table|ERROR:  function)/ } keys %said), '', "$name: nothing else is said") if $function;
	is($node->safe_psql('postgres', 'SELECT is_called FROM hits'), 'f', "$name: nothing of it ran");
}

# What is there before the call and has its reads of sealed tiles planned is looked at, too.
$node->safe_psql('postgres', 'SET ROLE att; CREATE TABLE att.below () INHERITS (att.c_sealed); CREATE INDEX ON att.c_sealed ((code.evil(1))); RESET ROLE; ALTER SEQUENCE hits RESTART');
like(sqlstate_of($node, $attend), qr/^42501: a child of table "c_sealed"/, 'planned reads of tiles alone are refused');
is($node->safe_psql('postgres', 'SELECT is_called FROM hits'), 'f', 'and run nothing');

done_testing();
