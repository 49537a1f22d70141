# Every instruction set that the processor has gives the same attention within 1e-5, with every codec; the tiles that it encodes are
# the same byte for byte.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use KVCache;
use VectorKV;

my $node = kv_node('kv_simd');
my @levels = grep { sqlstate_of($node, "SET vectorkv.simd = $_") eq '' } qw(avx512 avx2 neon);
my @codecs = qw(f16 int8 int4_uniform int3_uniform int2_uniform int4_rotated int3_rotated int2_rotated);
note('levels: scalar ' . join ' ', @levels);

foreach my $codec (@codecs)
{
	my $cache = "c_$codec";
	create_cache($node, $cache, "codec => '$codec', tail_tokens => 64");
	$node->safe_psql('postgres', "SET vectorkv.simd = scalar; SELECT kv.append('$cache', 1, k(0, 1024), v(0, 1024))");
	my $attend = "kv.attend('$cache', '{1}', layer, q(layer))";
	$node->safe_psql('postgres', "SET vectorkv.simd = scalar; CREATE TABLE a_$codec AS SELECT layer, $attend AS answer FROM generate_series(0, 1) layer");
	my $tiles = "SELECT md5(string_agg(md5(kv.bytes((kv.decode(tile)).k) || kv.bytes((kv.decode(tile)).v)), '' ORDER BY layer, head, pos)) FROM ${cache}_sealed";
	my $scalar = $node->safe_psql('postgres', "SET vectorkv.simd = scalar; $tiles");
	foreach my $level (@levels)
	{
		is($node->safe_psql('postgres', "SET vectorkv.simd = $level; SELECT count(*), coalesce(max(kv.relative_error($attend, answer)) < 1e-5, false) FROM a_$codec"),
			'2|t', "$codec, $level: the answers of the scalar kernels");
		$node->safe_psql('postgres', "SET vectorkv.simd = $level; SELECT kv.drop_sequence('$cache', 1); SELECT kv.append('$cache', 1, k(0, 1024), v(0, 1024))");
		is($node->safe_psql('postgres', "SET vectorkv.simd = scalar; $tiles"), $scalar, "$codec, $level: the codes of the scalar encoder");
	}
	# Against the reference in double precision, of the tensors themselves: bounds of the codec, not of the kernels.
	my %bound = (f16 => 1e-5, int8 => 0.02, int4 => 0.25, int3 => 0.5, int2 => 0.9);
	my ($short) = $codec =~ /^([a-z0-9]+)/;
	my $error = $node->safe_psql('postgres', "SELECT max(kv.relative_error(answer, kv.slice((SELECT value FROM kv_sample WHERE name = 'out'), 0, layer, 1))) FROM a_$codec");
	cmp_ok($error, '<', $bound{$short}, "$codec: error $error against double precision");
	cmp_ok($error, '>', $codec eq 'f16' ? 0 : 1e-4, "$codec: which is not nothing");
}

done_testing();
