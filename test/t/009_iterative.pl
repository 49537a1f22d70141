# Searches that go on: with filters, limits beyond ef_search, cursors and rescans.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $node = new_node('iterative');
load_sample($node, 'items', 'vector');
load_queries($node, 'queries', 'vector', rows => 100);
$node->safe_psql('postgres', 'CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops)');
my $filter = 's.id % 25 = 0';
remember_exact($node, 'exact', 'items', 'queries', 'cosine', where => $filter);

sub rows_of
{
	my ($settings, %param) = @_;
	return $node->safe_psql('postgres', "SET enable_seqscan = off; $settings; SELECT count(*) FROM (" . knn('items', 'queries', 'cosine', %param) . ') x');
}

# Off: what the first search found, less what the filter takes.
my $off = 'SET vectorkv.scan_past_ef = off';
cmp_ok(rows_of("$off; SET hnsw.ef_search = 40", where => $filter), '<', 400, 'a search that ends at ef_search loses most rows to a filter');

# On: as many as asked for, and the right ones.
foreach my $mode ('strict_order', 'relaxed_order')
{
	is(rows_of("SET hnsw.iterative_scan = $mode", where => $filter), '1000', "$mode finds ten rows each behind the filter");
	ok_recall(recall($node, 'exact', 'items', 'queries', 'cosine', where => $filter, settings => ["hnsw.iterative_scan = $mode"]), 0.90, "$mode with a filter");
}
my $wrong = $node->safe_psql('postgres', 'SET enable_seqscan = off; SET hnsw.iterative_scan = strict_order; SET hnsw.ef_search = 10; SELECT count(*) FROM '
	  . '(SELECT distance < lag(distance) OVER (PARTITION BY q ORDER BY n) AS wrong FROM (SELECT *, row_number() OVER () AS n FROM ('
	  . knn('items', 'queries', 'cosine', where => $filter, k => 50) . ') a) b) c WHERE wrong');
is($wrong, '0', 'strict_order returns rows in order');
is($node->safe_psql('postgres', 'SET enable_seqscan = off; SET hnsw.iterative_scan = relaxed_order; SELECT count(*) - count(DISTINCT (q, id)) FROM (' . knn('items', 'queries', 'cosine', k => 500) . ') x'),
	'0', 'relaxed_order returns no row twice');

# Bounded effort.
my $unbounded = rows_of('SET hnsw.iterative_scan = strict_order', where => $filter, k => 100);
cmp_ok($unbounded, '>=', 9900, 'iteration finds all rows of a large limit');
cmp_ok(rows_of('SET hnsw.iterative_scan = strict_order; SET hnsw.max_scan_tuples = 100', where => $filter, k => 100), '<', $unbounded / 2, 'hnsw.max_scan_tuples bounds the effort');
cmp_ok(rows_of('SET hnsw.iterative_scan = strict_order; SET work_mem = \'64kB\'; SET hnsw.scan_mem_multiplier = 1; SET hnsw.max_scan_tuples = 100000', k => 4000), '<', 400_000,
	'hnsw.scan_mem_multiplier bounds the memory');

# A limit beyond ef_search: by default the scan goes on, in order; it ends there when told so; iteration reaches everything.
remember_exact($node, 'exact100', 'items', 'queries', 'cosine', k => 100);
is(rows_of('SET hnsw.ef_search = 20', k => 100), '10000', 'a scan goes on beyond ef_search');
ok_recall(recall($node, 'exact100', 'items', 'queries', 'cosine', k => 100, settings => ['hnsw.ef_search = 20']), 0.90, 'beyond ef_search');
is(rows_of("$off; SET hnsw.ef_search = 20", k => 100), '2000', 'it ends there without vectorkv.scan_past_ef');
is($node->safe_psql('postgres', 'SET enable_seqscan = off; SET hnsw.iterative_scan = relaxed_order; SET hnsw.max_scan_tuples = 1000000; SET work_mem = \'64MB\'; SELECT count(DISTINCT id) FROM '
		  . '(SELECT id FROM items ORDER BY embedding <=> (SELECT embedding FROM queries WHERE id = 0) LIMIT 4000) x'), '4000', 'with it, every row of the table is reached');

# A cursor read in steps gives the rows of one read.
my $knn = 'SELECT id FROM items ORDER BY embedding <=> (SELECT embedding FROM queries WHERE id = 8) LIMIT 30';
my $whole = $node->safe_psql('postgres', "SET enable_seqscan = off; $knn");
my $steps = $node->safe_psql('postgres', "SET enable_seqscan = off; BEGIN; DECLARE c CURSOR FOR $knn; FETCH 1 FROM c; FETCH 9 FROM c; FETCH 20 FROM c; COMMIT");
is($steps, $whole, 'a cursor returns the same rows');
is($node->safe_psql('postgres', "SET enable_seqscan = off; BEGIN; DECLARE c SCROLL CURSOR FOR $knn; MOVE 10 FROM c; MOVE BACKWARD 10 FROM c; FETCH 30 FROM c; COMMIT"), $whole,
	'a scrollable cursor too');

# Rescans: the same query from a nested loop and alone.
my @alone = map { $node->safe_psql('postgres', "SET enable_seqscan = off; SELECT id FROM items ORDER BY embedding <=> (SELECT embedding FROM queries WHERE id = $_) LIMIT 3") } 0 .. 9;
is($node->safe_psql('postgres', 'SET enable_seqscan = off; SELECT r.id FROM (SELECT * FROM queries ORDER BY id LIMIT 10) q CROSS JOIN LATERAL '
		  . '(SELECT id FROM items s ORDER BY s.embedding <=> q.embedding LIMIT 3) r ORDER BY q.id'), join("\n", @alone), 'rescans answer like single queries');

# NULL as the query returns rows without an order, and never fails.
is($node->safe_psql('postgres', 'SET enable_seqscan = off; SELECT count(*) FROM (SELECT id FROM items ORDER BY embedding <=> NULL::vector LIMIT 5) x'), '5', 'NULL as the query');

done_testing();
