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
$node->safe_psql('postgres', 'CREATE ROLE mallory; CREATE ROLE hank SUPERUSER; CREATE ROLE clerk; GRANT CREATE ON SCHEMA public TO mallory, clerk');

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
	isnt($node->safe_psql('postgres', "SET ROLE mallory; SELECT $call IS NULL"), '', "$call: works for the grantee");
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

# Triggers that are nobody else's, or run as who they belong to, are welcome; so are those that are switched off.
make_cache();
$node->safe_psql('postgres', <<'SQL');
SET ROLE mallory;
CREATE TRIGGER evil AFTER UPDATE ON c FOR EACH ROW EXECUTE FUNCTION evil();
RESET ROLE;
ALTER TABLE c DISABLE TRIGGER evil;
CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO ran VALUES (current_user, ''mine''); RETURN NEW; END';
CREATE TRIGGER mine AFTER UPDATE ON c FOR EACH ROW WHEN (NEW.length > 0) EXECUTE FUNCTION mine();
SET ROLE clerk;
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN INSERT INTO ran VALUES (current_user, ''audit''); RETURN NEW; END';
RESET ROLE;
CREATE TRIGGER audit AFTER UPDATE ON c FOR EACH ROW EXECUTE FUNCTION audit();
DELETE FROM ran;
SQL
is($node->safe_psql('postgres', "SELECT kv.append('c', 1, k(0, 1), v(0, 1))"), '301', 'own triggers and SECURITY DEFINER ones serve');
is($node->safe_psql('postgres', 'SELECT who, what FROM ran ORDER BY what'), "clerk|audit\npostgres|mine", 'each as who it belongs to');
$node->safe_psql('postgres', 'ALTER TABLE c ENABLE TRIGGER evil');
like(sqlstate_of($node, "SET ROLE hank; SELECT kv.append('c', 1, k(0, 1), v(0, 1))"), qr/^42501: trigger "evil"/, 'another superuser is protected as well');

# Foreign keys: what cascades belongs to its own tables' owner.  Rules, generated columns and policies are the owner's to make.
make_cache();
$node->safe_psql('postgres', <<'SQL');
DELETE FROM ran;
SET ROLE mallory;
CREATE TABLE hanging (seq bigint REFERENCES c ON DELETE CASCADE);
CREATE TRIGGER evil BEFORE DELETE ON hanging FOR EACH ROW EXECUTE FUNCTION evil();
INSERT INTO hanging VALUES (1);
SQL
is($node->safe_psql('postgres', "SELECT kv.drop_sequence('c', 1)"), 't', 'a sequence that a foreign key refers to is dropped');
is($node->safe_psql('postgres', 'SELECT DISTINCT who FROM ran'), 'mallory', "what cascades runs as the table's owner");
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
