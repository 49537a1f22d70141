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
use Time::HiRes qw(usleep);
use KVCache;
use VectorKV;

my $seconds = $ENV{VKV_STORM_SECONDS} // 60;
my $round_seconds = $ENV{VKV_STORM_ROUND} // 20;
my $rounds = int(($seconds + $round_seconds - 1) / $round_seconds);
my $seed = $ENV{VKV_STORM_SEED} // 20261130;
srand($seed);
diag("seed $seed");

my $node = kv_node('storm', streaming => 1,
	settings => ['max_connections = 40', 'checkpoint_timeout = 30s', 'wal_writer_delay = 10ms', 'restart_after_crash = off', 'wal_keep_size = 512MB']);
load_sample($node, 'sample', 'vector');
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
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('storm_standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\n");
$standby->start;

# What a client of vectors has, as the server acknowledged it: id => number of the sample's row.
sub vector_work
{
	my ($client, $count) = @_;
	my ($table, $type, $model) = (@{$client}{qw(table type)}, $client->{model});
	my @work;
	foreach (1 .. $count)
	{
		my %next = %$model;
		my @ids = keys %next;
		my ($dice, $id, $row) = (rand 100, @ids ? $ids[ rand @ids ] : 0, int rand 4000);
		my $value = "(SELECT embedding::$type FROM sample WHERE id = $row)";
		my $sql;
		if (@ids < 100 || ($dice < 50 && @ids < 600))
		{
			$id = $client->{first} + $client->{inserted}++;
			$sql = "INSERT INTO $table SELECT $id, $row, $value;\n";
			$next{$id} = $row;
		}
		elsif ($dice < 65) { $sql = "UPDATE $table SET embedding = $value, body = $row WHERE id = $id;\n"; $next{$id} = $row; }
		elsif ($dice < 75) { $sql = "UPDATE $table SET body = body WHERE id = $id;\n"; }
		elsif ($dice < 80) { $sql = "BEGIN;\nDELETE FROM $table WHERE id BETWEEN $client->{first} AND $client->{first} + 999999;\nROLLBACK;\n"; }
		else
		{
			my @gone = grep { $_ % 7 == $id % 7 && $_ <= $id } @ids;
			@gone = @gone[ 0 .. 9 ] if @gone > 10;
			$sql = "DELETE FROM $table WHERE id IN (" . join(', ', @gone) . ");\n";
			delete @next{@gone};
		}
		$model = \%next;
		push @work, { sql => $sql, model => $model };
	}
	return \@work;
}

sub vector_difference
{
	my ($server, $client, $model) = @_;
	my %there = map { split /\|/ } split /\n/, $server->safe_psql('postgres',
		"SELECT id, body FROM $client->{table} WHERE id BETWEEN $client->{first} AND $client->{first} + 999999");
	foreach (keys %$model) { return "row $_ is lost" if !exists $there{$_}; return "row $_ is of $there{$_}" if $there{$_} != $model->{$_}; }
	foreach (keys %there) { return "row $_ should not be there" if !exists $model->{$_}; }
	return '';
}

sub cache_difference
{
	my ($server, $client, $model) = @_;
	return difference($server, $client->{cache}, $model, only => [ $client->{first} .. $client->{first} + 4 ], prefix => $client->{prefix});
}

my @clients = (
	(map { { kind => 'vectors', table => "items_$_->[0]", type => $_->[1], first => 1_000_000, inserted => 0, model => {} } } @kinds),
	{ kind => 'vectors', table => 'items_lvq8', type => 'vector', first => 2_000_000, inserted => 0, model => {} },
	{ kind => 'cache', cache => 'exact', first => 0, model => {} },
	{ kind => 'cache', cache => 'exact', first => 10, model => {} },
	{ kind => 'cache', cache => 'small', first => 0, model => {}, lossy => 1 },
	{ kind => 'cache', cache => 'loose', first => 0, model => {}, prefix => 1 });

sub client_name { my ($c) = @_; return ($c->{table} // $c->{cache}) . " from $c->{first}"; }
sub client_difference { my ($server, $c, $model) = @_; return $c->{kind} eq 'vectors' ? vector_difference($server, $c, $model) : cache_difference($server, $c, $model); }

# The last acknowledged state or the one that was under way; undef, and a note, when it is neither.
sub state_after
{
	my ($client, $done, $name) = @_;
	my @states = ($done ? $client->{work}[ $done - 1 ]{model} : $client->{model});
	push @states, $client->{work}[$done]{model} if $done < @{ $client->{work} };
	my @problems;
	foreach my $state (@states)
	{
		my $problem = client_difference($node, $client, $state);
		return $state if $problem eq '';
		push @problems, $problem;
	}
	diag("$name: acknowledged $done: " . join('; or: ', @problems) . "\nthe next was:\n" . ($client->{work}[$done]{sql} // 'none'));
	return;
}

# An unlogged tail is gone after a crash: what was sealed is there.
sub cut_to_sealed
{
	my ($client) = @_;
	my %kept;
	foreach my $row (split /\n/, $node->safe_psql('postgres', "SELECT seq, kv.length('$client->{cache}', seq) FROM $client->{cache}"))
	{
		my ($seq, $length) = split /\|/, $row;
		$kept{$seq} = { tokens => [ @{ $client->{model}{$seq}{tokens} }[ 0 .. $length - 1 ] ] };
	}
	$client->{model} = \%kept;
	return;
}

# Rows that a search by their own vector does not find: a sample of each table.
sub unfound
{
	my ($server, $kind) = @_;
	my ($name, $type, $metric) = @$kind;
	my $op = operator_of($metric);
	return $server->safe_psql('postgres', "SET enable_seqscan = off; SET hnsw.ef_search = 100; SELECT count(*) FROM (SELECT id, embedding FROM items_$name ORDER BY id % 101, id LIMIT 150) a "
		  . "WHERE NOT EXISTS (SELECT FROM (SELECT b.embedding $op a.embedding AS d FROM items_$name b ORDER BY b.embedding $op a.embedding LIMIT 1) x WHERE d <= 1e-3)");
}

my ($acknowledged, $unexpected, $missed, $looked) = (0, 0, 0, 0);
foreach my $round (1 .. $rounds)
{
	foreach my $client (@clients)
	{
		my $count = 100 * $round_seconds;
		$client->{work} = $client->{kind} eq 'vectors' ? vector_work($client, $count)
		  : random_work($client->{cache}, $client->{model}, $client->{first}, $count, lossy => $client->{lossy});
		$client->{run} = start_client($node, $client->{work});
	}
	my $tables = join ', ', (map { "items_$_->[0]" } @kinds), map { ($_, "${_}_sealed", "${_}_tail") } qw(exact small loose);
	my $vacuum = start_pgbench($node, 1, $round_seconds * 2, [1, "VACUUM $tables;\n\\sleep 300 ms\n"], [1, "CHECKPOINT;\n\\sleep 500 ms\n"]);
	my $readers = start_pgbench($node, 2, $round_seconds * 2,
		(map { [2, "\\set q random(0, 99)\nSELECT search('items_$_->[0]', '$_->[1]', 'public." . operator_of($_->[2]) . "', :q);\n"] } @kinds),
		[2, "SELECT kv.attend('exact', array_agg(seq), 1, q_batch(1, count(*)::int)) FROM (SELECT seq FROM exact ORDER BY random() LIMIT 3) x HAVING count(*) > 0;\n"]);
	usleep(1_000_000 * ($round_seconds * 0.7 + rand($round_seconds * 0.6)));
	$node->kill9;
	my @others = (finish_pgbench($vacuum), finish_pgbench($readers));
	my @done = map { finish_client($_->{run}) } @clients;
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
	foreach my $number (0 .. $#clients)
	{
		my ($client, $done, $error) = ($clients[$number], @done[ 2 * $number, 2 * $number + 1 ]);
		my $name = "round $round, " . client_name($client);
		unlike($error, qr/ERROR/, "$name: no error");
		my $state = state_after($client, $done, $name);
		ok($state, "$name: what $done transactions wrote") or BAIL_OUT('what is there is not known any more');
		$client->{model} = $state;
		cut_to_sealed($client) if $client->{prefix};
		$acknowledged += $done;
	}
	ok_sound($node, "items_$_->[0]_idx", "round $round: items_$_->[0] is sound") foreach @kinds;
	ok_cache($node, $_, "round $round: $_ is sound") foreach qw(exact small loose);
	foreach my $kind (@kinds) { $missed += unfound($node, $kind); $looked += 150; }
}
# One vector of a thousand may need a wider search than this one.
cmp_ok($missed, '<=', 1 + $looked * 0.001, "$looked rows looked for by their own vector after the kills, $missed not found");
cmp_ok($acknowledged, '>', 20 * $rounds, "$acknowledged transactions in $rounds rounds");

# The standby, promoted.
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
$node->stop;
$standby->promote;
foreach my $client (grep { !$_->{prefix} } @clients)
{
	is(client_difference($standby, $client, $client->{model}), '', 'promoted standby: ' . client_name($client));
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
