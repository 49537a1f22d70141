# Eight clients insert, update, delete, vacuum and search together; afterwards the index is sound and as good as a new one.
# VKV_STRESS_SECONDS sets how long (60).
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $seconds = $ENV{VKV_STRESS_SECONDS} // 60;
my $node = new_node('concurrency', settings => ['max_connections = 40', 'max_parallel_maintenance_workers = 2', 'deadlock_timeout = 200ms']);
load_sample($node, 'sample', 'vector');
load_queries($node, 'queries', 'vector', rows => 100);
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE items (id serial PRIMARY KEY, tag int NOT NULL DEFAULT 0, body text, embedding vector(384) NOT NULL) WITH (fillfactor = 80);
INSERT INTO items (body, embedding) SELECT body, embedding FROM sample WHERE id < 2000;
CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops);
CREATE INDEX items_tag ON items (tag);
-- One search that fails when its answer is out of order, has a row twice or has nothing.
CREATE FUNCTION search(query int) RETURNS int LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    q vector := (SELECT embedding FROM queries WHERE id = query);
    r record;
    seen int[] := '{}';
    last float8 := '-infinity';
BEGIN
    FOR r IN SELECT id, embedding <=> q AS distance FROM items ORDER BY embedding <=> q LIMIT 10 LOOP
        IF r.distance < last THEN RAISE EXCEPTION 'query %: distance % after %', query, r.distance, last; END IF;
        IF r.id = ANY (seen) THEN RAISE EXCEPTION 'query %: row % twice', query, r.id; END IF;
        last := r.distance;
        seen := seen || r.id;
    END LOOP;
    IF cardinality(seen) = 0 THEN RAISE EXCEPTION 'query %: no answer', query; END IF;
    RETURN cardinality(seen);
END $$;
SQL

my $pick = 'SELECT embedding FROM sample WHERE id = :s';
my $mixed = start_pgbench($node, 7, $seconds,
	[40, "\\set q random(0, 99)\nSELECT search(:q);\n"],
	[20, "\\set s random(0, 3999)\nINSERT INTO items (body, embedding) SELECT body, embedding FROM sample WHERE id = :s;\n"],
	[15, "\\set s random(0, 3999)\n\\set i random(1, 4000)\nUPDATE items SET embedding = ($pick) WHERE id = :i;\n"],
	[10, "\\set i random(1, 4000)\nUPDATE items SET tag = tag + 1 WHERE id = :i;\n"],
	[15, "\\set i random(1, 4000)\nDELETE FROM items WHERE id = :i;\n"],
	[5, "\\set s random(0, 3999)\nBEGIN;\nINSERT INTO items (body, embedding) SELECT body, embedding FROM sample WHERE id = :s;\nROLLBACK;\n"]);
my $vacuum = start_pgbench($node, 1, $seconds, [1, "VACUUM items;\n\\sleep 200 ms\n"]);

foreach my $run (['clients', $mixed], ['vacuum', $vacuum])
{
	my ($code, $output) = finish_pgbench($run->[1]);
	is($code, 0, "the $run->[0] ended without an error") or diag($output);
	my ($count) = $output =~ /number of transactions actually processed: (\d+)/;
	cmp_ok($count // 0, '>', 0, "the $run->[0] did work: " . ($count // 0) . ' transactions');
}

ok_sound($node, 'items_idx', 'sound after the clients');
remember_exact($node, 'exact', 'items', 'queries', 'cosine');
my $aged = recall($node, 'exact', 'items', 'queries', 'cosine');
$node->safe_psql('postgres', 'VACUUM items');
ok_sound($node, 'items_idx', 'sound after the last vacuum');
my $vacuumed = recall($node, 'exact', 'items', 'queries', 'cosine');
$node->safe_psql('postgres', 'REINDEX INDEX items_idx');
my $fresh = recall($node, 'exact', 'items', 'queries', 'cosine');
ok_recall($aged, $fresh - 0.02, "aged index against a new one's $fresh");
ok_recall($vacuumed, $fresh - 0.02, 'after the last vacuum');

done_testing();
