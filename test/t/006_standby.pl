# A streaming standby answers as its primary does, after a build, inserts, deletes and vacuum, and goes on when promoted.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use Test::More;
use VectorKV;

my $primary = new_node('primary', streaming => 1);
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

sub same_answers
{
	my ($name) = @_;
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));
	is(answers($standby, 'items', 'queries', 'cosine'), answers($primary, 'items', 'queries', 'cosine'), "$name: the same answers");
	ok_sound($standby, 'items_idx', "$name: sound on the standby");
	return;
}

load_queries($primary, 'queries', 'vector', rows => 100);
load_sample($primary, 'items', 'vector', rows => 2000);
$primary->safe_psql('postgres', 'CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops)');
same_answers('build');
load_sample($primary, 'items', 'vector', create => 0, skip => 2000, rows => 1000);
same_answers('inserts');
$primary->safe_psql('postgres', 'DELETE FROM items WHERE id % 4 = 0; UPDATE items SET body = body WHERE id % 4 = 1');
$primary->safe_psql('postgres', 'VACUUM items');
same_answers('vacuum');
load_sample($primary, 'items', 'vector', create => 0, skip => 3000);
same_answers('inserts into space used again');
$primary->safe_psql('postgres', 'REINDEX INDEX items_idx');
same_answers('reindex');

# A vacuum that frees nodes under a scan that goes on: what the scan met and has not followed yet leads nowhere any more, and the ways that
# were mended instead begin at what it has returned.  It ends with all rows all the same, and has none of them twice.
$primary->safe_psql('postgres', 'CREATE EXTENSION dblink');
foreach my $case ([ $primary, 1, 1800, 0 ], [ $primary, 100, 1800, 6 ], [ $standby, 1, 1800, 0 ])
{
	my ($reader, $first, $near, $kept) = @$case;
	my $gone = "n BETWEEN 1 AND $near AND ($kept = 0 OR n % nullif($kept, 0) > 0)";    # on pages of their own: the cursor holds a pin on one of the others
	my $live = 1201 + ($kept ? $near / $kept : 0);
	my $connection = 'host=' . $reader->host . ' port=' . $reader->port . ' dbname=postgres';
	my $result = $primary->safe_psql('postgres', <<"SQL");
SET client_min_messages = warning;
DROP TABLE IF EXISTS rings, found;
CREATE TABLE found (id int);
CREATE TABLE rings (id int, v vector(8));
SELECT setseed(0.3);
INSERT INTO rings SELECT n, (SELECT array_agg(0 * j + CASE WHEN n = 0 THEN 0.5 WHEN n <= $near THEN 0.45 + 0.1 * random() ELSE 0.8 + 0.1 * random() END)
	FROM generate_series(1, 8) j)::real[]::vector FROM generate_series(0, $near + 1200) n ORDER BY $gone, n;
CREATE INDEX ON rings USING hnsw (v vector_l2_ops);
DELETE FROM rings WHERE id BETWEEN 1 AND $near AND ($kept = 0 OR id % nullif($kept, 0) > 0);
CREATE OR REPLACE PROCEDURE wait_for_replay() LANGUAGE plpgsql AS \$\$ BEGIN
	WHILE EXISTS (SELECT FROM pg_stat_replication WHERE replay_lsn < pg_current_wal_insert_lsn()) LOOP PERFORM pg_sleep(0.01); END LOOP;
END \$\$;
CALL wait_for_replay();
SELECT dblink_connect('reader', '$connection');
SELECT dblink_exec('reader', 'SET enable_seqscan = off');
SELECT dblink_open('reader', 'k', 'SELECT id FROM rings ORDER BY v <-> array_fill(0.5::real, ARRAY[8])::vector');
INSERT INTO found SELECT id FROM dblink_fetch('reader', 'k', $first) r(id int);
VACUUM (TRUNCATE off) rings;
CALL wait_for_replay();
INSERT INTO found SELECT id FROM dblink_fetch('reader', 'k', 10000) r(id int);
SELECT 'rows: ' || count(*) || ', different: ' || count(DISTINCT id) FROM found;
SQL
	is(($result =~ /^(rows: .*)$/m)[0], "rows: $live, different: $live", 'a vacuum after ' . "$first rows of a scan of the " . $reader->name);
}

$primary->stop;
$standby->promote;
$standby->safe_psql('postgres', 'INSERT INTO items SELECT 100000 + id, body, embedding FROM queries');
is($standby->safe_psql('postgres', 'SET enable_seqscan = off; SELECT count(*) FROM (' . knn('items', 'queries', 'cosine', k => 1) . ') x WHERE id >= 100000'), '100',
	'the promoted standby takes rows and finds them');
ok_sound($standby, 'items_idx', 'promoted: sound');

done_testing();
