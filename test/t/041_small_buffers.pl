# Pages are read in place in shared buffers, and buffers are given to other pages at any time: no search may miss a row for it.  With 32
# buffers, where every read takes another page's buffer, and with pages that are evicted between the moment they are looked at
# and the moment they are read.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

# Every row by its own vector; returns how many were not found first.
my $own = 'SELECT count(*) FROM items s WHERE id % 4 = :part AND s.id <> (SELECT r.id FROM items r ORDER BY r.embedding <=> s.embedding LIMIT 1)';

sub misses
{
	my ($node, $part, @settings) = @_;
	my $set = join ' ', map { "SET $_;" } 'enable_seqscan = off', @settings;
	(my $sql = $own) =~ s/:part/$part/;
	return $node->safe_psql('postgres', "$set $sql");
}

my $node = new_node('small', settings => ['maintenance_work_mem = 64MB']);
# A row a page: the table is larger than the buffers of the second half. It is filled with what looks like nodes that are alive.
load_sample($node, 'sample', 'vector');
$node->safe_psql('postgres', "CREATE TABLE items (id int, filler bytea, embedding vector(384)); ALTER TABLE items ALTER filler SET STORAGE plain; "
	  . "INSERT INTO items SELECT DISTINCT ON (embedding) id, decode(repeat('a0', 4100), 'hex'), embedding FROM sample; "
	  . 'CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops)');
is(misses($node, $_), '0', "with 8,192 buffers every row of part $_ is found by its own vector") foreach (0 .. 1);
is(misses($node, 2, "vectorkv.page_map_memory = '1kB'"), '0', 'and with room to remember 256 of the pages');

# Eviction between look and use. All pages have to become hot again after each.
$node->append_conf('postgresql.conf', 'shared_buffers = 16MB');
$node->restart;
my ($blocks, $buffers) = split /\|/, $node->safe_psql('postgres', "SELECT pg_relation_size('items') / 8192, setting FROM pg_settings WHERE name = 'shared_buffers'");
cmp_ok($blocks, '>', $buffers, 'the table is larger than the buffers');
load_queries($node, 'queries', 'vector');
my $calm = answers($node, 'items', 'queries', 'cosine');
my $again = "SET enable_seqscan = off; SELECT count(*) FROM (" . knn('items', 'queries', 'cosine') . ") x;";
my $evicted = $node->safe_psql('postgres', "$again $again $again SET vectorkv.evict_after = 50; "
	  . "SELECT q, string_agg(id::text, ',' ORDER BY distance, id) FROM (" . knn('items', 'queries', 'cosine') . ') x GROUP BY q ORDER BY q');
$evicted =~ s/^(2000\n)+//;
is($evicted, $calm, 'the same answers while pages are evicted between look and use');

# 32 buffers, and others that use them.
$node->append_conf('postgresql.conf', "shared_buffers = 256kB\nmax_connections = 10\nautovacuum = off");
$node->restart;
my $searches = start_pgbench($node, 2, 5, [1, "SET enable_seqscan = off;\n\\set id random(1, 4000)\nSELECT 1 / (count(*) FILTER (WHERE found <> id) = 0)::int FROM "
	  . "(SELECT s.id, (SELECT r.id FROM items r ORDER BY r.embedding <=> s.embedding LIMIT 1) AS found FROM items s WHERE s.id % 400 = :id % 400) x;\n"]);
is(misses($node, $_), '0', "with 32 buffers every row of part $_ is found by its own vector") foreach (2 .. 3);
my ($status, $output) = finish_pgbench($searches);
is($status, 0, 'and by the searches beside it') or diag($output);

done_testing();
