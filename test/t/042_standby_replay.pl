# Searches on a standby while replay stands still in the middle of bringing in a page: it is valid, and still empty or half filled, under
# an exclusive lock.  It hides no row, and is not called damaged; a search that wants the page waits for it.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use File::Temp qw(tempdir);
use IPC::Run;
use PostgreSQL::Test::Cluster;
use Test::More;
use Time::HiRes qw(usleep);
use VectorKV;

my $primary = new_node('primary', streaming => 1, settings => ['full_page_writes = on', 'shared_buffers = 32MB']);
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
# Just enough buffers for reading in place.
$standby->append_conf('postgresql.conf', "shared_buffers = 16MB\nmax_standby_streaming_delay = -1");
$standby->start;
load_sample($primary, 'sample', 'vector');
$primary->safe_psql('postgres', "CREATE TABLE items AS SELECT DISTINCT ON (embedding) id, embedding FROM sample; "
	  . 'CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops)');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));

# Rows whose own vector finds nothing as near as they are.
my $missed = 'SET enable_seqscan = off; SELECT count(*) FROM items s WHERE id % 2 = 0 AND id <= 100000 '
  . 'AND (SELECT r.embedding <=> s.embedding FROM items r ORDER BY r.embedding <=> s.embedding LIMIT 1) > 1e-6';
sub startup { return $standby->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'"); }
my $made = 0;
sub insert_some
{
	my ($count) = @_;
	my $from = $made;
	$made += $count;
	$primary->safe_psql('postgres', "CHECKPOINT; INSERT INTO items SELECT 100000 + id, embedding + embedding FROM items WHERE id BETWEEN $from AND $made - 1");
	return;
}

# At random moments.
my ($rounds, $wrong, $errors) = (0, 0, '');
srand(11);
while ($rounds < 12)
{
	insert_some(10);
	usleep(int(rand(3_000)));
	my $pid = startup();
	kill 'STOP', $pid;
	my $run = { out => '', err => '' };
	my $search = IPC::Run::start([ 'psql', '-XAtq', '-d', $standby->connstr('postgres'), '-c', "$missed AND id % 16 = 2 * ($rounds % 8)" ], '<', \undef, '>', \$run->{out}, '2>', \$run->{err});
	usleep(60_000);
	kill 'CONT', $pid;
	$search->finish;
	$rounds++;
	$errors .= $run->{err};
	$wrong += ($run->{out} =~ /(\d+)/) ? $1 : 1;
}
is($errors, '', "no error in $rounds rounds of searches beside a replay that stands still");
is($wrong, 0, 'no row was missed');

# In the middle of a page that is not in the buffers yet, by a debugger.
SKIP:
{
	skip 'needs gdb', 2 if system("gdb -p " . startup() . " -batch -ex detach > /dev/null 2>&1") != 0;
	my $folder = tempdir(CLEANUP => 1);
	my ($stops, $answers) = (0, '');
	foreach my $image (4, 9, 14, 23)
	{
		$primary->safe_psql('postgres', 'CHECKPOINT');    # where the standby starts again: no page is in its buffers then
		$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));
		$standby->safe_psql('postgres', 'CHECKPOINT');
		$standby->restart;
		$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
		insert_some(20);
		$primary->wait_for_catchup($standby, 'flush', $primary->lsn('write'));
		my $log = '';
		my $gdb = IPC::Run::start([ 'gdb', '-p', startup(), '-batch', '-ex', 'break RestoreBlockImage', '-ex', "ignore 1 $image", '-ex', "shell touch $folder/ready$image",
				'-ex', 'continue', '-ex', "shell touch $folder/stopped$image; sleep 2", '-ex', 'delete', '-ex', 'detach' ], '<', \undef, '>&', \$log);
		wait_for_file("$folder/ready$image");
		$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
		$stops++ if wait_for_file("$folder/stopped$image");
		my ($status, $out, $err) = $standby->psql('postgres', $missed);
		$answers .= "$out$err ";
		eval { $gdb->finish; };
	}
	is($stops, 4, 'replay was stopped in the middle of a page four times');
	is($answers, '0 0 0 0 ', 'no row was missed then');
}

sub wait_for_file
{
	my ($file) = @_;
	foreach (1 .. 1200)
	{
		return 1 if -e $file;
		usleep(50_000);
	}
	return 0;
}

$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));
ok_sound($standby, 'items_idx', 'sound on the standby');

done_testing();
