# The aggregate kv.attention over a large cache runs in parallel: EXPLAIN shows partial aggregates under Gather, workers start, and the
# answer is the serial one and that of kv.attend.  States made apart and merged, as a distributed plan does it, give it too.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use KVCache;
use VectorKV;

my $node = kv_node('kv_parallel', settings => ['max_worker_processes = 8', 'max_parallel_workers = 4', 'max_parallel_workers_per_gather = 2']);
create_cache($node, 'chat', "codec => 'int8'");
# 160 sequences of 1,024 tokens: 250 MB as halves, 130 MB as tiles.
$node->safe_psql('postgres', "SELECT kv.append('chat', seq, k(0, 1024), v(0, 1024)) FROM generate_series(1, 160) seq");
$node->safe_psql('postgres', "SELECT kv.seal('chat', seq) FROM chat");
$node->safe_psql('postgres', 'VACUUM (ANALYZE) chat, chat_sealed, chat_tail');
# An array's element cannot be a query of its own, so the queries are in a table.
$node->safe_psql('postgres', "CREATE TABLE request AS SELECT kv.reshape(q_batch(1, 1), '{9,64}') AS q; ANALYZE request");

my $serial = 'SET max_parallel_workers_per_gather = 0;';
my $by_sequence = 'SELECT s.extent, kv.attention((SELECT q FROM request), s.tile) AS output FROM chat_sealed s WHERE s.layer = 1 GROUP BY s.extent';
my $whole = 'SELECT kv.attention((SELECT q FROM request), s.tile) FROM chat_sealed s WHERE s.layer = 1';

foreach my $case (['by sequence', $by_sequence, qr/Partial (Group|Hash)Aggregate/], ['of all', $whole, qr/Partial Aggregate/])
{
	my ($name, $sql, $partial) = @$case;
	my $plan = $node->safe_psql('postgres', "EXPLAIN (COSTS OFF) $sql");
	like($plan, qr/Gather/, "$name: the plan gathers") or diag($plan);
	like($plan, $partial, "$name: from partial aggregates");
	like($node->safe_psql('postgres', "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) $sql"), qr/Workers Launched: [12]/, "$name: workers start");
	unlike($node->safe_psql('postgres', "$serial EXPLAIN (COSTS OFF) $sql"), qr/Gather/, "$name: serial when told so");
}

my $worst = $node->safe_psql('postgres', "$serial CREATE TABLE serial AS $by_sequence; RESET max_parallel_workers_per_gather; "
	  . "SELECT count(*), max(kv.relative_error(p.output, s.output)) < 1e-6 FROM ($by_sequence) p JOIN serial s USING (extent)");
is($worst, '160|t', 'parallel and serial answers agree');
is($node->safe_psql('postgres', "SELECT kv.relative_error(($whole), (SELECT output FROM serial LIMIT 1)) < 1e-5"), 't',
	'equal sequences together attend as one does');
is($node->safe_psql('postgres', "SELECT max(kv.relative_error(s.output, kv.reshape(kv.attend('chat', ARRAY[h.seq], 1, (SELECT q_batch(1, 1))), '{9,64}'))) < 1e-5 "
		  . "FROM serial s JOIN chat h ON h.extents @> ARRAY[s.extent]"), 't', 'the aggregate answers as kv.attend does');
is($node->safe_psql('postgres', "SELECT count(*), bool_and(kv.relative_error((kv.finish(m.state)).output, s.output) < 1e-6) FROM "
		  . "(SELECT extent, kv.merge(state) AS state FROM (SELECT extent, pos % 3 AS part, kv.merge(kv.partial((SELECT q FROM request), tile)) AS state "
		  . "FROM chat_sealed WHERE layer = 1 GROUP BY 1, 2) p GROUP BY extent) m JOIN serial s USING (extent)"), '160|t',
	'states of parts, merged, give the same');

# The view NAME_tile has sealed tiles, shared ones cut where a fork ends, and the tail: the aggregate over it is kv.attend.
create_cache($node, 'talk', "codec => 'int4', tail_tokens => 50");
$node->safe_psql('postgres', "SELECT kv.append('talk', 1, k(0, 700), v(0, 700)); SELECT kv.fork('talk', 1, 2, 333); SELECT kv.append('talk', 2, k(800, 1), v(800, 1)); "
	  . "SELECT kv.fork('talk', 1, 3); SELECT kv.truncate('talk', 3, 70); SELECT kv.fork('talk', 2, 4, 2)");
is($node->safe_psql('postgres', "SELECT seq, max(kv.relative_error(a.output, kv.reshape(kv.attend('talk', ARRAY[seq], 1, (SELECT q_batch(1, 1))), '{9,64}'))) < 1e-5 "
		  . "FROM (SELECT seq, kv.attention((SELECT q FROM request), tile) AS output FROM talk_tile WHERE layer = 1 GROUP BY seq) a GROUP BY seq ORDER BY seq"),
	"1|t\n2|t\n3|t\n4|t", 'the aggregate over the view answers as kv.attend does');
is($node->safe_psql('postgres', "SELECT h.seq FROM talk h JOIN (SELECT seq, sum(kv.tokens(tile)) AS tokens FROM talk_tile GROUP BY seq) t USING (seq) WHERE tokens <> 6 * length"), '',
	'and the view has every token of every layer and head once');

# Keys that are stored before the rotary embedding: workers turn them, with a rope that they ask for themselves.
create_cache($node, 'turned', "codec => 'int4', keys => 'before_rope', rope_theta => 10000");
$node->safe_psql('postgres', "SELECT kv.append('turned', 1, k(0, 1000), v(0, 1000)) FROM generate_series(1, 2); SELECT kv.seal('turned', 1); ALTER TABLE turned_sealed SET (parallel_workers = 2); "
	  . "ANALYZE turned_sealed; SELECT kv.append('turned', 2, k(0, 300), v(0, 300))");
my $eager = 'SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET parallel_leader_participation = off; SET enable_indexscan = off; SET enable_bitmapscan = off;';
my $turned = "SELECT kv.attention((SELECT q FROM request), tile, NULL, NULL, kv.rope('turned')) AS output FROM turned_sealed WHERE layer = 1 "
  . 'AND extent = (SELECT extents[1] FROM turned WHERE seq = 1)';
like($node->safe_psql('postgres', "$eager EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) $turned"), qr/Workers Launched: [12].*Partial Aggregate/s, 'keys before the embedding: workers start');
is($node->safe_psql('postgres', "$eager SELECT kv.relative_error(($turned), kv.reshape(kv.attend('turned', '{1}', 1, (SELECT q_batch(1, 1))), '{9,64}')) < 1e-5"), 't',
	'keys before the embedding: they answer as kv.attend does');
is($node->safe_psql('postgres', "SELECT kv.relative_error((SELECT kv.attention((SELECT q FROM request), tile, NULL, NULL, (SELECT kv.rope('turned'))) FROM turned_tile WHERE seq = 2 AND layer = 1), "
		  . "kv.reshape(kv.attend('turned', '{2}', 1, (SELECT q_batch(1, 1))), '{9,64}')) < 1e-5"), 't', 'keys before the embedding: and so over the view, with its tail');

done_testing();
