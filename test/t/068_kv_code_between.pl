# A verdict on the code of others is kept between calls: whatever could change it is heard of before the next call, whoever does it, in
# the same session or another, in the same transaction or after one that was rolled back.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $node = new_node('kv_code_between');
my $tensor = "'f32[1,1,1,8]{1,2,3,4,5,6,7,8}'";
my $trigger = "RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN COALESCE(NEW, OLD); END'";
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION vectorkv CASCADE;
CREATE ROLE att; CREATE ROLE dave; GRANT att TO dave; CREATE ROLE mallory; CREATE ROLE dora; GRANT att TO dora; CREATE ROLE bob; CREATE ROLE carol;
CREATE SCHEMA att AUTHORIZATION att; GRANT USAGE ON SCHEMA att TO PUBLIC; CREATE SCHEMA far; GRANT ALL ON SCHEMA far TO PUBLIC;
CREATE FUNCTION said(sql text) RETURNS text LANGUAGE plpgsql AS 'BEGIN EXECUTE sql; RETURN ''served''; EXCEPTION WHEN insufficient_privilege THEN RETURN SQLERRM; END';
-- After SET ROLE a superuser is still one; within such a function a caller is only whom it belongs to.
CREATE FUNCTION as_bob(sql text) RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS 'DECLARE length int; BEGIN EXECUTE sql INTO length; RETURN length; END';
CREATE FUNCTION as_carol(sql text) RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS 'DECLARE length int; BEGIN EXECUTE sql INTO length; RETURN length; END';
CREATE FUNCTION as_att(sql text) RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS 'DECLARE length int; BEGIN EXECUTE sql INTO length; RETURN length; END';
ALTER FUNCTION as_bob OWNER TO bob; ALTER FUNCTION as_carol OWNER TO carol; ALTER FUNCTION as_att OWNER TO att;
SET ROLE att; CREATE FUNCTION att.evil(bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT \$1'; CREATE DOMAIN att.dom AS bigint CHECK (att.evil(VALUE) = VALUE);
CREATE FUNCTION att.mine() $trigger;
SET ROLE mallory; CREATE FUNCTION far.evil() $trigger;
SQL

my $each = 'FOR EACH ROW EXECUTE FUNCTION';
my ($grant, $mine) = ('GRANT ALL ON CACHE, CACHE_sealed, CACHE_tail TO bob', "CREATE TRIGGER mine BEFORE UPDATE ON CACHE $each");

# Who calls; what there is before the first call, by a superuser; who then does what; what is refused. The owner is att; a superuser and
# dave, a member of att, are more than he, and bob, to whom he grants, is not.
my @cases = (
	[ postgres => '', att => "$mine att.mine()", 'trigger "mine"' ],
	[ postgres => '', att => "CREATE TRIGGER mine BEFORE INSERT ON CACHE_tail $each att.mine()", 'trigger "mine"' ],
	[ postgres => '', att => "CREATE TRIGGER mine BEFORE INSERT ON CACHE_sealed $each att.mine()", 'trigger "mine"' ],
	[ postgres => "$mine att.mine(); ALTER TABLE CACHE DISABLE TRIGGER mine", att => 'ALTER TABLE CACHE ENABLE TRIGGER mine', 'trigger "mine"' ],
	[ postgres => '', att => 'CREATE TABLE att.refer_N (seq bigint REFERENCES CACHE ON UPDATE CASCADE)', 'foreign key "refer_' ],
	[ postgres => '', att => 'CREATE RULE r AS ON UPDATE TO CACHE DO ALSO NOTIFY x', 'a rule' ],
	[ postgres => '', att => 'CREATE INDEX ON CACHE_tail ((att.evil(extent)))', 'an index' ],
	[ postgres => '', att => 'CREATE STATISTICS att.s_N ON (att.evil(seq)), length FROM CACHE', 'a statistics object' ],
	[ postgres => '', att => 'ALTER TABLE CACHE ADD CHECK (att.evil(seq) = seq)', 'a check' ],
	[ postgres => '', att => 'ALTER TABLE CACHE_tail ADD CHECK (att.evil(extent) = extent) NOT VALID', 'a check' ],
	[ postgres => '', att => 'ALTER TABLE CACHE ALTER COLUMN mine SET DEFAULT att.evil(1)', 'a column default' ],
	[ postgres => '', att => 'ALTER TABLE CACHE ALTER COLUMN mine TYPE att.dom', 'a domain' ],
	[ postgres => '', att => 'ALTER TABLE CACHE ADD COLUMN d att.dom', 'a domain' ],
	[ postgres => '', att => 'CREATE TABLE att.below_N () INHERITS (CACHE_tail)', 'a child' ],
	[ postgres => 'CREATE TABLE att.below_N (LIKE CACHE_tail INCLUDING ALL); ALTER TABLE att.below_N OWNER TO att', att => 'ALTER TABLE att.below_N INHERIT CACHE_tail', 'a child' ],
	[ postgres => 'CREATE TABLE att.above_N (LIKE CACHE INCLUDING DEFAULTS) PARTITION BY LIST (seq); ALTER TABLE att.above_N OWNER TO att', att => 'ALTER TABLE att.above_N ATTACH PARTITION CACHE FOR VALUES IN (1)', 'a partitioned table' ],
	[ dave => 'ALTER TABLE CACHE ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY p ON CACHE USING (true)', att => 'ALTER POLICY p ON CACHE WITH CHECK (att.evil(seq) = seq)', 'a policy' ],
	[ dave => 'CREATE POLICY p ON CACHE USING (att.evil(seq) = seq); ALTER TABLE CACHE FORCE ROW LEVEL SECURITY', att => 'ALTER TABLE CACHE ENABLE ROW LEVEL SECURITY', 'a policy' ],
	[ bob => "$grant; GRANT TRIGGER ON CACHE_sealed TO mallory", mallory => "CREATE TRIGGER mine BEFORE INSERT ON CACHE_sealed $each far.evil()", 'trigger "mine"' ],
	[ bob => "$grant; $mine att.mine()", postgres => 'GRANT TRIGGER ON CACHE TO mallory', 'trigger "mine"' ],
	[ bob => "$grant; CREATE FUNCTION far.by_N() $trigger; ALTER FUNCTION far.by_N() OWNER TO att; $mine far.by_N()", postgres => 'ALTER FUNCTION far.by_N() OWNER TO mallory', 'trigger "mine"' ],
	[ bob => "$grant; CREATE FUNCTION far.by_N() $trigger; ALTER FUNCTION far.by_N() OWNER TO dora; $mine far.by_N()", postgres => 'REVOKE att FROM dora', 'trigger "mine"', 'GRANT att TO dora' ],
	[ bob => "$grant; $mine att.mine()", postgres => 'ALTER TABLE CACHE OWNER TO mallory; GRANT ALL ON CACHE TO bob', 'trigger "mine"' ],
	[ bob => "$grant; ALTER TABLE CACHE ADD CHECK (att.evil(seq) = seq)", postgres => 'GRANT pg_read_all_data TO bob', 'a check', 'REVOKE pg_read_all_data FROM bob' ],
	[ bob => "$grant; ALTER TABLE CACHE ADD CHECK (att.evil(seq) = seq)", postgres => 'GRANT att TO bob', 'a check', 'REVOKE att FROM bob' ],
	[ bob => "$grant; ALTER TABLE CACHE ADD CHECK (att.evil(seq) = seq)", postgres => 'ALTER ROLE bob BYPASSRLS', 'a check', 'ALTER ROLE bob NOBYPASSRLS' ],
	[ bob => "$grant; ALTER TABLE CACHE ADD CHECK (att.evil(seq) = seq)", postgres => 'ALTER ROLE bob SUPERUSER', 'a check', 'ALTER ROLE bob NOSUPERUSER' ],
	[ bob => "$grant; ALTER TABLE CACHE ADD CHECK (att.evil(seq) = seq); ALTER TABLE CACHE OWNER TO pg_database_owner; ALTER TABLE CACHE_sealed OWNER TO pg_database_owner; ALTER TABLE CACHE_tail OWNER TO pg_database_owner", postgres => 'ALTER DATABASE postgres OWNER TO bob', 'a check', 'ALTER DATABASE postgres OWNER TO postgres' ],
	[ bob => "$grant; CREATE TABLE att.below_N () INHERITS (CACHE_tail); ALTER TABLE att.below_N OWNER TO att", postgres => 'ALTER TABLE att.below_N OWNER TO mallory', 'a child' ],
	[ bob => "$grant; CREATE TABLE far.refer_N (seq bigint REFERENCES CACHE ON UPDATE CASCADE); ALTER TABLE far.refer_N OWNER TO att; GRANT TRIGGER ON far.refer_N TO mallory", mallory => "CREATE TRIGGER mine AFTER UPDATE ON far.refer_N $each far.evil()", 'trigger "mine"' ]);

my ($number, $other) = (0, $node->background_psql('postgres'));
my ($by, $cache);
sub statement
{
	my $append = "SELECT kv.append('$cache', 1, $tensor, $tensor)";
	return $by =~ /bob|carol|att/ ? "SELECT public.as_$by(\$call\$$append\$call\$)" : $append;
}
sub role { return $by =~ /bob|carol|att/ ? '' : "SET ROLE $by;"; }
sub call { return role() . statement() . '; RESET ROLE;' }
sub answer { return role() . 'SELECT said($$' . statement() . '$$); RESET ROLE;' }

# The calls that must answer with these lengths, and the error of the last.
sub ok_refused
{
	my ($name, $sql, $lengths, $refused) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($status, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$sql", on_error_stop => 1);
	is($out, $lengths, "$name: served before");
	return like($err, qr/ERROR:  42501: \Q$refused\E/, "$name: refused");
}

foreach my $case (@cases)
{
	my ($who, $before, $changes, $sql, $refused, $undo) = @$case;
	foreach my $way (qw(statement transaction savepoint other), $undo ? 'open' : ())
	{
		++$number;
		($by, $cache) = ($who, "att.c$number");
		my ($made, $change, $undone) = map { s/CACHE/$cache/gr =~ s/_N\b/_$number/gr } $before, "SET ROLE $changes; $sql; RESET ROLE;", $undo // 'SELECT';
		$node->safe_psql('postgres', "SET ROLE att; SELECT kv.create_cache('$cache', 1, 1, 1, 8); ALTER TABLE $cache ADD COLUMN mine bigint; RESET ROLE; $made");
		my $name = "$who, $change ($way)";
		if ($way eq 'statement') { ok_refused($name, call() . call() . $change . call(), "1\n2", $refused) }
		if ($way eq 'transaction') { ok_refused($name, 'BEGIN;' . call() . $change . call(), '1', $refused) }
		if ($way eq 'savepoint')
		{
			ok_refused($name, 'BEGIN;' . call() . "SAVEPOINT s; $change ROLLBACK TO s;" . call() . 'COMMIT;' . call() . $change . call(), "1\n2\n3", $refused);
		}
		if ($way eq 'other')
		{
			$other->query_safe(call() . call());
			$node->safe_psql('postgres', $change);
			like($other->query_safe(answer()), qr/^\Q$refused\E/, "$name: refused");
		}
		# Nothing that the second call needs is locked anew.
		if ($way eq 'open')
		{
			$other->query_safe('BEGIN;' . answer() . answer());
			$node->safe_psql('postgres', $change);
			like($other->query_safe(answer()), qr/^\Q$refused\E/, "$name: refused");
			$other->query_safe('ROLLBACK');
		}
		$node->safe_psql('postgres', "$undone; SELECT kv.drop_cache('$cache')") if $undo;
	}
}

# Who makes a trigger while the call is under way has it waited for.
my $maker = $node->background_psql('postgres');
foreach my $on ('UPDATE ON CACHE', 'INSERT ON CACHE_tail')
{
	++$number;
	($by, $cache) = ('postgres', "att.c$number");
	my $made = $on =~ s/CACHE/$cache/r;
	$node->safe_psql('postgres', "SET ROLE att; SELECT kv.create_cache('$cache', 1, 1, 1, 8)");
	$other->query_safe(call() . call());
	$maker->query_safe("BEGIN; SET ROLE att; CREATE TRIGGER mine BEFORE $made $each att.mine(); RESET ROLE");
	$other->query_until(qr/sent/, "\\echo sent\n" . answer() . "\n");
	ok($node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM pg_locks WHERE NOT granted'), "$on: the call waits");
	$maker->query_safe('COMMIT');
	like($other->query_safe(q{SELECT 'x'}), qr/^trigger "mine"/m, "$on: and refuses");
}
$maker->quit;

# What was looked at for one who may change nothing says nothing to another.
($by, $cache) = ('carol', 'att.between');
$node->safe_psql('postgres', "SET ROLE att; SELECT kv.create_cache('$cache', 1, 1, 1, 8); GRANT TRIGGER ON ${cache}_tail TO mallory; " . $grant =~ s/CACHE/$cache/gr .
	"; SET ROLE mallory; CREATE TRIGGER mine BEFORE INSERT ON ${cache}_tail $each far.evil()");
like($other->query_safe(answer()), qr/^permission denied/, 'one without rights');
$by = 'bob';
like($other->query_safe(answer()), qr/^trigger "mine"/, 'and one with some, in the same session');
$other->quit;

# What a rolled-back change took away is there again.
($by, $cache) = ('postgres', 'att.back');
$node->safe_psql('postgres', "SET ROLE att; SELECT kv.create_cache('$cache', 1, 1, 1, 8); CREATE TRIGGER mine BEFORE UPDATE ON $cache $each att.mine()");
ok_refused('a trigger that is back', "BEGIN; SAVEPOINT s; DROP TRIGGER mine ON $cache;" . call() . 'ROLLBACK TO s;' . call(), '1', 'trigger "mine"');
ok_refused('the same after the transaction', "BEGIN; DROP TRIGGER mine ON $cache;" . call() . 'ROLLBACK;' . call(), '1', 'trigger "mine"');

# Nor does what was looked at for the owner in a SECURITY DEFINER function, where nothing can go back to the session's role.
($by, $cache) = ('att', 'att.definer');
$node->safe_psql('postgres', "SET ROLE att; SELECT kv.create_cache('$cache', 1, 1, 1, 8); CREATE TRIGGER mine BEFORE UPDATE ON $cache $each att.mine(); ALTER TABLE $cache ADD CHECK (att.evil(seq) = seq)");
ok_refused('SET ROLE after a SECURITY DEFINER function', call() . call() . "SET ROLE att; SELECT kv.append('$cache', 1, $tensor, $tensor)", "1\n2", 'a check');
$node->safe_psql('postgres', "SET ROLE att; ALTER TABLE $cache DROP CONSTRAINT definer_seq_check");
ok_refused('the same with a trigger', call() . call() . "SET ROLE att; SELECT kv.append('$cache', 1, $tensor, $tensor)", "3\n4", 'trigger "mine"');

done_testing();
