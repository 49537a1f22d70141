# An owner may do to his tables, his search path and his policies what he likes: functions of schema kv give an error or the right
# answer, and never read or write beyond what is theirs.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $node = new_node('kv_hostile');
$node->safe_psql('postgres', 'CREATE EXTENSION vectorkv; CREATE ROLE bob LOGIN; CREATE SCHEMA b AUTHORIZATION bob; CREATE SCHEMA bad AUTHORIZATION bob');
my $tokens = "(SELECT array_fill(0.5::real, ARRAY[1,1,%d,64])::kv.tensor)";
my $query = "array_fill(0.5::real, ARRAY[%s64])::kv.tensor";
my ($one, $batch) = (sprintf($query, '1,'), sprintf($query, '1,1,'));

sub fill { my ($name, $seq, $count) = @_; my $t = sprintf($tokens, $count); return "SELECT kv.append('$name', $seq, $t, $t);"; }
sub calls
{
	my ($name) = @_;
	return ("kv.attend('$name', '{1}', 0, $batch)", "kv.fetch('$name', 1, 0)", "kv.length('$name', 1)", "count(*) FROM kv.weights('$name', 1, 0, $one)",
		"kv.seal('$name', 1)", "kv.append('$name', 1, " . join(', ', (sprintf($tokens, 1)) x 2) . ")", "kv.recode('$name', 1, 'f16')", "kv.truncate('$name', 1, 100)",
		"kv.fork('$name', 1, 9, 100)", "kv.drop_sequence('$name', 1)", "count(*) FROM kv.check_cache('$name')", "kv.collect('$name')");
}
sub as_bob { my ($sql) = @_; return "\\c - bob\nSET client_min_messages = error; $sql"; }

# Columns of other types, in a session that knows the cache and in one that does not.
$node->safe_psql('postgres', as_bob("SELECT kv.create_cache('b.c', 1, 1, 1, 64, 'int8', 'logged');" . fill('b.c', 1, 200) . "SELECT kv.seal('b.c', 1);" . fill('b.c', 1, 5)));
my $open = "DROP VIEW b.c_tile; DROP INDEX b.c_extents_idx;";
foreach my $change ([ c => extents => "bigint USING 4096" ], [ c => stops => "text" ], [ c => epoch => "int USING 1" ], [ c_sealed => tile => "bigint USING 4096" ],
	[ c_sealed => pos => "numeric" ], [ c_tail => kv => "bigint USING 4096" ], [ c_tail => chunk => "text" ])
{
	my ($table, $column, $type) = @$change;
	my $errors = '';
	foreach my $call (calls('b.c'))
	{
		foreach my $before ('', "SELECT kv.length('b.c', 1), kv.attend('b.c', '{1}', 0, $batch);")
		{
			my $state = sqlstate_of($node, as_bob("BEGIN; $before $open ALTER TABLE b.$table ALTER $column DROP DEFAULT, ALTER $column TYPE $type; SELECT $call"));
			$errors .= "$call: $state\n" if $state !~ /^42809: column "$column" of cache "c" has type/;
		}
	}
	is($errors, '', "$table.$column as $type");
}
like(sqlstate_of($node, as_bob("BEGIN; $open ALTER TABLE b.c_tail RENAME kv TO x; SELECT kv.length('b.c', 1)")), qr/^42809: column "kv" of cache "c" is missing/, 'a column that is missing');

# A policy changes a type while a function runs.
foreach my $change ([ c_sealed => tile => 'bigint USING 4096' ], [ c_tail => kv => 'bigint USING 4096' ])
{
	my ($table, $column, $type) = @$change;
	like(sqlstate_of($node, as_bob("$open CREATE FUNCTION b.change() RETURNS boolean LANGUAGE plpgsql AS \$\$ BEGIN
		IF (SELECT atttypid <> 'bigint'::regtype FROM pg_attribute WHERE attrelid = 'b.$table'::regclass AND attname = '$column') THEN ALTER TABLE b.$table ALTER $column TYPE $type; END IF;
		RETURN true; END \$\$; ALTER TABLE b.c ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY p ON b.c USING (b.change()); SELECT kv.fetch('b.c', 1, 0)")),
		qr/^42809: column "$column" of cache "c" has type bigint/, "$table.$column changes during a call");
	$node->safe_psql('postgres', "DROP POLICY p ON b.c; DROP FUNCTION b.change(); SELECT kv.drop_cache('b.c')");
	$node->safe_psql('postgres', as_bob("SELECT kv.create_cache('b.c', 1, 1, 1, 64, 'int8', 'logged');" . fill('b.c', 1, 200) . "SELECT kv.seal('b.c', 1);" . fill('b.c', 1, 5)));
}

# Operators of the caller's search path take no part: the answers are the same with and without them, and nothing is written elsewhere.
$node->safe_psql('postgres', as_bob("CREATE FUNCTION bad.yes(int, int) RETURNS boolean LANGUAGE sql AS 'SELECT true'; CREATE FUNCTION bad.yes8(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT true';
	CREATE OPERATOR bad.< (LEFTARG = int, RIGHTARG = int, FUNCTION = bad.yes); CREATE OPERATOR bad.>= (LEFTARG = int, RIGHTARG = int, FUNCTION = bad.yes);
	CREATE OPERATOR bad.<= (LEFTARG = int, RIGHTARG = int, FUNCTION = bad.yes); CREATE OPERATOR bad.= (LEFTARG = int, RIGHTARG = int, FUNCTION = bad.yes);
	CREATE OPERATOR bad.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = bad.yes8);
	SELECT kv.create_cache('b.h', 1, 1, 1, 64);" . fill('b.h', 1, 1000) . fill('b.h', 2, 700) . "
	INSERT INTO b.h_tail SELECT extent, chunk, 2000000000, kv FROM b.h_tail WHERE pos = 999"));
foreach my $call (calls('b.h'))
{
	my @answers = map { my ($status, $out, $err) = $node->psql('postgres', as_bob("BEGIN ISOLATION LEVEL SERIALIZABLE; SET LOCAL search_path = $_; SELECT md5((SELECT x FROM (SELECT $call) AS y (x))::text); ROLLBACK"), on_error_stop => 1);
		"$status $out $err" } ('pg_catalog', 'bad, pg_catalog');
	like($answers[0], qr/^0 \w{32} $/, "$call: an answer");
	is($answers[1], $answers[0], "$call: the same whatever the operators");
}

# Rows that no key keeps apart any more: one twice, another missing. And a tile that is null.
foreach my $call ("kv.fetch('b.h', 1, 0)", "kv.attend('b.h', '{1}', 0, $batch)", "kv.seal('b.h', 1)", "kv.recode('b.h', 1, 'f16')")
{
	like(sqlstate_of($node, as_bob("BEGIN; ALTER TABLE b.h_tail DROP CONSTRAINT h_tail_pkey; DELETE FROM b.h_tail WHERE pos = 998;
		INSERT INTO b.h_tail SELECT extent, chunk, pos, kv FROM b.h_tail WHERE pos = 999; SELECT $call")), qr/^XX001: tail row of sequence 1 at position 999, chunk 0 in cache "h" is there twice/, "$call: a row twice");
}
foreach my $call ("kv.truncate('b.h', 1, 100)", "kv.fork('b.h', 1, 9, 100)", "kv.fetch('b.h', 1, 0)", "kv.recode('b.h', 1, 'f16')")
{
	like(sqlstate_of($node, as_bob("BEGIN; ALTER TABLE b.h_sealed ALTER tile DROP NOT NULL; UPDATE b.h_sealed SET tile = NULL; SELECT $call")), qr/^XX001: tile .* (is null|is damaged: its row cannot be read)/, "$call: a tile that is null");
}

# A policy attends while an attention runs: to other sequences, so that the tails that are kept are too many, to the same one, and to
# the same one with more tokens.
my $wide = "array_fill(%s::real, ARRAY[1,8,%d,128])::kv.tensor";
my $wide_query = "array_fill(0.5::real, ARRAY[1,8,128])::kv.tensor";
sub wide { my ($name, $seq, $value, $count) = @_; my $t = sprintf($wide, $value, $count); return "kv.append('$name', $seq, $t, $t)"; }
$node->safe_psql('postgres', as_bob("SELECT kv.create_cache('b.u1', 1, 8, 8, 128), kv.create_cache('b.u2', 1, 8, 8, 128); SELECT " . wide('b.u1', 1, 0.5, 200) . '; SELECT ' . wide('b.u2', 's', 0.25, 130) . ' FROM generate_series(1, 6) s'));
my %nested = (
	others => "PERFORM kv.attend('b.u2', ARRAY[s], 0, $wide_query) FROM generate_series(1, 6) s;",
	same => "PERFORM kv.attend('b.u1', '{1}', 0, $wide_query);",
	more => "PERFORM " . wide('b.u1', 1, 0.25, 300) . "; PERFORM kv.attend('b.u1', '{1}', 0, $wide_query); PERFORM kv.attend('b.u2', ARRAY[s], 0, $wide_query) FROM generate_series(1, 6) s;",
	cut => "PERFORM kv.truncate('b.u1', 1, 0); PERFORM " . wide('b.u1', 1, 0.25, 200) . "; PERFORM kv.attend('b.u1', '{1}', 0, $wide_query);");
my $right = $node->safe_psql('postgres', as_bob("SELECT md5(kv.attend('b.u1', '{1}', 0, $wide_query)::text)"));
foreach my $table ('sealed', 'tail')
{
	foreach my $case (sort keys %nested)
	{
		my $found = $node->safe_psql('postgres', as_bob("SET vectorkv.tail_memory = 64; SET b.deep = 'no'; BEGIN;
			CREATE FUNCTION b.nest() RETURNS boolean LANGUAGE plpgsql AS \$\$ BEGIN
				IF current_setting('b.deep') = 'yes' THEN RETURN true; END IF;
				PERFORM set_config('b.deep', 'yes', false); $nested{$case} PERFORM set_config('b.deep', 'no', false); RETURN true; END \$\$;
			SELECT md5(kv.attend('b.u1', '{1}', 0, $wide_query)::text);
			ALTER TABLE b.u1_$table ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; CREATE POLICY p ON b.u1_$table USING (b.nest());
			SELECT md5(kv.attend('b.u1', '{1}', 0, $wide_query)::text); ROLLBACK; SELECT md5(kv.attend('b.u1', '{1}', 0, $wide_query)::text)"));
		like($found, qr/^$right\n(no\n|yes\n)*$right\n(no\n|yes\n)*$right$/, "a policy on the $table attends: $case");
	}
}

# Frequencies of which angles are no numbers.
my $keys = "array_fill(1::real, ARRAY[1,1,64])::kv.tensor";
my $state = "kv.partial($one, (SELECT x FROM kv.encode($keys, $keys, 'int8', 5, keys_before_rope => true) x), rope => ROW(ARRAY[%s], 'half')::kv.rope)";
foreach my $frequency ('1e308', '-1e300', "'Infinity'::float8", "'NaN'::float8")
{
	like(sqlstate_of($node, 'SELECT ' . sprintf($state, $frequency)), qr/^22023: /, "kv.partial: frequency $frequency");
	like(sqlstate_of($node, "SELECT kv.create_cache('public.r', 1, 1, 1, 64, keys => 'before_rope', rope_frequencies => ARRAY[$frequency])"), qr/^22023: /, "kv.create_cache: frequency $frequency");
}
unlike($node->safe_psql('postgres', 'SELECT kv.finish(' . sprintf($state, '1e290') . ')::text'), qr/NaN|Infinity/, 'a frequency that is large');

done_testing();
