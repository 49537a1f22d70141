# Two tenants in one cache (kv.enable_tenants), one of whom was given a fork of the other's sequence, and what each may see and change
# of the other's: by every function, and by hand in every table.  The fork parts from the parent at different places: inside the
# tail, between tiles, within a tile.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use KVCache;
use VectorKV;

my $node = kv_node('kv_tenants', settings => ['max_connections = 20']);
$node->safe_psql('postgres', 'CREATE ROLE alice; CREATE ROLE bob');

sub as_role { my ($role, $sql) = @_; return "SET ROLE $role; $sql"; }
sub one { my ($role, $sql) = @_; return $node->safe_psql('postgres', as_role($role, $sql)); }

# What bob gets of a statement: "error SQLSTATE", or what it returns.
sub try_as
{
	my ($role, $sql) = @_;
	my $state = sqlstate_of($node, as_role($role, "BEGIN; $sql; ROLLBACK"));
	return $state =~ /^(\w{5}): / ? "error $1" : one($role, "BEGIN; $sql; ROLLBACK");
}

my $open = 2147483647;
foreach my $case (
	['inside the tail', 'int8', 295, ''], ['between tiles', 'int8', 64, ''], ['within a tile', 'int8', 100, ''], ['at the start', 'int8', 2, ''],
	['within a tile of halves', 'f16', 100, ''], ['within a tile that was cut before', 'int4', 100, "SELECT kv.truncate('chat', 1, 110); SELECT kv.append('chat', 1, k(110, 190), v(110, 190));"],
	['within a recoded tile', 'int8', 100, "SELECT kv.recode('chat', 1, 'int2');"], ['all of it, sealed', 'int8', 300, "SELECT kv.seal('chat', 1);"])
{
	my ($name, $codec, $at, $before) = @$case;
	$node->safe_psql('postgres', "SELECT kv.drop_cache(cache) FROM kv.caches");
	create_cache($node, 'chat', "codec => '$codec', tail_tokens => 16");
	$node->safe_psql('postgres', <<'SQL');
SELECT kv.enable_tenants('chat');
GRANT SELECT, INSERT, UPDATE, DELETE ON chat TO alice, bob;
GRANT SELECT, INSERT, DELETE ON chat_tail TO alice, bob;
GRANT SELECT, INSERT ON chat_sealed TO alice, bob;
GRANT SELECT ON chat_tile TO alice, bob;
SQL
	one('alice', "SELECT kv.append('chat', 1, k(0, 300), v(0, 300)); $before");
	my $fetch = "SELECT md5(kv.bytes(a.k) || kv.bytes(b.v)) FROM kv.fetch('chat', %d, 0) a, kv.fetch('chat', %d, 1) b";
	$node->safe_psql('postgres', "SELECT kv.fork('chat', 1, 2, $at); UPDATE chat SET owner = 'bob' WHERE seq = 2");
	my $part = one('alice', "SELECT md5(kv.bytes(a.k) || kv.bytes(b.v)) FROM kv.fetch('chat', 1, 0, 0, $at) a, kv.fetch('chat', 1, 1, 0, $at) b");
	is(one('bob', sprintf $fetch, 2, 2), $part, "$name: bob has what he was given");

	# Bob goes on, and so does alice; her new tokens are in the same extent, behind bob's stop.
	one('bob', "SELECT kv.append('chat', 2, k(500, 200), v(500, 200))");
	one('alice', "SELECT kv.append('chat', 1, k(600, 200), v(600, 200))");
	my ($hers, $his) = (one('alice', sprintf $fetch, 1, 1), one('bob', sprintf $fetch, 2, 2));

	# Every token of every tile and tail row that bob can see is one of his sequence.
	my $tokens = $at + 200;
	is(one('bob', "SELECT count(*) FROM chat_sealed s WHERE pos + kv.tokens(tile) > (SELECT stops[array_position(extents, s.extent)] FROM chat)"),
		'0', "$name: no tile that bob sees reaches behind his stop");
	is(one('bob', "SELECT sum(kv.tokens(tile)) FROM chat_sealed"), one('bob', 'SELECT 6 * sealed FROM chat'), "$name: he sees his sealed tokens, each once");
	is(one('bob', 'SELECT count(DISTINCT pos) FROM chat_tail'), one('bob', 'SELECT length - sealed FROM chat'), "$name: and his tail");
	is(one('bob', 'SELECT count(*), min(seq), sum(length) FROM chat'), "1|2|$tokens", "$name: and his header row");
	is(one('bob', 'SELECT sum(kv.tokens(tile)) FROM chat_tile'), 6 * $tokens, "$name: also in the view");
	is(one('bob', "SELECT count(*) FROM kv.check_cache('chat')"), '0', "$name: and is told of no faults");

	# Every function, on alice's sequence.
	my $q = 'q_batch(0, 1)';
	my %function = (
		append => ["kv.append('chat', 1, k(0, 1), v(0, 1))", 'error 42501'],
		seal => ["kv.seal('chat', 1)", 'error 42704'],
		truncate => ["kv.truncate('chat', 1, 5)", 'error 42704'],
		recode => ["kv.recode('chat', 1, 'int2')", 'error 42704'],
		fork => ["kv.fork('chat', 1, 77)", 'error 42704'],
		fork_over => ["kv.fork('chat', 2, 1)", 'error 42710'],
		drop => ["kv.drop_sequence('chat', 1)", 'f'],
		length => ["kv.length('chat', 1) IS NULL", 't'],
		fetch => ["(kv.fetch('chat', 1, 0)).k", 'error 42704'],
		attend => ["kv.attend('chat', '{1}', 0, $q)", 'error 42704'],
		attend_both => ["kv.attend('chat', '{2,1}', 0, q_batch(0, 2))", 'error 42704'],
		attend_layers => ["kv.attend_layers('chat', '{1}', '{0}', kv.reshape($q, '{1,1,9,64}'))", 'error 42704'],
		weights => ["count(*) FROM kv.weights('chat', 1, 0, kv.reshape($q, '{9,64}'))", 'error 42704'],
		attention => ["kv.attention(kv.reshape($q, '{9,64}'), tile) IS NULL FROM chat_tile WHERE seq = 1", 't'],
		collect => ["kv.collect('chat')", 'error 42501'],
		drop_cache => ["kv.drop_cache('chat')", 'error 42501'],
		enable_tenants => ["kv.enable_tenants('chat')", 'error 42501']);
	foreach my $call (sort keys %function)
	{
		my ($sql, $wanted) = @{ $function{$call} };
		is(try_as('bob', "SELECT $sql"), $wanted, "$name: $call on alice's sequence");
	}

	# Every table, by hand.  Bob knows the extent that he shares with alice, and even the ones that he does not.
	my $extents = $node->safe_psql('postgres', "SELECT array_agg(DISTINCT e) FROM chat, unnest(extents) e WHERE seq = 1 AND NOT e = kv.own_extent((SELECT extents FROM chat WHERE seq = 2))");
	my $tile = $node->safe_psql('postgres', 'SELECT tile FROM chat_sealed LIMIT 1');
	my $own = $node->safe_psql('postgres', "SELECT kv.own_extent(extents) FROM chat WHERE seq = 2");
	my %hand = (
		'headers: name more' => ["UPDATE chat SET extents = '$extents', stops = ARRAY(SELECT (${open} - cardinality('$extents'::bigint[]) + i)::int FROM generate_series(1, cardinality('$extents'::bigint[])) i) RETURNING 1", 'error 42501'],
		'headers: higher stops' => ["UPDATE chat SET stops[1] = 2147483646 RETURNING 1", $at == 2 ? 'error 42501|1' : 'error 42501'],
		'headers: one more' => ["INSERT INTO chat (seq, extents, stops) VALUES (78, '$extents', array_fill($open, ARRAY[cardinality('$extents'::bigint[])])) RETURNING 1", 'error 42501'],
		'headers: one more, empty' => ["INSERT INTO chat (seq) VALUES (78) RETURNING 1", '1'],
		'headers: one more, with tokens' => ["INSERT INTO chat (seq, length) VALUES (78, 5) RETURNING 1", 'error 42501'],
		(map { ("headers: $_" => ["UPDATE chat SET $_ RETURNING 1", 'error 42501']) } 'length = 2147483646, sealed = 2147483646', 'length = 0', 'sealed = 0', 'epoch = 1', 'forks = 1', 'seq = 3', 'stops = \'{2147483647}\', extents = \'{5}\''),
		'headers: as it was' => ["UPDATE chat SET length = length, seq = seq RETURNING 1", '1'],
		'headers: for alice' => ["INSERT INTO chat (seq, owner) VALUES (78, 'alice') RETURNING 1", 'error 42501'],
		'headers: give away' => ["UPDATE chat SET owner = 'alice' RETURNING 1", 'error 42501'],
		'headers: take' => ["WITH u AS (UPDATE chat SET owner = 'bob' WHERE seq = 1 RETURNING 1) SELECT count(*) FROM u", '0'],
		'headers: delete' => ["WITH d AS (DELETE FROM chat WHERE seq = 1 RETURNING 1) SELECT count(*) FROM d", '0'],
		'headers: empty' => ["TRUNCATE chat", 'error 42501'],
		'tiles: delete' => ['DELETE FROM chat_sealed', 'error 42501'],
		'tiles: change' => ['UPDATE chat_sealed SET pos = pos + 1', 'error 42501'],
		'tiles: block alice' => ["INSERT INTO chat_sealed SELECT unnest('$extents'::bigint[]), 0, 0, 5000, '$tile' RETURNING 1", 'error 42501'],
		'tiles: of his own' => ["INSERT INTO chat_sealed VALUES ($own, 0, 0, 5000, '$tile') RETURNING 1", 'error 42501'],
		'tail: of his own' => ["INSERT INTO chat_tail SELECT extent, chunk, 5000, kv FROM chat_tail LIMIT 1 RETURNING 1", 'error 42501'],
		'tail: delete' => ["WITH d AS (DELETE FROM chat_tail WHERE extent = ANY ('$extents') RETURNING 1) SELECT count(*) FROM d", '0'],
		'tail: change' => ['UPDATE chat_tail SET pos = pos + 1', 'error 42501'],
		'tail: block alice' => ["INSERT INTO chat_tail SELECT unnest('$extents'::bigint[]), 0, 5000, '' RETURNING 1", 'error 42501'],
		'tail: see' => ["SELECT count(*) FROM chat_tail WHERE extent = ANY ('$extents')", '0'],
		'tiles: see' => ["SELECT count(*) FROM chat_sealed s WHERE extent = ANY ('$extents') AND NOT EXISTS (SELECT FROM chat h WHERE kv.reaches(extents, stops, s.extent, s.pos))", '0'],
		'triggers' => ['CREATE TRIGGER t BEFORE INSERT ON chat FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()', 'error 42501']);
	foreach my $act (sort keys %hand)
	{
		my ($sql, $wanted) = @{ $hand{$act} };
		like(try_as('bob', $sql), qr/^(?:$wanted)$/, "$name: $act");
	}
	# Not even for the moment until a statement is refused.
	like(sqlstate_of($node, as_role('bob', "CREATE FUNCTION pg_temp.leak() RETURNS int LANGUAGE plpgsql AS \$\$ BEGIN RAISE division_by_zero USING MESSAGE = (SELECT count(*) FROM chat_sealed); END \$\$; "
			  . "UPDATE chat SET extents = '$extents', stops = array_fill($open, ARRAY[cardinality('$extents'::bigint[])]) RETURNING pg_temp.leak()")), qr/^42501: columns/, "$name: no look from within a statement");

	is(one('alice', sprintf $fetch, 1, 1), $hers, "$name: alice has what she had");
	is(one('alice', "SELECT kv.append('chat', 1, k(0, 50), v(0, 50)), kv.seal('chat', 1) > 0"), '550|t', "$name: and goes on");
	is(one('bob', "SELECT kv.append('chat', 2, k(0, 50), v(0, 50)), kv.truncate('chat', 2, $tokens)"), ($tokens + 50) . "|$tokens", "$name: so does bob");
	is(one('bob', sprintf $fetch, 2, 2), $his, "$name: he has what he had") if $codec eq 'f16';
	one('alice', "SELECT kv.drop_sequence('chat', 1)");
	$node->safe_psql('postgres', "SELECT kv.collect('chat')");
	is(one('bob', "SELECT sum(kv.tokens(tile)) FROM chat_tile"), 6 * $tokens, "$name: alice's end is not his");
	ok_cache($node, 'chat', "$name: sound");
	is($node->safe_psql('postgres', 'SELECT sum(kv.tokens(tile)) - 6 * (SELECT sum(sealed) FROM chat) FROM chat_sealed'), '0', "$name: no tile is left that only alice had");
}

# A policy of one's own that shows a prompt to all: they read and fork it, and cannot change it.
$node->safe_psql('postgres', "SELECT kv.drop_sequence('chat', seq) FROM chat; ALTER TABLE chat ADD COLUMN shared boolean NOT NULL DEFAULT false; CREATE POLICY shared ON chat FOR SELECT USING (shared)");
one('alice', "SELECT kv.append('chat', 1, k(0, 100), v(0, 100)), kv.seal('chat', 1); UPDATE chat SET shared = true");
is(one('bob', "SELECT kv.fork('chat', 1, 2), kv.append('chat', 2, k(300, 50), v(300, 50))"), '100|150', 'a shared prompt is forked');
foreach my $case (["append('chat', 1, k(0, 1), v(0, 1))", 'error 42501'], ["truncate('chat', 1, 5)", 'error 42501'], ["recode('chat', 1, 'int2')", 'error 42501'], ["drop_sequence('chat', 1)", 'error 42501'])
{
	my ($call, $wanted) = @$case;
	is(try_as('bob', "SELECT kv.$call"), $wanted, "a shared prompt: $call");
}
my $open_extent = one('bob', "SELECT kv.own_extent(extents) FROM chat WHERE seq = 1");
is(try_as('bob', "INSERT INTO chat_tail VALUES ($open_extent, 0, 100, '')"), 'error 42501', 'a shared prompt: no tail row of his in it');
is(one('alice', "SELECT kv.append('chat', 1, k(100, 10), v(100, 10))"), '110', 'a shared prompt: alice goes on');
ok_cache($node, 'chat', 'a shared prompt: sound');

# Who shares a prompt cannot spoil the forks of others by what he adds to it or says of it.
my $halves = 'kv.slice(kv.slice(%s(0, 1), 0, 0, 1), 1, 0, 1)';
my $encoded = 'kv.encode(kv.reshape(' . sprintf($halves, 'k') . ", '{1,1,64}'), kv.reshape(" . sprintf($halves, 'v') . ", '{1,1,64}'), 'int8', 5)";
is(one('bob', "SELECT count(*) FROM $encoded"), '1', 'a tile can be made');
is(try_as('alice', $_), 'error 42501', "a shared prompt: $_") foreach "INSERT INTO chat_sealed SELECT $open_extent, 0, 0, 5, $encoded",
  'UPDATE chat SET length = 2147483646, sealed = 2147483646 WHERE seq = 1', 'UPDATE chat SET length = 2147483646 WHERE seq = 1';
is(one('bob', "SELECT kv.attend('chat', '{2}', 0, q_batch(0, 1)) IS NOT NULL, kv.fork('chat', 1, 5); SELECT kv.attend('chat', '{5}', 0, q_batch(0, 1)) IS NOT NULL"), "t|110\nt", "a shared prompt: bob's forks work");
ok_cache($node, 'chat', 'a shared prompt: still sound');

# Tenants may be what a setting says.
create_cache($node, 'app', "codec => 'int8', tail_tokens => 16");
$node->safe_psql('postgres', "SELECT kv.enable_tenants('app', 'customer', 'current_setting(''app.customer'')'); GRANT SELECT, INSERT, UPDATE, DELETE ON app, app_sealed, app_tail TO bob");
is(one('bob', "SET app.customer = 'x'; SELECT kv.append('app', 1, k(0, 90), v(0, 90)), (SELECT customer FROM app)"), '90|', 'tenants by a setting: a sequence is made') || 1;
is(one('bob', "SET app.customer = 'x'; SELECT kv.length('app', 1), customer FROM app"), '90|x', 'and seen by the same');
is(one('bob', "SET app.customer = 'y'; SELECT count(*) + (SELECT count(*) FROM app_sealed) + (SELECT count(*) FROM app_tail) FROM app"), '0', 'and not by another');

# Who holds TRIGGER can replace the guards: the recipe warns of it, and what he did does not stay unnoticed.
my $tables = 'app, app_sealed, app_tail';
$node->safe_psql('postgres', "GRANT SELECT, INSERT, UPDATE, DELETE ON $tables TO alice; GRANT TRIGGER ON app TO bob; GRANT ALL ON app_tail TO alice; GRANT TRIGGER ON app_sealed TO PUBLIC");
my $enable = "SELECT kv.enable_tenants('app', 'customer', 'current_setting(''app.customer'')')";
my (undef, undef, $warnings) = $node->psql('postgres', $enable);
is(join("\n", $warnings =~ /(?:WARNING|HINT): +(.*)/g), <<'SAID' =~ s/\n$//r, 'roles that hold TRIGGER are warned of');
role "bob" holds TRIGGER on table "app"
REVOKE TRIGGER ON public.app FROM bob.
everybody holds TRIGGER on table "app_sealed"
REVOKE TRIGGER ON public.app_sealed FROM PUBLIC.
role "alice" holds TRIGGER on table "app_tail"
REVOKE TRIGGER ON public.app_tail FROM alice.
SAID

# Once more with other arguments makes another wall, and says so.
foreach my $case (["SELECT kv.enable_tenants('app')", '(owner = (CURRENT_USER)::text)'], ["SELECT kv.enable_tenants('app', 'customer')", '(customer = (CURRENT_USER)::text)'])
{
	my ($again, $now) = @$case;
	$warnings = ($node->psql('postgres', "BEGIN; $again; ROLLBACK"))[2];
	like($warnings, qr/WARNING: +tenants of cache "app" are told apart by another rule than before\nDETAIL: +Before: \(customer = current_setting\('app.customer'::text\)\)\. Now: \Q$now\E\.\nHINT: /, "another rule: $again");
}
$node->safe_psql('postgres', "SELECT kv.enable_tenants('app', 'customer')");
my $append = "SELECT kv.append('app', 5, k(0, 90), v(0, 90))";
is(try_as('alice', $append), '90', 'alice works before');
my $columns = 'seq, length, sealed, epoch, forks, extents, stops';
my $guard = sub { my ($table, $what) = @_; return "CREATE OR REPLACE TRIGGER guard_header BEFORE $what ON $table FOR EACH ROW"; };
my $row_guard = 'CREATE OR REPLACE TRIGGER guard_rows BEFORE %s ON %s FOR EACH %s';
my $whole = "INSERT OR UPDATE OF $columns";
foreach my $case (
	['bob', 'app', $guard->('app', $whole) . ' WHEN (false) EXECUTE FUNCTION kv.guard_header()'],
	['bob', 'app', $guard->('app', 'INSERT OR UPDATE OF seq') . ' EXECUTE FUNCTION kv.guard_header()'],
	['bob', 'app', $guard->('app', 'INSERT') . ' EXECUTE FUNCTION kv.guard_header()'],
	['bob', 'app', $guard->('app', $whole) . ' EXECUTE FUNCTION suppress_redundant_updates_trigger()'],
	['alice', 'app_tail', sprintf($row_guard, 'INSERT OR UPDATE', 'app_tail', 'ROW') . ' WHEN (NEW.pos < 0) EXECUTE FUNCTION kv.guard_rows()'],
	['alice', 'app_sealed', sprintf($row_guard, 'UPDATE', 'app_sealed', 'ROW') . ' EXECUTE FUNCTION kv.guard_rows()'],
	['postgres', 'app', 'ALTER TABLE app DISABLE TRIGGER guard_header'], ['postgres', 'app_tail', 'DROP TRIGGER guard_rows ON app_tail'])
{
	my ($by, $table, $sql) = @$case;
	my $state = sqlstate_of($node, "BEGIN; SET ROLE $by; $sql; SET ROLE alice; $append; ROLLBACK");
	like($state, qr/^42501: table "$table" has tenants, and its trigger "guard_\w+" is not as/, "a guard that is lost: $sql");
	is($node->safe_psql('postgres', "BEGIN; SET ROLE $by; $sql; RESET ROLE; SELECT kv.length('app', 1); $append; ROLLBACK"), "90\n90", 'the owner goes on') if $by eq 'postgres';
}
like(sqlstate_of($node, "SET ROLE alice; $append; RESET ROLE; ALTER TABLE app DISABLE TRIGGER guard_header; SET ROLE alice; SELECT kv.append('app', 5, k(0, 90), v(0, 90))"), qr/^42501: table "app" has tenants/,
	'in a session that has looked before');
$node->safe_psql('postgres', "REVOKE TRIGGER ON $tables FROM PUBLIC, alice, bob");
($warnings) = ($node->psql('postgres', "SELECT kv.enable_tenants('app', 'customer')"))[2];
unlike($warnings, qr/WARNING/, 'nobody holds TRIGGER any more: no warning');
is(try_as('alice', "SELECT kv.append('app', 6, k(0, 90), v(0, 90))"), '90', 'and alice works again');

done_testing();
