# Indexes that another library wrote, as they lie on disk after the library was replaced: pgvector's own format, and another version of
# ours.  Everything that reads or writes such an index says REINDEX, the table stays usable, and REINDEX is enough.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use VectorKV;

my $page = 8192;
my $node = PostgreSQL::Test::Cluster->new('foreign');
$node->init(extra => [ (run_command([ 'initdb', '--help' ]))[0] =~ /--no-data-checksums/ ? '--no-data-checksums' : () ]);
$node->append_conf('postgresql.conf', "autovacuum = off\nlog_statement = none\nrestart_after_crash = off\n");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION vector');
load_sample($node, 'items', 'vector', rows => 300);
load_queries($node, 'queries', 'vector', rows => 20);

my $knn = 'SELECT count(*) FROM (' . knn('items', 'queries', 'cosine') . ') x';
my %reads = (
	'a search' => "SET enable_seqscan = off; $knn",
	'hnsw_check' => "SELECT * FROM hnsw_check('items_idx')",
	'hnsw_info' => "SELECT * FROM hnsw_info('items_idx')",
	'INSERT' => 'INSERT INTO items SELECT 1000 + id, body, embedding FROM queries',
	'VACUUM' => 'DELETE FROM items WHERE id = 7; VACUUM items');

sub overwrite_meta_page
{
	my (%bytes_at) = @_;
	$node->safe_psql('postgres', 'CHECKPOINT');
	my $file = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('items_idx')");
	$node->stop;
	open my $handle, '+<:raw', $file or die "$file: $!";
	while (my ($offset, $bytes) = each %bytes_at)
	{
		seek $handle, $offset, 0;
		print $handle $bytes;
	}
	close $handle;
	$node->start;
	return;
}

sub refuses
{
	my ($name, $message) = @_;
	foreach my $what (sort keys %reads)
	{
		like(sqlstate_of($node, $reads{$what}), qr/^XX002: .*"items_idx" $message/, "$name: $what");
		my ($status, $out, $err) = $node->psql('postgres', $reads{$what});
		like($err, qr/HINT: .*REINDEX/, "$name: the hint of $what says REINDEX");
	}
	is($node->safe_psql('postgres', 'SELECT count(*) FROM items WHERE id < 7'), '7', "$name: the table can be read");
	$node->safe_psql('postgres', 'REINDEX INDEX items_idx');
	ok_sound($node, 'items_idx', "$name: sound after REINDEX");
	is($node->safe_psql('postgres', "SET enable_seqscan = off; $knn"), '200', "$name: REINDEX heals it");
	return;
}

$node->safe_psql('postgres', 'CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops)');

# pgvector's meta page: its magic number behind the page header, its page id in the last two bytes.
overwrite_meta_page(24 => pack('L', 0xA953A953), $page - 2 => pack('S', 0xFF90));
refuses('pgvector', 'has the page format of pgvector');

# A later version of our format.
overwrite_meta_page(28 => pack('L', 1000));
refuses('another version', 'has version 1000 of the page format');

# Such an index can also simply be dropped.
overwrite_meta_page(24 => pack('L', 0xA953A953), $page - 2 => pack('S', 0xFF90));
$node->safe_psql('postgres', 'DROP INDEX items_idx');
is(sqlstate_of($node, $reads{INSERT}), '', 'without the index, rows can be inserted');
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC/, 'no backend died');

done_testing();
