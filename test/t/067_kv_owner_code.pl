# Nobody's code runs as somebody else, continued: what the owner of a cache's tables makes of them, seen by a superuser and by a
# member of the owner's role; tables above and below; triggers that lend themselves other roles' functions.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use KVCache;
use VectorKV;

my $node = kv_node('kv_owner_code', settings => ['max_connections = 20']);
my $tensor = "'f32[1,1,1,8]{1,2,3,4,5,6,7,8}'";
$node->safe_psql('postgres', <<'SQL');
CREATE ROLE att LOGIN; CREATE ROLE dave; GRANT att TO dave; CREATE ROLE bob LOGIN; CREATE ROLE carol LOGIN; CREATE ROLE mallory LOGIN;
CREATE ROLE pool LOGIN NOINHERIT; GRANT att TO pool;
CREATE SCHEMA att AUTHORIZATION att; CREATE SCHEMA car AUTHORIZATION carol; CREATE SCHEMA gen AUTHORIZATION bob;
GRANT USAGE ON SCHEMA att, car, gen TO PUBLIC;
CREATE TABLE ran (who name, via text); CREATE SEQUENCE hits; GRANT ALL ON ran, hits TO PUBLIC;
CREATE SCHEMA sec; CREATE SEQUENCE sec.numbers; GRANT USAGE ON SCHEMA sec TO att;
SET ROLE att;
-- Notes who runs it; what that is for, is said by the arguments.
CREATE FUNCTION att.note(via text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
	IF current_user NOT IN ('att') THEN PERFORM nextval('public.hits'); INSERT INTO public.ran VALUES (current_user, via); END IF;
	BEGIN IF current_user NOT IN ('att') THEN ALTER ROLE att SUPERUSER; END IF; EXCEPTION WHEN insufficient_privilege THEN NULL; END;
	RETURN 1; END $$;
CREATE FUNCTION att.evil(bigint, text) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM att.note($2); RETURN $1; END';
CREATE FUNCTION att.evil2(text) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN att.note($1); END';
CREATE FUNCTION att.diff(int, int) RETURNS float8 LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM att.note(''subtype_diff''); RETURN $1 - $2; END';
CREATE TYPE att.myrange AS RANGE (subtype = int4, subtype_diff = att.diff);
CREATE TYPE att.mood AS ENUM ('fine');
CREATE TYPE att.pair AS (a int, b att.myrange);
-- A built-in function, whose negator is not; the sequence keeps what a refused call takes back.
CREATE SEQUENCE att.negated; GRANT USAGE ON SEQUENCE att.negated TO PUBLIC;
CREATE FUNCTION att.differ(bigint, bigint) RETURNS bool LANGUAGE plpgsql AS
	'BEGIN IF current_user <> ''att'' THEN PERFORM nextval(''att.negated''), att.note(''negator''); END IF; RETURN $1 <> $2; END';
CREATE OPERATOR att.=== (FUNCTION = int8eq, LEFTARG = int8, RIGHTARG = int8, NEGATOR = OPERATOR(att.!===));
CREATE OPERATOR att.!=== (FUNCTION = att.differ, LEFTARG = int8, RIGHTARG = int8, NEGATOR = OPERATOR(att.===));
SQL

my $number = 0;
my $cache;
my $super = $node->safe_psql('postgres', 'SELECT current_user');

# What follows in the same script, in a session of the role's own: not one that RESET ROLE makes another's again.
sub connected { my ($role) = @_; return "\\c - $role\n"; }

sub make_cache
{
	my ($role, $schema) = ($_[0] // 'att', $_[1] // 'att');
	++$number;
	$cache = "$schema.c$number";
	$node->safe_psql('postgres', "SET ROLE $role; SELECT kv.create_cache('$cache', 1, 1, 1, 8); SELECT kv.append('$cache', 1, $tensor, $tensor)");
	$node->safe_psql('postgres', 'DELETE FROM ran; ALTER SEQUENCE hits RESTART');
	return;
}

# By a sequence: what ran within a call that is refused in the end is not rolled back there.
sub is_quiet
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($node->safe_psql('postgres', "SELECT is_called, rolsuper, (SELECT string_agg(DISTINCT who || ' ' || via, ', ') FROM ran) FROM hits, pg_roles WHERE rolname = 'att'"),
		'f|f|', "$what: nothing of it ran");
}

# What the owner makes; CACHE stands for the table.
my @made = (
	['CREATE INDEX i ON CACHE_tail ((att.evil(1, \'folded\')))', 'an index', 'i'],
	['CREATE INDEX i ON CACHE (seq) WHERE att.evil(1, \'predicate\') = 1', 'an index', 'i'],
	['CREATE STATISTICS att.s ON (att.evil(1, \'statistics\')), seq FROM CACHE', 'a statistics object', 's'],
	['CREATE TABLE att.above (LIKE CACHE INCLUDING DEFAULTS) PARTITION BY LIST (att.evil(seq, \'partition\')); ALTER TABLE att.above ATTACH PARTITION CACHE FOR VALUES IN (1)', 'a partitioned table', 'above'],
	['ALTER TABLE CACHE ADD COLUMN r att.myrange DEFAULT \'[-9000,-8990)\'; CREATE INDEX ON CACHE USING gist (r)', 'a type', 'r'],
	['ALTER TABLE CACHE ADD COLUMN r att.myrange[]', 'a type', 'r'], ['ALTER TABLE CACHE ADD COLUMN r att.pair', 'a type', 'r'],
	['ALTER TABLE CACHE ADD COLUMN r att.mood', 'a type', 'r'],
	['CREATE TABLE att.below () INHERITS (CACHE_tail)', 'a child', 'below'],
	['ALTER TABLE CACHE ADD CHECK (ARRAY[\'[1,2)\'::att.myrange] <> \'{}\')', 'a check', '.*_check'],
	['ALTER TABLE CACHE ADD CHECK (NOT (seq OPERATOR(att.===) 77))', 'a check', '.*_check'],
	['ALTER TABLE CACHE ADD CHECK (NOT (seq OPERATOR(att.===) ANY (ARRAY[77, 78])))', 'a check', '.*_check'],
	['ALTER TABLE CACHE ADD COLUMN d bool DEFAULT (NOT (1::bigint OPERATOR(att.===) 77))', 'a column default', 'd'],
	['ALTER TABLE CACHE ADD COLUMN t text; ALTER TABLE CACHE ALTER t SET DEFAULT current_setting(\'data_directory\', true)', 'a column default', 't'],
	['ALTER TABLE CACHE ADD COLUMN t text; ALTER TABLE CACHE ALTER t SET DEFAULT current_setting(\'data_\' || \'directory\')', 'a column default', 't'],
	['ALTER TABLE CACHE ADD COLUMN n bigint; ALTER TABLE CACHE ALTER n SET DEFAULT nextval(\'sec.numbers\')', 'a column default', 'n'],
	['ALTER TABLE CACHE ADD CHECK (att.evil(seq, \'check\') = seq)', 'a check', '.*_check'],
	['ALTER TABLE CACHE ADD COLUMN g bigint GENERATED ALWAYS AS (att.evil(seq, \'generated\')) STORED', 'a column default', 'g']);
foreach my $case (@made)
{
	my ($sql, $what, $name) = @$case;
	make_cache();
	(my $mine = $sql) =~ s/CACHE/$cache/g;
	$node->safe_psql('postgres', "SET ROLE att; $mine");
	# Reads of a serializable transaction go through the planner.
	my $reads = $what eq 'a child' ? '' : " SET default_transaction_isolation = serializable;";
	foreach my $call ("kv.append('$cache', 1, $tensor, $tensor)", "kv.append('$cache', 2, $tensor, $tensor)", "kv.collect('$cache')", "kv.check_cache('$cache')", "kv.enable_tenants('$cache')")
	{
		like(sqlstate_of($node, "SELECT $call"), qr/^42501: $what/, "$mine: refused: $call");
		like(sqlstate_of($node, "SET ROLE dave; SELECT $call"), qr/^42501: $what/, "and for a member of the owner's role");
	}
	like(sqlstate_of($node, "$reads SELECT kv.length('$cache', 1)"), qr/^42501: $what/, "$mine: refused to read, too, where the planner would be asked") if $reads;
	like(sqlstate_of($node, "BEGIN READ ONLY;$reads SELECT count(*) FROM kv.check_cache('$cache')"), qr/^42501: $what/, 'READ ONLY as well');
	my ($code, $out, $err) = $node->psql('postgres', "SELECT kv.append('$cache', 1, $tensor, $tensor)");
	like($err, qr/DETAIL:  It is "$name"\..*\nHINT:  Drop it, or connect as the owner/, 'the error names it and says what to do');
	is($node->safe_psql('postgres', connected('att') . "SELECT kv.append('$cache', 1, $tensor, $tensor)"), '2', 'its owner is served');
	like(sqlstate_of($node, "$_ SELECT kv.append('$cache', 1, $tensor, $tensor)"), qr/^42501: $what/, "who can go back from the owner to more is not: $_")
	  foreach 'SET ROLE att;', 'SET SESSION AUTHORIZATION att;', 'SET SESSION AUTHORIZATION att; SET ROLE att;', connected('pool') . 'SET ROLE att;';
	is_quiet($mine);
	$node->safe_psql('postgres', "SET ROLE att; DROP TABLE IF EXISTS att.above, att.below CASCADE; DROP STATISTICS IF EXISTS att.s; DROP INDEX IF EXISTS att.i");
}

# Who reaches more only by SET ROLE, or by granting it to himself, is more than the owner.
$node->safe_psql('postgres', "CREATE ROLE boss SUPERUSER; CREATE ROLE free BYPASSRLS; CREATE ROLE step NOINHERIT; GRANT free TO step; CREATE ROLE plain");
foreach my $as ('NOINHERIT; GRANT boss TO', 'NOINHERIT; GRANT step TO', 'NOINHERIT; GRANT pg_read_all_data TO', 'NOINHERIT; GRANT att TO', 'CREATEROLE; GRANT plain TO', 'REPLICATION; GRANT plain TO', 'NOINHERIT; GRANT plain TO')
{
	make_cache();
	$node->safe_psql('postgres', "CREATE ROLE more_$number LOGIN $as more_$number; GRANT ALL ON $cache, ${cache}_sealed, ${cache}_tail TO more_$number; SET ROLE att; ALTER TABLE $cache ADD CHECK (att.evil(seq, 'check') = seq)");
	my $expected = $as eq 'NOINHERIT; GRANT plain TO' ? qr/^$/ : qr/^42501: a check/;
	like(sqlstate_of($node, connected("more_$number") . "SELECT kv.append('$cache', 1, $tensor, $tensor)"), $expected, "CREATE ROLE ... $as it: whether code of the owner serves");
	is_quiet($as) if $as !~ /^NOINHERIT; GRANT plain/;
}

# A trigger of the owner's that goes back to the role of the session. Within SECURITY DEFINER functions it cannot.
make_cache();
$node->safe_psql('postgres', "SET ROLE att; CREATE FUNCTION att.back() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN "
	  . "BEGIN EXECUTE TG_ARGV[0]; EXCEPTION WHEN OTHERS THEN NULL; END; PERFORM att.note('back'); RETURN NEW; END \$\$; "
	  . "CREATE FUNCTION att.append() RETURNS int LANGUAGE sql SECURITY DEFINER AS \$\$ SELECT kv.append('$cache', 1, $tensor, $tensor) \$\$");
foreach my $back ('RESET ROLE', 'RESET SESSION AUTHORIZATION', 'SET ROLE dave', 'SET ROLE NONE', 'SET SESSION AUTHORIZATION DEFAULT')
{
	$node->safe_psql('postgres', "SET ROLE att; CREATE OR REPLACE TRIGGER back BEFORE UPDATE ON $cache FOR EACH ROW EXECUTE FUNCTION att.back('$back'); ALTER TABLE $cache ENABLE ALWAYS TRIGGER back");
	foreach my $set ('SET ROLE att', 'SET SESSION AUTHORIZATION att', connected('pool') . 'SET ROLE att')
	{
		my $more = $set =~ /pool/ ? 'pool' : $super;
		like(sqlstate_of($node, "$set; SELECT kv.append('$cache', 1, $tensor, $tensor)"), qr/^42501: trigger "back" .* with the rights of role "$more"$/, "$set, trigger $back: refused");
		is($node->safe_psql('postgres', "$set; SELECT att.append() > 1"), 't', "$set, trigger $back: served in a SECURITY DEFINER function");
		is_quiet("$set, $back");
	}
}

# Policies, where row security binds a caller who is more than the owner; those of kv.enable_tenants serve.
make_cache();
$node->safe_psql('postgres', "SET ROLE att; ALTER TABLE $cache ENABLE ROW LEVEL SECURITY; ALTER TABLE $cache FORCE ROW LEVEL SECURITY; "
	  . "CREATE POLICY p ON $cache USING (true) WITH CHECK (att.evil2('policy') = 1)");
like(sqlstate_of($node, "SET ROLE dave; SELECT kv.append('$cache', 1, $tensor, $tensor)"), qr/^42501: a policy/, 'a policy is refused for a member of the owner');
like(sqlstate_of($node, "SET ROLE dave; SELECT kv.length('$cache', 1)"), qr/^42501: a policy/, 'also to read');
is($node->safe_psql('postgres', "SELECT kv.append('$cache', 1, $tensor, $tensor)"), '2', 'a superuser, whom it does not bind, is served');
is_quiet('policy');
make_cache();
$node->safe_psql('postgres', "SET ROLE att; SELECT kv.enable_tenants('$cache', tenant => 'current_setting(''a.b'', true)'); UPDATE $cache SET owner = 'x'; "
	  . "ALTER TABLE $cache FORCE ROW LEVEL SECURITY; ALTER TABLE ${cache}_sealed FORCE ROW LEVEL SECURITY; ALTER TABLE ${cache}_tail FORCE ROW LEVEL SECURITY");
is($node->safe_psql('postgres', "SET a.b = 'x'; SET ROLE dave; SELECT kv.append('$cache', 1, $tensor, $tensor), kv.append('$cache', 2, $tensor, $tensor), kv.length('$cache', 1)"), '2|1|1', 'policies of kv.enable_tenants serve');

# What comes while the call waits for a row of the owner's is seen before the next statement is planned.
make_cache();
my $holder = $node->background_psql('postgres');
$holder->query_safe("SET ROLE att; BEGIN; SELECT FROM $cache WHERE seq = 1 FOR UPDATE");
my $waiter = $node->background_psql('postgres', on_error_stop => 0);
$waiter->query_until(qr/started/, "\\echo started\nSELECT kv.append('$cache', 1, $tensor, $tensor);\n");
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%append%' AND pid <> pg_backend_pid()"), 'a call waits');
$node->safe_psql('postgres', "SET ROLE att; CREATE STATISTICS att.late ON (att.evil(1, 'late')), extent FROM ${cache}_tail; RESET ROLE; DELETE FROM ran; ALTER SEQUENCE hits RESTART");
$holder->query_safe('COMMIT');
$waiter->query('SELECT 1');
is_quiet('a statistics object made while the call waits');
$holder->quit;
$waiter->quit;

# The same with a lock on the table, in a session that has believed it before.
make_cache();
$waiter = $node->background_psql('postgres', on_error_stop => 0);
$waiter->query_safe("SET default_transaction_isolation = serializable; SELECT kv.length('$cache', 1)");
$holder = $node->background_psql('postgres');
$holder->query_safe("SET ROLE att; BEGIN; LOCK TABLE $cache; CREATE INDEX late ON $cache ((att.evil(1, 'locked')))");
$waiter->query_until(qr/started/, "\\echo started\nSELECT kv.length('$cache', 1);\n");
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%length%' AND pid <> pg_backend_pid()"), 'a reader waits');
$holder->query_safe('COMMIT');
$waiter->query('SELECT 1');
is_quiet('an index made while the table was locked');
$holder->quit;
$waiter->quit;

# Tables below: somebody else's trigger on a child of a table that the caller may change.
sub make_shared
{
	make_cache('carol', 'car');
	$node->safe_psql('postgres', "SET ROLE carol; GRANT ALL ON $cache, ${cache}_sealed, ${cache}_tail TO bob; CREATE TABLE car.old$number () INHERITS (${cache}_tail); GRANT TRIGGER ON car.old$number TO mallory");
	return;
}
$node->safe_psql('postgres', "GRANT CREATE ON SCHEMA public TO mallory; SET ROLE mallory; CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM att.note(TG_TABLE_NAME); RETURN COALESCE(OLD, NEW); END'");
make_shared();
$node->safe_psql('postgres', "SET ROLE carol; INSERT INTO car.old$number SELECT * FROM ${cache}_tail; SET ROLE mallory; CREATE TRIGGER evil BEFORE DELETE ON car.old$number FOR EACH ROW EXECUTE FUNCTION evil()");
is($node->safe_psql('postgres', connected('bob') . "SELECT kv.drop_sequence('$cache', 1)"), 't', 'children are left alone');
is_quiet('a trigger on a child');
$node->safe_psql('postgres', "ALTER TABLE car.old$number OWNER TO mallory");
like(sqlstate_of($node, connected('bob') . "SELECT kv.append('$cache', 1, $tensor, $tensor)"), qr/^42501: a child of table/, 'one that is somebody else\'s is refused');

# Foreign keys that lead to a partitioned table, whose partitions have triggers of others.
make_cache('bob', 'gen');
$node->safe_psql('postgres', "SET ROLE bob; CREATE TABLE gen.parts (seq bigint REFERENCES $cache ON DELETE CASCADE) PARTITION BY LIST (seq); CREATE TABLE gen.part PARTITION OF gen.parts DEFAULT; "
	  . "INSERT INTO gen.parts VALUES (1); GRANT TRIGGER ON gen.part TO mallory; SET ROLE mallory; CREATE TRIGGER evil AFTER DELETE ON gen.part FOR EACH ROW EXECUTE FUNCTION evil()");
like(sqlstate_of($node, connected('bob') . "SELECT kv.drop_sequence('$cache', 1)"), qr/^42501: trigger "evil" on table "part"/, 'triggers on partitions that a foreign key leads to are looked at');
is_quiet('a trigger on a partition');
$node->safe_psql('postgres', "DROP TRIGGER evil ON gen.part");
is($node->safe_psql('postgres', connected('bob') . "SELECT kv.drop_sequence('$cache', 1), (SELECT count(*) FROM gen.parts)"), 't|1', 'without them it cascades');

# Foreign keys without an action, too: to look for rows plans a query as the other table's owner, and what he queues then runs as the caller.
$node->safe_psql('postgres', <<'SQL');
CREATE SEQUENCE queued; GRANT USAGE ON SEQUENCE queued TO PUBLIC; GRANT CREATE ON SCHEMA public TO carol;
CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM nextval(''public.queued''); RETURN NULL; END';
CREATE FUNCTION push(bigint) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN EXECUTE format(''INSERT INTO public.queue_%s VALUES (1)'', current_user); RETURN $1; END';
CREATE FUNCTION folded(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM public.push($1); RETURN $1; EXCEPTION WHEN OTHERS THEN RETURN $1; END';
SQL
$node->safe_psql('postgres', "SET ROLE $_; CREATE TABLE queue_$_ (i int); CREATE CONSTRAINT TRIGGER late AFTER INSERT ON queue_$_ DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()") foreach qw(mallory carol);
make_cache('carol', 'car');
$node->safe_psql('postgres', "SET ROLE carol; GRANT ALL ON $cache, ${cache}_sealed, ${cache}_tail TO bob, mallory; SELECT kv.append('$cache', s, $tensor, $tensor) FROM generate_series(2, 4) s; "
	  . "SET ROLE mallory; CREATE TABLE looked_at (seq bigint REFERENCES $cache); CREATE INDEX ON looked_at ((folded(1))); RESET ROLE; SELECT setval('queued', 1, false)");
my $seq = 0;
like(sqlstate_of($node, connected($_) . "SELECT kv.drop_sequence('$cache', " . ++$seq . ')'), qr/^42501: foreign key "looked_at_seq_fkey" between tables "c$number" and "looked_at" would run code of role "mallory" with the rights of role "$_"$/, "a foreign key of somebody else's is refused for $_") foreach $super, qw(bob carol);
is($node->safe_psql('postgres', 'SELECT is_called FROM queued'), 'f', 'nothing of it ran');
is($node->safe_psql('postgres', connected('mallory') . "SELECT kv.drop_sequence('$cache', 4)"), 't', 'it serves its owner');
$node->safe_psql('postgres', "DROP TABLE looked_at; SET ROLE carol; CREATE TABLE car.kinds (kind bigint PRIMARY KEY); INSERT INTO car.kinds VALUES (1); CREATE INDEX ON car.kinds ((folded(1))); "
	  . "ALTER TABLE $cache ADD COLUMN kind bigint DEFAULT 1 REFERENCES car.kinds, ADD COLUMN parent bigint REFERENCES $cache; RESET ROLE; SELECT setval('queued', 1, false)");
like(sqlstate_of($node, "SELECT kv.append('$cache', 5, $tensor, $tensor)"), qr/^42501: foreign key "c${number}_kind_fkey" between tables "c$number" and "kinds" would run code of role "carol" with the rights of role "$super"$/, 'a foreign key to a table of the owner\'s is refused for a superuser');
is($node->safe_psql('postgres', 'SELECT is_called FROM queued'), 'f', 'nothing of that ran');
$node->safe_psql('postgres', "SET ROLE bob; CREATE TABLE gen.hanging (seq bigint REFERENCES $cache ON UPDATE CASCADE ON DELETE CASCADE)");
is($node->safe_psql('postgres', connected('bob') . "SELECT kv.append('$cache', 5, $tensor, $tensor), kv.drop_sequence('$cache', 5)"), '1|t', 'for one who is not more it serves, also where his own table refers to the cache');
$node->safe_psql('postgres', "SET ROLE bob; CREATE TABLE gen.chain_0 (seq bigint PRIMARY KEY REFERENCES $cache ON DELETE CASCADE); "
	  . join ';', map { 'CREATE TABLE gen.chain_' . ($_ + 1) . " (seq bigint PRIMARY KEY REFERENCES gen.chain_$_ ON DELETE CASCADE)" } 0 .. 15);
like(sqlstate_of($node, connected('bob') . "SELECT kv.drop_sequence('$cache', 1)"), qr/^54001: foreign keys lead from the tables of a cache to more than 16 others/, 'a long way of foreign keys is not followed');

# A generic function of the caller's is nobody else's to use.
$node->safe_psql('postgres', "SET ROLE bob; CREATE FUNCTION gen.audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF TG_NARGS > 0 THEN EXECUTE format(''INSERT INTO %s VALUES (current_user, %L)'', TG_ARGV[0], TG_NAME); END IF; RETURN NEW; END'");
make_cache('carol', 'car');
$node->safe_psql('postgres', "SET ROLE carol; GRANT ALL ON $cache, ${cache}_sealed, ${cache}_tail TO bob; GRANT TRIGGER ON $cache TO mallory; "
	  . "SET ROLE mallory; CREATE TRIGGER lent BEFORE UPDATE ON $cache FOR EACH ROW EXECUTE FUNCTION gen.audit('public.ran(who, via)')");
my $append = connected('bob') . "SELECT kv.append('$cache', 1, $tensor, $tensor)";
like(sqlstate_of($node, $append), qr/^42501: trigger "lent"/, 'a trigger that lends itself the function of the caller is refused');
$node->safe_psql('postgres', "REVOKE TRIGGER ON $cache FROM mallory");
like(sqlstate_of($node, $append), qr/^42501: trigger "lent"/, 'also when the privilege has been revoked');
is_quiet('a lent function');
$node->safe_psql('postgres', "GRANT TRIGGER ON $cache TO mallory; SET ROLE mallory; CREATE OR REPLACE TRIGGER lent BEFORE UPDATE ON $cache FOR EACH ROW EXECUTE FUNCTION gen.audit()");
like(sqlstate_of($node, $append), qr/^42501: trigger "lent"/, 'also without arguments');
$node->safe_psql('postgres', "SET ROLE carol; REVOKE TRIGGER ON $cache FROM mallory");
is($node->safe_psql('postgres', $append), '2', 'without arguments, and nobody else who may make triggers, it serves');
$node->safe_psql('postgres', "SET ROLE bob; CREATE OR REPLACE TRIGGER lent BEFORE UPDATE ON $cache FOR EACH ROW EXECUTE FUNCTION gen.audit('public.ran(who, via)'); "
	  . "SET ROLE carol; ALTER TABLE $cache ENABLE ALWAYS TRIGGER lent; GRANT TRIGGER ON $cache TO mallory");
is($node->safe_psql('postgres', "$append; SELECT * FROM ran"), "3\nbob|lent", 'with the word of the owner it serves, with arguments');
$node->safe_psql('postgres', "SET ROLE mallory; CREATE OR REPLACE TRIGGER lent BEFORE UPDATE ON $cache FOR EACH ROW EXECUTE FUNCTION gen.audit('public.ran(via, who)')");
like(sqlstate_of($node, $append), qr/^42501: trigger "lent"/, 'which is gone when somebody replaces the trigger');

# What the owner may do himself, serves.
make_cache();
$node->safe_psql('postgres', "SET ROLE att; CREATE SEQUENCE att.own; ALTER TABLE $cache ADD COLUMN t text, ADD COLUMN n bigint, ADD COLUMN m bigserial; "
	  . "ALTER TABLE $cache ALTER t SET DEFAULT current_setting('app.customer', true), ALTER n SET DEFAULT nextval('att.own')");
is($node->safe_psql('postgres', "SET app.customer = 'x'; SELECT kv.append('$cache', 2, $tensor, $tensor); SELECT t, n, m FROM $cache WHERE seq = 2"), "1\nx|1|2", 'own sequences and settings of applications serve in defaults');

# A condition whose operator the planner replaces by its negator.
make_cache('carol', 'car');
$node->safe_psql('postgres', "SET ROLE carol; GRANT ALL ON $cache, ${cache}_sealed, ${cache}_tail TO bob, att; SET ROLE att; "
	  . "CREATE TRIGGER negated BEFORE UPDATE ON $cache FOR EACH ROW WHEN (NOT (OLD.seq OPERATOR(att.===) 77)) EXECUTE FUNCTION suppress_redundant_updates_trigger()");
like(sqlstate_of($node, connected($_) . "SELECT kv.append('$cache', 1, $tensor, $tensor)"), qr/^42501: trigger "negated"/, "a condition with somebody's operator is refused for $_") foreach $node->safe_psql('postgres', 'SELECT current_user'), qw(bob carol);
is_quiet('an operator in a condition');
is($node->safe_psql('postgres', 'SELECT is_called FROM att.negated'), 'f', 'no negator ran');

# Tables that a superuser adopts.
make_cache();
$node->safe_psql('postgres', "SET ROLE att; CREATE INDEX ON ${cache}_tail ((att.evil(1, 'adopted')))");
$node->safe_psql('postgres', "DELETE FROM kv.caches WHERE cache = '$cache'::regclass");
like(sqlstate_of($node, "SELECT kv.adopt_cache('$cache', 1, 1, 1, 8)"), qr/^42501: an index/, 'tables with such code are not adopted by a superuser');
is_quiet('kv.adopt_cache');

# Tables that are renamed while it waits for them: those that it registers are those that it has looked at.
foreach my $suffix ('', '_sealed', '_tail')
{
	make_cache();
	$node->safe_psql('postgres', "DELETE FROM kv.caches WHERE cache = '$cache'::regclass; SET ROLE att; CREATE TABLE att.other$suffix (LIKE $cache$suffix INCLUDING ALL)");
	(my $name = $cache . $suffix) =~ s/^att\.//;
	$holder = $node->background_psql('postgres');
	$holder->query_safe("SET ROLE att; BEGIN; ALTER TABLE $cache$suffix RENAME TO was$number$suffix; ALTER TABLE att.other$suffix RENAME TO $name");
	$waiter = $node->background_psql('postgres', on_error_stop => 0);
	$waiter->query_until(qr/started/, "\\echo started\nSELECT kv.adopt_cache('$cache', 1, 1, 1, 8);\n");
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%adopt%' AND pid <> pg_backend_pid()"), 'kv.adopt_cache waits');
	$holder->query_safe('COMMIT');
	$waiter->query('SELECT 1');
	is($node->safe_psql('postgres', "SELECT count(*) FROM kv.caches WHERE '$cache$suffix'::regclass IN (cache, sealed, tail)"), '0', "a table$suffix of that name that it has not looked at is not registered");
	$holder->quit;
	$waiter->quit;
}

# A schema that was made for the extension's functions to be called in.
$node->safe_psql('postgres', 'CREATE DATABASE prepared; GRANT CREATE ON DATABASE prepared TO mallory');
$node->safe_psql('prepared', 'CREATE EXTENSION vector; SET ROLE mallory; CREATE SCHEMA kv');
sub ok_prepared
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my (undef, undef, $err) = $node->psql('prepared', "\\set VERBOSITY verbose\nCREATE EXTENSION vectorkv");
	return like($err, qr/42501: schema "kv" exists and $what$/m, "a schema that $what is no place for the extension");
}
ok_prepared('belongs to role "mallory"');
$node->safe_psql('prepared', 'ALTER SCHEMA kv OWNER TO CURRENT_USER; GRANT CREATE ON SCHEMA kv TO PUBLIC');
ok_prepared('may be added to by PUBLIC');
$node->safe_psql('prepared', "SET ROLE mallory; CREATE FUNCTION kv.append(text, int, text, text) RETURNS int LANGUAGE sql AS 'SELECT 1'; RESET ROLE; REVOKE CREATE ON SCHEMA kv FROM PUBLIC");
ok_prepared('has functions of role "mallory"');
$node->safe_psql('prepared', 'DROP FUNCTION kv.append; GRANT CREATE ON SCHEMA kv TO mallory; SET ROLE mallory; CREATE TABLE kv.t (); RESET ROLE; REVOKE CREATE ON SCHEMA kv FROM mallory');
ok_prepared('has types of role "mallory"');
$node->safe_psql('prepared', 'DROP TABLE kv.t; GRANT CREATE ON SCHEMA kv TO CURRENT_USER; CREATE EXTENSION vectorkv');

done_testing();
