# What a session keeps and what it shows: memory that a call takes is given back by the call, so that thousands of calls of each function in
# one statement leave nothing; and a library that watches which tables are read sees those of a cache. Values of hundreds of megabytes can
# be interrupted wherever they are worked on.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use KVCache;
use PollGap;
use VectorKV;

my $calls = $ENV{VKV_MEMORY_CALLS} // 3000;
my $node = kv_node('kv_memory');
create_cache($node, 'chat', "codec => 'int8', tail_tokens => 8, sink_tokens => 2");
create_cache($node, 'loose', "codec => 'f16', tail => 'unlogged'");
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION used() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT sum(used_bytes)::bigint FROM pg_backend_memory_contexts';
CREATE TABLE t AS SELECT k(0, 1) AS k, v(0, 1) AS v, q_batch(0, 1) AS q, kv.reshape(q_batch(0, 1), '{9,64}') AS q1, kv.reshape(q_batch(0, 1), '{1,1,9,64}') AS ql;
SELECT kv.append(cache, seq, k(0, 70), v(0, 70)) FROM unnest('{chat,loose}'::regclass[]) cache, generate_series(1, 3) seq;
CREATE TABLE tiles AS SELECT tile, kv.partial(kv.slice(kv.reshape(q_batch(0, 1), '{9,64}'), 0, 0, 3), tile) AS state
	FROM (SELECT tile FROM chat_tile WHERE seq = 1 AND layer = 0 AND head = 0 ORDER BY kv.tokens(tile) DESC LIMIT 1) x;
CREATE FUNCTION fail(i bigint) RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM kv.append('chat', 1, kv.reshape('{1}'::real[]::kv.tensor, '{1}'), NULL); RETURN 0; EXCEPTION WHEN OTHERS THEN RETURN 1; END $$;
SQL

# What a call in the middle of a statement leaves, in bytes; growth of a few hash tables is allowed for.
sub grows
{
	my ($sql) = @_;
	my $first = int($calls / 3);
	return $node->safe_psql('postgres', "SELECT (max(m) FILTER (WHERE i = $calls) - max(m) FILTER (WHERE i = $first)) / ($calls - $first) FROM "
		  . "(SELECT i, $sql AS x, CASE WHEN i IN ($first, $calls) THEN used() END AS m FROM t, tiles, generate_series(1, $calls) i OFFSET 0) s WHERE x IS NOT NULL OR m > 0");
}

# Inside a transaction PostgreSQL itself keeps some 70 bytes for each row that is changed again (combo command ids); a recode deletes
# the twelve tiles that the one before made.
my %most = (append => 200, seal => 400, truncate => 400, fork => 500, recode => 1500);
foreach my $case (
	[ length => "kv.length('chat', 1)" ], [ 'length unlogged' => "kv.length('loose', 1)" ], [ attend => "kv.attend('chat', '{1,2}', 0, kv.concat(q, q, 0))" ],
	[ attend_layers => "kv.attend_layers('chat', '{1}', '{0}', ql)" ], [ attend_lse => "kv.attend('chat', '{1}', 0, q, return_lse => true)" ],
	[ fetch => "kv.fetch('chat', 1, 0)" ], [ weights => "(SELECT count(*) FROM kv.weights('chat', 1, (i % 2)::int, q1))" ], [ rope => "coalesce(kv.rope('chat')::text, '')" ],
	[ check => "(SELECT count(*) FROM kv.check_cache(CASE WHEN i > 0 THEN 'chat'::regclass END))" ], [ append => "kv.append('chat', 2, k, v)" ], [ 'append unlogged' => "kv.append('loose', 2, k, v)" ],
	[ seal => "kv.append('chat', 3, k, v) + kv.seal('chat', 3)" ], [ truncate => "kv.append('chat', 3, k, v) + kv.truncate('chat', 3, 20)" ],
	[ fork => "kv.fork('chat', 1, 50) + kv.drop_sequence('chat', 50)::int" ], [ recode => "kv.recode('chat', 1, 'int8')" ], [ 'an error' => "fail(i)" ],
	[ decode => "kv.decode(tile)" ], [ info => "kv.info(tile)" ], [ 'check tile' => "kv.\"check\"(tile)" ], [ clip => "kv.clip(tile, 5)" ], [ tile_text => "tile::text::kv.tile" ],
	[ tensors => "kv.relative_error(kv.concat(kv.slice(q, 1, 0, 2), kv.\"cast\"(kv.\"cast\"(q, 'bf16'), 'f16'), 1), kv.concat(kv.slice(q, 1, 0, 2), q, 1))" ],
	[ bytes => "kv.tensor(kv.bytes(q), kv.shape(q), 'f16')" ], [ halves => "kv.unpack_halves(kv.pack_halves(kv.\"cast\"(q1, 'f16')))" ],
	[ states => "kv.finish(kv.merge(state, state))" ], [ aggregate => "(SELECT kv.attention(kv.slice(q1, 0, 0, 3), u.tile) FROM tiles u WHERE i > 0)" ])
{
	my ($name, $sql) = @$case;
	my ($kind) = $name =~ /^(\w+)/;
	cmp_ok($node->safe_psql('postgres', 'SELECT 1') && grows($sql), '<=', $most{$kind} // 8, "$name: bytes a call");
}
ok_cache($node, $_) foreach qw(chat loose);

# A cache that was dropped leaves nothing in a session that used it, whoever drops it: bytes a cache, between an early and a late look.
# What PostgreSQL's own caches of the catalogs keep of names that are gone (9 kB a cache) is left out, and what its statistics and
# its table of open files keep of relations that are gone, until it looks at that again.
{
	my $tensor = "'f32[1,1,1,8]{1,2,3,4,5,6,7,8}'";
	my $make = sub { "SELECT kv.create_cache('gone$_[0]', 1, 1, 1, 8);" };
	my $use = sub { "SELECT kv.append('gone$_[0]', 1, $tensor, $tensor), kv.length('gone$_[0]', 1);" };
	my $drop = sub { "SELECT kv.drop_cache('gone$_[0]');" };
	my $used = "SELECT 'used ' || sum(used_bytes) FROM pg_backend_memory_contexts WHERE name <> 'CacheMemoryContext' AND name !~ '^(PgStat|smgr)'";
	my ($first, $last) = (50, 300);
	my $sql = join("\n", map { ($make->($_), $use->($_), $drop->($_), $_ == $first || $_ == $last ? "$used;" : ()) } 1 .. $last);
	my @used = $node->safe_psql('postgres', $sql) =~ /^used (\d+)$/mg;
	is(@used, 2, 'two looks') and cmp_ok(($used[1] - $used[0]) / ($last - $first), '<=', 100, 'dropped in the same session: bytes a cache');

	my $session = $node->background_psql('postgres');
	my ($rounds, $each, @kept) = (8, 30);
	foreach my $round (1 .. $rounds)
	{
		$node->safe_psql('postgres', join("\n", map { $make->($_) } 1 .. $each));
		$session->query_safe(join("\n", map { $use->($_) } 1 .. $each));
		$node->safe_psql('postgres', join("\n", map { $drop->($_) } 1 .. $each));
		$session->query_safe("SELECT kv.length('chat', 1)");
		push @kept, $session->query_safe($used) =~ /(\d+)/;
	}
	$session->quit;
	# What is kept of each cache shows in every round; a hash table that grows, or a cache of the catalogs that is filled anew because its
	# messages were lost among others, in one.
	my @grown = sort { $a <=> $b } map { ($kept[$_] - $kept[ $_ - 1 ]) / $each } 1 .. $rounds - 1;
	cmp_ok($grown[$#grown / 2], '<=', 1000, 'dropped in another session: bytes a cache') or diag("@kept");
}

# How long nothing looks for interrupts.
my $measures = load_poll_gap($node);
SKIP:
{
	skip 'no C compiler or no headers', 15 unless $measures;
	my $most = 50;
	# An assignment hands values on as they are, where a statement would copy them.
	my @calls = ((map { [ $_->[0], $_->[1] ] } [ slice => 'kv.dtype(kv.slice(t, 0, 1, 8000))' ], [ 'slice of columns' => 'kv.dtype(kv.slice(t, 1, 1, 8000))' ], [ 'at' => 'kv.dtype(kv.at(kv.reshape(t, ARRAY[1, 8192, 8192]), 0))' ],
		[ concat => 'kv.dtype(kv.concat(t, t, 1))' ], [ reshape => "kv.dtype(kv.reshape(t, ARRAY[-1, 2]))" ], [ 'to bf16' => "kv.dtype(kv.\"cast\"(t, 'bf16'))" ], [ 'to f16' => "kv.dtype(kv.\"cast\"(t, 'f16'))" ],
		[ 'from bf16 to f16' => "kv.dtype(kv.\"cast\"(kv.\"cast\"(t, 'bf16'), 'f16'))" ], [ bytes => 'octet_length(kv.bytes(t))' ], [ send => 'octet_length(kv.tensor_send(t))' ], [ array => 'cardinality(t::real[])' ],
		[ 'from an array' => 'kv.dtype((t::real[])::kv.tensor)' ], [ equality => 'kv.tensor_eq(t, kv.reshape(t, ARRAY[8192, 8192]))' ], [ hash => 'kv.tensor_hash_extended(t, 1)' ], [ error => 'kv.max_error(t, t)' ]));
	foreach my $group ([ "t kv.tensor", "t := kv.tensor(b, ARRAY[8192, 8192], 'f32')", '268435456', @calls ])
	{
		my ($declare, $make, $bytes, @what) = @$group;
		my (%gap, $err);
		foreach my $attempt (1 .. 3)
		{
			my @left = grep { !defined $gap{ $_->[0] } || $gap{ $_->[0] } > $most } @what;
			last unless @left;
			diag("attempt $attempt: $err") if $attempt > 1;
			my $run = join("\n", map { "PERFORM poll_gap_start(); d := $_->[1]; RAISE NOTICE '$_->[0]: gap % ', poll_gap_stop();" } @left);
			(undef, undef, $err) = $node->psql('postgres', "DO \$\$ DECLARE b bytea := '\\x0000803f'; $declare; d text; BEGIN WHILE octet_length(b) < $bytes LOOP b := b || b; END LOOP; $make; b := NULL;\n$run\nEND \$\$");
			foreach my $call (@left)
			{
				my ($gap) = $err =~ /NOTICE:  \Q$call->[0]\E: gap ([\d.]+)/ or next;
				$gap{ $call->[0] } = $gap if $gap < ($gap{ $call->[0] } // 'inf');
			}
		}
		ok(defined $gap{ $_->[0] } && $gap{ $_->[0] } <= $most, "$_->[0]: at most $most ms without looking for interrupts") or diag($err) foreach @what;
	}
}

# Calls over as many sequences, layers, queries, tokens and names of extents as a caller likes. Each takes some tenths of a second.
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION same(n int, variadic shape int[]) RETURNS kv.tensor LANGUAGE sql AS $$ SELECT kv.reshape(array_fill(1::real, ARRAY[n])::kv.tensor, shape) $$;
SELECT kv.create_cache('tiny', 1, 1, 1, 1, tail_tokens => 8);
SELECT kv.append('tiny', 0, same(1500000, 1, 1, 1500000, 1), same(1500000, 1, 1, 1500000, 1));
SELECT kv.append('tiny', 1, same(1, 1, 1, 1, 1), same(1, 1, 1, 1, 1));
INSERT INTO tiny (seq) SELECT generate_series(2, 30000);
SELECT kv.create_cache('many', 1, 1, 1, 1);
INSERT INTO many (seq, extents, stops) SELECT i, array_fill(i, '{60000}'), array_fill(1, '{60000}') FROM generate_series(1::bigint, 100) i;
SQL
SKIP:
{
	my $most = 50;
	skip 'no C compiler or no headers', 9 unless $measures;
	my @calls = (
		[ 'sequences that the planner finds' => "kv.attend('tiny', (SELECT array_agg(seq ORDER BY seq) FROM tiny WHERE seq > 0), 0, same(30000, 30000, 1, 1))", 'BEGIN ISOLATION LEVEL SERIALIZABLE' ],
		[ sequences => "kv.attend('tiny', array_fill(1::bigint, '{100000}'), 0, same(100000, 100000, 1, 1))" ],
		[ layers => "kv.attend_layers('tiny', '{1}', array_fill(0, '{100000}'), same(100000, 100000, 1, 1, 1))" ],
		[ 'tokens of the caller' => "kv.attend('tiny', '{1}', 0, same(1000, 1, 1, 1000, 1), k => same(300000, 1, 1, 300000, 1), v => same(300000, 1, 1, 300000, 1))" ],
		[ queries => "kv.attend('tiny', '{1}', 0, same(500000, 1, 1, 500000, 1), causal => false)" ],
		[ partial => "kv.partial(same(1500000, 1, 1500000, 1), (SELECT tile FROM tiny_tile WHERE seq = 0 ORDER BY pos DESC LIMIT 1))" ],
		[ attention => "(SELECT kv.attention(same(1500000, 1, 1500000, 1), tile) FROM (SELECT tile FROM tiny_tile WHERE seq = 0 ORDER BY pos DESC LIMIT 1) x)" ],
		[ weights => "(SELECT count(*) FROM kv.weights('tiny', 0, 0, same(1, 1, 1)))" ]);
	foreach my $call (@calls)
	{
		my ($name, $sql, $begin) = @$call;
		my ($gap, $out) = shortest_gap($node, $most, $begin // 'BEGIN', $sql);
		cmp_ok($gap, '<=', $most, "$name: ms without looking for interrupts") or diag($out);
	}
	my @peak = $node->safe_psql('postgres', join('; ', ("SELECT substring(pg_read_file('/proc/self/status') FROM 'VmHWM:\\s*(\\d+)')") x 2) =~ s/; /; SELECT kv.collect('many', dry_run => true); /r) =~ /^(\d{4,})$/mg;
	cmp_ok($peak[1] - $peak[0], '<=', 30000, 'names of extents: kB that a collection takes, of 70 MB');
}

# A row of more names than a sequence may have is refused by its size, and named; tiles that it may name stay.
{
	my $refused = 'ERROR:  header of sequence 101 in cache "many" is inconsistent: it names 20000000 extents, more than 65536';
	$node->safe_psql('postgres', "INSERT INTO many (seq, extents, stops) VALUES (101, array_fill(7::bigint, '{20000000}'), '{2147483647}')");
	foreach my $call ("kv.collect('many')", "kv.length('many', 101)", "kv.attend('many', '{1,101}', 0, same(2, 2, 1, 1))", "kv.drop_sequence('many', 101)", "kv.fork('many', 101, 102)")
	{
		my ($status, $out, $err) = $node->psql('postgres', "SELECT $call");
		my $wanted = $call =~ /attend/ ? qr/header of sequence 1 in .* stops do not ascend/ : qr/\Q$refused/;
		like($err, $wanted, "$call: refused");
	}
	is($node->safe_psql('postgres', "SELECT problem FROM kv.check_cache('many') WHERE seq = 101"), 'the header is inconsistent: it names 20000000 extents, more than 65536', 'kv.check_cache names the row, too');
	like(($node->psql('postgres', "SELECT kv.attend('many', '{1,2,3}', 0, same(2, 2, 1, 1))"))[2], qr/q has shape \[2, 1, 1\], should be \[3, 1, 1\]/, 'the shape of q is looked at before sequences are');
	# As many as there may be, and one more.
	$node->safe_psql('postgres', 'DELETE FROM many');
	$node->safe_psql('postgres', "SELECT kv.append('many', 1, same(70000, 1, 1, 70000, 1), same(70000, 1, 1, 70000, 1)); "
		  . "UPDATE many SET extents = array_fill(extents[1], '{65536}'), stops = (SELECT array_agg(i ORDER BY i) FROM generate_series(1, 65535) i) || 2147483647");
	my ($status, $out, $err) = $node->psql('postgres', "SELECT kv.fork('many', 1, 2)");
	like($err, qr/ERROR:  sequence 2 of cache "many" would name 65537 extents, more than 65536\nHINT:  kv.recode writes/, 'a fork of a sequence of as many extents as there may be');
}

# Sequences of many extents give back what nobody else names, and nothing else, whichever goes first.
foreach my $order ('seq', 'seq DESC', 'seq % 7, seq')
{
	$node->safe_psql('postgres', "SELECT kv.create_cache('chain', 1, 1, 1, 1, tail_tokens => 0); SELECT kv.append('chain', 1, same(3, 1, 1, 3, 1), same(3, 1, 1, 3, 1)) + kv.seal('chain', 1)");
	$node->safe_psql('postgres', join("\n", map { my $next = $_ + 1; "SELECT kv.fork('chain', $_, $next), kv.append('chain', $next, same(3, 1, 1, 3, 1), same(3, 1, 1, 3, 1)), kv.seal('chain', $next);" } 1 .. 24));
	is($node->safe_psql('postgres', "SELECT cardinality(extents) FROM chain WHERE seq = 25"), 25, "$order: extents of the last fork");
	foreach my $seq (split /\n/, $node->safe_psql('postgres', "SELECT seq FROM chain ORDER BY $order"))
	{
		$node->safe_psql('postgres', "SELECT kv.drop_sequence('chain', $seq)");
		my $left = $node->safe_psql('postgres', "SELECT (SELECT count(DISTINCT extent) FROM chain_sealed), (SELECT count(DISTINCT extent) FROM chain, unnest(extents) extent)");
		my ($tiles, $extents) = split /\|/, $left;
		is($tiles, $extents, "$order: tiles are those that are named") if $tiles != $extents || $seq % 8 == 0;
	}
	is($node->safe_psql('postgres', "SELECT count(*) FROM chain_sealed; SELECT kv.drop_cache('chain')") =~ /^(\d+)/ ? $1 : '', 0, "$order: nothing is left");
}

# The hook is built here; without a compiler there is nothing to look at.
SKIP:
{
	my ($library, $include) = ($node->basedir . '/check_hook.so', `pg_config --includedir-server`);
	chomp $include;
	skip 'no C compiler or no headers', 10 if system("cc -w -shared -fPIC -I'$include' -o '$library' '$FindBin::RealBin/lib/check_hook.c' 2>/dev/null");
	foreach my $call ([ attend => "kv.attend('chat', '{1}', 0, q)" ], [ fetch => "kv.fetch('chat', 1, 0)" ], [ length => "kv.length('chat', 1)" ], [ weights => "(SELECT sum(weight) FROM kv.weights('chat', 1, 0, q1))" ])
	{
		my ($name, $sql) = @$call;
		my ($status, $out, $err) = $node->psql('postgres', "LOAD '$library'; SELECT $sql FROM t");
		is($out, $node->safe_psql('postgres', "SELECT $sql FROM t"), "$name: the same answer under a hook");
		my %seen = map { $_ => 1 } $err =~ /NOTICE:  reads (\w+)/g;
		my @wanted = $name eq 'length' ? ('chat') : qw(chat chat_sealed chat_tail);
		is(join(' ', grep { !$seen{$_} } @wanted), '', "$name: the hook sees what is read");
	}
	$node->safe_psql('postgres', "CREATE TABLE points (id int, v vector(2)); INSERT INTO points VALUES (1, '[1,2]'), (2, '[3,4]')");
	my ($status, $out, $err) = $node->psql('postgres', "LOAD '$library'; SELECT id, distance FROM knn_exact('points', 'v', ARRAY['[3,4]'::vector], 1, 'l2')");
	is($out, '(0,2)|0', 'knn_exact: the same answer under a hook');
	like($err, qr/NOTICE:  reads points$/m, 'knn_exact: the hook sees what is read');
}

done_testing();
