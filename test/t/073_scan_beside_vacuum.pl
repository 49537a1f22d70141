# A vacuum frees nodes under a scan that goes on: what the scan has met and not followed yet leads nowhere any more, and the way that was mended
# instead begins at the row that it has returned.  It ends with all rows, and has none of them twice.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use DrawnGraph;
use VectorKV;

# From a over the d, which go, to the f.  In the second table the scan has met a row g, too, which stays.
my (%place, %list);
foreach my $table (qw(alone beside))
{
	my @beside = $table eq 'beside' ? 'g' : ();
	my %at = (a => [ 0, 0 ], d1 => [ 1, 0 ], d2 => [ 0, 1.25 ], d3 => [ -1.5, 0 ], (map { ("f$_" => [ 30 + $_, 0 ]) } 1 .. 5), map { ($_ => [ 0, -5 ]) } @beside);
	$place{$table} = \%at;
	$list{$table} = { a => [ qw(d1 d2 d3), @beside ], (map { my $i = $_; ("d$i" => [ 'a', (map { "d$_" } grep { $_ != $i } 1 .. 3), "f$i" ]) } 1 .. 3),
		(map { my $i = $_; ("f$i" => [ map { "f$_" } grep { $_ != $i } 1 .. 5 ]) } 1 .. 5), map { ($_ => ['d1']) } @beside };
}
my $node = new_node('scan_beside_vacuum');
draw_tables($node, map { ($_ => { n => 1, place => $place{$_}, list => $list{$_}, tall => 'a' }) } keys %place);

foreach my $name (sort keys %place)
{
	my ($table, $index, $n) = ("${name}1", "${name}1_idx", scalar keys %{ $place{$name} });
	is($node->safe_psql('postgres', "SELECT * FROM hnsw_check('$index', true)"), '', "$name: a sound index");
	# The cursor pins the page of the heap; so their tuples have gone before, and the index is what is left to do.
	$node->safe_psql('postgres', "DELETE FROM $table WHERE v <-> '[0,0,0,0]' BETWEEN 0.5 AND 2");
	$node->safe_psql('postgres', "VACUUM (INDEX_CLEANUP OFF) $table");
	is($node->safe_psql('postgres', "SELECT nodes FROM hnsw_info('$index')"), $n, 'their nodes are there');
	my $reader = $node->background_psql('postgres');
	$reader->query_safe("SET enable_seqscan = off; SET hnsw.ef_search = 1; BEGIN; DECLARE c CURSOR FOR SELECT v FROM $table ORDER BY v <-> '[0,0,0,0]'");
	my @rows = split /\n/, $reader->query_safe('FETCH 1 FROM c');
	$node->safe_psql('postgres', "VACUUM (INDEX_CLEANUP ON) $table");
	is($node->safe_psql('postgres', "SELECT nodes, dead_nodes FROM hnsw_info('$index')"), $n - 3 . '|0', 'they are freed under the scan');
	push @rows, split /\n/, $reader->query_safe('FETCH ALL FROM c');
	$reader->quit;
	is("@rows", join(' ', map { "[$place{$name}{$_}[0],$place{$name}{$_}[1],0,0]" } sort { ($a =~ /f/) <=> ($b =~ /f/) || $a cmp $b } grep { !/d/ } keys %{ $place{$name} }), 'all rows, once each');
	is($node->safe_psql('postgres', "SELECT * FROM hnsw_check('$index', true)"), '', 'and the index is sound');
}

done_testing();
