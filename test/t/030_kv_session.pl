# What a session remembers of a cache never shows: after rollbacks, vacuum, table rewrites, tiles that move or whose places are used again,
# renames and a cache made anew under the old name, a session that worked before answers as a fresh one does.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use KVCache;
use VectorKV;

my $node = kv_node('kv_session', settings => ['max_prepared_transactions = 5']);
my %options = (exact => "codec => 'f16'", small => "codec => 'int8', tail_tokens => 16", long => "codec => 'int8', tail_tokens => 300");
my $old = $node->background_psql('postgres', on_error_stop => 0);
my $name;

# Length and attention of every sequence in every layer, and the tokens.
sub look
{
	return "SELECT seq, layer, kv.length('$name', seq), kv.attend('$name', ARRAY[seq], layer, q_batch(layer, 1)), md5(kv.bytes(f.k) || kv.bytes(f.v)) "
	  . "FROM $name, generate_series(0, 1) layer, kv.fetch('$name', seq, layer) f ORDER BY seq, layer";
}

# What is kept of a tail begins earlier than what is read anew, so sums may differ in the last digit; other tokens differ in the second.
sub alike
{
	my @parts = map { [ split /([-+]?\d+\.\d+(?:e[-+]?\d+)?)/ ] } @_;
	return 0 if @{ $parts[0] } != @{ $parts[1] };
	foreach my $i (0 .. $#{ $parts[0] })
	{
		my ($a, $b) = ($parts[0][$i], $parts[1][$i]);
		return 0 if $i % 2 ? abs($a - $b) > 1e-5 : $a ne $b;
	}
	return 1;
}

sub same
{
	my ($what) = @_;
	my $fresh = $node->safe_psql('postgres', look());
	$old->{stderr} = '';
	my $kept = $old->query(look());
	ok(alike($kept, $fresh), "$name, $what: as in a fresh session") or diag("$kept\n$fresh");
	is($old->{stderr}, '', "$name, $what: without an error");
	isnt($fresh, '', "$name, $what: there is an answer");
	return;
}

sub here { $old->{stderr} = ''; my $out = $old->query($_[0]); diag("$_[0]: $old->{stderr}") if $old->{stderr} ne ''; return $out; }
sub there { return $node->safe_psql('postgres', $_[0]); }

foreach my $cache (qw(exact small long))
{
	$name = $cache;
	create_cache($node, $name, $options{$cache});
	there("SELECT kv.append('$name', seq, k(100 * seq::int, 300), v(100 * seq::int, 300)) FROM generate_series(1, 3) seq");
	same('first');

	# Tiles of a rolled-back append, looked at before they went; then others at the same positions.
	here('BEGIN');
	here("SELECT kv.append('$name', 1, k(400, 200), v(400, 200))");
	my $inside = here(look());
	here('ROLLBACK');
	same('rolled back');
	here("SELECT kv.append('$name', 1, k(700, 200), v(700, 200))");
	isnt(here(look()), $inside, "$name: what was rolled back is not there");
	same('appended instead');
	here("BEGIN; SAVEPOINT s; SELECT kv.append('$name', 2, k(500, 100), v(500, 100))");
	here(look());
	here("ROLLBACK TO s; SELECT kv.append('$name', 2, k(800, 100), v(800, 100))");
	here(look());
	here('COMMIT');
	same('a savepoint');

	# A cursor keeps the snapshot of the time it was opened, whatever its own transaction does afterwards.
	foreach my $change ("kv.append('$name', 2, k(0, 5), v(0, 5))", "kv.truncate('$name', 2, 395)", "kv.truncate('$name', 2, 100)", "kv.recode('$name', 2, 'int4')", "kv.drop_sequence('$name', 2)")
	{
		my $attend = "SELECT kv.length('$name', 2), kv.attend('$name', '{2}', l, q_batch(l, 1)) FROM generate_series(0, 1) l";
		my $before = here($attend);
		like($before, qr/^400\|/, "$name, a cursor: 400 tokens before $change");
		here("BEGIN; DECLARE look CURSOR FOR $attend");
		here("SELECT $change");
		here($attend) unless $change =~ /drop/;
		is(here('FETCH ALL FROM look'), $before, "$name, a cursor: the same after $change");
		here('ROLLBACK');
	}
	same('after the cursors');

	# A transaction that is prepared: rolled back or committed by another session, after which others stand where its tokens stood.
	foreach my $end ('ROLLBACK', 'COMMIT')
	{
		here("BEGIN; SELECT kv.append('$name', 3, k(500, 20), v(500, 20))");
		here(look());
		here("PREPARE TRANSACTION 'p'");
		same("prepared, before $end");
		there("$end PREPARED 'p'");
		same("$end PREPARED");
		there("SELECT kv.append('$name', 3, k(700, 20), v(700, 20))");
		same("$end PREPARED, and others appended");
		here("SELECT kv.append('$name', 3, k(720, 1), v(720, 1))");
		same("$end PREPARED, and appended to again");
	}

	# An older copy of the tables, of the same epoch, and other tokens after it: loaded into emptied tables, or in place of the rows.
	foreach my $empty ('TRUNCATE', 'DELETE FROM')
	{
		my @tables = ($name, "${name}_sealed", "${name}_tail");
		there(join '; ', map { "CREATE TABLE copy_$_ AS TABLE $_" } @tables);
		there("SELECT kv.append('$name', 3, k(100, 9), v(100, 9))");
		same("before an older copy by $empty");
		there('BEGIN; ' . join('; ', map { "$empty $_; INSERT INTO $_ SELECT * FROM copy_$_; DROP TABLE copy_$_" } @tables) . '; COMMIT');
		same("an older copy by $empty");
		there("SELECT kv.append('$name', 3, k(200, 9), v(200, 9))");
		same("an older copy by $empty, and others appended");
	}

	# Places that are free again are used by other tiles.
	there("SELECT kv.truncate('$name', 1, 40); SELECT kv.drop_sequence('$name', 3)");
	there("VACUUM ${name}_sealed, ${name}_tail, $name");
	same('truncated elsewhere and vacuumed');
	there("SELECT kv.append('$name', 1, k(40, 400), v(40, 400)); SELECT kv.append('$name', 4, k(600, 400), v(600, 400))");
	same('places used again');

	# Rewritten tables: every tile has moved.
	there("VACUUM FULL ${name}_sealed; VACUUM FULL ${name}_tail; VACUUM FULL $name");
	same('VACUUM FULL');
	there("CLUSTER ${name}_sealed USING ${name}_sealed_pkey; REINDEX TABLE ${name}_sealed");
	same('CLUSTER and REINDEX');
	there("SELECT kv.append('$name', 1, k(0, 77), v(0, 77)); SELECT kv.recode('$name', 2, 'int4')");
	same('appended and recoded elsewhere');

	# Names.
	there("ALTER TABLE $name RENAME TO ${name}_old; ALTER TABLE ${name}_sealed RENAME TO other_sealed_$name");
	$name = "${cache}_old";
	same('renamed');
	there("CREATE SCHEMA IF NOT EXISTS attic; ALTER TABLE $name SET SCHEMA attic");
	$name = "attic.${cache}_old";
	same('in another schema');
	here("SELECT kv.append('$name', 1, k(0, 1), v(0, 1))");
	same('and appended to');
	there("SELECT kv.drop_cache('$name')");
	$old->query("SELECT kv.length('$name', 1)");
	like($old->query('\\echo :LAST_ERROR_SQLSTATE'), qr/^42P01$/, "$name: dropped, it is gone for the session too");
	$old->{stderr} = '';
	$name = $cache;
	create_cache($node, $name, "codec => 'f16', tail_tokens => 0");
	there("SELECT kv.append('$name', 9, k(0, 100), v(0, 100))");
	same('made anew under the old name');
	there("BEGIN; SELECT kv.create_cache('unmade', 2, 9, 3, 64); ROLLBACK");
	is(there("SELECT count(*) FROM kv.caches WHERE cache::text = 'unmade'"), '0', 'a cache that was rolled back is not listed');
}
$old->quit;

done_testing();
