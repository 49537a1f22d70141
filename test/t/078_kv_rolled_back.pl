# What a session remembers of the places of tiles may be those of a transaction that was rolled back.  Other tiles lie there afterwards, more
# or fewer of them, cut elsewhere: each way of reading tiles answers as a session does that remembers nothing, at its first try.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;
use GPUHelper;

my $node = gpu_node('kv_rolled_back');
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION numbers(count int, shape int[], step float8 DEFAULT 0.37) RETURNS kv.tensor LANGUAGE sql AS $$ SELECT kv.reshape(array_agg(sin(i * step))::real[]::kv.tensor, shape) FROM generate_series(1, count) AS i $$;
SELECT kv.create_cache('c', 1, 2, 2, 64);
CREATE FUNCTION add(s bigint, n int) RETURNS int LANGUAGE sql AS $$ SELECT kv.append('c', s, numbers(n * 128, ARRAY[1,2,n,64]), numbers(n * 128, ARRAY[1,2,n,64], 0.11 + n)) $$;
CREATE FUNCTION apart(a kv.tensor, b kv.tensor) RETURNS float8 LANGUAGE sql AS $$ SELECT max(abs(x - y)) FROM unnest(a::real[], b::real[]) AS t (x, y) $$;
-- The tokens one at a time, each a tile.
CREATE FUNCTION add_each(s bigint, n int) RETURNS void LANGUAGE plpgsql AS $$ BEGIN FOR i IN 1 .. n LOOP PERFORM add(s, 1), kv.seal('c', s); END LOOP; END $$;
SELECT add(1000 + i, 50), kv.seal('c', 1000 + i) FROM generate_series(1, 60) i;
SQL

my %read = (
	fetch => sub { "(SELECT k FROM kv.fetch('c', $_[0], 0))" },
	'the beginning' => sub { "(SELECT k FROM kv.fetch('c', $_[0], 0, 0, 300))" },
	'a part' => sub { "(SELECT v FROM kv.fetch('c', $_[0], 0, 5, 250))" },
	attend => sub { "kv.attend('c', '{$_[0]}', 0, numbers(128, '{1,2,64}'))" },
	'attend in a window' => sub { "kv.attend('c', '{$_[0]}', 0, numbers(128, '{1,2,64}'), \"window\" => 200)" },
	'attend by the helper' => sub { "kv.attend('c', '{$_[0]}', 0, numbers(128, '{1,2,64}'))" });
# What is rolled back, and what follows; the sequence begins with ten tokens, which are sealed.
my %rolled = (
	'many short tiles, then two' => [ "add_each(SEQ, 300)", "add(SEQ, 600)" ],
	'two tiles, then many' => [ "add(SEQ, 500)", "add_each(SEQ, 300)" ],
	'other cuts' => [ "add(SEQ, 300), kv.seal('c', SEQ)", "add(SEQ, 100), kv.seal('c', SEQ), add(SEQ, 33), kv.seal('c', SEQ), add(SEQ, 167)" ]);

my $seq = 0;
foreach my $how (sort keys %rolled)
{
	foreach my $ended ('transaction', 'savepoint')
	{
		foreach my $reader (sort keys %read)
		{
			next if $ended eq 'savepoint' && $reader =~ /helper/;    # what is not committed is not the helper's
			++$seq;
			my ($lost, $kept) = map { s/SEQ/$seq/gr } @{ $rolled{$how} };
			my $use = $reader =~ /helper/ ? 'require' : 'off';
			my $question = $read{$reader}->($seq);
			my ($begin, $back, $end) = $ended eq 'savepoint' ? ('BEGIN; SAVEPOINT s', 'ROLLBACK TO s', 'COMMIT') : ('BEGIN', 'ROLLBACK', '');
			my ($status, $out, $err) = $node->psql('postgres', <<"SQL");
SET vectorkv.gpu = $use; SET client_min_messages = error;
\\o /dev/null
SELECT add($seq, 10);
SELECT kv.seal('c', $seq);
$begin;
SELECT $lost;
SELECT $question;
$back;
SELECT $kept;
SELECT kv.seal('c', $seq);
SELECT kv.fetch('c', 1000 + i, 0) FROM generate_series(1, 60) i;    -- lists, where the one that is forgotten was
\\o
CREATE TEMP TABLE first AS SELECT $question AS answer;
SELECT apart((SELECT answer FROM first), $question);
$end;
CREATE TABLE answer_$seq AS SELECT answer::real[] FROM first;
SQL
			my $name = "$how ($ended), $reader";
			is($err, q(), "$name: no error") or next;
			my $again = $node->safe_psql('postgres', "SET vectorkv.gpu = off; SELECT apart((SELECT answer::kv.tensor FROM answer_$seq), kv.reshape($question, ARRAY[cardinality(answer)])) FROM answer_$seq");
			cmp_ok($again eq q() ? 9 : $again, '<=', $reader =~ /attend/ ? 1e-5 : 0, "$name: what another session reads");
			is($out =~ s/\s//gr, '0', "$name: the same at the second try") unless $reader =~ /helper/;
		}
	}
}
is($node->safe_psql('postgres', "SELECT count(*) FROM kv.check_cache('c')"), '0', 'the cache is sound');
$node->stop;
done_testing();
