# Rows that are inserted while vacuum repairs the graph can be reached afterwards: on pages that were added meanwhile, and where vacuum
# changes the lists that the new rows hang on.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

# Few buffers: what vacuum reads costs it a delay each time.
my $node = new_node('vacuum_inserts', settings => ['shared_buffers = 256kB']);
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE t (v vector(8));
CREATE FUNCTION random_rows(n int) RETURNS SETOF vector LANGUAGE sql AS
	'SELECT (SELECT array_agg(random()) FROM generate_series(1, 8 + 0 * i))::vector(8) FROM generate_series(1, n) i';
SQL

$node->safe_psql('postgres', <<'SQL');
SELECT setseed(0.5);
INSERT INTO t SELECT random_rows(4000);
CREATE INDEX ON t USING hnsw (v vector_l2_ops) WITH (m = 2, ef_construction = 16);
SQL
my $load = start_pgbench($node, 4, 600, [ 1, "INSERT INTO t SELECT random_rows(10);\n" ]);
my ($beside, $rounds) = (0, 0);
while ($beside < 300 && $rounds++ < 20)
{
	$node->safe_psql('postgres', 'DELETE FROM t WHERE random() < 0.5');
	my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM t');
	$node->safe_psql('postgres', "SET vacuum_cost_delay = '2ms'; SET vacuum_cost_limit = 400; VACUUM (INDEX_CLEANUP ON) t");
	$beside += $node->safe_psql('postgres', 'SELECT count(*) FROM t') - $before;
}
$load->{handle}->signal('TERM'); # an interrupt is ignored by what a shell runs in the background
finish_pgbench($load);
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE query LIKE 'INSERT%'");
cmp_ok($beside, '>=', 300, 'rows came while vacuum ran');

my ($lost, $other) = split /\|/, $node->safe_psql('postgres',
	"SELECT count(*) FILTER (WHERE problem = 'no path leads to it'), count(*) FILTER (WHERE problem <> 'no path leads to it') FROM hnsw_check('t_v_idx', true)");
is($lost, 0, 'every row can be reached');
is($other, 0, 'nothing else is wrong');

done_testing();
