# An index does not grow by what comes and goes: places of items are used again, and what insertions that failed left behind is found.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $node = new_node('vacuum_space');
load_sample($node, 'sample', 'vector');

sub size_of { return $node->safe_psql('postgres', "SELECT pg_relation_size('items_idx')"); }

# All rows replaced, again and again; with upper lists, payload and chains of tuples.
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE items (id int, embedding vector(384));
CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops) WITH (m = 4, ef_construction = 16, codec = 'lvq4x8');
SQL
my $after_two;
foreach my $turn (1 .. 12)
{
	$node->safe_psql('postgres', "DELETE FROM items; INSERT INTO items SELECT id, embedding FROM sample WHERE id % 8 = $turn % 8; INSERT INTO items SELECT -1, embedding FROM sample, generate_series(1, 40) WHERE id = $turn");
	$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
	$after_two = size_of() if $turn == 2;
}
my $at_last = size_of();
ok($at_last <= 1.2 * $after_two, "after two turns $after_two bytes, after twelve $at_last");
ok_sound($node, 'items_idx');
my $pages = $node->safe_psql('postgres', "SELECT bytes_upper + bytes_payload + bytes_tids FROM hnsw_info('items_idx')");

# Insertions that end by an error at one call after the other.
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION fail(points int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    failed int := 0;
BEGIN
    FOR point IN 1 .. points LOOP
        BEGIN
            PERFORM set_config('vectorkv.fault_after', point::text, true);
            INSERT INTO items SELECT -2, embedding FROM sample WHERE id = 2000 + point;
            PERFORM set_config('vectorkv.fault_after', '0', true);
            RAISE EXCEPTION 'undone';
        EXCEPTION WHEN OTHERS THEN
            failed := failed + (SQLERRM <> 'undone')::int;
        END;
    END LOOP;
    PERFORM set_config('vectorkv.fault_after', '0', true);
    RETURN failed;
END $$;
SQL
foreach my $round (1 .. 6)
{
	cmp_ok($node->safe_psql('postgres', 'SELECT fail(400)'), '>', 20, 'insertions fail');
	$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
	$after_two = size_of() if $round == 2;
}
ok(size_of() <= 1.05 * $after_two, 'what failed insertions left is used again');
ok_sound($node, 'items_idx', 'sound after failed insertions');

# The same by crashes: a vacuum afterwards leaves nothing but what the rows take.
$node->safe_psql('postgres', 'DELETE FROM items');
$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
my $load = start_pgbench($node, 3, 60, [1, "\\set s random(0, 3999)\nINSERT INTO items SELECT id, embedding FROM sample WHERE id = :s;\n"]);
$node->poll_query_until('postgres', 'SELECT count(*) > 100 FROM items');
$node->stop('immediate');
finish_pgbench($load);
wait_until_gone($node);
$node->start;
$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
ok_sound($node, 'items_idx', 'sound after a crash and a vacuum');
$node->safe_psql('postgres', 'DELETE FROM items');
$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
is($node->safe_psql('postgres', "SELECT nodes, dead_nodes, heap_tuples FROM hnsw_info('items_idx')"), '0|0|0', 'emptied');

done_testing();
