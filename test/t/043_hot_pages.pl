# Pages that searches read in place are seen as used by the buffer manager, which keeps them beside a client that reads other tables,
# and by the statistics of the index.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $node = new_node('hot', settings => ['shared_buffers = 16MB', 'jit = off']);
load_sample($node, 'items', 'vector');
load_queries($node, 'queries', 'vector', rows => 100);
$node->safe_psql('postgres', 'CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops); VACUUM ANALYZE items');

# Counts of the index: pages found, pages read.
sub counts
{
	return split /\|/, $node->safe_psql('postgres', "SELECT idx_blks_hit, idx_blks_read FROM pg_statio_user_indexes WHERE indexrelname = 'items_idx'");
}
my $flush = 'SELECT pg_stat_force_next_flush();';
my $search = 'SELECT count(*) FROM (SELECT id FROM items ORDER BY embedding <=> (SELECT embedding FROM queries WHERE id = %d) LIMIT 10) x;';
my $set = 'SET enable_seqscan = off;';

# As EXPLAIN counts, so do pg_statio_*: two searches, one of them explained.
$node->safe_psql('postgres', "$set " . sprintf($search, 1) x 6);
my ($hit, $read) = counts();
my $plan = $node->safe_psql('postgres', "$set EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) SELECT id FROM items ORDER BY embedding <=> (SELECT embedding FROM queries WHERE id = 1) LIMIT 10; $flush");
my ($hit_now, $read_now) = counts();
my ($explained) = $plan =~ /Index Scan using items_idx.*?Buffers: shared hit=(\d+)/s;
my $in_index = $hit_now - $hit;
cmp_ok($in_index, '>', 300, "a search found $in_index pages of the index");
# EXPLAIN's number has the pages of the table, too: a few for each candidate that is settled.
cmp_ok(abs($explained - $in_index), '<', 150, "... of $explained that EXPLAIN counts with those of the table");

# Another client reads tables of more pages than there are buffers, each small enough to be read without a ring of its own.
my $others = 8;
$node->safe_psql('postgres', "CREATE TABLE other$_ (filler text); ALTER TABLE other$_ ALTER filler SET STORAGE plain; "
	  . "INSERT INTO other$_ SELECT repeat('x', 3900) FROM generate_series(1, 900)") foreach (1 .. $others);
my ($searches, $script) = (80, $set);
$script .= sprintf("SELECT count(*) FROM other%d; ", 1 + $_ % $others) . sprintf($search, 1 + $_ % 99) foreach (1 .. $searches);
$node->safe_psql('postgres', $script);
($hit, $read) = counts();
$node->safe_psql('postgres', "$script $flush");
($hit_now, $read_now) = counts();
my $per_search = ($read_now - $read) / $searches;
cmp_ok($per_search, '<', 4, sprintf('%.1f pages of the index are read for a search beside the scans of other tables', $per_search));

done_testing();
