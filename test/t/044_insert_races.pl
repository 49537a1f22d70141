# Two sessions that insert at once change lists that lead to the same row, and neither drops the link that the other counts on.  One stops at
# each place where it may be overtaken, between what it has read and what it writes; the other inserts there.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use DrawnGraph;
use VectorKV;

# Rows on a line, p and n in the middle, x on one side and y on the other, and z far from all.  z is linked from p and n only, which link each
# other: a row next to p takes the place of z in its list, as n leads to z, and a row next to n the other way round.
my %place = (p => [ -1, 0 ], n => [ 1, 0 ], z => [ 0, 100 ], map { ("x$_" => [ -1 - 0.25 * $_, 0 ], "y$_" => [ 1 + 0.25 * $_, 0 ]) } 1 .. 4);
my %list = (p => [qw(n z x1 x2)], n => [qw(p z y1 y2)], z => [qw(p n)], map { ("x$_" => ["p"], "y$_" => ["n"]) } 1 .. 4);
foreach my $side ('x', 'y')
{
	foreach my $i (1 .. 4) { push @{ $list{"$side$i"} }, map { "$side$_" } grep { $_ != $i } 1 .. 4; }
}

my $places = 60;
my $node = new_node('insert_races');
draw_tables($node, t => { n => $places, place => \%place, list => \%list, tall => 'x4' });
make_race($node);
is($node->safe_psql('postgres', "SELECT * FROM hnsw_check('t1_idx', true)"), '', 'a sound index');

my @races = split /\n/, $node->safe_psql('postgres', "SELECT stopped FROM races('t', $places, '[-1.1,0,0,0]', '[1.1,0,0,0]')");
my $stops = grep { $_ eq 't' } @races;
cmp_ok($stops, '>=', 15, "the first session was overtaken at $stops places");
cmp_ok($stops, '<', @races, 'at all there are');
is($node->safe_psql('postgres', "SELECT string_agg(place || ': ' || problem, ', ' ORDER BY place) FROM generate_series(1, " . @races . ") place, hnsw_check(format('t%s_idx', place)::regclass, true)"), '', 'all rows can be reached');

done_testing();
