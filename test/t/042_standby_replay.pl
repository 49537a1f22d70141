# Searches on a standby while replay stands still in the middle of whatever it was doing: pages that are valid, but not yet filled,
# hide no row and are not called damaged.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(usleep);
use VectorKV;

my $primary = new_node('primary', streaming => 1, settings => ['full_page_writes = on', 'shared_buffers = 32MB']);
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
# Buffers that are just enough for reading in place, and fewer than pages: replay brings pages in all the time.
$standby->append_conf('postgresql.conf', "shared_buffers = 16MB\nmax_standby_streaming_delay = -1\nlogging_collector = off");
$standby->start;
load_sample($primary, 'sample', 'vector');
$primary->safe_psql('postgres', "CREATE TABLE items (id int, filler text, embedding vector(384)); ALTER TABLE items ALTER filler SET STORAGE plain; "
	  . "INSERT INTO items SELECT DISTINCT ON (embedding) id, repeat('x', 1500), embedding FROM sample; "
	  . 'CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops); CREATE TABLE more AS SELECT * FROM items');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));

my $startup = $standby->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'");
# Every page in a full image again and again, by checkpoints between small changes all over the index.
my $writes = start_pgbench($primary, 1, 5, [6, "\\set part random(0, 99)\nDELETE FROM items WHERE id > 100000 AND id % 100 = :part;\n"
	  . "INSERT INTO items SELECT 100000 + id, filler, (embedding * 1.5)::vector FROM more WHERE id % 100 = :part;\n"], [1, "CHECKPOINT;\n"]);
my ($rounds, $missed, $errors, $out, $err) = (0, 0, '');
srand(11);
my $end = time + 5;
while (time < $end)
{
	usleep(int(rand(60_000)));
	kill 'STOP', $startup;
	# LIMIT 2: the row, or its longer double.
	my $status = $standby->psql('postgres', "SET enable_seqscan = off; SET statement_timeout = '3s'; SELECT count(*) FROM items s WHERE id % 40 = $rounds % 40 AND id <= 100000 "
		  . 'AND NOT EXISTS (SELECT FROM (SELECT r.id FROM items r ORDER BY r.embedding <=> s.embedding LIMIT 2) x WHERE x.id % 100000 = s.id)', stdout => \$out, stderr => \$err);
	kill 'CONT', $startup;
	$rounds++;
	# A search that waits for the page that replay has locked is right to wait.
	if ($status != 0 && $err =~ /statement timeout/) { next; }
	$errors .= $err if $status != 0;
	$missed += $out if $status == 0;
}
finish_pgbench($writes);
is($errors, '', "no error in $rounds rounds of searches beside a replay that stands still");
is($missed, 0, 'no row was missed');
cmp_ok($rounds, '>=', 5, 'there were rounds');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));
ok_sound($standby, 'items_idx', 'sound on the standby');

done_testing();
