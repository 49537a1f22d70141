# Two sessions that insert at once change lists that lead to the same row, and neither drops the link that the other counts on.  One stops at
# each place where it may be overtaken, between what it has read and what it writes; the other inserts there.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

# Rows on a line, p and n in the middle, x on one side and y on the other, and z far from all.  z is linked from p and n only, which link each
# other: a row next to p takes the place of z in its list, as n leads to z, and a row next to n the other way round.
my %place = (p => [ -1, 0 ], n => [ 1, 0 ], z => [ 0, 100 ], map { ("x$_" => [ -1 - 0.25 * $_, 0 ], "y$_" => [ 1 + 0.25 * $_, 0 ]) } 1 .. 4);
my %list = (p => [qw(n z x1 x2)], n => [qw(p z y1 y2)], z => [qw(p n)], map { ("x$_" => ["p"], "y$_" => ["n"]) } 1 .. 4);
foreach my $side ('x', 'y')
{
	foreach my $i (1 .. 4) { push @{ $list{"$side$i"} }, map { "$side$_" } grep { $_ != $i } 1 .. 4; }
}
my ($size, $code, $links) = (56 + 16 + 16, 56, 56 + 16);    # of a node, and where its vector and its links are
my $per_page = int((8192 - 24 - 8) / $size);

my $places = 60;
my $node = new_node('insert_races');
my $connection = 'host=' . $node->host . ' port=' . $node->port . ' dbname=postgres';
my $rows = join ', ', map { "('[$place{$_}[0],$place{$_}[1],0,0]')" } sort keys %place;
$node->safe_psql('postgres', join '', 'CREATE EXTENSION dblink;', map { "CREATE TABLE t$_ (v vector(4)); CREATE INDEX t${_}_idx ON t$_ USING hnsw (v vector_l2_ops) WITH (m = 2, ef_construction = 8, codec = none); INSERT INTO t$_ VALUES $rows;" } 1 .. $places);
my %file = map { $_ => $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('t${_}_idx')") } 1 .. $places;
$node->stop;
foreach my $file (values %file)
{
	open my $handle, '+<:raw', $file or die "$file: $!";
	for (my $block = 0; sysseek($handle, $block * 8192, 0) && sysread($handle, my $page, 8192) == 8192; $block++)
	{
		next unless ord(substr($page, 8192 - 4, 1)) == 3;    # nodes
		my %id;
		foreach my $slot (0 .. keys(%place) - 1)
		{
			my ($x, $y) = unpack 'ff', substr($page, 24 + $slot * $size + $code, 8);
			my ($name) = grep { $place{$_}[0] == $x && $place{$_}[1] == $y } keys %place;
			$id{$name} = $block * $per_page + $slot;
		}
		foreach my $name (keys %id)
		{
			my $at = 24 + ($id{$name} % $per_page) * $size;
			substr($page, $at + 52, 1) = chr(@{ $list{$name} });
			substr($page, $at + $links, 4 * @{ $list{$name} }) = pack 'L*', map { $id{$_} } @{ $list{$name} };
		}
		sysseek($handle, $block * 8192, 0);
		syswrite($handle, $page);
	}
	close $handle;
}
$node->start;
is($node->safe_psql('postgres', "SELECT * FROM hnsw_check('t1_idx', true)"), '', 'a sound index');

$node->safe_psql('postgres', <<"SQL");
CREATE FUNCTION race(place int) RETURNS boolean LANGUAGE plpgsql AS \$\$
DECLARE
	waited boolean;
BEGIN
	PERFORM pg_advisory_lock(11);
	PERFORM dblink_connect('a', '$connection');
	PERFORM dblink_connect('b', '$connection');
	PERFORM dblink_exec('b', 'SET lock_timeout = 1000');
	PERFORM dblink_exec('a', format('SET vectorkv.wait_after = %s', place));
	PERFORM dblink_send_query('a', format('INSERT INTO t%s VALUES (''[-1.1,0,0,0]'')', place));
	LOOP
		waited := EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted);
		EXIT WHEN waited OR dblink_is_busy('a') = 0;
		PERFORM pg_sleep(0.001);
	END LOOP;
	PERFORM dblink_exec('b', format('INSERT INTO t%s VALUES (''[1.1,0,0,0]'')', place), false);
	PERFORM pg_advisory_unlock(11);
	PERFORM FROM dblink_get_result('a') r(status text);
	PERFORM dblink_disconnect('a');
	PERFORM dblink_disconnect('b');
	RETURN waited;
END \$\$;
SQL
my $stops = $node->safe_psql('postgres', "SELECT count(*) FROM generate_series(1, $places) place WHERE race(place)");
cmp_ok($stops, '>=', 15, "the first session was overtaken at $stops places");
cmp_ok($stops, '<', $places, 'at all there are');
is($node->safe_psql('postgres', "SELECT string_agg(place || ': ' || problem, ', ' ORDER BY place) FROM generate_series(1, $places) place, hnsw_check(format('t%s_idx', place)::regclass, true)"), '', 'all rows can be reached');

done_testing();
