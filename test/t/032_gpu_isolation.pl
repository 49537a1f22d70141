# What the helper remembers of an extent is never seen by whom it does not concern: a transaction sees through the helper what its snapshot
# says, while others append, truncate, fork, recode and drop, and whatever becomes of transactions; a name of tiles never means two things.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use GPUHelper;
use KVCache;
use PostgreSQL::Test::Utils;
use VectorKV;

my $node = gpu_node('gpu_isolation');
create_cache($node, 'exact', "codec => 'f16'");
create_cache($node, 'small', "codec => 'int8', tail_tokens => 16");

sub session { return $node->background_psql($_[0] // 'postgres', on_error_stop => 0); }
sub attend { my ($cache, $seq, $layer) = @_; $layer //= 1; return "SELECT kv.attend('$cache', '{$seq}', $layer, q_batch($layer, 1))"; }

# Asks twice, so that the helper has every tile in its tables the second time.
sub ok_warm
{
	my ($session, $query, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok_same($node, $query, $name, session => $session);
	return ok_same($node, $query, "$name, again", session => $session, most_staged => 0);
}

# A reader keeps its snapshot.
foreach my $cache (qw(exact small))
{
	my $look = attend($cache, 1);
	foreach my $change (
		['append', "SELECT kv.append('$cache', 1, k(700, 200), v(700, 200))"],
		['truncate', "SELECT kv.truncate('$cache', 1, 150)"],
		['truncate and append', "SELECT kv.truncate('$cache', 1, 100); SELECT kv.append('$cache', 1, k(100, 400), v(100, 400))"],
		['truncate to nothing and append', "SELECT kv.truncate('$cache', 1, 0); SELECT kv.append('$cache', 1, k(500, 300), v(500, 300))"],
		['fork over a dropped one', "SELECT kv.drop_sequence('$cache', 1); SELECT kv.fork('$cache', 2, 1, 50); SELECT kv.append('$cache', 1, k(50, 300), v(50, 300))"],
		['recode', "SELECT kv.recode('$cache', 1, 'int4')"],
		['seal', "SELECT kv.seal('$cache', 1)"])
	{
		my ($name, $sql) = @$change;
		$node->safe_psql('postgres', "SELECT kv.drop_sequence('$cache', seq) FROM $cache; SELECT kv.append('$cache', 1, k(0, 300), v(0, 300)); "
			  . "SELECT kv.append('$cache', 2, k(500, 300), v(500, 300))");
		my ($reader, $other) = (session(), session());
		$reader->query('BEGIN ISOLATION LEVEL REPEATABLE READ');
		my $before = $reader->query("SET vectorkv.gpu = off; $look");
		ok_warm($reader, $look, "$cache, $name: the reader, before");
		$node->safe_psql('postgres', $sql);
		ok_warm($other, $look, "$cache, $name: another session sees the change");
		ok_warm($reader, $look, "$cache, $name: the reader does not");
		is($reader->query("SET vectorkv.gpu = off; $look"), $before, "$cache, $name: what it sees is what it saw");
		$reader->query('COMMIT');
		ok_warm($reader, $look, "$cache, $name: but does afterwards");
		$_->quit foreach $reader, $other;
	}
}

# What is not committed goes into no table of the helper: others see nothing of it, nor does anybody after it was rolled back.
foreach my $cache (qw(exact small))
{
	my $look = attend($cache, 1);
	$node->safe_psql('postgres', "SELECT kv.drop_sequence('$cache', seq) FROM $cache; SELECT kv.append('$cache', 1, k(0, 300), v(0, 300))");
	my ($writer, $reader) = (session(), session());
	ok_warm($reader, $look, "$cache: the reader, before");
	foreach my $end ('ROLLBACK', 'ROLLBACK', 'COMMIT')
	{
		my $from = $end eq 'COMMIT' ? 400 : 10;
		$writer->query('BEGIN');
		is($writer->query("SELECT kv.append('$cache', 1, k($from, 300), v($from, 300))"), '600', "$cache: the writer appends");
		ok_same($node, $look, "$cache, before $end: the writer sees it", session => $writer);
		ok_same($node, $look, "$cache, before $end: the writer sees it again", session => $writer);
		ok_warm($reader, $look, "$cache, before $end: the reader does not");
		$writer->query($end);
		ok_same($node, $look, "$cache, after $end: the writer", session => $writer);
		ok_same($node, $look, "$cache, after $end: the reader", session => $reader);
		is($reader->query("SELECT kv.length('$cache', 1)"), $end eq 'COMMIT' ? '600' : '300', "$cache, after $end: as many tokens");
	}

	# A part of a transaction is rolled back and other tokens take the same positions.
	$writer->query('BEGIN');
	foreach my $from (50, 333, 600)
	{
		$writer->query("SAVEPOINT s");
		is($writer->query("SELECT kv.append('$cache', 1, k($from, 250), v($from, 250))"), '850', "$cache: appended in a savepoint");
		ok_same($node, $look, "$cache: tokens from $from, seen in the savepoint", session => $writer);
		if ($from != 600)
		{
			$writer->query('ROLLBACK TO s');
			ok_same($node, $look, "$cache: not seen after it was rolled back", session => $writer);
		}
	}
	ok_warm($reader, $look, "$cache: the reader sees none of it");
	$writer->query('COMMIT');
	ok_warm($writer, $look, "$cache: the writer, after the commit");
	ok_warm($reader, $look, "$cache: the reader, after the commit");
	ok_contents($node, $cache, { 1 => { tokens => [ 0 .. 299, 400 .. 699, 600 .. 849 ], lossy => $cache eq 'small' } }, "$cache: as it should be");

	# Forks that are rolled back and made anew elsewhere, with the table of their parent in use.
	$writer->query("BEGIN");
	$writer->query("SELECT kv.fork('$cache', 1, 2, 200); SELECT kv.append('$cache', 2, k(700, 200), v(700, 200))");
	ok_same($node, attend($cache, 2), "$cache: a fork that is not committed", session => $writer);
	$writer->query("ROLLBACK; SELECT kv.fork('$cache', 1, 2, 170); SELECT kv.append('$cache', 2, k(300, 230), v(300, 230))");
	ok_warm($_, attend($cache, 2), "$cache: another one at its place") foreach $writer, $reader;
	ok_warm($reader, $look, "$cache: the parent");
	$_->quit foreach $writer, $reader;
	ok_cache($node, $cache);
}

# A cache goes and comes; a drop that is rolled back.
my $reader = session();
my $number = 0;
foreach my $from (0, 300, 600)
{
	$node->safe_psql('postgres', "SELECT kv.create_cache('again', 2, 9, 3, 64, codec => 'int8'); SELECT kv.append('again', 1, k($from, 300), v($from, 300))");
	ok_warm($reader, attend('again', 1), 'a cache of an old name, time ' . ++$number);
	$reader->query("BEGIN; SELECT kv.drop_cache('again'); ROLLBACK");
	ok_warm($reader, attend('again', 1), 'not dropped after all');
	$node->safe_psql('postgres', "SELECT kv.drop_cache('again')");
}

# Rows written back by hand keep the numbers of their extents, in the same table or in another one of the same name; what follows differs.
create_cache($node, 'back', "codec => 'int8', tail_tokens => 16");
$node->safe_psql('postgres', "SELECT kv.append('back', 1, k(0, 400), v(0, 400))");
ok_warm($reader, attend('back', 1), 'rows as they were written');
my $folder = PostgreSQL::Test::Utils::tempdir_short();
chmod 0777, $folder;
$node->safe_psql('postgres', join ';', map { "COPY $_ TO '$folder/$_'" } qw(back back_sealed back_tail));
$number = 0;
foreach my $empty ('DELETE FROM', 'TRUNCATE', 'DELETE FROM')
{
	my $from = 450 + 80 * $number++;
	$node->safe_psql('postgres', join ';', map { ("$empty $_", "COPY $_ FROM '$folder/$_'") } qw(back back_sealed back_tail));
	$node->safe_psql('postgres', "SELECT kv.append('back', 1, k($from, 400), v($from, 400))");
	ok_warm($reader, attend('back', 1), "rows written back after $empty, then another 400 tokens");
}
$reader->quit;

# Databases with the same files, and with the same rows.
$node->safe_psql('postgres', 'CREATE DATABASE twin TEMPLATE postgres');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
my $dump = "$folder/dump.sql";
$node->run_log([ 'pg_dump', '-d', $node->connstr('postgres'), '-f', $dump ]);
$node->safe_psql('restored', slurp_file($dump));
my %from = (postgres => 0, twin => 300, restored => 600);
my %session = map { $_ => session($_) } keys %from;
ok_warm($session{$_}, attend('exact', 1), "database $_, the same tiles") foreach sort keys %from;
$node->safe_psql($_, "SELECT kv.append('exact', 1, k($from{$_}, 120), v($from{$_}, 120)); SELECT kv.append('small', 1, k($from{$_}, 120), v($from{$_}, 120))")
  foreach sort keys %from;
foreach my $round (1, 2)
{
	foreach my $database (sort keys %from)
	{
		ok_warm($session{$database}, attend($_, 1), "database $database, $_, then others, round $round") foreach qw(exact small);
	}
}
$_->quit foreach values %session;

# Who may not read the tiles does not get them from the helper; who reads them through the planner is answered by the CPU.
$node->safe_psql('postgres', 'CREATE ROLE stranger; CREATE ROLE tenant; CREATE ROLE reader; GRANT USAGE ON SCHEMA public, kv TO stranger, tenant, reader; '
	  . 'GRANT SELECT ON small, small_sealed, small_tail TO tenant, reader; GRANT SELECT ON small TO stranger');
my $ask = "SET ROLE %s; SET vectorkv.gpu = %s; " . attend('small', 1);
like(sqlstate_of($node, sprintf $ask, 'stranger', $_), qr/^42501: permission denied/, "a stranger is refused with vectorkv.gpu = $_") foreach qw(off on require);
is($node->safe_psql('postgres', sprintf("$ask IS NULL; SELECT requests FROM kv.gpu_session()", 'reader', 'require')), "f\n1", 'a reader is answered by the helper');
$node->safe_psql('postgres', 'ALTER TABLE small_sealed ENABLE ROW LEVEL SECURITY; CREATE POLICY early ON small_sealed TO tenant USING (pos >= 0); '
	  . 'CREATE POLICY late ON small_sealed TO reader USING (pos < 100)');
like(sqlstate_of($node, sprintf $ask, 'tenant', 'require'), qr/^0A000: .*row security/, 'row security: an error under require');
my $here = $node->safe_psql('postgres', sprintf($ask, 'tenant', 'off'));
is($node->safe_psql('postgres', sprintf("$ask; SELECT requests FROM kv.gpu_session()", 'tenant', 'on')), "$here\n0", 'and the CPU under on');
like(sqlstate_of($node, sprintf $ask, 'reader', $_), qr/^XX001: .*hidden by row security/, "tiles hidden by a policy stay hidden with vectorkv.gpu = $_") foreach qw(off on);

ok_at_rest($node, 'at the end');
is(gpu_stat($node, 'errors + restarts'), '0', 'no error, no restart');

done_testing();
