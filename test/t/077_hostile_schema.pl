# The scripts of the extensions run as superuser, with schemas in the search path that others may add to: the one that the type vector lies
# in, and a schema "kv" that was there before.  Operators that fit the types exactly would be taken before those of pg_catalog that convert,
# and functions likewise.  None of a stranger's may run: each of his says so in a warning, which stays when what called it is rolled back.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use VectorKV;

my $node = new_node('hostile_schema', settings => [ 'fsync = off', 'jit = off' ]);
$node->safe_psql('postgres', 'CREATE ROLE stranger LOGIN');

# Everything that could stand for an operator or a function of a script, in a schema.
sub fill
{
	my ($database, $schema) = @_;
	$node->safe_psql($database, <<"SQL", extra_params => [ '-U', 'stranger' ]);
SET client_min_messages = error;
CREATE FUNCTION $schema.foreign_code() RETURNS void LANGUAGE plpgsql AS 'BEGIN IF current_user <> ''stranger'' THEN RAISE WARNING ''FOREIGN CODE as %'', current_user; END IF; END';
DO \$do\$
DECLARE
	types text[] := ARRAY['oid', 'int4', 'int8', 'int2', 'regclass', 'regnamespace', 'regtype', 'regproc', 'name', 'text', 'varchar', 'bpchar', '"char"', 'bool', 'aclitem', 'aclitem[]', 'oid[]', 'real[]'];
	a text;
	b text;
	op text;
BEGIN
	FOREACH a IN ARRAY types LOOP
		FOREACH b IN ARRAY types LOOP
			EXECUTE pg_catalog.format('CREATE FUNCTION $schema.op(%s, %s) RETURNS bool LANGUAGE plpgsql AS ''BEGIN PERFORM $schema.foreign_code(); RETURN false; END''', a, b);
			FOREACH op IN ARRAY ARRAY['=', '<>', '<', '>', '||', '~', '+', '-', '~~'] LOOP
				EXECUTE pg_catalog.format('CREATE OPERATOR $schema.%s (FUNCTION = $schema.op, LEFTARG = %s, RIGHTARG = %s)', op, a, b);
			END LOOP;
		END LOOP;
		EXECUTE pg_catalog.format('CREATE FUNCTION $schema.aclexplode(%s, OUT grantor oid, OUT grantee oid, OUT privilege_type text, OUT is_grantable bool) RETURNS SETOF record LANGUAGE plpgsql AS ''BEGIN PERFORM $schema.foreign_code(); END''', a);
		EXECUTE pg_catalog.format('CREATE FUNCTION $schema.pg_get_userbyid(%s) RETURNS name LANGUAGE plpgsql AS ''BEGIN PERFORM $schema.foreign_code(); END''', a);
		EXECUTE pg_catalog.format('CREATE FUNCTION $schema.format(text, %s) RETURNS text LANGUAGE plpgsql AS ''BEGIN PERFORM $schema.foreign_code(); END''', a);
		EXECUTE pg_catalog.format('CREATE FUNCTION $schema.array_upper(%s, int8) RETURNS int LANGUAGE plpgsql AS ''BEGIN PERFORM $schema.foreign_code(); END''', a);
		EXECUTE pg_catalog.format('CREATE FUNCTION $schema.unnest(%s) RETURNS SETOF oid LANGUAGE plpgsql AS ''BEGIN PERFORM $schema.foreign_code(); END''', a);
		EXECUTE pg_catalog.format('CREATE FUNCTION $schema.pg_extension_config_dump(%s, text) RETURNS void LANGUAGE plpgsql AS ''BEGIN PERFORM $schema.foreign_code(); END''', a);
	END LOOP;
END \$do\$;
SQL
	return;
}

# The first such warning of statements of a superuser, and all that they say.
sub foreign
{
	my ($database, $sql) = @_;
	my ($status, $out, $err) = $node->psql($database, $sql);
	return ($err =~ /WARNING:\s+(FOREIGN CODE.*)/ ? $1 : '', $err);
}

$node->safe_psql('postgres', 'CREATE DATABASE shared');
$node->safe_psql('shared', 'GRANT CREATE ON SCHEMA public TO PUBLIC');
fill('shared', 'public');
like((foreign('shared', "SELECT 1::oid = 'pg_class'::regclass"))[0], qr/FOREIGN CODE/, 'his operators are found where nothing names its schema');
my ($ran, $err) = foreign('shared', 'CREATE EXTENSION vector; CREATE EXTENSION vectorkv');
is($ran, '', 'CREATE EXTENSION in a schema that others may add to runs nothing of theirs');
is($node->safe_psql('shared', 'SELECT count(*) FROM pg_catalog.pg_extension WHERE extname OPERATOR(pg_catalog.~~) $$vector%$$'), '2', 'both are there') or diag($err);
($ran, $err) = foreign('shared', "SELECT kv.create_cache('mine', 1, 1, 1, 8); SELECT kv.enable_tenants('mine', 'stranger'); SELECT kv.collect('mine'); SELECT kv.drop_cache('mine')");
is($ran, '', "nor do the cache's functions");
# Queries of docs/kv.md that an administrator runs, with the public schema in his path.
$node->safe_psql('shared', <<'SQL', extra_params => [ '-U', 'stranger' ]);
SET client_min_messages = error;
DO $do$
DECLARE
	a text;
	b text;
BEGIN
	FOREACH a IN ARRAY ARRAY['kv.relation', 'oid', 'regclass', 'name'] LOOP
		FOREACH b IN ARRAY ARRAY['kv.relation', 'oid', 'regclass', 'text'] LOOP
			CONTINUE WHEN pg_catalog.to_regoperator(pg_catalog.format('public.=(%s, %s)', a, b)) IS NOT NULL;
			EXECUTE pg_catalog.format('CREATE FUNCTION public.op(%s, %s) RETURNS bool LANGUAGE plpgsql AS ''BEGIN PERFORM public.foreign_code(); RETURN false; END''', a, b);
			EXECUTE pg_catalog.format('CREATE OPERATOR public.= (FUNCTION = public.op, LEFTARG = %s, RIGHTARG = %s)', a, b);
		END LOOP;
	END LOOP;
END $do$;
CREATE FUNCTION public.format(text, name, name) RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM public.foreign_code(); END';
CREATE FUNCTION public.format(text, text, int, int, int, int, text, text, int, int, int, bool, text, text, text, float8, int, text, float8[]) RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM public.foreign_code(); END';
SQL
$node->safe_psql('shared', "SELECT kv.create_cache('chat', 1, 1, 1, 8)");
my $document = slurp_file("$FindBin::RealBin/../../docs/kv.md");
my ($move) = $document =~ /psql -At mydb -c "(.*?)" > adopt\.sql/s;
my ($listed) = $document =~ /^(SELECT cache FROM kv\.caches WHERE EXISTS .*?;)$/m;
foreach my $query ($move, $listed)
{
	ok($query, 'a query of the documents');
	($ran, $err) = foreign('shared', $query);
	is($ran, '', 'runs nothing of a stranger') or diag($query);
	unlike($err, qr/ERROR/, 'and runs');
}
is((foreign('shared', 'DROP EXTENSION vector CASCADE'))[0], '', 'nor does dropping them');

$node->safe_psql('postgres', 'CREATE DATABASE squatted; GRANT CREATE ON DATABASE squatted TO stranger');
$node->safe_psql('squatted', 'CREATE EXTENSION vector');
$node->safe_psql('squatted', 'CREATE SCHEMA kv', extra_params => [ '-U', 'stranger' ]);
fill('squatted', 'kv');
($ran, $err) = foreign('squatted', 'CREATE EXTENSION vectorkv');
is($ran, '', "a schema of his own, kv, is refused before anything of it runs");
like($err, qr/schema "kv" exists and belongs to role "stranger"/, 'and he is named');
$node->safe_psql('squatted', 'ALTER SCHEMA kv OWNER TO postgres');
($ran, $err) = foreign('squatted', 'CREATE EXTENSION vectorkv');
is($ran, '', 'nothing of it runs when the schema is taken over');
like($err, qr/schema "kv" exists and has (functions|operators) of role "stranger"/, 'and what he left is named');

$node->stop;
done_testing();
