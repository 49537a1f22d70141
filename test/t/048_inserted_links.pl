# Rows that are inserted, or left by a vacuum, are found as well as those of a build where a list that takes a new link has no other way to the one that it loses: few
# bits of many are set, neighbours of a row are hardly each other's, and hubs turn most newcomers down.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $node = new_node('inserted_links');
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE source AS SELECT i, (SELECT string_agg(CASE WHEN hashint4(i * 512 + j) % 20 = 0 THEN '1' ELSE '0' END, '' ORDER BY j) FROM generate_series(1, 512) j)::bit(512) AS v
  FROM generate_series(1, 5050) i;
CREATE TABLE t (i int, v bit(512));
INSERT INTO t SELECT * FROM source WHERE i <= 5000;
CREATE TABLE asked AS SELECT s.v, (SELECT max(d) FROM (SELECT t.v <~> s.v AS d FROM t ORDER BY d LIMIT 20) x) AS kth FROM source s WHERE i > 5000;
CREATE INDEX t_idx ON t USING hnsw (v bit_hamming_ops) WITH (m = 4, ef_construction = 8);
SQL

# Those at the distance of the 20th are as good as it.
my $recall = <<'SQL';
SET enable_seqscan = off; SET hnsw.ef_search = 100;
SELECT round(avg(n) / 20, 4) FROM asked q, LATERAL (SELECT count(*) FILTER (WHERE d <= kth) AS n FROM (SELECT t.v <~> q.v AS d FROM t ORDER BY t.v <~> q.v LIMIT 20) x) y
SQL
my $built = $node->safe_psql('postgres', $recall);
# Levels are drawn by chance: the mean of eight is within 0.03 of what it is.
my ($rounds, $inserted) = (8, 0);
foreach my $round (1 .. $rounds)
{
	$node->safe_psql('postgres', 'TRUNCATE t; INSERT INTO t SELECT * FROM source WHERE i <= 5000');
	$inserted += $node->safe_psql('postgres', $recall) / $rounds;
}
cmp_ok($inserted, '>=', 0.875, sprintf('of what was inserted: %.3f (built: %.3f)', $inserted, $built));
ok_sound($node, 't_idx', 'sound, and everything can be reached');

# Most distances are equal: scans go on from the levels above, and repairs have a choice.
my $ask_again = <<'SQL';
SET enable_indexscan = off;
UPDATE asked a SET kth = (SELECT max(d) FROM (SELECT t.v <~> a.v AS d FROM t ORDER BY d LIMIT 20) x)
SQL
cmp_ok($built, '>=', 0.89, "of a build: $built");
# Mean of three graphs (0.970 where a repair's search kept 17 candidates).
my $left = 0;
foreach my $seed (1 .. 3)
{
	$node->safe_psql('postgres', "SET vectorkv.build_seed = $seed; SET max_parallel_maintenance_workers = 0; TRUNCATE t; INSERT INTO t SELECT * FROM source WHERE i <= 5000 ORDER BY i; REINDEX INDEX t_idx; DELETE FROM t WHERE i % 4 <> 0;\nVACUUM (INDEX_CLEANUP ON) t");
	$node->safe_psql('postgres', $ask_again) if $seed == 1;
	$left += $node->safe_psql('postgres', $recall) / 3;
}
cmp_ok($left, '>=', 0.976, sprintf('of what a vacuum left: %.3f', $left));
ok_sound($node, 't_idx', 'sound after the vacuum');

# Inner products of small integers are equal, too, but the distances by which they are linked are not: a build looks at more candidates
# instead.  Mean of four graphs, for which pgvector's, of the same m and ef_construction, have 0.93 (0.92 with no more candidates).
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE ones AS SELECT i, (SELECT array_agg((hashint4(i * 32 + j) & 1)::real ORDER BY j) FROM generate_series(1, 32) j)::vector(32) AS v FROM generate_series(1, 5100) i;
CREATE TABLE ones_asked AS SELECT v FROM ones WHERE i > 5000;
DELETE FROM ones WHERE i > 5000;
ALTER TABLE ones_asked ADD kth float8;
UPDATE ones_asked a SET kth = (SELECT max(d) FROM (SELECT ones.v <#> a.v AS d FROM ones ORDER BY d LIMIT 20) x);
SQL
my $ones = 0;
foreach my $seed (1 .. 4)
{
	$ones += $node->safe_psql('postgres', <<"SQL") / 4;
SET vectorkv.build_seed = $seed; SET max_parallel_maintenance_workers = 0; SET enable_seqscan = off; SET hnsw.ef_search = 100;
DROP INDEX IF EXISTS ones_idx; CREATE INDEX ones_idx ON ones USING hnsw (v vector_ip_ops) WITH (m = 4, ef_construction = 8);
SELECT avg(n) / 20 FROM ones_asked q, LATERAL (SELECT count(*) FILTER (WHERE d <= kth) AS n FROM (SELECT ones.v <#> q.v AS d FROM ones ORDER BY ones.v <#> q.v LIMIT 20) x) y
SQL
}
cmp_ok($ones, '>=', 0.945, sprintf('0/1 vectors by inner product, built: %.3f', $ones));

done_testing();
