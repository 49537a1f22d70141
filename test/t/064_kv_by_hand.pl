# What people do to the tables of a cache by hand.  Rows of a tail that are changed or deleted: sessions that keep the tail answer as a
# fresh one does, whatever snapshot they had meanwhile and through whatever table.  Tables that are dropped: the others go with the one that names the cache, and
# what is left otherwise is named, refused and removed.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use KVCache;
use VectorKV;

my $node = kv_node('kv_by_hand');
my ($first, $second) = map { $node->background_psql('postgres', on_error_stop => 0) } 1 .. 2;
create_cache($node, 'other', "codec => 'int8', tail_tokens => 300");
my $cache;

sub asked { return "SELECT layer, kv.attend('$cache', '{1}', layer, q_batch(layer, 1)) FROM generate_series(0, 1) layer ORDER BY layer"; }
sub there { return $node->safe_psql('postgres', $_[0]); }

sub here
{
	my ($session, $sql) = @_;
	$session->{stderr} = '';
	my $out = $session->query($sql);
	return $session->{stderr} eq '' ? $out : $session->{stderr} =~ /(ERROR: .*)/ ? $1 : $session->{stderr};
}

# What is kept of a tail begins earlier than what is read anew: sums may differ in the last digits.
sub alike
{
	my ($a, $b) = map { [ $_[$_] =~ /(-?\d+\.\d+(?:e-?\d+)?)/g ] } 0, 1;
	return @$a == @$b && @$a > 1000 && !grep { abs($a->[$_] - $b->[$_]) > 1e-5 } 0 .. $#$a;
}

# The row of a token becomes that of another.
sub swap { my ($pos, $from) = @_; return "UPDATE ${cache}_tail SET kv = (SELECT kv FROM ${cache}_tail WHERE pos = $from AND chunk = 0) WHERE pos = $pos AND chunk = 0"; }

foreach my $kind (qw(logged unlogged))
{
	$cache = "of_$kind";
	create_cache($node, $cache, "codec => 'int8', tail => '$kind', tail_tokens => 300");
	there("SELECT kv.append('$cache', 1, k(0, 200), v(0, 200))");
	my $original = there(asked());
	is(here($_, asked()), $original, "$kind: a session keeps the tail") foreach $first, $second;

	there(swap(20, 150));
	my $changed = there(asked());
	isnt($changed, $original, "$kind: another token in the middle is another answer");
	is(here($first, asked()), $changed, "$kind: and the old session gives it");

	# A session with a snapshot from before keeps to it, and not to what it has read then.
	here($first, "BEGIN ISOLATION LEVEL REPEATABLE READ");
	is(here($first, asked()), $changed, "$kind: repeatable read");
	there(swap(30, 151));
	my $again = there(asked());
	isnt($again, $changed, "$kind: changed again");
	is(here($first, asked()), $changed, "$kind: its snapshot holds");
	is(here($first, asked()), $changed, "$kind: and goes on to");
	here($first, 'COMMIT');
	is(here($first, asked()), $again, "$kind: the next transaction sees the change");
	is(here($second, asked()), $again, "$kind: as does a session that slept");

	# One's own change, rolled back to a savepoint and as a whole.
	here($first, 'BEGIN');
	here($first, swap(40, 152));
	isnt(my $own = here($first, asked()), $again, "$kind: one's own change");
	here($first, 'SAVEPOINT s');
	here($first, swap(50, 153));
	isnt(here($first, asked()), $own, "$kind: and another");
	here($first, 'ROLLBACK TO s');
	is(here($first, asked()), $own, "$kind: back to the savepoint");
	is(here($second, asked()), $again, "$kind: nobody else sees it");
	here($first, 'ROLLBACK');
	is(here($first, asked()), $again, "$kind: rolled back");

	# While a transaction runs on, what is changed and committed beside it is seen, and tails are kept.
	here($second, 'BEGIN');
	here($second, "CREATE TABLE busy_$kind ()");
	there(swap(60, 154));
	my $beside = there(asked());
	is(here($first, asked()), $beside, "$kind: beside a long transaction") foreach 1 .. 2;
	here($second, 'COMMIT');
	is(here($second, asked()), $beside, "$kind: and after it");

	# A cursor keeps to its snapshot, whatever its session has read under newer ones.
	here($first, 'BEGIN');
	here($first, "DECLARE look CURSOR FOR SELECT kv.attend('$cache', '{1}', layer, q_batch(layer, 1)) FROM unnest('{0,0,0}'::int[]) layer");
	my $opened = here($first, 'FETCH look');
	there(swap(70, 155));
	is(here($first, 'FETCH look'), $opened, "$kind: a cursor beside a change");
	is(here($first, asked()), there(asked()), "$kind: a newer statement sees it");
	is(here($first, 'FETCH look'), $opened, "$kind: the cursor does not");
	here($first, 'COMMIT');
	is(here($first, asked()), there(asked()), "$kind: after it");

	# A statement on a table above fires no trigger of the tail; neither does it where the table is none above any more.
	my $columns = 'extent bigint NOT NULL, chunk int NOT NULL, pos int NOT NULL, kv bytea NOT NULL';
	foreach my $above ([ "CREATE TABLE above ($columns)", "ALTER TABLE ${cache}_tail INHERIT above", "ALTER TABLE ${cache}_tail NO INHERIT above" ],
		[ "CREATE TABLE above ($columns) PARTITION BY LIST (chunk)", "ALTER TABLE above ATTACH PARTITION ${cache}_tail DEFAULT", "ALTER TABLE above DETACH PARTITION ${cache}_tail" ])
	{
		my ($create, $attach, $detach) = @$above;
		my ($what) = $attach =~ /(INHERIT|ATTACH)/;
		my $other = 160;
		my $changes = sub { return swap(80, ++$other) =~ s/UPDATE \S+/UPDATE above/r };
		there($create);
		here($_, asked()) foreach $first, $second;
		there("$attach; " . $changes->());
		is(here($first, asked()), there(asked()), "$kind, $what: changed through a parent");
		there($changes->());
		is(here($first, asked()), there(asked()), "$kind, $what: and again");
		here($first, 'BEGIN');
		here($first, $changes->());
		isnt(my $own = here($first, asked()), there(asked()), "$kind, $what: by oneself");
		here($first, 'ROLLBACK');
		is(here($first, asked()), there(asked()), "$kind, $what: rolled back");
		there($detach);
		is(here($first, asked()), there(asked()), "$kind, $what: by itself again");
		there("BEGIN; $attach; " . $changes->() . "; $detach; COMMIT");
		is(here($_, asked()), there(asked()), "$kind, $what: changed through one that was a parent") foreach $first, $second;

		# A session that has forgotten the cache meanwhile, but not its tail; and one that remembers an older snapshot than that.
		my $through = sub { return "BEGIN; $attach; " . $changes->() . "; $detach; COMMIT" };
		my $forget = "BEGIN; DROP TABLE $cache CASCADE; SELECT kv.length('other', 1); ROLLBACK";
		here($first, $forget);
		there($through->());
		is(here($first, asked()), there(asked()), "$kind, $what: in a session that looks for the cache anew");
		here($first, $forget);
		here($first, 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1');
		my $was = there(asked());
		there($through->());
		is(here($first, asked()), $was, "$kind, $what: by an older snapshot, too") foreach 1 .. 2;
		here($first, 'COMMIT');
		is(here($first, asked()), there(asked()), "$kind, $what: which nothing is kept of");
		there('DROP TABLE above');
	}

	# Appending, which seals, is no change by hand.
	there("SELECT kv.append('$cache', 1, k(200, 300), v(200, 300))");
	is(here($first, "SELECT kv.length('$cache', 1)"), '500', "$kind: appended");
	ok(alike(here($first, asked()), there(asked())), "$kind: as a fresh session");

	# The same for sealed tiles: those of a layer become another's.
	here($first, 'BEGIN');
	here($first, "DECLARE look CURSOR FOR SELECT kv.attend('$cache', '{1}', layer, q_batch(layer, 1)) FROM unnest('{0,0,0}'::int[]) layer");
	$opened = here($first, 'FETCH look');
	there("UPDATE ${cache}_sealed s SET tile = o.tile FROM ${cache}_sealed o WHERE (o.extent, o.head, o.pos) = (s.extent, s.head, s.pos) AND s.layer = 0 AND o.layer = 1");
	is(here($first, 'FETCH look'), $opened, "$kind: a cursor beside other tiles");
	isnt(my $tiles = here($first, asked()), $opened, "$kind: a newer statement sees them");
	ok(alike($tiles, there(asked())), "$kind: as a fresh session does");
	is(here($first, 'FETCH look'), $opened, "$kind: the cursor does not see the tiles");
	here($first, 'COMMIT');

	# Damage is reported by whoever asks.
	there("UPDATE ${cache}_tail SET kv = '\\x00' WHERE pos = 400");
	like(here($_, asked()), qr/^ERROR: .*position 400, chunk 0 in cache "$cache" does not unpack/, "$kind: a broken row is found") foreach $first, $second;
	there("DELETE FROM ${cache}_tail WHERE pos = 400");
	like(here($_, asked()), qr/^ERROR: .*rows instead of/, "$kind: and a missing one") foreach $first, $second;
	like(here($first, "INSERT INTO ${cache}_tail SELECT extent, chunk, 400, kv FROM ${cache}_tail WHERE pos = 401; " . asked()), qr/^0\|/, "$kind: which is put in its place");
}
like(sqlstate_of($node, 'CREATE TEMP TABLE t (a int); CREATE TRIGGER x AFTER DELETE ON t EXECUTE FUNCTION kv.forget_tails(); DELETE FROM t'),
	qr/^55000: kv.forget_tails is a trigger/, 'the trigger at another time is refused');
$_->quit foreach $first, $second;

# The tables go with the one that names the cache.
my $left = "SELECT count(*) FROM pg_class WHERE relname ~ '^dd'";
there("SELECT kv.create_cache('dd', 2, 9, 3, 64); SELECT kv.append('dd', 1, k(0, 10), v(0, 10))");
like(sqlstate_of($node, 'DROP TABLE dd'), qr/^2BP01: /, 'the view needs the table');
there('DROP TABLE dd CASCADE');
is(there($left), '0', 'nothing is left of a dropped cache');
my $number = there("SELECT cache FROM kv.caches WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = cache::oid)");
like($number, qr/^\d+$/, 'but a row with a number for a name');
is(there("SELECT kv.drop_cache($number); SELECT count(*) FROM kv.caches WHERE cache::oid = $number"), "\n0", 'which kv.drop_cache removes');
there("SELECT kv.create_cache('dd', 2, 9, 3, 64)");
$number = there("SELECT 'dd'::regclass::oid; DROP TABLE dd CASCADE; SELECT kv.create_cache('any', 2, 9, 3, 64); SELECT kv.drop_cache('any')");
is(there("SELECT count(*) FROM kv.caches WHERE cache::oid = " . $number =~ s/\D.*//rs), '0', 'as does making any cache');
is(there("SELECT kv.create_cache('dd', 2, 9, 3, 64); SELECT kv.append('dd', 1, k(0, 10), v(0, 10)); SELECT count(*) FROM kv.caches WHERE cache::text = 'dd'"),
	"dd\n10\n1", 'and it is made again');

# Also where a dump has brought them.
my $file = $node->basedir . '/dd.sql';
$node->command_ok([ 'pg_dump', '-f', $file, '-d', $node->connstr('postgres') ], 'dumped');
there('CREATE DATABASE other TEMPLATE template0');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $file, '-d', $node->connstr('other') ], 'restored');
is($node->safe_psql('other', "SELECT count(*) FROM pg_trigger WHERE tgname = 'forget_tails' AND tgenabled = 'A'"), '4', 'restored: with the triggers');
is($node->safe_psql('other', "DROP TABLE dd CASCADE; $left"), '0', 'restored: they go, too');

# Parts that are dropped: every function says so, and kv.drop_cache removes the rest.
foreach my $part (qw(sealed tail))
{
	there("DROP TABLE dd_$part CASCADE");
	foreach my $call ("append('dd', 1, k(10, 1), v(10, 1))", "attend('dd', '{1}', 0, q_batch(0, 1))", "length('dd', 1)", "fetch('dd', 1, 0)", "fork('dd', 1, 2)", "truncate('dd', 1, 5)",
		"seal('dd', 1)", "recode('dd', 1, 'int4')", "drop_sequence('dd', 1)", "check_cache('dd')", "collect('dd')", "enable_tenants('dd')")
	{
		like(sqlstate_of($node, "SELECT kv.$call"), qr/^55000: a table of cache "dd" was dropped/, "without dd_$part: $call");
	}
	like(sqlstate_of($node, "SELECT kv.create_cache('dd', 2, 9, 3, 64)"), qr/^42P07: relation "dd" already exists/, "without dd_$part: its name is taken");
	is(there("SELECT kv.drop_cache('dd'); $left"), "\n0", "without dd_$part: dropped");
	there("SELECT kv.create_cache('dd', 2, 9, 3, 64); SELECT kv.append('dd', 1, k(0, 10), v(0, 10))");
}

# Tables of a cache that an earlier build made do not depend on each other.
there("DELETE FROM pg_depend WHERE refobjid = 'dd'::regclass AND objid IN ('dd_sealed'::regclass, 'dd_tail'::regclass) AND deptype = 'a'");
my $oid = there("SELECT 'dd'::regclass::oid");
there("DROP TABLE dd CASCADE; SELECT kv.create_cache('another', 2, 9, 3, 64)");
my ($status, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT kv.create_cache('dd', 2, 9, 3, 64)");
like($err, qr/ERROR:  42P07: relation "dd_sealed" already exists\nHINT:  It is left of a cache whose table was dropped: SELECT kv\.drop_cache\($oid\) removes it\./, 'left tables are named');
is(there("SELECT kv.drop_cache($oid); $left; SELECT kv.create_cache('dd', 2, 9, 3, 64)"), "\n0\ndd", 'and removed as the hint says');
like(sqlstate_of($node, "CREATE TABLE ee_tail (); SELECT kv.create_cache('ee', 2, 9, 3, 64)"), qr/^42P07: relation "ee_tail" already exists/, 'another table in the way');

done_testing();
