# Pages that were overwritten: a clear error with its SQLSTATE, never a crash of the server.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use VectorKV;

my $page = 8192;
srand(7);
my $node = PostgreSQL::Test::Cluster->new('corrupt');
$node->init(extra => [ check_option('--no-data-checksums') ]);
$node->append_conf('postgresql.conf', "autovacuum = off\nlog_statement = none\nrestart_after_crash = off\n");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION vector');
load_sample($node, 'items', 'vector', rows => 1000);
load_queries($node, 'queries', 'vector', rows => 20);
$node->safe_psql('postgres', 'CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops); CHECKPOINT');
my $file = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('items_idx')");
my $sound = slurp_file($file);
my $blocks = length($sound) / $page;

# initdb has the option from version 18 on, where checksums became the default.
sub check_option
{
	my ($option) = @_;
	my ($help) = run_command([ 'initdb', '--help' ]);
	return $help =~ /$option/ ? ($option) : ();
}

sub write_index
{
	my ($bytes) = @_;
	open my $handle, '>:raw', $file or die "$file: $!";
	print $handle $bytes;
	close $handle;
	return;
}

# Starts the server on these bytes and does everything that reads the index; returns the SQLSTATEs seen.
sub states_with
{
	my ($bytes, $name) = @_;
	$node->stop;
	write_index($bytes);
	$node->start;
	my $knn = knn('items', 'queries', 'cosine');
	my @states = map { substr(sqlstate_of($node, $_), 0, 5) } (
		"SET enable_seqscan = off; SELECT count(*) FROM ($knn) x",
		'SELECT 1 / (count(*) = 0)::int FROM hnsw_check(\'items_idx\')',
		'SELECT * FROM hnsw_info(\'items_idx\')',
		'INSERT INTO items SELECT 5000 + id, body, embedding FROM queries',
		'DELETE FROM items WHERE id >= 5000',
		'VACUUM items');
	is($node->safe_psql('postgres', 'SELECT 1'), '1', "$name: the server is up");
	# The division by zero says that hnsw_check found problems.
	my @other = grep { !/^(|XX001|XX002)$/ } map { $_ == 1 && $states[$_] eq '22012' ? '' : $states[$_] } 0 .. $#states;
	is("@other", '', "$name: no other error than corruption");
	return @states;
}

sub overwrite
{
	my ($block, $offset, $bytes) = @_;
	my $copy = $sound;
	substr($copy, $block * $page + $offset, length $bytes) = $bytes;
	return $copy;
}

# The meta page.
my @states = states_with(overwrite(0, 24, "\xde\xad\xbe\xef" x 16), 'another magic number');
is($states[0], 'XX002', 'a foreign meta page is index_corrupted');
like(sqlstate_of($node, 'SET enable_seqscan = off; SELECT count(*) FROM (' . knn('items', 'queries', 'cosine') . ') x'), qr/^XX002: .*items_idx/, 'the message names the index');
my ($status, $out, $err) = $node->psql('postgres', 'SET enable_seqscan = off; SELECT count(*) FROM (' . knn('items', 'queries', 'cosine') . ') x');
like($err, qr/HINT: .*REINDEX/, 'the hint says REINDEX');
states_with(overwrite(0, 24, "\0" x 4000), 'a meta page of zeros');
states_with("\0" x length $sound, 'a file of zeros');

# Any other page: its content, its line pointers, its special space, and bytes here and there.
my $found = 0;
foreach my $round (1 .. 12)
{
	my $block = 1 + int(rand($blocks - 1));
	my $noise = sub { join '', map { chr(int(rand(256))) } 1 .. $_[0] };
	my ($offset, $bytes) = @{ ([24, $noise->(400)], [600, $noise->(4000)], [$page - 16, $noise->(16)], [24, "\0" x 8000], [24 + int(rand(8000)), $noise->(8)], [24, "\xff" x 8100])[$round % 6] };
	@states = states_with(overwrite($block, $offset, $bytes), "block $block of $blocks, " . length($bytes) . " bytes at $offset");
	$found++ if grep { $_ eq 'XX002' || $_ eq '22012' } @states;
	note("round $round, block $block: @states");
}
cmp_ok($found, '>=', 8, "damage was found in $found of 12 pages");
states_with(substr($sound, 0, int($blocks / 2) * $page), 'a file cut in half');

# REINDEX heals all of it.
$node->safe_psql('postgres', 'REINDEX INDEX items_idx');
ok_sound($node, 'items_idx', 'sound after REINDEX');
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|was terminated/, 'no backend died');

done_testing();
