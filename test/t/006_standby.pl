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

$primary->stop;
$standby->promote;
$standby->safe_psql('postgres', 'INSERT INTO items SELECT 100000 + id, body, embedding FROM queries');
is($standby->safe_psql('postgres', 'SET enable_seqscan = off; SELECT count(*) FROM (' . knn('items', 'queries', 'cosine', k => 1) . ') x WHERE id >= 100000'), '100',
	'the promoted standby takes rows and finds them');
ok_sound($standby, 'items_idx', 'promoted: sound');

done_testing();
