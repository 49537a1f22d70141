# A vacuum mends an index although no row is dead, when something is to be mended: the graph, after a vacuum that did not end or in an index
# of a former version, and pages that were added and never written. Otherwise it reads next to nothing.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use DrawnGraph;
use VectorKV;

my $node = new_node('vacuum_mends', settings => ['shared_buffers = 16MB']);
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE items (id int, embedding vector(4));
INSERT INTO items SELECT n, ARRAY[sin(n), cos(n * 1.7), sin(n * 0.3), cos(n * 2.9)]::real[]::vector FROM generate_series(1, 6000) n;
CREATE INDEX items_idx ON items USING hnsw (embedding vector_l2_ops) WITH (m = 4, ef_construction = 8, codec = none);
SQL
my $file = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('items_idx')");
my $paths_at = 24 + 4209;    # in the meta page; 1: known to be whole
my ($size, $links) = (56 + 16 + 32, 56 + 16);    # of a node, and where its links are
my $per_page = int((8192 - 24 - 8) / $size);

# change(file): the file is changed while the server is down.
sub change
{
	my ($change) = @_;
	$node->stop;
	open my $handle, '+<:raw', $file or die "$file: $!";
	my $result = $change->($handle);
	close $handle;
	$node->start;
	return $result;
}
sub paths
{
	$node->safe_psql('postgres', 'CHECKPOINT');
	open my $handle, '<:raw', $file or die "$file: $!";
	sysseek($handle, $paths_at, 0);
	sysread($handle, my $byte, 1);
	close $handle;
	return ord($byte);
}
sub set_paths { my ($handle, $value) = @_; sysseek($handle, $paths_at, 0); syswrite($handle, chr $value); return; }
sub lost { return $node->safe_psql('postgres', "SELECT count(*) FROM hnsw_check('items_idx') WHERE problem = 'no path leads to it'"); }
sub blocks_read { return $node->safe_psql('postgres', "SELECT pg_stat_force_next_flush(); SELECT idx_blks_read + idx_blks_hit FROM pg_statio_user_indexes WHERE indexrelname = 'items_idx'") =~ s/^\s*//r; }

# Nobody links to ten of the rows any more.
sub cut
{
	my ($handle) = @_;
	my @orphans = map { $per_page * 5 + 7 * $_ } 1 .. 10;
	my $changed = 0;
	for (my $block = 1; sysseek($handle, $block * 8192, 0) && sysread($handle, my $page, 8192) == 8192; $block++)
	{
		next unless ord(substr($page, 8192 - 4, 1)) == 3;
		foreach my $slot (0 .. $per_page - 1)
		{
			my $at = 24 + $slot * $size;
			my $n = ord(substr($page, $at + 52, 1));
			my @list = unpack("L$n", substr($page, $at + $links, 4 * $n));
			my @kept = grep { my $to = $_; !grep { $_ == $to } @orphans } @list;
			next if @kept == @list;
			$changed += @list - @kept;
			substr($page, $at + 52, 1) = chr(scalar @kept);
			substr($page, $at + $links, 4 * @kept) = pack('L*', @kept);
		}
		sysseek($handle, $block * 8192, 0);
		syswrite($handle, $page);
	}
	return $changed;
}

is(paths(), 1, 'a new index is whole');
my $before = blocks_read();
$node->safe_psql('postgres', 'VACUUM items');
my $read = blocks_read() - $before;
cmp_ok($read, '<=', 5, "a vacuum of it reads $read pages");

cmp_ok(change(sub { my ($handle) = @_; set_paths($handle, 0); return cut($handle); }), '>=', 10, 'links were cut');
cmp_ok(lost(), '>=', 5, 'rows are lost');
$node->safe_psql('postgres', 'VACUUM items');
is(lost(), 0, 'a vacuum finds them');
is(paths(), 1, 'and knows that the index is whole');
ok_sound($node, 'items_idx');

# Pages that were added and not written become pages of nodes.
my $end = change(sub { my ($handle) = @_; my $at = sysseek($handle, 0, 2); syswrite($handle, "\0" x (8192 * 3)); return $at; });
$node->safe_psql('postgres', 'VACUUM items; CHECKPOINT');
my @kinds = map { my $at = $end + 8192 * $_; open my $handle, '<:raw', $file or die "$file: $!"; sysseek($handle, $at, 0); sysread($handle, my $page, 8192); close $handle; ord(substr($page, 8192 - 4, 1)) } 0 .. 2;
is("@kinds", '3 3 3', 'pages that were never written are taken into use');
$node->safe_psql('postgres', "INSERT INTO items SELECT n, ARRAY[sin(n), cos(n * 1.7), sin(n * 0.3), cos(n * 2.9)]::real[]::vector FROM generate_series(6001, 6001 + 2 * $per_page) n");
ok_sound($node, 'items_idx', 'sound with pages that were never written');

# A vacuum that fails at one place or another says so in the index, and the next one ends it.
$node->safe_psql('postgres', 'DELETE FROM items WHERE id % 3 = 0');
my %seen;
foreach my $fault (50, 200, 400, 700, 1500, 4000, 9000, 20000)
{
	my ($status) = $node->psql('postgres', "SET vectorkv.fault_after = $fault; VACUUM (INDEX_CLEANUP ON) items", on_error_stop => 1);
	last if $status == 0;
	my ($dead, $paths) = ($node->safe_psql('postgres', "SELECT dead_nodes FROM hnsw_info('items_idx')"), paths());
	$seen{"$paths"}++;
	is($paths, $dead > 0 ? 0 : 1, "fault $fault: $dead nodes are marked");
	is(lost(), 0, "fault $fault: every row can be reached");
}
ok($seen{0}, 'a vacuum failed in the middle');
$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
is(paths(), 1, 'whole after the next');
ok_sound($node, 'items_idx', 'sound at last');

# Short of memory a vacuum remembers no ways to nodes (65,536 of them are too many for the least there is; the pages were never written): what a
# list gives up is what another one leads to.  x and y each lead to l, and each might give it up for the other's sake.  p leads to w over k only:
# it may give up k, as w leads there too, but then not w for the sake of q, which p alone leads to.  It fails before it would mend that.
my %place = (e => [ 500, 0 ], x => [ -1, 0 ], y => [ 1, 0 ], l => [ 0, 50 ], dx => [ -1.5, -0.5 ], dy => [ 1.5, -0.5 ], p => [ 1000, 0 ], k => [ 1000, 50 ],
	q => [ 1001, 60 ], w => [ 1000, 1 ], d => [ 1000.25, 0.25 ], a => [ 999.25, 0 ], b => [ 1000.5, 0 ], c => [ 1000, -0.625 ],
	x1 => [ -1, 1 ], x2 => [ -1.75, 0 ], x3 => [ -1, -0.875 ], y1 => [ 1, 1 ], y2 => [ 1.75, 0 ], y3 => [ 1, -0.875 ]);
my %list = (e => [qw(x a x1 y1)], x => [qw(y dx l)], y => [qw(x dy l)], l => [qw(x y)], a => [qw(p b c e)], p => [qw(a d k q)], d => [qw(w b c p)], k => [qw(w p)],
	w => ['k'], q => ['p'], b => ['p'], c => ['p'], map { my $i = $_; ("d$i" => [ "${i}1", "${i}2", "${i}3", $i ], "${i}1" => [ "${i}2", "${i}3", $i ], "${i}2" => ["${i}1"], "${i}3" => ["${i}1"]) } 'x', 'y');
draw_tables($node, short => { n => 1, place => \%place, list => \%list, tall => 'e' });
is($node->safe_psql('postgres', "SELECT * FROM hnsw_check('short1_idx', true)"), '', 'short of memory: a sound index');
my $short = $node->data_dir . '/' . $node->safe_psql('postgres', "DELETE FROM short1 WHERE v IN (" . join(', ', map { "'[$place{$_}[0],$place{$_}[1],0,0]'" } qw(d dx dy)) . "); SELECT pg_relation_filepath('short1_idx')");
$node->stop;
truncate $short, 8192 * 720;
$node->start;
my ($in_between, @lost);
for (my ($fault, $failed) = (100, 1); $failed; $fault += 300)
{
	($failed) = $node->psql('postgres', "SET maintenance_work_mem = '1MB'; SET vectorkv.fault_after = $fault; VACUUM (INDEX_CLEANUP ON) short1", on_error_stop => 1);
	push @lost, split /\n/, $node->safe_psql('postgres', "SELECT problem FROM hnsw_check('short1_idx') WHERE problem ~ 'path'; CHECKPOINT");
	$in_between ||= $failed && holds_link($short, $place{x}, $place{x1});
}
ok($in_between, 'short of memory: a vacuum failed behind the change of lists');
is("@lost", '', 'short of memory: no path is lost meanwhile');
ok_sound($node, 'short1_idx', 'short of memory: sound at last');

done_testing();
