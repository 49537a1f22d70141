# Recall floors of every type, metric and codec, and that a codec stays near the exact form at the same effort.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $node = new_node('matrix', settings => ['maintenance_work_mem = 128MB']);

# type, metric, [codec, floor at ef_search 40, floor at 100]...
my @dense = (['none', 0.97, 0.99], ['lvq8', 0.97, 0.99], ['lvq4x8', 0.96, 0.985], ['lvq4', 0.80, 0.80]);
my @exact = (['none', 0.93, 0.97]);
my @sparse = (['none', 0.90, 0.97]);
my @sparse_l1 = (['none', 0.84, 0.95]);
my @matrix = (
	['vector', 'l2', @dense], ['vector', 'ip', @dense], ['vector', 'cosine', @dense], ['vector', 'l1', @exact],
	['halfvec', 'l2', @dense], ['halfvec', 'ip', @dense], ['halfvec', 'cosine', @dense], ['halfvec', 'l1', @exact],
	['sparsevec', 'l2', @sparse], ['sparsevec', 'ip', @sparse], ['sparsevec', 'cosine', @sparse], ['sparsevec', 'l1', @sparse_l1],
	['bit', 'hamming', @exact], ['bit', 'jaccard', @exact],
);

foreach my $type (qw(vector halfvec sparsevec bit))
{
	load_sample($node, "items_$type", $type);
	load_queries($node, "queries_$type", $type, rows => 100);
}

sub build
{
	my ($type, $metric, $with) = @_;
	$node->safe_psql('postgres', "DROP INDEX IF EXISTS idx; CREATE INDEX idx ON items_$type USING hnsw (embedding " . opclass_of($type, $metric) . ") $with");
}

foreach my $row (@matrix)
{
	my ($type, $metric, @codecs) = @$row;
	my ($items, $queries) = ("items_$type", "queries_$type");
	remember_exact($node, 'exact', $items, $queries, $metric);
	my $reference;
	foreach my $case (@codecs)
	{
		my ($codec, $floor40, $floor100) = @$case;
		my $name = "$type $metric $codec";
		my $with = @codecs > 1 ? "WITH (codec = '$codec')" : '';
		build($type, $metric, $with);
		ok_uses_index($node, 'idx', $items, $queries, $metric);
		my $at40 = recall($node, 'exact', $items, $queries, $metric);
		my $at100 = recall($node, 'exact', $items, $queries, $metric, settings => ['hnsw.ef_search = 100']);
		ok_recall($at40, $floor40, "$name, ef_search 40");
		ok_recall($at100, $floor100, "$name, ef_search 100");
		$reference //= $at100;
		# Half a point is five of a thousand rows.
		cmp_ok($reference - $at100, '<=', 0.0050001, sprintf('%s is within half a point of none: %.4f', $name, $reference - $at100)) if $codec eq 'lvq8' || $codec eq 'lvq4x8';
		is($node->safe_psql('postgres', "SELECT codec FROM hnsw_info('idx')"), $codec, "$name: hnsw_info names the codec");
		ok_sound($node, 'idx', "$name is sound");
		$node->safe_psql('postgres', 'DROP INDEX idx');
	}
}

# A codec for a type or metric that has none is refused, and the default setting does not stand in its way.
like(sqlstate_of($node, "CREATE INDEX ON items_bit USING hnsw (embedding bit_hamming_ops) WITH (codec = 'lvq8')"), qr/^(22023|0A000)/, 'no codec for bit');
$node->safe_psql('postgres', "SET vectorkv.default_codec = 'lvq4'; CREATE INDEX idx ON items_bit USING hnsw (embedding bit_hamming_ops)");
is($node->safe_psql('postgres', "SELECT codec FROM hnsw_info('idx')"), 'none', 'bit keeps its own form under any default');
$node->safe_psql('postgres', "SET vectorkv.default_codec = 'lvq4'; CREATE INDEX idx2 ON items_vector USING hnsw (embedding vector_l2_ops)");
is($node->safe_psql('postgres', "SELECT codec FROM hnsw_info('idx2')"), 'lvq4', 'vectorkv.default_codec is the codec of an index without option');

done_testing();
