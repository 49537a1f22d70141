# Groups of similar rows loaded one after the other: a row's nearest are all of its own group, so links hardly leave it, and a greedy
# descent may end in a group that is not the query's.  Built and inserted into an index that was empty.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my ($groups, $members) = (100, 60);
my $node = new_node('groups');
$node->safe_psql('postgres', qq{
CREATE FUNCTION pseudo(i bigint, j int) RETURNS float8 IMMUTABLE LANGUAGE sql AS
  \$\$ SELECT 2 * x - 1 FROM (SELECT (hashint8extended(i * 1000 + j, 7) & 1048575) / 1048575.0::float8 x) s \$\$;
CREATE TABLE grp (id int PRIMARY KEY, g int, e vector(64));
INSERT INTO grp SELECT i, i / $members, (SELECT array_agg((pseudo(-1 - i / $members, j) + 0.005 * pseudo(i, j))::real ORDER BY j)::vector(64) FROM generate_series(1, 64) j) FROM generate_series(0, $groups * $members - 1) i;
CREATE TABLE late AS TABLE grp;
-- four queries near each group
CREATE TABLE ask AS SELECT i AS id, i / 4 AS g, (SELECT array_agg((pseudo(-1 - i / 4, j) + 0.005 * pseudo(-1000 - i, j))::real ORDER BY j)::vector(64) FROM generate_series(1, 64) j) AS e FROM generate_series(0, 4 * $groups - 1) i;
CREATE TABLE exact AS SELECT a.id, x.tenth FROM ask a, LATERAL (SELECT max(d) AS tenth FROM (SELECT b.e <-> a.e AS d FROM grp b ORDER BY (b.e <-> a.e) + 0 LIMIT 10) y) x;
});

# Share of the queries whose first row is of another group, and recall of the ten nearest.
sub measured
{
	my $got = $node->safe_psql('postgres', q{SET enable_seqscan = off;
SELECT avg((got IS DISTINCT FROM g)::int), avg(hits) / 10 FROM (SELECT a.id, a.g, min(x.g) FILTER (WHERE n = 1) AS got, count(*) FILTER (WHERE d <= tenth * (1 + 1e-6)) AS hits
  FROM ask a JOIN exact USING (id), LATERAL (SELECT row_number() OVER () AS n, y.* FROM (SELECT b.g, b.e <-> a.e AS d FROM grp b ORDER BY b.e <-> a.e LIMIT 10) y) x GROUP BY a.id, a.g) z});
	return split /\|/, $got;
}

# A group is missed as a whole: the mean of several graphs, of seeds of their own, decides.
sub ok_right_groups
{
	my ($name, $graphs, $make) = @_;
	my ($wrong, $recall) = (0, 0);
	foreach my $seed (1 .. $graphs)
	{
		$make->("SET vectorkv.build_seed = $seed;");
		my ($w, $r) = measured();
		$wrong += $w / $graphs;
		$recall += $r / $graphs;
	}
	cmp_ok($wrong, '<=', 0.03, sprintf('%s: %.4f answered from a wrong group', $name, $wrong));
	ok_recall($recall, 0.95, $name);
	return;
}

foreach my $codec ('lvq8', 'none')
{
	$node->safe_psql('postgres', "CREATE INDEX grp_e ON grp USING hnsw (e vector_l2_ops) WITH (codec = $codec)");
	ok_right_groups("$codec, built", 3, sub { $node->safe_psql('postgres', "$_[0] REINDEX INDEX grp_e") });
	ok_sound($node, 'grp_e', "$codec, built, is sound");
	$node->safe_psql('postgres', 'DROP INDEX grp_e');
}
$node->safe_psql('postgres', 'TRUNCATE grp; CREATE INDEX grp_e ON grp USING hnsw (e vector_l2_ops)');
ok_right_groups('inserted', 1, sub { $node->safe_psql('postgres', "$_[0] INSERT INTO grp TABLE late") });
ok_sound($node, 'grp_e', 'inserted, is sound');

done_testing();
