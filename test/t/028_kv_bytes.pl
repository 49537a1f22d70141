# What appends write: WAL and storage of bulk and of one-token appends, with logged and unlogged tails, held against bounds.  WAL is the
# difference of the insert positions with full-page images off: what the change itself costs, whenever the last checkpoint was.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use List::Util qw(sum);
use Test::More;
use KVCache;
use VectorKV;

my $node = kv_node('kv_bytes', settings => ['full_page_writes = off', 'checkpoint_timeout = 1h']);
my @codecs = qw(f16 int8 int4);
my @tails = qw(logged unlogged);

# Bytes of WAL that each statement wrote.
sub wal_of
{
	my @sql = @_;
	my $script = join "\n", map { "SELECT pg_current_wal_insert_lsn() AS start \\gset\n$_ \\g /dev/null\nSELECT 'wal', pg_current_wal_insert_lsn() - :'start';" } @sql;
	return $node->safe_psql('postgres', $script) =~ /^wal\|(\d+)/mg;
}

# Bulk: 4,096 tokens of the sample's geometry in one call.
my $raw = 2 * $KVCache::LAYERS * $KVCache::KV_HEADS * $KVCache::DIM * 2;    # bytes of a token's keys and values as halves
my %storage = (f16 => 1.08, int8 => 0.55, int4 => 0.31);
$node->safe_psql('postgres', 'CREATE TABLE bulk AS WITH a AS (SELECT kv.concat(k(0, 1024), k(0, 1024), 2) AS k, kv.concat(v(0, 1024), v(0, 1024), 2) AS v) '
	  . 'SELECT kv.concat(k, k, 2) AS k, kv.concat(v, v, 2) AS v FROM a');
foreach my $codec (@codecs)
{
	foreach my $tail (@tails)
	{
		my $cache = "bulk_${codec}_$tail";
		create_cache($node, $cache, "codec => '$codec', tail => '$tail'");
		my ($wal) = wal_of("SELECT kv.append('$cache', 1, k, v) FROM bulk");
		my $stored = $node->safe_psql('postgres',
			"SELECT (SELECT sum(pg_column_size(tile)) FROM ${cache}_sealed) + (SELECT coalesce(sum(pg_column_size(kv)), 0) FROM ${cache}_tail)");
		cmp_ok($wal / $stored, '<=', 1.1, sprintf('%s, %s tail, bulk append: WAL %.3f of the stored bytes', $codec, $tail, $wal / $stored));
		cmp_ok($wal / $stored, '>', 0.5, 'so that most of them are logged');
		$node->safe_psql('postgres', "SELECT kv.seal('$cache', 1)");
		my $share = $node->safe_psql('postgres', "SELECT pg_total_relation_size('${cache}_sealed')") / 4096 / $raw;
		cmp_ok($share, '<=', $storage{$codec}, sprintf('%s, %s tail: %.3f of the raw bytes, heap and index', $codec, $tail, $share));
		is($node->safe_psql('postgres', "SELECT count(*) FROM ${cache}_tail"), '0', 'and nothing in the tail');
		$node->safe_psql('postgres', "SELECT kv.drop_cache('$cache')");
	}
}

# One token at a time: 30 layers of 3 heads, as the sample's model has them.
my ($layers, $tokens) = (30, 480);
my $token = 2 * $layers * $KVCache::KV_HEADS * $KVCache::DIM * 2;
$node->safe_psql('postgres', <<"SQL");
CREATE TABLE deep (i int PRIMARY KEY, k kv.tensor, v kv.tensor);
DO \$\$
DECLARE
	k1 kv.tensor;
	v1 kv.tensor;
	k kv.tensor;
	v kv.tensor;
BEGIN
	FOR i IN 0 .. $tokens LOOP
		k1 := k(i, CASE i WHEN $tokens THEN 200 ELSE 1 END); k := k1;
		v1 := v(i, CASE i WHEN $tokens THEN 200 ELSE 1 END); v := v1;
		FOR j IN 2 .. $layers / 2 LOOP k := kv.concat(k, k1, 0); v := kv.concat(v, v1, 0); END LOOP;
		INSERT INTO deep VALUES (i, k, v);
	END LOOP;
END \$\$;
SQL
foreach my $codec (@codecs)
{
	foreach my $tail (@tails)
	{
		my $cache = "single_${codec}_$tail";
		$node->safe_psql('postgres', "SELECT kv.create_cache('$cache', $layers, 9, 3, 64, codec => '$codec', tail => '$tail')");
		$node->safe_psql('postgres', "SELECT kv.append('$cache', 1, k, v) FROM deep WHERE i = $tokens");
		my @wal = map { $_ / $token } wal_of(map { "SELECT kv.append('$cache', 1, k, v) FROM deep WHERE i = $_" } 0 .. $tokens - 1);
		is(scalar @wal, $tokens, "$codec, $tail tail: $tokens appends of one token");
		my $plain = (sort { $a <=> $b } @wal)[ $tokens / 2 ];    # most appends seal nothing
		my $all = sum(@wal) / $tokens;
		note(sprintf('%s, %s tail: WAL %.3f of a token, %.3f with sealing', $codec, $tail, $plain, $all));
		# With a logged tail a token is written twice: first as packed halves, 0.9 and 5 % for rows and keys, then in a tile, the codec's share.
		# For int8 that is 1.5 at most.
		my ($bound, $with_sealing) = $tail eq 'logged' ? (0.95, 0.95 + $storage{$codec}) : (0.05, 0.05 + $storage{$codec});
		cmp_ok($plain, '<=', $bound, sprintf('%s, %s tail: WAL %.3f of the token\'s bytes', $codec, $tail, $plain));
		cmp_ok($all, '<=', $with_sealing, sprintf('%s, %s tail: %.3f with sealing', $codec, $tail, $all));
		$node->safe_psql('postgres', "SELECT kv.drop_cache('$cache')");
	}
}

done_testing();
