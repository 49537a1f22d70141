# Every instruction set that the processor has gives the same answers, and one that it lacks is refused.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $node = new_node('simd');
my @levels = qw(scalar neon avx2 avx512);
my @cases = (['vector', 'cosine', 'lvq8'], ['vector', 'l2', 'lvq4'], ['vector', 'ip', 'lvq4x8'], ['halfvec', 'l2', 'lvq8'], ['vector', 'l1', 'none'],
	['halfvec', 'cosine', 'none'], ['sparsevec', 'ip', 'none'], ['bit', 'hamming', 'none'], ['bit', 'jaccard', 'none']);
# A setting is checked once the library is loaded.
my $set = "LOAD 'vector'; SET vectorkv.simd";
my @there = grep { sqlstate_of($node, "$set = '$_'") eq '' } @levels;

ok((grep { $_ eq 'scalar' } @there), 'scalar is always there');
diag("levels here: @there");
like(sqlstate_of($node, "$set = '$_'"), qr/^(0A000|22023): .*$_/, "$_ is refused where it is missing") foreach grep { my $l = $_; !grep { $_ eq $l } @there } @levels;
like(sqlstate_of($node, "$set = 'mmx'"), qr/^22023/, 'an unknown level is refused');

foreach my $type (qw(vector halfvec sparsevec bit))
{
	load_sample($node, "items_$type", $type, rows => 2000);
	load_queries($node, "queries_$type", $type, rows => 50);
}

# The distances of an answer. The sums of a cosine are the same bits everywhere.
sub distances
{
	my ($type, $metric, $level) = @_;
	return [ split /\n/, $node->safe_psql('postgres', "SET vectorkv.simd = '$level'; SET enable_seqscan = off; "
			  . 'SELECT q, distance FROM (' . knn("items_$type", "queries_$type", $metric) . ') x ORDER BY q, distance') ];
}

sub largest_difference
{
	my ($one, $two) = @_;
	return 'other row counts' if @$one != @$two;
	my $largest = 0;
	foreach my $i (0 .. $#$one)
	{
		my ($a, $b) = map { (split /\|/, $_)[1] } ($one->[$i], $two->[$i]);
		my $difference = abs($a - $b) / (1 + abs($a));
		$largest = $difference if $difference > $largest;
	}
	return $largest;
}

foreach my $case (@cases)
{
	my ($type, $metric, $codec) = @$case;
	my $with = $codec eq 'none' ? '' : "WITH (codec = '$codec')";
	$node->safe_psql('postgres', "CREATE INDEX idx ON items_$type USING hnsw (embedding " . opclass_of($type, $metric) . ") $with");
	my $truth = distances($type, $metric, 'scalar');
	foreach my $level (@there)
	{
		my $difference = largest_difference($truth, distances($type, $metric, $level));
		cmp_ok($difference, '<=', $metric eq 'cosine' ? 0 : 1e-5, "$type $metric $codec: $level answers as scalar") unless $difference eq 'other row counts';
		fail("$type $metric $codec: $level returns other rows") if $difference eq 'other row counts';
	}
	$node->safe_psql('postgres', 'DROP INDEX idx');
}

# An index that one level built serves every other.
remember_exact($node, 'exact', 'items_vector', 'queries_vector', 'l2');
foreach my $level (@there)
{
	$node->safe_psql('postgres', "SET vectorkv.simd = '$level'; CREATE INDEX idx ON items_vector USING hnsw (embedding vector_l2_ops)");
	ok_recall(recall($node, 'exact', 'items_vector', 'queries_vector', 'l2', settings => ["vectorkv.simd = 'scalar'"]), 0.97, "built by $level, searched by scalar");
	ok_recall(recall($node, 'exact', 'items_vector', 'queries_vector', 'l2', settings => ["vectorkv.simd = '$there[-1]'"]), 0.97, "built by $level, searched by $there[-1]");
	$node->safe_psql('postgres', 'DROP INDEX idx');
}

done_testing();
