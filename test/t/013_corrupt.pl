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
$node->append_conf('postgresql.conf', "autovacuum = off\nlog_statement = none\nrestart_after_crash = off\nvectorkv.build_seed = 1\nmax_parallel_maintenance_workers = 0\n");
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

# Payloads that lead back to themselves. What reads one comes to an end, and says so: a search, a check, and a vacuum that looks
# whether another item is of that payload.
sub first_items
{
	my ($bytes) = @_;
	foreach my $block (1 .. length($bytes) / $page - 1)
	{
		next unless ord(substr $bytes, $block * $page + $page - 4, 1) == 6;    # the kind payload
		my @at = map { $block * $page + ($_ & 0x7fff) } unpack 'V2', substr $bytes, $block * $page + 24, 8;
		return ($block, @at);
	}
	die 'no page of payload';
}
$node->safe_psql('postgres', 'REINDEX INDEX items_idx');
load_sample($node, 'others', 'sparsevec', rows => 300);
load_queries($node, 'other_queries', 'sparsevec', rows => 5);
foreach my $case ([ others => 'other_queries', 'sparsevec_cosine_ops', 'none' ], [ items => 'queries', 'vector_cosine_ops', 'lvq4x8' ])
{
	my ($table, $queries, $opclass, $codec) = @$case;
	$node->safe_psql('postgres', "DROP INDEX items_idx") if $table eq 'items';
	$node->safe_psql('postgres', "CREATE INDEX ${table}_idx ON $table USING hnsw (embedding $opclass) WITH (codec = $codec); CHECKPOINT");
	my $path = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('${table}_idx')");
	my $bytes = slurp_file($path);
	my ($block, $first, $second) = first_items($bytes);
	substr($bytes, $first, 6) = pack 'vvv', $block >> 16, $block & 0xffff, 1;    # the next piece: itself
	substr($bytes, $second + 8, 4) = substr $bytes, $first + 8, 4;               # another item, of the same node
	$node->stop;
	open my $handle, '>:raw', $path or die "$path: $!";
	print $handle $bytes;
	close $handle;
	$node->start;
	my $limit = "SET statement_timeout = '60s';";
	is(sqlstate_of($node, "$limit SET enable_seqscan = off; SELECT count(*) FROM (" . knn($table, $queries, 'cosine') . ') x'), '', "$codec: a search goes past a payload without end");
	like($node->safe_psql('postgres', "$limit SELECT problem FROM hnsw_check('${table}_idx')"), qr/payload is missing or not whole/, "$codec: the check names it");
	$node->safe_psql('postgres', "DELETE FROM $table WHERE id = 7");
	like(sqlstate_of($node, "$limit VACUUM (INDEX_CLEANUP ON) $table"), qr/^XX002: .*payload that has no end/, "$codec: vacuum says that it has no end");
}

# REINDEX heals all of it.
$node->safe_psql('postgres', 'REINDEX INDEX items_idx');
ok_sound($node, 'items_idx', 'sound after REINDEX');
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|was terminated/, 'no backend died');

done_testing();
