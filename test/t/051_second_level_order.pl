# Codec lvq4x8 returns rows in the order of their exact distance, near ties included, and reads few rows of the heap for it; lvq8 reads
# those whose order its codes leave open.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $node = new_node('order');
$node->safe_psql('postgres', q{
CREATE FUNCTION pseudo(i bigint, j int) RETURNS float8 IMMUTABLE LANGUAGE sql AS
  $$ SELECT 2 * x - 1 FROM (SELECT (hashint8extended(i * 1000 + j, 7) & 1048575) / 1048575.0::float8 x) s $$;
CREATE TABLE doc (id int PRIMARY KEY, e vector(64));
INSERT INTO doc SELECT i, (SELECT array_agg((pseudo(-1 - i % 10, j) + 0.002 * pseudo(i, j))::real ORDER BY j)::vector FROM generate_series(1, 64) j) FROM generate_series(1, 3000) i;
CREATE TABLE empty_first (LIKE doc);
CREATE INDEX ON empty_first USING hnsw (e vector_l2_ops) WITH (codec = 'lvq4x8');
INSERT INTO empty_first SELECT * FROM doc WHERE id <= 1000;
CREATE INDEX ON doc USING hnsw (e vector_l2_ops) WITH (codec = 'lvq4x8');
});

foreach my $table ('doc', 'empty_first')
{
	foreach my $mode ('off', 'strict_order')
	{
		my $set = "SET enable_seqscan = off; SET hnsw.iterative_scan = $mode;";
		is($node->safe_psql('postgres', "$set SELECT count(*) FROM (SELECT id, (SELECT b.id FROM $table b ORDER BY b.e <-> a.e LIMIT 1) AS first FROM $table a WHERE id <= 100) t WHERE first <> id"),
			'0', "$table, $mode: the row itself is first");
		# the operator's single precision may see two distances the other way round that differ in the last bit
		is($node->safe_psql('postgres', "$set SELECT count(*) FROM (SELECT q, d, lag(d) OVER (PARTITION BY q ORDER BY n) AS before FROM (SELECT q, d, row_number() OVER () AS n FROM "
				  . "(SELECT a.id AS q, x.d FROM $table a, LATERAL (SELECT b.e <-> a.e AS d FROM $table b ORDER BY b.e <-> a.e LIMIT 300) x WHERE a.id <= 10) y) z) v WHERE d < before * (1 - 1e-6)"),
			'0', "$table, $mode: no distance falls");
	}
}

# Ordinary rows: little more is read than what is returned.
load_sample($node, 'items', 'vector');
load_queries($node, 'queries', 'vector', rows => 100);
# In one session, which says when it has told its figures.
my $fetched = q{SELECT pg_stat_force_next_flush(); SELECT pg_stat_get_blocks_fetched('items'::regclass)};
foreach my $case (['lvq4x8', 13], ['lvq8', 17])
{
	my ($codec, $most) = @$case;
	$node->safe_psql('postgres', "CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops) WITH (codec = '$codec')");
	my ($before, $after) = grep { /\d/ } split /\n/, $node->safe_psql('postgres',
		"SET stats_fetch_consistency = none; SET enable_seqscan = off; $fetched; SELECT '' FROM (SELECT count(*) FROM (" . knn('items', 'queries', 'cosine') . ") x) y; $fetched");
	my $blocks = ($after - $before) / 100;
	cmp_ok($blocks, '<', $most, "$codec: a query for ten rows reads $blocks blocks of the heap");
	cmp_ok($blocks, '>=', 10, 'ten of them to return the rows');
	$node->safe_psql('postgres', 'DROP INDEX items_idx');
}

# Dead rows make a scan go on while it returns rows, and what it meets then may be nearer than those.
foreach my $codec ('lvq8', 'lvq4x8')
{
	$node->safe_psql('postgres', "CREATE TABLE turned (id int PRIMARY KEY, embedding vector(384)); CREATE INDEX ON turned USING hnsw (embedding vector_cosine_ops) WITH (codec = '$codec'); "
		  . 'INSERT INTO turned SELECT id, embedding FROM items WHERE id % 4 = 0; '
		  . 'UPDATE turned t SET embedding = i.embedding FROM items i WHERE i.id = (t.id * 7 + 1) % 4000 AND t.id % 12 = 0');
	is($node->safe_psql('postgres', 'SET jit = off; SET enable_seqscan = off; SELECT count(*) FROM (SELECT d, lag(d) OVER (PARTITION BY q ORDER BY n) AS before FROM (SELECT q, d, row_number() OVER () AS n FROM '
			  . '(SELECT q.id AS q, x.d FROM queries q, LATERAL (SELECT t.embedding <=> q.embedding AS d FROM turned t ORDER BY t.embedding <=> q.embedding LIMIT 40) x) y) z) v WHERE d < before'),
		'0', "$codec: no distance falls among dead rows");
	$node->safe_psql('postgres', 'DROP TABLE turned');
}

done_testing();
