# A dump restored into a fresh database gives the same answers: the tables with their tiles, the row of kv.caches, and a cache that takes
# tokens as before.  COPY in binary form carries tiles and tensors too.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use KVCache;
use VectorKV;

srand(20240713);
my $node = kv_node('kv_dump');
create_cache($node, 'chat', "codec => 'int8', model => 'SmolLM2-135M', revision => 'r1'");
create_cache($node, 'exact', "codec => 'f16'");
my $work = random_work('exact', {}, 0, 80);
my ($done, $error) = finish_client(start_client($node, $work));
is($error, '', 'the caches are filled');
my $model = $work->[-1]{model};
$node->safe_psql('postgres', "SELECT kv.append('chat', seq, k(0, 250), v(0, 250)) FROM generate_series(1, 3) seq; SELECT kv.fork('chat', 1, 9, 200)");
$node->safe_psql('postgres', "ALTER TABLE chat ADD COLUMN title text; UPDATE chat SET title = 'talk ' || seq");
my %before = map { $_ => attend_all($node, $_) } qw(chat exact);
my $listed = "SELECT cache, sealed, tail, tiles, layers, q_heads, kv_heads, head_dim, codec, tail_tokens, model, revision FROM kv.caches ORDER BY cache::text";
my $caches = $node->safe_psql('postgres', $listed);

# What docs/kv.md says about moving one cache.
sub recipe
{
	my $text = slurp_file("$FindBin::RealBin/../../docs/kv.md");
	return $text =~ /\*\*Moving one cache\.\*\*.*?```sh\n(.*?)```/s ? $1 : die 'docs/kv.md has no recipe';
}

sub in { my ($database, $sql) = @_; return $node->safe_psql($database, $sql); }

foreach my $format (qw(plain custom))
{
	my $file = $node->basedir . "/dump.$format";
	my $database = "restored_$format";
	$node->command_ok([ 'pg_dump', '-F', $format, '-f', $file, '-d', $node->connstr('postgres') ], "$format: dumped");
	in('postgres', "CREATE DATABASE $database TEMPLATE template0");
	if ($format eq 'plain') { $node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $file, '-d', $node->connstr($database) ], "$format: restored"); }
	else { $node->command_ok([ 'pg_restore', '-e', '-j', '2', '-d', $node->connstr($database), $file ], "$format: restored"); }
	is(in($database, $listed), $caches, "$format: the caches are listed, with their tables");
	foreach my $cache (qw(chat exact))
	{
		is(in($database, "SELECT seq, layer, kv.attend('$cache', ARRAY[seq], layer, q_batch(layer, 1)) FROM $cache, generate_series(0, 1) layer ORDER BY seq, layer"),
			$before{$cache}, "$format: $cache answers as before");
		is(in($database, "SELECT * FROM kv.check_cache('$cache')"), '', "$format: $cache is sound");
	}
	is(in($database, "SELECT title FROM chat WHERE seq = 9"), 'talk 9', "$format: columns of the owner's are there");
	is(in($database, "SELECT kv.append('chat', 9, k(200, 100), v(200, 100), 200, 'SmolLM2-135M')"), '300', "$format: it takes tokens");
	is(in($database, "SELECT kv.create_cache('other', 2, 9, 3, 64); SELECT kv.append('other', 1, k(0, 1), v(0, 1))"), "other\n1", "$format: and new caches can be made");
	in($database, "SELECT kv.drop_cache('chat'); SELECT kv.drop_cache('exact')");
	is(in($database, "SELECT count(*) FROM pg_class WHERE relname LIKE 'chat%' OR relname LIKE 'exact%'"), '0', "$format: and dropped");
}

# Some tables only: kv.adopt_cache makes them a cache again, once it has looked at them.
{
	my $file = $node->basedir . '/tables.sql';
	$node->command_ok([ 'pg_dump', '-t', 'chat', '-t', 'chat_*', '-t', 'kv_sample', '-f', $file, '-d', $node->connstr('postgres') ], 'tables: dumped');
	in('postgres', 'CREATE DATABASE adopted TEMPLATE template0');
	in('adopted', 'CREATE EXTENSION vectorkv CASCADE; CREATE ROLE other');
	$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $file, '-d', $node->connstr('adopted') ], 'tables: restored');
	my $q = "kv.reshape(kv.slice(kv.slice(s.value, 0, 1, 1), 2, 15, 1), '{1,9,64}')";
	my $fails = sub {
		my ($arguments, $before) = @_;
		my ($status, $out, $err) = $node->psql('adopted', "\\set VERBOSITY verbose\nBEGIN; " . ($before ? "$before; " : '') . "SELECT kv.adopt_cache($arguments)", on_error_stop => 1);
		return $err =~ /ERROR:  (\w{5}: .*)/ ? $1 : "none: $err";
	};
	like($fails->("'chat_tail', 2, 9, 3, 64"), qr/^42809: table "chat_tail" is not one/, 'not the tail');
	like($fails->("'kv_sample', 2, 9, 3, 64"), qr/^42809: /, 'not any table');
	like($fails->("'chat', 3, 9, 3, 64"), qr/^22023: .*layer 0 to 1, not 0 to 2/, 'more layers than there are');
	like($fails->("'chat', 2, 9, 1, 64"), qr/^22023: .*head 0 to 2, not 0 to 0/, 'other heads');
	like($fails->("'chat', 2, 9, 3, 32"), qr/^22023: .*keys of 64 dimensions/, 'other dimensions');
	like($fails->("'chat', 2, 9, 3, 64, value_dim => 32"), qr/^22023: .*values of 64/, 'other values');
	like($fails->("'chat', 2, 9, 3, 64, keys => 'before_rope', rope_theta => 10000"), qr/^22023: .*another geometry/, 'other keys');
	like($fails->("'chat', 2, 9, 3, 64, tail => 'unlogged'"), qr/^22023: the tail of cache "chat" is logged/, 'another tail');
	like($fails->("'chat', 2, 9, 3, 64", 'SET ROLE other'), qr/^42501: must be owner of/, 'not by others');
	like($fails->("'chat', 2, 9, 3, 64", 'ALTER TABLE chat_sealed OWNER TO other'), qr/^42501: .*another owner/, 'not of two owners');
	like($fails->("'chat', 2, 9, 3, 64", 'DROP TABLE chat_tail CASCADE'), qr/^42P01: table "public.chat_tail"/, 'not without the tail');
	like($fails->("'chat', 2, 9, 3, 64", 'ALTER TABLE chat DROP COLUMN epoch'), qr/^42809: /, 'not without a column');
	like($fails->("'chat', 2, 9, 3, 64", 'ALTER TABLE chat RENAME COLUMN length TO tokens'), qr/^42809: /, 'not under other names');
	like($fails->("'chat', 2, 9, 3, 64", 'ALTER TABLE chat_tail DROP CONSTRAINT chat_tail_pkey'), qr/^42809: /, 'not without the key');
	like($fails->("'chat', 2, 9, 3, 64", 'DROP VIEW chat_tile; CREATE TABLE chat_tile ()'), qr/^42809: /, 'not with a table for the view');
	in('adopted', "SELECT kv.adopt_cache('chat', 2, 9, 3, 64, model => 'SmolLM2-135M', revision => 'r1'); DROP VIEW IF EXISTS nothing");
	like($fails->("'chat', 2, 9, 3, 64"), qr/^42710: /, 'not twice');
	my $same = sub { return $_[0]->("SELECT seq, layer, kv.attend('chat', ARRAY[seq], layer, $q) FROM chat, generate_series(0, 1) layer, kv_sample s WHERE s.name = 'q' ORDER BY seq, layer"); };
	is($same->(sub { in('adopted', $_[0]) }), $same->(sub { in('postgres', $_[0]) }), 'adopted: it answers as before');
	is(in('adopted', "SELECT * FROM kv.check_cache('chat')"), '', 'adopted: it is sound');
	is(in('adopted', "SELECT count(*) > 0 FROM chat_tile WHERE seq = 9"), 't', 'adopted: it has its view');
	my $tokens = "kv.slice((SELECT value FROM kv_sample WHERE name = 'k_post'), 2, 200, 100)";
	is(in('adopted', "SELECT kv.append('chat', 9, $tokens, $tokens, 200, 'SmolLM2-135M')"), '300', 'adopted: it takes tokens');
	# Once more, by the call that kv.caches tells.
	my $call = in('postgres', recipe() =~ /-c "(SELECT pg_catalog\.format\(.*?'chat'::regclass)"/s ? $1 : die 'no query in the recipe');
	in('adopted', "DELETE FROM kv.caches; DROP VIEW chat_tile; $call");
	is(in('adopted', $listed), (grep { /^chat\|/ } split /\n/, $caches)[0], 'adopted: by the call that kv.caches tells');
	is(in('adopted', "SELECT count(*) > 0 FROM chat_tile WHERE seq = 9"), 't', 'adopted: a missing view is made');
	in('adopted', "SELECT kv.drop_cache('chat')");
}

# The recipe of docs/kv.md as it is printed.
{
	my $folder = $node->basedir . '/recipe';
	mkdir $folder;
	in('postgres', 'CREATE DATABASE mydb TEMPLATE template0; CREATE DATABASE other TEMPLATE template0');
	my $numbers = "CREATE FUNCTION pg_temp.n(t int) RETURNS kv.tensor LANGUAGE sql AS 'SELECT kv.reshape(array_agg(sin(i))::real[]::kv.tensor, ARRAY[2, 1, t, 16]) FROM generate_series(1, 32 * t) i'";
	my $fill = sub { return "$numbers; SELECT kv.append('chat', 1, pg_temp.n(300), pg_temp.n(300))" };
	in('mydb', "CREATE EXTENSION vectorkv CASCADE; SELECT kv.create_cache('chat', 2, 2, 1, 16, 'int4', 'unlogged', model => 'it''s \\ ours', keys => 'before_rope', rope_theta => 10000, rope_pairing => 'interleaved'); " . $fill->());
	in('other', 'CREATE EXTENSION vectorkv CASCADE');
	my $script = "cd '$folder' && set -e && " . recipe();
	local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port);
	my ($out, $err) = run_command([ 'bash', '-c', $script ]);
	is($err, '', 'recipe: no error');
	like($out, qr/\(0 rows\)\s*$/, 'recipe: the cache is sound');
	my $answer = "SELECT kv.attend('chat', '{1}', 1, kv.reshape(array_fill(0.1::real, '{32}')::kv.tensor, '{1,2,16}')), (SELECT row(model, keys, rope_theta, rope_pairing, tail_logged) FROM kv.caches)";
	is(in('other', $answer), in('mydb', $answer), 'recipe: and answers as before');
}

# COPY: tiles as they are stored.  Read again they are checked and get a new content id; answers do not change.
my $copy = $node->basedir . '/tiles.copy';
foreach my $format (qw(binary text))
{
	in('postgres', "COPY (SELECT * FROM chat_sealed) TO '$copy' WITH (FORMAT $format); CREATE TABLE copied (LIKE chat_sealed); "
		  . "COPY copied FROM '$copy' WITH (FORMAT $format)");
	is(in('postgres', "SELECT count(*) > 0, bool_and((kv.decode(a.tile)).k OPERATOR(kv.=) (kv.decode(b.tile)).k AND (kv.info(a.tile)).content_id <> (kv.info(b.tile)).content_id) "
			  . "FROM chat_sealed a JOIN copied b USING (extent, layer, head, pos)"), 't|t', "COPY in $format form: the same tiles, other content ids");
	in('postgres', 'DROP TABLE copied');
}

# What the dump of other caches leaves out: rows of tables that were dropped by hand, whose numbers others may bear where it is restored, and
# of tables that an extension has taken in.  Where tables were left out by who made the dump, the other caches come back.
{
	my $file = $node->basedir . '/parts.sql';
	$node->safe_psql('postgres', 'CREATE DATABASE parts');
	in('parts', "CREATE EXTENSION vectorkv CASCADE; CREATE EXTENSION hstore; CREATE SCHEMA scratch; CREATE TABLE stranger (x int)");
	in('parts', "SELECT kv.create_cache(name, 1, 1, 1, 8) FROM unnest('{kept,gone,scratch.tmp,taken}'::text[]) name; ALTER EXTENSION hstore ADD TABLE taken; ALTER EXTENSION hstore ADD VIEW taken_tile; DROP TABLE gone CASCADE");
	my $dump = sub { return scalar(`pg_dump -d '@{[$node->connstr('parts')]}' @_`) };
	my ($rows) = $dump->() =~ /^COPY kv\.caches .*?\n(.*?)^\\\.$/ms;
	is(join(' ', $rows =~ /^(\S+)/mg), 'public.kept scratch.tmp', 'a dump has the rows of tables that it has');
	append_to_file($file, $dump->('-N', 'scratch', '-T', 'kept_tail'));
	append_to_file("$file.more", $dump->('-N', 'scratch'));
	in('postgres', 'CREATE DATABASE fewer; CREATE DATABASE more');
	my ($status, $out, $err) = $node->psql('fewer', "\\i $file", on_error_stop => 0);
	like($err, qr/WARNING: .*the KV cache of table "kept" is not registered: its tail is not there\nHINT: .*kv\.adopt_cache/, 'without one of its tables: a warning');
	is(in('fewer', 'SELECT count(*) FROM kv.caches'), '0', 'and no cache');
	($status, $out, $err) = $node->psql('more', "\\i $file.more", on_error_stop => 1);
	like($err, qr/WARNING: .*relation "scratch\.tmp" does not exist/, 'without the tables of one cache: a warning');
	is($status . in('more', 'SELECT cache FROM kv.caches'), '0kept', 'and the others are registered');
	my $row = "SELECT sealed, tail, tiles, layers, q_heads, kv_heads, head_dim, value_dim, values_in_keys, codec, tail_logged, tail_tokens, sink_tokens, row_slots, model, revision, keys FROM kv.caches WHERE cache::oid = 'kept'::regclass";
	my $ties = "SELECT count(*) FROM pg_depend WHERE deptype = 'a' AND refobjid IN ('stranger'::regclass, 'kept'::regclass) AND classid = 'pg_class'::regclass AND objid IN ('kept_sealed'::regclass, 'kept_tail'::regclass, 'stranger'::regclass)";
	my $before = in('more', $ties);
	foreach my $case ([ "'stranger'", qr/is not registered: table "kept_sealed" has another owner|its tables lack a column/ ], [ "(SELECT 'stranger'::regclass::oid::text)", qr/by its number/ ])
	{
		(undef, undef, $err) = $node->psql('more', "CREATE TEMP TABLE row AS SELECT $case->[0]::text AS header, * FROM ($row) r; COPY row TO '$file.row'; COPY kv.caches (cache, sealed, tail, tiles, layers, q_heads, kv_heads, head_dim, value_dim, values_in_keys, codec, tail_logged, tail_tokens, sink_tokens, row_slots, model, revision, keys) FROM '$file.row'");
		like($err, $case->[1], "a row that names a stranger's table $case->[0] is left out");
		is(in('more', "SELECT count(*) FROM kv.caches"), '1', 'it is not there');
	}
	is(in('more', $ties), $before, 'and nothing goes with the stranger');

	# What pg_upgrade leaves: the rows, and no dependencies.
	in('more', "DELETE FROM pg_depend WHERE deptype = 'a' AND refobjid = 'kept'::regclass AND objid IN ('kept_sealed'::regclass, 'kept_tail'::regclass)");
	is(in('more', 'SELECT kv.tie_caches()') . in('more', 'SELECT kv.tie_caches()') . in('more', $ties), "10$before", 'kv.tie_caches ties what is not tied');
	in('more', 'DROP TABLE kept CASCADE');
	is(in('more', "SELECT count(*) FROM pg_class WHERE relname LIKE 'kept%'"), '0', 'DROP TABLE takes them all again');
}

# A hint is a command that finds the tables, whatever their names.
{
	my ($status, $out, $err) = $node->psql('postgres', q{CREATE TABLE "Chat C" (LIKE chat INCLUDING ALL); SELECT kv.adopt_cache('public."Chat C"', 1, 1, 1, 8)});
	my ($command) = $err =~ /HINT:.*pg_dump (.*)\.$/m;
	$node->safe_psql('postgres', 'CREATE TABLE "Chat C_sealed" ()');
	my $dump = `pg_dump -d '@{[$node->connstr('postgres')]}' $command`;
	my @found = $dump =~ /^CREATE TABLE public\.(.*) \(/mg;
	is("@found", '"Chat C" "Chat C_sealed"', 'the hint for missing tables');
}

done_testing();
