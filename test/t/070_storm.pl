# A storm: eight clients write vectors and caches, others search, attend and vacuum, the server is killed with SIGKILL at the end of every
# round, and half of the rounds have a few buffers only.  After each: every committed row and token is there and nothing else is, the index
# and the caches are sound.  At the end a standby that followed all the time is promoted and holds the same.
# VKV_STORM_SECONDS (60): how long; VKV_STORM_ROUND (20): seconds from kill to kill.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use KVCache;
use Storm;
use VectorKV;

my $seconds = $ENV{VKV_STORM_SECONDS} // 60;
my $round_seconds = $ENV{VKV_STORM_ROUND} // 20;
my $rounds = int(($seconds + $round_seconds - 1) / $round_seconds);
my $seed = $ENV{VKV_STORM_SEED} // 20261130;
srand($seed);
diag("seed $seed");

my $node = kv_node('storm', streaming => 1,
	settings => ['max_connections = 40', 'checkpoint_timeout = 30s', 'wal_writer_delay = 10ms', 'restart_after_crash = off']);
load_sample($node, 'sample', 'vector');
$node->safe_psql('postgres', 'ALTER TABLE sample ADD PRIMARY KEY (id)');
load_queries($node, 'queries', 'vector', rows => 100);
my @kinds = (['lvq8', 'vector', 'cosine', ''], ['sparse', 'sparsevec', 'l2', ''], ['none', 'halfvec', 'l2', "WITH (codec = 'none', m = 6)"]);
foreach my $kind (@kinds)
{
	my ($name, $type, $metric, $options) = @$kind;
	my $opclass = opclass_of($type, $metric);
	$node->safe_psql('postgres', "CREATE TABLE items_$name (id bigint PRIMARY KEY, body int NOT NULL, embedding $type(384) NOT NULL); "
		  . "CREATE INDEX items_${name}_idx ON items_$name USING hnsw (embedding $opclass) $options");
}
create_cache($node, 'exact', "codec => 'f16'");
create_cache($node, 'small', "codec => 'int8', tail_tokens => 16, sink_tokens => 2");
create_cache($node, 'loose', "codec => 'f16', tail => 'unlogged'");
$node->safe_psql('postgres', <<'SQL');
-- Fails when an answer is out of order, has a row twice, or has fewer rows than there are.
CREATE FUNCTION search(tab regclass, kind regtype, op text, query int) RETURNS void LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    r record;
    seen bigint[] := '{}';
    last float8 := '-infinity';
BEGIN
    FOR r IN EXECUTE format('SELECT id, embedding OPERATOR(%s) q.e AS distance FROM %s, (SELECT embedding::%s AS e FROM queries WHERE id = %s) q ORDER BY embedding OPERATOR(%s) (SELECT embedding::%s AS e FROM queries WHERE id = %s) LIMIT 10',
            op, tab, kind, query, op, kind, query) LOOP
        IF r.distance < last THEN RAISE EXCEPTION 'query %: distance % after %', query, r.distance, last; END IF;
        IF r.id = ANY (seen) THEN RAISE EXCEPTION 'query %: row % twice', query, r.id; END IF;
        last := r.distance;
        seen := seen || r.id;
    END LOOP;
END $$;
SQL
$node->safe_psql('postgres', "SELECT pg_create_physical_replication_slot('standby', true)");
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('storm_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\nprimary_slot_name = 'standby'\n");
$standby->start;

my @clients = (
	(map { { kind => 'vectors', table => "items_$_->[0]", type => $_->[1], first => 100_000_000, inserted => 0, model => {} } } @kinds),
	{ kind => 'vectors', table => 'items_lvq8', type => 'vector', first => 200_000_000, inserted => 0, model => {} },
	{ kind => 'cache', cache => 'exact', first => 0, model => {} },
	{ kind => 'cache', cache => 'exact', first => 10, model => {} },
	{ kind => 'cache', cache => 'small', first => 0, model => {}, lossy => 1 },
	{ kind => 'cache', cache => 'loose', first => 0, model => {}, prefix => 1 });
my @caches = qw(exact small loose);

sub client_name { my ($c) = @_; return ($c->{table} // $c->{cache}) . " from $c->{first}"; }

# All that the server holds.
sub all_stored
{
	my ($server, @of) = @_;
	return { rows => stored_rows($server, map { [ "items_$_->[0]", $_->[1] ] } @kinds), caches => stored($server, \@of) };
}

sub client_difference
{
	my ($there, $client, $model) = @_;
	return row_difference($client, $there->{rows}{ $client->{table} }, $model) if $client->{kind} eq 'vectors';
	return difference(undef, $client->{cache}, $model, only => [ $client->{first} .. $client->{first} + 4 ], prefix => $client->{prefix}, stored => $there->{caches});
}

# The last acknowledged state or the one that was under way; undef, and a note, when it is neither.
sub state_after
{
	my ($there, $client, $name) = @_;
	my $problem = client_difference($there, $client, $client->{model});
	return $client->{model} if $problem eq '';
	my ($state, $sql) = state_under_way($client);
	my $other = $state ? client_difference($there, $client, $state) : '';
	return $state if $state && $other eq '';
	diag("$name: acknowledged $client->{done}: $problem; or: $other\nthe next was:\n" . ($sql // 'none'));
	return;
}

# An unlogged tail is gone after a crash: what was sealed is there, which is all but less than a tile (31 tokens of f16). Returns what is not so.
sub cut_to_sealed
{
	my ($client, $there) = @_;
	my @problems;
	foreach my $seq (sort keys %{ $client->{model} })
	{
		my ($tokens, $length) = ($client->{model}{$seq}{tokens}, $there->{$seq}{length});
		push @problems, "sequence $seq has $length tokens of " . @$tokens if @$tokens - $length > 30;
		$client->{model}{$seq} = { tokens => [ @{$tokens}[ 0 .. $length - 1 ] ] };
	}
	return "@problems";
}

# Rows that a search by their own vector does not find: a sample of each table.
sub unfound
{
	my ($kind) = @_;
	my ($name, $type, $metric) = @$kind;
	my $op = operator_of($metric);
	return "SET enable_seqscan = off; SET hnsw.ef_search = 100; SELECT count(*) FROM (SELECT id, embedding FROM items_$name ORDER BY id % 101, id LIMIT 150) a "
	  . "WHERE NOT EXISTS (SELECT FROM (SELECT b.embedding $op a.embedding AS d FROM items_$name b ORDER BY b.embedding $op a.embedding LIMIT 1) x WHERE d <= 1e-3)";
}

# The server's backends leave when they notice that it is gone; after a moment, those that have not are killed too.
sub kill_all
{
	my ($server, $moment) = @_;
	$server->kill9;
	usleep(1_000_000 * $moment);
	my $data = $server->data_dir;
	kill 'KILL', map { m{/proc/(\d+)} && (readlink("$_/cwd") // '') eq $data ? $1 : () } glob('/proc/[0-9]*');
	return;
}

my ($acknowledged, $missed, $looked, $start) = (0, 0, 0, time);
foreach my $round (1 .. $rounds)
{
	srand($seed + 1000 * $round);
	my ($until, $moment) = (time + $round_seconds * (0.7 + rand 0.6), rand 0.5);
	foreach my $number (0 .. $#clients) { start_feed($node, $clients[$number], $seed + 1_000_003 * $round + 100_003 * $number); }
	my $tables = join ', ', (map { "items_$_->[0]" } @kinds), map { ($_, "${_}_sealed", "${_}_tail") } qw(exact small loose);
	my $vacuum = start_pgbench($node, 1, $round_seconds * 2, [1, "VACUUM $tables;\n\\sleep 300 ms\n"], [1, "CHECKPOINT;\n\\sleep 500 ms\n"]);
	my $readers = start_pgbench($node, 2, $round_seconds * 2,
		(map { [2, "\\set q random(0, 99)\nSELECT search('items_$_->[0]', '$_->[1]', 'public." . operator_of($_->[2]) . "', :q);\n"] } @kinds),
		[2, "SELECT kv.attend('exact', array_agg(seq), 1, q_batch(1, count(*)::int)) FROM (SELECT seq FROM exact ORDER BY random() LIMIT 3) x HAVING count(*) > 0;\n"]);
	while (time < $until)
	{
		feed($_) foreach @clients;
		usleep(50_000);
	}
	kill_all($node, $moment);
	my @others = (finish_pgbench($vacuum), finish_pgbench($readers));
	my @done = map { finish_feed($_) } @clients;
	wait_until_gone($node);
	# Twelve backends of at most some ten pins each, and half of the rounds with little more than that.
	$node->append_conf('postgresql.conf', 'shared_buffers = ' . ($round % 2 ? '1MB' : '64MB') . "\n");
	$node->start;
	foreach my $text ($others[1], $others[3])
	{
		my @errors = grep { !/terminat|server closed|connection to server|Connection refused|in recovery|starting up|shutting down|no connection to the server|command send failed|Run was aborted|perhaps the backend died/i }
		  $text =~ /^.*(?:error:|ERROR).*$/mg;
		is("@errors", '', "round $round: searches and vacuum had no error");
	}
	# The one reads all while the other is compared with.
	my $checks = start_script($node, (map { [ "items_$_->[0]", "SELECT * FROM hnsw_check('items_$_->[0]_idx', true) LIMIT 5" ] } @kinds),
		(map { [ $_, "SELECT * FROM kv.check_cache('$_') LIMIT 5" ] } @caches), map { [ "unfound $_->[0]", unfound($_) ] } @kinds);
	my $there = all_stored($node, @caches);
	my %own;
	foreach my $number (0 .. $#clients)
	{
		my ($client, $done, $error) = ($clients[$number], @done[ 2 * $number, 2 * $number + 1 ]);
		my $name = "round $round, " . client_name($client);
		unlike($error, qr/ERROR/, "$name: no error");
		my $state = state_after($there, $client, $name);
		ok($state, "$name: what $done transactions wrote") or BAIL_OUT('what is there is not known any more');
		$client->{model} = $state;
		is(cut_to_sealed($client, $there->{caches}{ $client->{cache} }), '', "$name: what was sealed is there") if $client->{prefix};
		$acknowledged += $done;
		$own{ $client->{table} // $client->{cache} } += keys %{ $client->{model} };
	}
	my %all = map { %{ $there->{$_} } } qw(rows caches);
	is(scalar(keys %{ $all{$_} }), $own{$_}, "round $round: $_ holds nothing that no client wrote") foreach sort keys %all;
	my $found = finish_script($checks);
	is($found->{$_}, '', "round $round: $_ is sound") foreach (map { "items_$_->[0]" } @kinds), @caches;
	foreach my $kind (@kinds) { $missed += $found->{"unfound $kind->[0]"}; $looked += 150; }
	# A vacuum that a kill ends in every round never gets to the end of a long table: what the caches' dead rows take would grow by hundreds of
	# megabytes a round, and the disk was full after half an hour. The indexes' vacuums stay interrupted, for five rounds at a time.
	$node->safe_psql('postgres', 'VACUUM ' . join ', ', map { ("${_}_sealed", "${_}_tail") } @caches);
	$node->safe_psql('postgres', 'VACUUM ' . join ', ', map { "items_$_->[0]" } @kinds) if $round % 5 == 0;
	note(sprintf('round %d of %d: %d transactions and %.0f s since the start', $round, $rounds, $acknowledged, time - $start));
}
# One vector of a thousand may need a wider search than this one.
cmp_ok($missed, '<=', 1 + $looked * 0.001, "$looked rows looked for by their own vector after the kills, $missed not found");
cmp_ok($acknowledged, '>', 20 * $rounds, "$acknowledged transactions in $rounds rounds");

# The standby, promoted.
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
$node->stop;
$standby->promote;
my $there = all_stored($standby, qw(exact small));
foreach my $client (grep { !$_->{prefix} } @clients)
{
	is(client_difference($there, $client, $client->{model}), '', 'promoted standby: ' . client_name($client));
}
foreach my $kind (@kinds)
{
	my ($name, $type, $metric) = @$kind;
	ok_sound($standby, "items_${name}_idx", "promoted standby: items_$name is sound");
	$standby->safe_psql('postgres', "CREATE TABLE IF NOT EXISTS q_$type AS SELECT id, embedding::$type(384) FROM queries; VACUUM (INDEX_CLEANUP ON) items_$name");
	remember_exact($standby, "exact_$name", "items_$name", "q_$type", $metric);
	my $aged = recall($standby, "exact_$name", "items_$name", "q_$type", $metric);
	$standby->safe_psql('postgres', "REINDEX INDEX items_${name}_idx");
	my $fresh = recall($standby, "exact_$name", "items_$name", "q_$type", $metric);
	ok_recall($aged, $fresh - 0.02, "promoted standby: items_$name, a new index has $fresh");
}
ok_cache($standby, $_, "promoted standby: $_ is sound") foreach qw(exact small);
is($standby->safe_psql('postgres', "SELECT kv.append('exact', 999, k(0, 40), v(0, 40))"), '40', 'promoted standby: a cache takes tokens');

done_testing();
