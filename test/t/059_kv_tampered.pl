# kv.check_cache answers with rows, never with an error, whatever stands in the columns of a cache's tables; no function takes the memory
# that a header asks for which is not true, and what is wrong is said as damage (XX001) or the like.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use KVCache;
use VectorKV;

my $node = kv_node('kv_tampered');
my %options = (exact => "codec => 'f16'", small => "codec => 'int8', tail_tokens => 16", loose => "codec => 'int8', tail => 'unlogged', tail_tokens => 16");

# Column => values that it is set to; 'seq' keeps its key.
my %header = (
	length => [ -2147483648, -1, 0, 1, 299, 301, 100_000, 2147483646, 2147483647 ],
	sealed => [ -2147483648, -1, 0, 1, 100, 300, 301, 2147483646, 2147483647 ],
	extents => [ "'{}'", "'{1}'", "'{1,2}'", "'{NULL}'", "'{{1,2},{3,4}}'", "'[5:5]={7}'", "extents || extents", "'{-9223372036854775808}'", "array_fill(1::bigint, ARRAY[100000])" ],
	stops => [ "'{}'", "'{0}'", "'{-1}'", "'{5}'", "'{5,2147483647}'", "'{NULL}'", "'{{1,2147483647}}'", "'{2147483647,2147483647}'", "'[0:0]={2147483647}'" ]);
my %sealed = (
	layer => [ -32768, -1, 0, 2, 32767 ],
	head => [ -32768, -1, 0, 3, 32767 ],
	pos => [ -2147483648, -1, 1, 299, 2147483647 ],
	extent => [ 0, -9223372036854775808 ],
	tile => [ map { my $one = "kv.\"cast\"(kv.reshape(array_fill(1::real, ARRAY[3 * $_])::kv.tensor, '{3,1,$_}'), 'f16')"; "(SELECT x FROM kv.encode($one, $one, 'f16') x LIMIT 1)" } 64, 32 ]);
my %tail = (
	chunk => [ -2147483648, -1, 1, 2147483647 ],
	pos => [ -2147483648, -1, 0, 300, 2147483646, 2147483647 ],
	extent => [ 0, 9223372036854775807 ],
	kv => [ "''", "'\\x00'", "'\\xffffffffffffffffffff'", "decode(repeat('00', 800), 'hex')", "decode(repeat('ff', 1600), 'hex')" ]);

sub faults
{
	my ($change, $cache) = @_;
	my ($status, $out, $err) = $node->psql('postgres', "BEGIN; $change; SELECT count(*), string_agg(DISTINCT problem, ' / ') FROM kv.check_cache('$cache'); ROLLBACK", on_error_stop => 1, timeout => 60);
	return $status == 0 ? $out : "error: $err";
}

foreach my $cache (sort keys %options)
{
	create_cache($node, $cache, $options{$cache});
	# Constraints would keep some of it out; a cache may have lost them.
	$node->safe_psql('postgres', "SELECT kv.append('$cache', seq, k(0, 300), v(0, 300)) FROM generate_series(1, 2) seq; "
		  . join('; ', map { my $t = $_; map { "ALTER TABLE $t->[0] ALTER COLUMN $_ DROP NOT NULL" } @{ $t->[1] } }
			  [ $cache, [qw(length sealed epoch extents stops)] ], [ "${cache}_sealed", ['tile'] ], [ "${cache}_tail", ['kv'] ]));
	ok_cache($node, $cache, "$cache: sound");
	my @changes;
	foreach my $column (sort keys %header)
	{
		push @changes, "UPDATE $cache SET $column = $_ WHERE seq = 1" foreach @{ $header{$column} }, 'NULL';
	}
	push @changes, "UPDATE $cache SET epoch = NULL WHERE seq = 1";
	foreach my $part ([ sealed => \%sealed ], [ tail => \%tail ])
	{
		my ($suffix, $columns) = @$part;
		foreach my $column (sort keys %$columns)
		{
			my $null = $column =~ /^(tile|kv)$/ ? ['NULL'] : [];
			push @changes, "UPDATE ${cache}_$suffix SET $column = $_ WHERE ctid = (SELECT max(ctid) FROM ${cache}_$suffix)" foreach @{ $columns->{$column} }, @$null;
		}
		push @changes, "DELETE FROM ${cache}_$suffix WHERE ctid = (SELECT min(ctid) FROM ${cache}_$suffix)", "DELETE FROM ${cache}_$suffix WHERE ctid = (SELECT max(ctid) FROM ${cache}_$suffix)";
	}
	my ($errors, $unseen) = ('', '');
	foreach my $change (@changes)
	{
		my $found = faults($change, $cache);
		next if $found =~ /duplicate key/;    # the row that it would be is there
		$errors .= "$change: $found\n" if $found =~ /^error/;
		# An update to what was there before changes nothing; nor does one of an epoch that is only compared.
		$unseen .= "$change\n" if $found =~ /^0/ && $change !~ / (head|layer|pos|chunk) = 0 /;
	}
	is($errors, '', "$cache: " . @changes . " changes, no error");
	is($unseen, '', "$cache: each is seen");

	# What a header says that is not true takes no memory, and is refused.
	foreach my $length ($cache eq 'loose' ? () : (2147483646))
	{
		foreach my $sql ("kv.append('$cache', 1, k(0, 1), v(0, 1))", "kv.seal('$cache', 1)", "kv.fetch('$cache', 1, 0)", "kv.attend('$cache', '{1}', 0, q_batch(0, 1))",
			"kv.fork('$cache', 1, 7)", "(SELECT max(weight) FROM kv.weights('$cache', 1, 0, kv.reshape(q_batch(0, 1), '{9,64}')))", "kv.truncate('$cache', 1, 299)")
		{
			like(sqlstate_of($node, "BEGIN; UPDATE $cache SET length = $length WHERE seq = 1; SELECT $sql"), qr/^(XX001|54000): (?!out of memory)/, "$cache: $sql of $length tokens");
		}
	}
	foreach my $sql ("kv.fetch('$cache', 1, 0)", "kv.attend('$cache', '{1}', 0, q_batch(0, 1))", "kv.recode('$cache', 1, 'f16')")
	{
		like(sqlstate_of($node, "BEGIN; UPDATE $cache SET length = 2147483646, sealed = 2147483646 WHERE seq = 1; SELECT $sql"), qr/^(XX001|54000): (?!out of memory)/, "$cache: $sql of sealed tokens that are not there");
	}
	ok_cache($node, $cache, "$cache: sound at the end");
}

done_testing();
