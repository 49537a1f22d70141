# Every kind of change against every kind of fault: {insert, build, vacuum, append, seal, fork, recode, truncate, drop} x {an error at each call
# into PostgreSQL, cancel, terminate, SIGKILL, full disk, no memory, promotion of a standby}.  After each fault what was committed is there,
# nothing else is, index and cache are sound, and the session, or the next one, works.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep time);
use KVCache;
use VectorKV;

my $seed = $ENV{VKV_FAULT_SEED} // 11;
srand($seed);

# The disk that can be full is a library between server and system.
my $folder = PostgreSQL::Test::Utils::tempdir();
my ($preload, $flag) = ("$folder/full_disk.so", "$folder/full");
system('cc', '-shared', '-fPIC', '-O1', '-o', $preload, "$FindBin::RealBin/lib/full_disk.c", '-ldl') == 0 or die 'no compiler';
$ENV{FULL_DISK_FLAG} = $flag;

my $node = PostgreSQL::Test::Cluster->new('matrix');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', join("\n", 'shared_buffers = 16MB', 'log_statement = none', 'max_wal_size = 1GB', 'autovacuum = off', 'restart_after_crash = off',
		'max_connections = 40', 'wal_writer_delay = 10ms', 'max_parallel_maintenance_workers = 1', ''));
{
	local $ENV{LD_PRELOAD} = $preload;
	$node->start;
}
$node->safe_psql('postgres', 'CREATE EXTENSION vector; CREATE EXTENSION vectorkv; CREATE EXTENSION amcheck');
load_kv_sample($node);
load_sample($node, 'sample', 'vector', rows => 1500);

# An operation has objects of its own: what makes the state before it, the statement, and a query whose answer tells the states apart.
sub vectors
{
	my ($name, $before, $run, %param) = @_;
	my $table = "items_$name";
	return { name => $name, run => $run,
		before => "DROP TABLE IF EXISTS $table; CREATE TABLE $table (id int PRIMARY KEY, embedding vector(384)); "
		  . "INSERT INTO $table SELECT id, embedding FROM sample WHERE id < 500; "
		  . ($param{build} ? '' : "CREATE INDEX ${table}_idx ON $table USING hnsw (embedding vector_l2_ops) WITH (m = 8); ") . $before,
		state => "SELECT count(*) || ':' || coalesce(sum(id + hashtext(embedding::text)::bigint), 0) FROM $table",
		sound => "SELECT * FROM hnsw_check('${table}_idx', true) LIMIT 5", index => "${table}_idx" };
}

sub cache
{
	my ($name, $options, $before, $run) = @_;
	my $cache = "cache_$name";
	return { name => $name, run => $run,
		before => "SELECT kv.drop_cache(oid) FROM pg_class WHERE relname = '$cache'; SELECT kv.create_cache('$cache', $KVCache::LAYERS, $KVCache::Q_HEADS, $KVCache::KV_HEADS, $KVCache::DIM, $options); "
		  . "SELECT kv.append('$cache', 1, k(0, 300), v(0, 300)); SELECT kv.append('$cache', 1, k(300, 7), v(300, 7)); $before",
		state => "SELECT coalesce(string_agg(concat_ws('/', h.seq, kv.length('$cache', h.seq), layer, md5(kv.bytes(f.k)), md5(kv.bytes(f.v))), ' ' ORDER BY h.seq, layer), 'none') "
		  . "FROM $cache h, generate_series(0, $KVCache::LAYERS - 1) layer, kv.fetch('$cache', h.seq, layer) f",
		sound => "SELECT * FROM kv.check_cache('$cache') LIMIT 5" };
}

my $small = "codec => 'int8', tail_tokens => 16, sink_tokens => 2";
my @operations = (
	vectors('insert', '', 'INSERT INTO items_insert SELECT id, embedding FROM sample WHERE id BETWEEN 500 AND 540 OR id = 1499'),
	vectors('build', '', 'CREATE INDEX items_build_idx ON items_build USING hnsw (embedding vector_l2_ops) WITH (m = 8)', build => 1),
	vectors('vacuum', 'DELETE FROM items_vacuum WHERE id % 4 = 1; ', 'VACUUM (INDEX_CLEANUP ON) items_vacuum'),
	cache('append', $small, '', "SELECT kv.append('cache_append', 1, k(307, 400), v(307, 400)), kv.append('cache_append', 2, k(0, 5), v(0, 5))"),
	cache('seal', $small, '', "SELECT kv.seal('cache_seal', 1)"),
	cache('fork', $small, '', "SELECT kv.fork('cache_fork', 1, 2), kv.fork('cache_fork', 1, 3, 77)"),
	cache('recode', "codec => 'f16'", '', "SELECT kv.recode('cache_recode', 1, 'int4')"),
	cache('truncate', $small, "SELECT kv.fork('cache_truncate', 1, 2); ", "SELECT kv.truncate('cache_truncate', 1, 50)"),
	cache('drop', $small, "SELECT kv.fork('cache_drop', 1, 2); ", "SELECT kv.drop_sequence('cache_drop', 1)"));

my $quiet = 'SET client_min_messages = error;';
sub value { my ($server, $sql) = @_; return $server->safe_psql('postgres', "$quiet $sql"); }

# The states before and after, and how long the operation takes.
foreach my $op (@operations)
{
	value($node, $op->{before});
	$op->{old} = value($node, $op->{state});
	my $start = time;
	value($node, $op->{run});
	$op->{seconds} = time - $start;
	$op->{new} = value($node, $op->{state});
}

# What a fault left; returns whether the operation happened.
sub ok_left
{
	my ($server, $op, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $state = value($server, $op->{state});
	my $there = $op->{index} ? value($server, "SELECT count(*) FROM pg_class WHERE relname = '$op->{index}'") : 1;
	my $sound = $there ? value($server, $op->{sound}) : '';
	ok(($state eq $op->{old} || $state eq $op->{new}) && $sound eq '', "$op->{name}, $name")
	  or diag("state $state\nbefore $op->{old}\nafter $op->{new}\nfaults: $sound");
	return $state eq $op->{new} && $there;
}

# An error at each call into PostgreSQL, in one session that goes on; where there are thousands of calls, at ever larger steps.
foreach my $op (@operations)
{
	value($node, $op->{before});
	my ($script, $n) = ("$quiet\n\\set ON_ERROR_STOP 0\n", 1);
	while ($n < 3_000_000)
	{
		$script .= "SET vectorkv.fault_after = $n;\n$op->{run};\nSELECT :'SQLSTATE' AS sqlstate, :'LAST_ERROR_MESSAGE' AS message \\gset\nSET vectorkv.fault_after = 0;\n"
		  . "\\echo $n :sqlstate :message\nSELECT :'sqlstate' = '00000' AS done \\gset\n\\if :done\n\\q\n\\endif\n"
		  . "SET statement_timeout = '5ms'; SELECT pg_sleep(10);\n\\echo cancelled :SQLSTATE\nRESET statement_timeout;\n\\echo state\n$op->{state};\n";
		$n = $n < 40 ? $n + 1 : int($n * 1.12) + int(rand 3);
	}
	my ($out, $err) = ('', '');
	append_to_file("$folder/$op->{name}.sql", $script);    # a file: psql leaves before it has read it all
	IPC::Run::run([ 'psql', '-X', '-A', '-t', '-q', '-d', $node->connstr('postgres'), '-f', "$folder/$op->{name}.sql" ], '<', \undef, '>', \$out, '2>', \$err,
		IPC::Run::timeout(300));
	my @lines = split /\n/, $out;
	my ($walked, $problem, $done) = (0, '', 0);
	foreach my $at (0 .. $#lines)
	{
		if ($lines[$at] =~ /^(\d+) (\w{5}) ?(.*)/)
		{
			$walked = $1;
			$done = 1 if $2 eq '00000';
			$problem ||= "call $1: $2 $3" if $2 !~ /^(?:VKF01|00000)$/;
		}
		$problem ||= "after call $walked: not cancelled: $lines[$at]" if $lines[$at] =~ /^cancelled/ && $lines[$at] ne 'cancelled 57014';
		$problem ||= "after call $walked: state is $lines[$at + 1]" if $lines[$at] eq 'state' && ($lines[ $at + 1 ] // '') ne $op->{old};
	}
	is($problem, '', "$op->{name}, an error at each call up to $walked: nothing of it is left, and the session can be cancelled") or diag($err =~ s/(.{2000}).*/$1/sr);
	ok($done && $walked > 1, "$op->{name}: went through when no call failed") or diag($err =~ s/(.{2000}).*/$1/sr);
	ok(ok_left($node, $op, 'after the walk'), "$op->{name}: is what it should be");
}

# Cancelled and terminated at random moments.
foreach my $op (@operations)
{
	foreach my $how (qw(cancel terminate))
	{
		value($node, $op->{before});
		foreach my $attempt (1 .. 4)
		{
			my ($out, $err) = ('', '');
			my $client = IPC::Run::start([ 'psql', '-X', '-A', '-t', '-q', '-d', $node->connstr('postgres') . " application_name=victim", '-c', $op->{run} ],
				'<', \undef, '>', \$out, '2>', \$err);
			usleep(int(rand(30_000 + 1.2e6 * $op->{seconds})));    # it has to connect first
			value($node, "SELECT pg_${how}_backend(pid) FROM pg_stat_activity WHERE application_name = 'victim'");
			eval { $client->finish; };
			my @errors = grep { !/canceling statement|terminating connection/ } $err =~ /^.*(?:ERROR|FATAL|PANIC).*$/mg;
			is("@errors", '', "$op->{name}, $how $attempt: no other error");
			value($node, $op->{before}) if ok_left($node, $op, "$how $attempt");
		}
	}
}

# A full disk and no memory, in a session that goes on.
foreach my $op (@operations)
{
	foreach my $how ('full', 'memory 1', 'memory 3', 'memory 9')
	{
		value($node, $op->{before} . '; CHECKPOINT');
		my ($out, $err) = ('', '');
		my ($on, $off) = ("\\! touch $flag\n", "\\! rm -f $flag\n");
		if ($how =~ /memory (\d+)/)
		{
			my $bytes = $1 << 20;
			$on = "SELECT pg_backend_pid() AS pid \\gset\n\\setenv VICTIM :pid\n"
			  . "\\! prlimit --pid \$VICTIM --as=\$((\$(awk '{print \$1}' /proc/\$VICTIM/statm) * 4096 + $bytes)):unlimited\n";
			$off = "\\! prlimit --pid \$VICTIM --as=unlimited:unlimited\n";
		}
		$node->psql('postgres', "$quiet\n\\set ON_ERROR_STOP 0\n$op->{state};\n$on$op->{run};\n\\echo state :SQLSTATE :LAST_ERROR_MESSAGE\n${off}SET statement_timeout = '5ms'; SELECT pg_sleep(10);\n\\echo cancelled :SQLSTATE\n",
			stdout => \$out, stderr => \$err, on_error_stop => 0, timeout => 60);
		unlink $flag;
		my ($state, $message) = $out =~ /^state (\w{5}) ?(.*)/m;
		like($state // "none: $err", $how eq 'full' ? qr/^(?:00000|53100)$/ : qr/^(?:00000|53200)$/, "$op->{name}, $how: the right error, or none") or diag($message // '', $err);
		like($out, qr/^cancelled 57014/m, "$op->{name}, $how: the session works") or diag($err);
		ok_left($node, $op, $how);
	}
}

# Everything at once: the server is killed, twice; the third time a standby takes over.
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('matrix_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
foreach my $round (1 .. 3)
{
	value($node, $_->{before}) foreach @operations;
	$node->wait_for_catchup($standby, 'replay', $node->lsn('insert')) if $round == 3;
	my @clients = map {
		my $client = { err => '' };
		$client->{handle} = IPC::Run::start([ 'psql', '-X', '-q', '-d', $node->connstr('postgres'), '-c', $_->{run} ], '<', \undef, '>', \$client->{out}, '2>', \$client->{err});
		$client;
	} @operations;
	usleep(20_000 + int(rand(400_000)));
	$node->kill9;
	foreach (@clients) { eval { $_->{handle}->finish; }; }
	wait_until_gone($node);
	if ($round < 3) { $node->start; }
	else { $standby->promote; $node = $standby; }
	foreach my $number (0 .. $#operations)
	{
		unlike($clients[$number]{err}, qr/ERROR/, "$operations[$number]{name}, round $round: no error before");
		ok_left($node, $operations[$number], $round < 3 ? "SIGKILL $round" : 'promotion');
	}
}

# Heaps and B-trees of all of it, and every object takes its operation now.
$node->command_ok([ 'pg_amcheck', 'postgres' ], 'pg_amcheck finds nothing');
foreach my $op (@operations)
{
	value($node, $op->{before});
	value($node, $op->{run});
	ok(ok_left($node, $op, 'at the end'), "$op->{name}: works at the end");
}

done_testing();
