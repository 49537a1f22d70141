# Privileges and row security hold in every function of a cache: a role without rights gets nothing, one with rights gets what the
# policies on header, sealed tiles and tail show it, and no function tells more.  Tenants are those of kv.enable_tenants; what they may
# do to each other's rows is in 056.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use KVCache;
use VectorKV;

my $node = kv_node('kv_security');
$node->safe_psql('postgres', 'CREATE ROLE alice; CREATE ROLE bob; CREATE ROLE reader; CREATE ROLE nobody_special');
create_cache($node, 'chat', "codec => 'int8', tail_tokens => 16");

sub as_role { my ($role, $sql) = @_; return "SET ROLE $role; $sql"; }

my %call = (
	append => "SELECT kv.append('chat', 1, k(0, 1), v(0, 1))",
	attend => "SELECT kv.attend('chat', '{1}', 0, q_batch(0, 1))",
	attend_layers => "SELECT kv.attend_layers('chat', '{1}', '{0}', kv.reshape(q_batch(0, 1), '{1,1,9,64}'))",
	weights => "SELECT count(*) FROM kv.weights('chat', 1, 0, kv.reshape(q_batch(0, 1), '{9,64}'))",
	fetch => "SELECT kv.shape(k) FROM kv.fetch('chat', 1, 0)",
	length => "SELECT kv.length('chat', 1)",
	truncate => "SELECT kv.truncate('chat', 1, 5)",
	fork => "SELECT kv.fork('chat', 1, 1000)",
	seal => "SELECT kv.seal('chat', 1)",
	recode => "SELECT kv.recode('chat', 1, 'int4')",
	drop_sequence => "SELECT kv.drop_sequence('chat', 1)",
	check => "SELECT count(*) FROM kv.check_cache('chat')",
	tiles => 'SELECT count(*) FROM chat_tile',
	collect => "SELECT kv.collect('chat')",
	enable_tenants => "SELECT kv.enable_tenants('chat')",
	drop_cache => "SELECT kv.drop_cache('chat')");

$node->safe_psql('postgres', "SELECT kv.append('chat', 1, k(0, 200), v(0, 200))");
foreach my $name (sort keys %call)
{
	like(sqlstate_of($node, as_role('nobody_special', $call{$name})), qr/^42501: /, "$name: refused without privileges");
}

# Reading only.
$node->safe_psql('postgres', 'GRANT SELECT ON chat, chat_sealed, chat_tail, chat_tile TO reader');
foreach my $name (qw(attend attend_layers weights fetch length check tiles))
{
	isnt($node->safe_psql('postgres', as_role('reader', $call{$name})), '', "$name: allowed to a reader");
}
foreach my $name (qw(append truncate fork seal recode drop_sequence collect enable_tenants drop_cache))
{
	like(sqlstate_of($node, as_role('reader', $call{$name})), qr/^42501: /, "$name: refused to a reader");
}

# A fork needs the right to read, and to add rows; what frees tiles the right to delete them, or they wait for kv.collect.
$node->safe_psql('postgres', 'GRANT INSERT ON chat, chat_sealed, chat_tail TO reader');
is($node->safe_psql('postgres', as_role('reader', "SELECT kv.fork('chat', 1, 50), kv.fork('chat', 1, 51, 100), kv.fork('chat', 1, 52, 199)")),
	'200|100|199', 'who may read and insert may fork');
like(sqlstate_of($node, as_role('reader', "SELECT kv.$_")), qr/^42501: /, "$_: and no more")
  foreach "append('chat', 50, k(0, 1), v(0, 1))", "truncate('chat', 1, 5)", "drop_sequence('chat', 50)", "recode('chat', 1, 'int4')";
$node->safe_psql('postgres', 'GRANT DELETE ON chat, chat_tail TO reader; GRANT UPDATE ON chat TO reader');
is($node->safe_psql('postgres', as_role('reader', "SELECT kv.drop_sequence('chat', seq) FROM chat WHERE seq > 1")), "t\nt\nt", 'dropped without the right to delete tiles');
my $waiting = $node->safe_psql('postgres', as_role('reader', "SELECT kv.collect('chat', dry_run => true)"));
cmp_ok($waiting, '>', 0, "their $waiting tiles wait");
like(sqlstate_of($node, as_role('reader', $call{collect})), qr/^42501: /, 'for somebody else');
ok_cache($node, 'chat', 'and are no fault');
is($node->safe_psql('postgres', "SELECT kv.collect('chat', 1)"), '1', 'the owner collects one');
is($node->safe_psql('postgres', "SELECT kv.collect('chat')"), $waiting - 1, 'and the others');
is($node->safe_psql('postgres', "SELECT kv.collect('chat', dry_run => true)"), '0', 'and there are none left');
ok_cache($node, 'chat', 'sound');
$node->safe_psql('postgres', "SELECT kv.drop_sequence('chat', 1); REVOKE INSERT, UPDATE, DELETE ON chat, chat_sealed, chat_tail FROM reader");

# Two tenants.  A tile is of those who have a sequence that uses it.
$node->safe_psql('postgres', <<'SQL');
GRANT SELECT, INSERT, UPDATE, DELETE ON chat TO alice, bob;
GRANT SELECT, INSERT, DELETE ON chat_tail TO alice, bob;
GRANT SELECT, INSERT ON chat_sealed TO alice, bob;
GRANT SELECT ON chat_tile TO alice, bob;
SELECT kv.enable_tenants('chat');
SQL
$node->safe_psql('postgres', as_role('alice', "SELECT kv.append('chat', 1, k(0, 200), v(0, 200))"));
$node->safe_psql('postgres', as_role('bob', "SELECT kv.append('chat', 2, k(500, 300), v(500, 300))"));
my $alone = $node->safe_psql('postgres', as_role('alice', "SELECT kv.attend('chat', '{1}', 1, q_batch(1, 1))"));
isnt($alone, '', 'alice attends to her own');
is($node->safe_psql('postgres', as_role('bob', 'SELECT seq, length FROM chat')), '2|300', 'bob sees his sequence only');
is($node->safe_psql('postgres', as_role('bob', 'SELECT count(DISTINCT extent) FROM chat_sealed')), '1', 'and his tiles only');
is($node->safe_psql('postgres', as_role('bob', 'SELECT count(*) FROM chat_tile WHERE seq = 1')), '0', 'also in the view');
foreach my $name (qw(attend attend_layers weights fetch length truncate seal recode fork))
{
	my $got = sqlstate_of($node, as_role('bob', $call{$name}));
	$got = $node->safe_psql('postgres', as_role('bob', $call{$name})) if $got eq '';
	like($got, qr/^(42704: .*|0|)$/, "$name: alice's sequence does not exist for bob");
}
is($node->safe_psql('postgres', as_role('bob', $call{drop_sequence})), 'f', 'drop_sequence: nothing to drop for bob');
like(sqlstate_of($node, as_role('bob', $call{append})), qr/^(42501|23505): /, "append: alice's number is taken for bob");
like(sqlstate_of($node, as_role('bob', "SELECT kv.attend('chat', '{2,1}', 0, q_batch(0, 2))")), qr/^42704: /, 'a batch with a foreign sequence fails whole');
is($node->safe_psql('postgres', as_role('alice', "SELECT kv.attend('chat', '{1}', 1, q_batch(1, 1))")), $alone, "alice's answers are as before");

# Every function works on one's own sequences under these policies.
is($node->safe_psql('postgres', as_role('alice', "SELECT kv.append('chat', 30, k(0, 200), v(0, 200)), kv.fork('chat', 30, 31)")), '200|200', 'append and fork: under the policies');
is($node->safe_psql('postgres', as_role('alice', "SELECT kv.length('chat', 31)")), '200', 'length: under the policies');
is($node->safe_psql('postgres', as_role('alice', "SELECT kv.truncate('chat', 30, 190), kv.truncate('chat', 30, 50)")), '190|50', 'truncate: under the policies');
foreach my $call ("kv.recode('chat', 31, 'int4') > 100", "kv.seal('chat', 31) > 10", "kv.append('chat', 31, k(0, 5), v(0, 5)) = 205", "kv.drop_sequence('chat', 30)", "kv.drop_sequence('chat', 31)")
{
	my ($status, $out, $err) = $node->psql('postgres', as_role('alice', "SELECT $call"));
	is("$out$err", 't', "$call: under the policies");
}
like(sqlstate_of($node, as_role('alice', $call{collect})), qr/^42501: /, 'collect: not for whom row security binds');
cmp_ok($node->safe_psql('postgres', $call{collect}), '>', 0, 'collect: for the owner');
is($node->safe_psql('postgres', 'SELECT count(DISTINCT extent) FROM (SELECT extent FROM chat_sealed UNION SELECT extent FROM chat_tail) t'), '2', 'nothing is left of them');
$node->safe_psql('postgres', 'ALTER TABLE chat FORCE ROW LEVEL SECURITY; ALTER TABLE chat OWNER TO alice; ALTER TABLE chat_sealed OWNER TO alice; ALTER TABLE chat_tail OWNER TO alice');
like(sqlstate_of($node, as_role('alice', $call{collect})), qr/^42501: row security/, 'collect: nor for an owner whom it binds by force');
$node->safe_psql('postgres', 'ALTER TABLE chat NO FORCE ROW LEVEL SECURITY; ALTER TABLE chat OWNER TO postgres; ALTER TABLE chat_sealed OWNER TO postgres; ALTER TABLE chat_tail OWNER TO postgres; '
	  . 'GRANT SELECT, INSERT, UPDATE, DELETE ON chat TO alice; GRANT SELECT, INSERT, DELETE ON chat_tail TO alice; GRANT SELECT, INSERT ON chat_sealed TO alice');

# Forks across tenants: the shared tiles stay until the last sequence is gone, whoever deletes.
$node->safe_psql('postgres', "SELECT kv.fork('chat', 1, 3, 180); UPDATE chat SET owner = 'bob' WHERE seq = 3");
my $fork = $node->safe_psql('postgres', as_role('bob', "SELECT kv.attend('chat', '{3}', 1, q_batch(1, 1))"));
isnt($fork, '', 'bob attends to a fork of what alice wrote');
is($node->safe_psql('postgres', as_role('alice', $call{drop_sequence})), 't', 'alice drops hers');
is($node->safe_psql('postgres', as_role('bob', "SELECT kv.attend('chat', '{3}', 1, q_batch(1, 1))")), $fork, "bob's fork is whole");
ok_cache($node, 'chat', 'sound');
$node->safe_psql('postgres', as_role('bob', "SELECT kv.drop_sequence('chat', 3); SELECT kv.drop_sequence('chat', 2)"));
$node->safe_psql('postgres', $call{collect});
is($node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM chat) + (SELECT count(*) FROM chat_sealed) + (SELECT count(*) FROM chat_tail)'), '0', 'nothing is left');

# Owners: a cache belongs to who made it, and is listed without being readable.
$node->safe_psql('postgres', 'GRANT CREATE ON SCHEMA public TO alice');
$node->safe_psql('postgres', as_role('alice', "SELECT kv.create_cache('hers', 2, 9, 3, 64)"));
is($node->safe_psql('postgres', as_role('bob', "SELECT count(*) FROM kv.caches WHERE cache::text = 'hers'")), '1', 'bob sees that there is a cache');
like(sqlstate_of($node, as_role('bob', "SELECT kv.length('hers', 1)")), qr/^42501: /, 'and no more');
like(sqlstate_of($node, as_role('bob', "SELECT kv.drop_cache('hers')")), qr/^42501: /, 'and cannot drop it');
like(sqlstate_of($node, as_role('bob', "DELETE FROM kv.caches")), qr/^42501: /, 'nor change the list');
$node->safe_psql('postgres', as_role('alice', "SELECT kv.drop_cache('hers')"));
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_class WHERE relname LIKE 'hers%'"), '0', 'alice can');

# Tiles that a policy hides from somebody who sees the sequence are an error, not an answer from the rest.
create_cache($node, 'torn', "codec => 'int8', tail_tokens => 16");
$node->safe_psql('postgres', "SELECT kv.append('torn', 1, k(0, 300), v(0, 300)); GRANT SELECT ON torn, torn_sealed, torn_tail TO reader; "
	  . "ALTER TABLE torn_sealed ENABLE ROW LEVEL SECURITY; CREATE POLICY half ON torn_sealed USING (head <> 1 OR pos = 0)");
my $torn = "SELECT kv.attend('torn', '{1}', 0, q_batch(0, 1))";
like(sqlstate_of($node, as_role('reader', $torn)), qr/^XX001: /, 'hidden tiles: attend says so');
like(sqlstate_of($node, as_role('reader', "SELECT kv.fetch('torn', 1, 0)")), qr/^XX001: /, 'hidden tiles: fetch says so');
$node->safe_psql('postgres', "ALTER TABLE torn_sealed DISABLE ROW LEVEL SECURITY; ALTER TABLE torn_tail ENABLE ROW LEVEL SECURITY; CREATE POLICY none ON torn_tail USING (false)");
like(sqlstate_of($node, as_role('reader', $torn)), qr/^XX001: /, 'a hidden tail: attend says so');

# Operators of the search path of whoever calls.
$node->safe_psql('postgres', <<'SQL');
CREATE SCHEMA evil AUTHORIZATION alice;
SET ROLE alice;
CREATE TABLE evil.log (who name);
GRANT INSERT ON evil.log TO PUBLIC;
CREATE FUNCTION evil.eq(bigint, bigint) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN INSERT INTO evil.log VALUES (current_user); RETURN int8eq($1, $2); END';
CREATE FUNCTION evil.contains(bigint[], bigint[]) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN INSERT INTO evil.log VALUES (current_user); RETURN arraycontains($1, $2); END';
CREATE FUNCTION evil.overlaps(bigint[], bigint[]) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN INSERT INTO evil.log VALUES (current_user); RETURN arrayoverlap($1, $2); END';
CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.eq);
CREATE OPERATOR evil.@> (LEFTARG = bigint[], RIGHTARG = bigint[], FUNCTION = evil.contains);
CREATE OPERATOR evil.&& (LEFTARG = bigint[], RIGHTARG = bigint[], FUNCTION = evil.overlaps);
SQL
$node->safe_psql('postgres', "SET ROLE alice; SET search_path = evil, pg_catalog, public; SELECT public.k(0, 1); SELECT kv.append('chat', 20, public.k(0, 200), public.v(0, 200)); "
	  . "SELECT kv.fork('chat', 20, 21); SELECT kv.truncate('chat', 20, 50); SELECT kv.recode('chat', 21, 'int4'); SELECT kv.drop_sequence('chat', 20); SELECT kv.drop_sequence('chat', 21)");
is($node->safe_psql('postgres', 'SELECT count(*) FROM evil.log'), '0', 'they take no part');
$node->safe_psql('postgres', $call{collect});
is($node->safe_psql('postgres', 'SELECT (SELECT count(*) FROM chat_sealed) + (SELECT count(*) FROM chat_tail)'), '0', 'and nothing is left behind');

done_testing();
