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

done_testing();
