# An insertion whose links nobody takes forces one in, in place of another that it makes itself.  Meanwhile another session inserts beside it:
# neither loses a row to the other, whether the first one ends or fails, and where a path may have been cut, the meta page says so first.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use DrawnGraph;
use VectorKV;

# Rows c lie close together, and so do rows y; for c1 and c2, and for y1 and y2, the new row is equally far, so that nobody links to it of himself.
# c1 alone leads to z.  The other new row is next to the first, and y1 takes it: it takes the place of z in the first one's list, as c1 leads to z.
my %place = (c1 => [ 0, 0.125 ], c2 => [ 0, -0.125 ], c3 => [ -0.25, 0.125 ], c4 => [ -0.25, -0.125 ], c5 => [ -0.375, 0 ], z => [ 0, 100 ],
	y1 => [ 21, 0.125 ], y2 => [ 21, -0.125 ], y3 => [ 21.25, 0.125 ], y4 => [ 21.25, -0.125 ], y5 => [ 21.375, 0 ]);
my %list = map { my $c = $_; map { my $i = $_; ("$c$i" => [ map { "$c$_" } grep { $_ != $i } 1 .. 5 ]) } 1 .. 5 } 'c', 'y';
($list{c1}[3], $list{z}) = ('z', [qw(c1 y1)]);

# Four groups around the new row, of which a and b are equally far from it: it is linked to the four a, which do not lead to each other, and none
# takes it.  The other new row comes between it and a4, and takes the place of that in its list, which then has no room for the link that it is
# to take over.
my %side = (1 => [ -1, 0 ], 2 => [ 0, 1 ], 3 => [ 1, 0 ], 4 => [ 0, -1 ]);    # clockwise: b of each is the nearest to the next
my (%group_place, %group_list);
foreach my $i (1 .. 4)
{
	my ($x, $y) = @{ $side{$i} };
	my %in = (a => [ 10, 0.125 ], b => [ 10, -0.125 ], c => [ 10.25, 0.125 ], d => [ 10.25, -0.125 ], e => [ 10.375, 0 ]);
	$group_place{"$_$i"} = [ $x * $in{$_}[0] - $y * $in{$_}[1], $y * $in{$_}[0] + $x * $in{$_}[1] ] foreach keys %in;
	my %to = (a => 'bcde', b => 'acd', c => 'abde', d => 'abce', e => 'bcd');
	$group_list{"$_$i"} = [ map { "$_$i" } split //, $to{$_} ] foreach keys %to;
	push @{ $group_list{"b$i"} }, $i < 4 ? 'a' . ($i + 1) : 'e4';
}

my %new = (line => [ [ 10, 0 ], [ 15, 0.0625 ] ], groups => [ [ 0, 0 ], [ 0, -6 ] ]);
my ($stops, $faults) = (55, 80);
my $node = new_node('forced_links');
draw_tables($node, line => { n => $stops, place => \%place, list => \%list, tall => 'c5' },
	map { ($_->[0] => { n => $_->[1], place => \%group_place, list => \%group_list, tall => 'c1' }) } [ groups => $stops ], [ fails => $faults ]);
make_race($node);
is($node->safe_psql('postgres', "SELECT * FROM hnsw_check('line1_idx', true) UNION ALL SELECT * FROM hnsw_check('groups1_idx', true)"), '', 'sound indexes');

# Races in the tables of a name, and what came of it: the number of the table, whether the first session stopped there and failed, how many
# problems there are, whether the meta page calls the index whole, and whether the first row links to the other.
sub races
{
	my ($name, $first, $other, $n, $stop) = @_;
	my ($from, $to) = map { sprintf '[%g,%g,0,0]', @$_ } $first, $other;
	my @raced = split /\n/, $node->safe_psql('postgres', "SELECT * FROM races('$name', $n, '$from', '$to', $stop); CHECKPOINT");
	my $index = "SELECT format('$name%s_idx', i)::regclass AS index FROM generate_series(1, " . @raced . ') i';
	my @problems = split /\n/, $node->safe_psql('postgres', "SELECT (SELECT count(*) FROM hnsw_check(index, true)) FROM ($index) x");
	my @files = split /\n/, $node->safe_psql('postgres', "SELECT pg_relation_filepath(index) FROM ($index) x");
	my @races;
	foreach my $raced (@raced)
	{
		my ($i, $stopped, $failed) = split /\|/, $raced;
		my $file = $node->data_dir . '/' . shift @files;
		push @races, { i => $i, stopped => $stopped eq 't', failed => $failed eq 't', problems => shift @problems,
			whole => ord(substr(slurp_file($file), 24 + 4209, 1)) == 1, holds => holds_link($file, $first, $other) };
	}
	return @races;
}
sub numbers { return join ', ', map { $_->{i} } @_; }

my @told;
foreach my $name (qw(line groups))
{
	my @races = races($name, @{ $new{$name} }, $stops, 0);
	my $stopped = grep { $_->{stopped} } @races;
	cmp_ok($stopped, '>=', 15, "$name: overtaken at $stopped places");
	ok(!$races[-1]{stopped}, "$name: at all there are");
	is(numbers(grep { $_->{failed} || $_->{problems} } @races), '', "$name: all rows can be reached");
	@told = grep { !$_->{whole} } @races;
}
cmp_ok(scalar @told, '>=', 1, 'a link went that nothing is known to make good');

# The first session fails, at each call after such a place.  (Calls that hold a lightweight lock count for failures only.)
my @races = races('fails', @{ $new{groups} }, $faults, $told[0]{i});
my @failed = grep { $_->{stopped} && $_->{failed} } @races;
cmp_ok(scalar @failed, '>=', 5, 'it failed behind such a place');
ok(!$races[-1]{failed}, 'at all calls there are');
is(numbers(grep { $_->{problems} } @races), '', 'all rows can be reached');
cmp_ok(scalar(grep { $_->{holds} } @failed), '>=', 1, 'before the link went');
cmp_ok(scalar(grep { !$_->{holds} } @failed), '>=', 1, 'and behind');
is(numbers(grep { !$_->{holds} && $_->{whole} } @failed), '', 'which is told first, wherever it fails');

done_testing();
