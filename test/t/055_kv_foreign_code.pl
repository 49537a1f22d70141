# Nobody's code runs as somebody else.  A role with every privilege on a cache's tables makes triggers whose functions would make
# him a superuser: his own calls run them with his own rights, and calls of the owner are refused.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use KVCache;
use VectorKV;

my $node = kv_node('kv_foreign_code', settings => ['max_connections = 20']);
$node->safe_psql('postgres', 'CREATE ROLE mallory LOGIN; CREATE ROLE hank SUPERUSER; CREATE ROLE clerk; GRANT CREATE ON SCHEMA public TO mallory, clerk');

my @calls = ("kv.append('c', 1, k(0, 1), v(0, 1))", "kv.seal('c', 1)", "kv.fork('c', 1, 900)", "kv.fork('c', 1, 901, 100)",
	"kv.truncate('c', 2, 290)", "kv.truncate('c', 2, 100)", "kv.recode('c', 1, 'int4')", "kv.drop_sequence('c', 3)", "kv.collect('c')");

sub make_cache
{
	$node->safe_psql('postgres', "SELECT kv.drop_cache(cache) FROM kv.caches");
	create_cache($node, 'c', "codec => 'int8', tail_tokens => 16");
	$node->safe_psql('postgres', "SELECT kv.append('c', s, k(0, 300), v(0, 300)) FROM generate_series(1, 3) s; DELETE FROM c WHERE seq = 9");
	$node->safe_psql('postgres', "SELECT kv.append('c', 9, k(0, 300), v(0, 300)); DELETE FROM c WHERE seq = 9");
	$node->safe_psql('postgres', 'GRANT ALL ON c, c_sealed, c_tail, c_tile TO mallory');
}

# Who ran the trigger is written down with the rights of whoever ran it.
$node->safe_psql('postgres', 'CREATE TABLE ran (who name, what text); GRANT ALL ON ran TO PUBLIC');
$node->safe_psql('postgres', <<'SQL');
SET ROLE mallory;
CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO ran VALUES (current_user, TG_TABLE_NAME || ' ' || TG_OP);
	BEGIN ALTER ROLE mallory SUPERUSER; EXCEPTION WHEN insufficient_privilege THEN NULL; END;
	RETURN CASE WHEN TG_LEVEL = 'STATEMENT' THEN NULL WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END; END $$;
CREATE FUNCTION evil_condition(bigint) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO ran VALUES (current_user, 'condition');
	BEGIN ALTER ROLE mallory SUPERUSER; EXCEPTION WHEN insufficient_privilege THEN NULL; END;
	RETURN false; END $$;
CREATE DOMAIN evil_domain AS bigint CHECK (evil_condition(VALUE));
SQL
my $is_super = "SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'";
my @timings = map { my $when = $_; map { "$when INSERT OR UPDATE OR DELETE ON $_ FOR EACH ROW" } qw(c c_sealed c_tail) } qw(BEFORE AFTER);
push @timings, 'AFTER INSERT OR UPDATE OR DELETE ON c FOR EACH STATEMENT';

# The grantee's own calls: his triggers run, as he.
make_cache();
$node->safe_psql('postgres', 'SET ROLE mallory; ' . join '; ', map { "CREATE TRIGGER evil$_ $timings[$_] EXECUTE FUNCTION evil()" } 0 .. $#timings);
foreach my $call (@calls)
{
	isnt($node->safe_psql('postgres', "\\c - mallory\nSELECT $call IS NULL"), '', "$call: works for the grantee");
}
is($node->safe_psql('postgres', 'SELECT DISTINCT who FROM ran'), 'mallory', 'his triggers ran as he');
is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT what, ', ' ORDER BY what) FROM ran"),
	'c DELETE, c INSERT, c UPDATE, c_sealed DELETE, c_sealed INSERT, c_tail DELETE, c_tail INSERT', 'on every table and change');
is($node->safe_psql('postgres', $is_super), 'f', 'and he is what he was');
ok_cache($node, 'c', 'the cache is sound');

# The owner's calls, with one trigger at a time.
foreach my $timing (@timings, 'BEFORE UPDATE OR INSERT OR DELETE ON c FOR EACH ROW WHEN (pg_trigger_depth() < 5)')
{
	make_cache();
	$node->safe_psql('postgres', "DELETE FROM ran; SET ROLE mallory; CREATE TRIGGER evil $timing EXECUTE FUNCTION evil()");
	my @let = grep { sqlstate_of($node, "SELECT $_") !~ /^42501: trigger "evil" on table/ } @calls;
	is("@let", '', "$timing: the owner's calls are refused");
	is($node->safe_psql('postgres', "SELECT count(*) FROM ran") . $node->safe_psql('postgres', $is_super), '0f', "$timing: nothing of it ran");
}

# Conditions run as the caller, too, whatever the trigger's function; so do checks of domains in them.
foreach my $condition ('evil_condition(NEW.seq)', 'NEW.seq::evil_domain IS NOT NULL')
{
	make_cache();
	$node->safe_psql('postgres', "SET ROLE mallory; CREATE TRIGGER evil BEFORE UPDATE ON c FOR EACH ROW WHEN ($condition) EXECUTE FUNCTION suppress_redundant_updates_trigger()");
	like(sqlstate_of($node, "SELECT kv.append('c', 1, k(0, 1), v(0, 1))"), qr/^42501: trigger "evil"/, "condition $condition: refused");
}
is($node->safe_psql('postgres', $is_super), 'f', 'nothing of it ran');

# Nor do built-in functions in a condition that run what they are given; nor a condition of the caller's own functions, whose
# arguments are the grantee's choice.
$node->safe_psql('postgres', "CREATE FUNCTION run(text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN EXECUTE \$1; RETURN true; END'; "
	  . "SET ROLE mallory; CREATE TYPE evil_row AS (a evil_domain)");
foreach my $condition (q{query_to_xml('SELECT evil_condition(1)', true, true, '') IS NOT NULL}, q{table_to_xml('c', true, true, '') IS NOT NULL},
	q{jsonb_populate_record(NULL::evil_row, '{"a": 1}') IS NOT NULL}, q{(NEW.seq::text || '')::evil_domain IS NOT NULL},
	q{('{' || NEW.seq::text || '}')::evil_domain[] IS NOT NULL}, q{('(' || NEW.seq::text || ')')::evil_row IS NOT NULL}, q{run('SELECT evil_condition(1)')},
	q{ts_rewrite('a'::tsquery, 'SELECT evil_condition(1)::text::tsquery, NULL::tsquery') IS NOT NULL})
{
	make_cache();
	$node->safe_psql('postgres', "SET ROLE mallory; CREATE TRIGGER evil BEFORE UPDATE ON c FOR EACH ROW WHEN ($condition) EXECUTE FUNCTION suppress_redundant_updates_trigger()");
	like(sqlstate_of($node, "SELECT kv.append('c', 1, k(0, 1), v(0, 1))"), qr/^42501: trigger "evil"/, "condition $condition: refused");
}

# SECURITY DEFINER functions of others: what they queue, alter and set would act later, as the caller.
$node->safe_psql('postgres', <<'SQL');
DELETE FROM ran;
SET ROLE mallory;
CREATE TABLE queue (i int);
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON queue DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION evil();
CREATE FUNCTION queues() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN INSERT INTO queue VALUES (1); RETURN NEW; END $$;
CREATE FUNCTION second() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN RETURN NEW; END $$;
CREATE FUNCTION alters() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN ALTER FUNCTION second() SECURITY INVOKER; RETURN NEW; END $$;
CREATE FUNCTION sets() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN PERFORM set_config('search_path', 'm, pg_catalog', false); RETURN NEW; END $$;
SQL
foreach my $function (qw(queues alters sets))
{
	make_cache();
	$node->safe_psql('postgres', "SET ROLE mallory; CREATE TRIGGER evil BEFORE INSERT OR UPDATE ON c FOR EACH ROW EXECUTE FUNCTION $function(); CREATE TRIGGER second BEFORE INSERT ON c_tail FOR EACH ROW EXECUTE FUNCTION second()");
	like(sqlstate_of($node, "SELECT kv.append('c', 1, k(0, 1), v(0, 1))"), qr/^42501: trigger "evil"/, "SECURITY DEFINER $function(): refused");
}
is($node->safe_psql('postgres', "SELECT count(*) FROM ran") . $node->safe_psql('postgres', $is_super), '0f', 'nothing of it ran');

# Privileges on columns fire triggers as those on tables do.
make_cache();
$node->safe_psql('postgres', <<'SQL');
GRANT SELECT, INSERT, UPDATE ON c TO clerk;
GRANT SELECT, INSERT (extent, chunk, pos, kv) ON c_tail TO clerk;
SET ROLE mallory;
CREATE TRIGGER evil BEFORE INSERT ON c_tail FOR EACH ROW EXECUTE FUNCTION evil();
SQL
like(sqlstate_of($node, "SET ROLE clerk; SELECT kv.append('c', 70, k(0, 1), v(0, 1))"), qr/^42501: trigger "evil"/, 'a caller with privileges on columns is protected');

# Triggers that are nobody else's are welcome; so are those that are switched off.
make_cache();
$node->safe_psql('postgres', <<'SQL');
SET ROLE mallory;
CREATE TRIGGER evil AFTER UPDATE ON c FOR EACH ROW EXECUTE FUNCTION evil();
RESET ROLE;
ALTER TABLE c DISABLE TRIGGER evil;
CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO ran VALUES (current_user, ''mine''); RETURN NEW; END';
CREATE TRIGGER mine AFTER UPDATE ON c FOR EACH ROW WHEN (NEW.length > 0 AND OLD.stops IS NOT DISTINCT FROM NEW.stops) EXECUTE FUNCTION mine();
ALTER TABLE c ENABLE ALWAYS TRIGGER mine;  -- mallory holds TRIGGER: the owner's word that it is no trigger of his
CREATE TRIGGER quiet BEFORE UPDATE ON c FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
DELETE FROM ran;
SQL
is($node->safe_psql('postgres', "SELECT kv.append('c', 1, k(0, 1), v(0, 1))"), '301', 'own triggers serve');
is($node->safe_psql('postgres', 'SELECT who, what FROM ran ORDER BY what'), "postgres|mine", 'as who they belong to');
$node->safe_psql('postgres', 'ALTER TABLE c ENABLE TRIGGER evil');
like(sqlstate_of($node, "SET ROLE hank; SELECT kv.append('c', 1, k(0, 1), v(0, 1))"), qr/^42501: trigger "evil"/, 'another superuser is protected as well');

# Foreign keys: what cascades belongs to its own tables' owner, but AFTER triggers there would run as the caller.
make_cache();
$node->safe_psql('postgres', <<'SQL');
DELETE FROM ran;
SET ROLE mallory;
CREATE TABLE hanging (seq bigint REFERENCES c ON DELETE CASCADE);
CREATE TRIGGER evil AFTER DELETE ON hanging FOR EACH ROW EXECUTE FUNCTION evil();
INSERT INTO hanging VALUES (1);
SQL
like(sqlstate_of($node, "SELECT kv.drop_sequence('c', 1)"), qr/^42501: foreign key "/, "what cascades to somebody else's table is refused");
$node->safe_psql('postgres', 'ALTER TABLE hanging OWNER TO postgres');
like(sqlstate_of($node, "SELECT kv.drop_sequence('c', 1)"), qr/^42501: trigger "evil" on table "hanging"/, 'and triggers on a table of the own are looked at');
$node->safe_psql('postgres', 'DROP TRIGGER evil ON hanging');
is($node->safe_psql('postgres', "SELECT kv.drop_sequence('c', 1), (SELECT count(*) FROM hanging)"), 't|1', 'a sequence that an own foreign key refers to is dropped');
is($node->safe_psql('postgres', 'SELECT count(*) FROM hanging') . $node->safe_psql('postgres', 'SELECT count(*) FROM ran'), '00', 'with what hangs on it');

# A caller who is more than the owner runs nothing of the owner's.
$node->safe_psql('postgres', <<'SQL');
CREATE SCHEMA of_mallory AUTHORIZATION mallory;
DROP TABLE hanging;
SET ROLE mallory;
SELECT kv.create_cache('of_mallory.own', 2, 9, 3, 64);
CREATE FUNCTION evil_default() RETURNS int LANGUAGE plpgsql AS 'BEGIN PERFORM evil_condition(1); RETURN 1; END';
CREATE DOMAIN own_domain AS bigint CHECK (evil_condition(VALUE) IS NOT NULL);
CREATE FUNCTION evil_index(bigint) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN evil_condition($1); END';
SELECT kv.append('of_mallory.own', 1, k(0, 300), v(0, 300));
SQL
my $of_mallory = sub { $node->safe_psql('postgres', "SET ROLE mallory; SET search_path = of_mallory, public; $_[0]") };
my @own = (['CREATE TRIGGER evil BEFORE DELETE ON own_sealed FOR EACH STATEMENT EXECUTE FUNCTION evil()', 'DROP TRIGGER evil ON own_sealed', 'trigger "evil"'],
	['ALTER TABLE own ADD COLUMN d int DEFAULT evil_default()', 'ALTER TABLE own DROP COLUMN d', 'a column default'],
	['ALTER TABLE own ADD CONSTRAINT e CHECK (evil_condition(seq) IS NOT NULL)', 'ALTER TABLE own DROP CONSTRAINT e', 'a check'],
	['CREATE INDEX e ON own (evil_index(seq))', 'DROP INDEX e', 'an index'], ['CREATE INDEX e ON own (seq) WHERE NOT evil_index(seq)', 'DROP INDEX e', 'an index'],
	['ALTER TABLE own ADD COLUMN d own_domain', 'ALTER TABLE own DROP COLUMN d', 'a domain'], ['CREATE RULE r AS ON UPDATE TO own DO ALSO SELECT evil_condition(1)', 'DROP RULE r ON own; VACUUM own', 'a rule']);
foreach my $case (@own)
{
	my ($make, $drop, $what) = @$case;
	$of_mallory->($make);
	$node->safe_psql('postgres', 'DELETE FROM ran');
	like(sqlstate_of($node, "SELECT kv.$_"), qr/^42501: $what/, "$make: refused for a superuser: $_") foreach "append('of_mallory.own', 2, k(0, 1), v(0, 1))", "collect('of_mallory.own')";
	is($node->safe_psql('postgres', 'SELECT count(*) FROM ran'), '0', "$make: nothing ran");
	$of_mallory->($drop);
}
is($node->safe_psql('postgres', "SELECT kv.append('of_mallory.own', 2, k(0, 1), v(0, 1)), kv.collect('of_mallory.own')"), '1|0', 'a superuser uses a cache without such code');
$of_mallory->("SELECT kv.enable_tenants('own', tenant => 'current_setting(''a.b'', true)')");
is($node->safe_psql('postgres', "SET a.b = 'x'; SELECT kv.append('of_mallory.own', 3, k(0, 1), v(0, 1)), kv.collect('of_mallory.own')"), '1|0', 'and one of tenants');
$node->safe_psql('postgres', "SELECT kv.drop_cache('of_mallory.own')");

# An index is checked as its table's owner: what it computes is his code.
$node->safe_psql('postgres', <<'SQL');
SET ROLE mallory;
CREATE TABLE items (id int, e vector(3));
INSERT INTO items SELECT i, ARRAY[i, i % 7, i % 3]::real[]::vector FROM generate_series(1, 50) i;
CREATE FUNCTION evil_vector(vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
	IF current_user <> 'mallory' THEN RAISE 'ran as %', current_user; END IF;
	PERFORM set_config('search_path', 'pg_catalog', false);
	RETURN $1; END $$;
CREATE INDEX items_value ON items USING hnsw ((evil_vector(e)::vector(3)) vector_l2_ops);
CREATE INDEX items_some ON items USING hnsw (e vector_l2_ops) WHERE evil_vector(e) IS NOT NULL;
SQL
is($node->safe_psql('postgres', "SELECT count(*), current_user, current_setting('search_path') FROM hnsw_check('$_', true, true)"), '0|postgres|"$user", public', "$_: checked as its owner")
  foreach qw(items_value items_some);
is($node->safe_psql('postgres', "SELECT nodes, current_user FROM hnsw_info('items_value')"), '50|postgres', 'and looked at');

# A guard does not trust the table that it is put on.
foreach my $guard (qw(guard_header guard_rows))
{
	foreach my $columns ('a bigint, b int, c int, d int, e int, f bigint, g bigint', 'a bigint', 'a bigint, b int, c int, d int, e int, f text[], g int[]', 'a bigint, b smallint, c smallint, d text, e int', 'a text, b int, c int, d int')
	{
		like(sqlstate_of($node, "SET ROLE clerk; CREATE TEMP TABLE t ($columns); CREATE TRIGGER x BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION kv.$guard(); INSERT INTO t(a) VALUES ('1')"),
			qr/^42809: table "t"/, "kv.$guard on a table of $columns");
	}
	like(sqlstate_of($node, "SET ROLE clerk; CREATE TEMP TABLE t (a int); CREATE TRIGGER x AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION kv.$guard(); INSERT INTO t VALUES (1)"), qr/^55000: /, "kv.$guard after the fact");
}

# Who makes a cache waits for nobody who leaves the row of a dropped one half deleted.
$node->safe_psql('postgres', "SET ROLE mallory; SELECT kv.create_cache('gone', 1, 1, 1, 64); DROP TABLE gone CASCADE");
my $idle = $node->background_psql('postgres');
$idle->query_safe("BEGIN; SELECT kv.create_cache('half', 1, 1, 1, 64)");
is($node->safe_psql('postgres', "SET lock_timeout = '5s'; SET ROLE clerk; SELECT kv.create_cache('prompt', 1, 1, 1, 64)"), 'prompt', 'a cache is made beside it');
$idle->query_safe('ROLLBACK');
$idle->quit;
is($node->safe_psql('postgres', "SELECT kv.create_cache('another', 1, 1, 1, 64); SELECT count(*) FROM kv.caches c WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = cache)"), "another\n0", 'and the row goes when it can');

# Rules, generated columns and policies are the owner's to make.
make_cache();
foreach my $sql ('CREATE RULE r AS ON UPDATE TO c DO ALSO SELECT 1', 'ALTER TABLE c ADD COLUMN g bigint GENERATED ALWAYS AS (seq) STORED',
	'CREATE POLICY p ON c USING (evil_condition(seq))', 'CREATE INDEX ON c (evil_condition(seq))', 'ALTER TABLE c ALTER epoch SET DEFAULT 1')
{
	like(sqlstate_of($node, "SET ROLE mallory; $sql"), qr/^42501: /, "$sql: is the owner's to do");
}
my $view = 'CREATE VIEW seen WITH (security_barrier) AS SELECT * FROM c WHERE evil_condition(seq)';
$node->safe_psql('postgres', "SET ROLE mallory; $view; GRANT ALL ON seen TO PUBLIC");
like(sqlstate_of($node, "SELECT kv.append('seen', 1, k(0, 1), v(0, 1))"), qr/^42809: /, 'a view over it is no cache');
$node->safe_psql('postgres', "CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO ran VALUES (current_user, tg_tag); END'; "
	  . "CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION watch(); DELETE FROM ran; SET ROLE mallory; SELECT kv.create_cache('his', 2, 9, 3, 64)");
is($node->safe_psql('postgres', 'SELECT DISTINCT who FROM ran'), 'mallory', 'event triggers run as who makes the cache');
is($node->safe_psql('postgres', $is_super), 'f', 'mallory is no superuser');

done_testing();
