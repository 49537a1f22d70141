# Inner product over vectors of unlike length in one half-space: a graph linked by the inner product itself leads to the longest and
# nowhere else.  Recall and complete answers in every mode, after a build, after insertions, after vacuum, and in an index that was
# built empty.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $node = new_node('inner_product');
$node->safe_psql('postgres', q{
CREATE FUNCTION pseudo(i int, j int) RETURNS float8 IMMUTABLE LANGUAGE sql AS $$ SELECT sin(i * 12.9898 + j * 78.233 + i * j * 0.137) $$;
CREATE FUNCTION rating(i int) RETURNS vector IMMUTABLE LANGUAGE sql AS
	$$ SELECT array_agg(((5 + pseudo(i, j)) * exp(pseudo(i, 99)))::real ORDER BY j)::vector FROM generate_series(1, 16) j $$;
CREATE TABLE rating AS SELECT i AS id, rating(i) AS embedding FROM generate_series(1, 5000) i;
CREATE TABLE queries AS SELECT i AS id, (SELECT array_agg(pseudo(-i, j)::real ORDER BY j)::vector FROM generate_series(1, 16) j) AS embedding FROM generate_series(1, 50) i;
});

# A table of the first rows, of a type.
sub make_table
{
	my ($table, $type, $rows) = @_;
	$node->safe_psql('postgres', "CREATE TABLE $table (id int, embedding $type(16)); INSERT INTO $table SELECT id, embedding::$type(16) FROM rating WHERE id <= $rows");
	$node->safe_psql('postgres', "CREATE TABLE ${table}_queries AS SELECT id, embedding::$type(16) AS embedding FROM queries");
	remember_exact($node, "${table}_exact", $table, "${table}_queries", 'ip');
	return;
}

sub linked_by { return $node->safe_psql('postgres', "SELECT linked_by FROM hnsw_info('$_[0]')"); }

# How many rows a LIMIT gives, the fewest of five queries; what the settings and the filter are.
sub fewest
{
	my ($table, $limit, $settings, $where) = @_;
	return $node->safe_psql('postgres', "SET enable_seqscan = off; $settings; SELECT min((SELECT count(DISTINCT id) FROM (SELECT id FROM $table WHERE $where "
		  . "ORDER BY embedding <#> q.embedding LIMIT $limit) f)) FROM ${table}_queries q WHERE q.id <= 5");
}

my %mode = (off => 'SET hnsw.iterative_scan = off', strict => 'SET hnsw.iterative_scan = strict_order', relaxed => 'SET hnsw.iterative_scan = relaxed_order');

sub is_complete
{
	my ($table, $name) = @_;
	my $matching = $node->safe_psql('postgres', "SELECT count(*) FROM $table WHERE id % 200 = 3");
	my $all = $node->safe_psql('postgres', "SELECT count(*) FROM $table");
	foreach my $mode (sort keys %mode)
	{
		is(fewest($table, 1000, $mode{$mode}, 'true'), 1000, "$name, $mode: LIMIT 1000 gives 1000 rows");
		is(fewest($table, 10000, $mode{$mode}, 'true'), $all, "$name, $mode: a limit beyond the table gives all rows");
		is(fewest($table, $matching, $mode{$mode}, 'id % 200 = 3'), $matching, "$name, $mode: every row behind a filter");
	}
	return;
}

# What was built.
my @built = (['vector', 'lvq8', 0.98], ['vector', 'none', 0.98], ['vector', 'lvq4', 0.97], ['vector', 'lvq4x8', 0.97], ['halfvec', 'lvq8', 0.98], ['halfvec', 'none', 0.98],
	['sparsevec', 'none', 0.45]);
foreach my $case (@built)
{
	my ($type, $codec, $floor) = @$case;
	my $t = "b_${type}_$codec";
	make_table($t, $type, 4000);
	$node->safe_psql('postgres', "CREATE INDEX ${t}_idx ON $t USING hnsw (embedding ${type}_ip_ops) WITH (codec = '$codec')");
	is(linked_by("${t}_idx"), $type eq 'sparsevec' ? 'direction' : 'whitened direction', "$type $codec: how it is linked");
	ok_recall(recall($node, "${t}_exact", $t, "${t}_queries", 'ip'), $floor, "$type $codec");
	ok_sound($node, "${t}_idx");
}
is_complete('b_vector_lvq8', 'built');
is_complete('b_vector_none', 'built, not compressed');

# Distances come in order, whatever the codec (the operator sums in single precision).
foreach my $t ('b_vector_lvq8', 'b_vector_none', 'b_halfvec_none')
{
	is($node->safe_psql('postgres', "SET enable_seqscan = off; $mode{strict}; SELECT count(*) FROM (SELECT d < lag(d) OVER (PARTITION BY q ORDER BY n) - 1e-4 AS wrong FROM "
			  . "(SELECT q.id AS q, r.d, r.n FROM ${t}_queries q, LATERAL (SELECT d, row_number() OVER () AS n FROM (SELECT embedding <#> q.embedding AS d FROM $t ORDER BY embedding <#> q.embedding LIMIT 500) x) r) y) z WHERE wrong"),
		'0', "$t: in order");
}

# More rows after the build, then half of them gone.
$node->safe_psql('postgres', "INSERT INTO b_vector_lvq8 SELECT * FROM rating WHERE id > 4000; INSERT INTO b_vector_none SELECT * FROM rating WHERE id > 4000");
foreach my $t ('b_vector_lvq8', 'b_vector_none')
{
	remember_exact($node, "${t}_exact", $t, "${t}_queries", 'ip');
	ok_recall(recall($node, "${t}_exact", $t, "${t}_queries", 'ip'), 0.98, "$t with later rows");
	$node->safe_psql('postgres', "DELETE FROM $t WHERE id % 2 = 0; VACUUM $t");
	remember_exact($node, "${t}_exact", $t, "${t}_queries", 'ip');
	ok_recall(recall($node, "${t}_exact", $t, "${t}_queries", 'ip'), 0.97, "$t after vacuum of half of it");
	ok_sound($node, "${t}_idx");
}
is_complete('b_vector_lvq8', 'after vacuum');

# Built before there were rows: nothing is known of them, but they are not linked by length alone; REINDEX makes it good.
make_table('early', 'vector', 0);
$node->safe_psql('postgres', "CREATE INDEX early_idx ON early USING hnsw (embedding vector_ip_ops); INSERT INTO early SELECT * FROM rating WHERE id <= 4000");
remember_exact($node, 'early_exact', 'early', 'early_queries', 'ip');
is(linked_by('early_idx'), 'direction', 'built empty: how it is linked');
ok_recall(recall($node, 'early_exact', 'early', 'early_queries', 'ip'), 0.40, 'built empty');
ok_sound($node, 'early_idx');
is_complete('early', 'built empty');
$node->safe_psql('postgres', 'REINDEX INDEX early_idx');
is(linked_by('early_idx'), 'whitened direction', 'built again: how it is linked');
ok_recall(recall($node, 'early_exact', 'early', 'early_queries', 'ip'), 0.98, 'built again');

# The model is read again after a restart, and kept beyond a change of the relation cache; an unlogged index starts empty after a crash.
$node->safe_psql('postgres', "CREATE UNLOGGED TABLE unlogged (id int, embedding vector(16)); CREATE INDEX unlogged_idx ON unlogged USING hnsw (embedding vector_ip_ops); "
	  . "INSERT INTO unlogged SELECT * FROM rating WHERE id <= 500; REINDEX INDEX unlogged_idx");
$node->stop('immediate');
$node->start;
ok_recall(recall($node, 'early_exact', 'early', 'early_queries', 'ip'), 0.98, 'after a restart');
is(linked_by('unlogged_idx'), 'direction', 'an unlogged index after a crash');
is($node->safe_psql('postgres', "INSERT INTO unlogged SELECT * FROM rating WHERE id <= 500; SET enable_seqscan = off; "
		  . "SELECT count(*) FROM (SELECT id FROM unlogged ORDER BY embedding <#> (SELECT embedding FROM queries WHERE id = 1) LIMIT 500) x"), '500', 'and its rows');
is($node->safe_psql('postgres', "SET enable_seqscan = off; CREATE FUNCTION pg_temp.found() RETURNS bigint LANGUAGE sql AS "
		  . "\$\$ SELECT sum(id) FROM (SELECT id FROM early ORDER BY embedding <#> (SELECT embedding FROM queries WHERE id = 1) LIMIT 50) x \$\$; "
		  . "BEGIN; CREATE TEMP TABLE before AS SELECT pg_temp.found() AS f; ANALYZE early; REINDEX TABLE rating; SELECT f = pg_temp.found() FROM before; COMMIT"), 't', 'the same answer after a change of the relation cache');
is($node->safe_psql('postgres', "BEGIN; CREATE TABLE young (id int, embedding vector(16)); CREATE INDEX young_idx ON young USING hnsw (embedding vector_ip_ops); "
		  . "INSERT INTO young SELECT * FROM rating WHERE id <= 100; SET LOCAL enable_seqscan = off; SELECT count(*) FROM (SELECT id FROM young ORDER BY embedding <#> rating(1) LIMIT 10) x; "
		  . "TRUNCATE young; INSERT INTO young SELECT * FROM rating WHERE id <= 50; SELECT count(*) FROM (SELECT id FROM young ORDER BY embedding <#> rating(1) LIMIT 100) x; COMMIT"), "10\n50", 'a table that is emptied in the transaction that made it');

# Lengths of two kinds, a thousand or 10^19 times apart: a model of the longest only would make all others one point, which searches do
# not leave (recall was 0.17). And lengths whose products single precision cannot hold, which link by the inner product no more (0.06;
# a scan that has used up such a graph ends with rows that came too late, out of order).
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION noise(a int, b int) RETURNS float8 IMMUTABLE LANGUAGE sql AS $$ SELECT ((hashint8(a::bigint * 1000003 + b) & 1048575) + 0.5) / 1048576 $$;
CREATE TABLE plain AS SELECT i AS id, array_agg(noise(i, d) ORDER BY d) AS v, sqrt(sum(noise(i, d) ^ 2)) AS length FROM generate_series(1, 2000) i, generate_series(1, 16) d GROUP BY i;
CREATE TABLE asked AS SELECT i AS id, array_agg(noise(-i, d) * 2 - i % 2 ORDER BY d)::vector AS v FROM generate_series(1, 20) i, generate_series(1, 16) d GROUP BY i;
CREATE FUNCTION times(v float8[], by float8) RETURNS real[] IMMUTABLE LANGUAGE sql AS $$ SELECT array_agg((x * by)::real ORDER BY n) FROM unnest(v) WITH ORDINALITY AS u(x, n) $$;
-- Of the first 20, and of the first 200, the share that is as near as the last of the exact ones; and how many are nearer than the one before.
CREATE FUNCTION found(type text, OUT of_20 numeric, OUT of_200 numeric, OUT disorder bigint) LANGUAGE plpgsql AS $f$
BEGIN
	EXECUTE format('WITH exact AS MATERIALIZED (SELECT a.id, array_agg(d ORDER BY d) AS nearest FROM asked a, LATERAL (SELECT e.v <#> a.v::%1$s AS d FROM e ORDER BY (e.v <#> a.v::%1$s) + 0 LIMIT 200) x GROUP BY a.id),
		found AS MATERIALIZED (SELECT a.id, x.d, x.n, lag(x.d) OVER (PARTITION BY a.id ORDER BY x.n) AS before FROM asked a,
			LATERAL (SELECT d, row_number() OVER () AS n FROM (SELECT e.v <#> a.v::%1$s AS d FROM e ORDER BY e.v <#> a.v::%1$s LIMIT 200) y) x)
		SELECT round(count(*) FILTER (WHERE n <= 20 AND d <= nearest[20]) / 400.0, 3), round(count(*) FILTER (WHERE d <= nearest[200]) / 4000.0, 3), count(*) FILTER (WHERE d < before)
		FROM found JOIN exact USING (id)', type) INTO of_20, of_200, disorder;
END $f$;
SQL
# Lengths that differ by a percent, in a half-space so far off that the rows hardly differ by more: their products are those of lengths.
my %rows = (
	'of lengths a percent apart, far off' => ['(SELECT array_agg((x + 5)::real ORDER BY n) FROM unnest(v) WITH ORDINALITY AS u(x, n))', 'vector', 'none', 'lvq8'],
	'every 11th a thousand times as long' => ["times(v, CASE WHEN id % 11 = 0 THEN 1e3 ELSE 1 END)", 'halfvec', 'none', 'lvq8'],
	'every 11th 10^19 times as long' => ["times(v, CASE WHEN id % 11 = 0 THEN 1e19 ELSE 1 END)", 'vector', 'none', 'lvq8', 'lvq4', 'lvq4x8'],
	'of length 2^80' => ["times(v, 2.0 ^ 80 / length)", 'vector', 'none', 'lvq8', 'lvq4x8'],
	'of length 2^-80' => ["times(v, 2.0::float8 ^ (-80) / length)", 'vector', 'none'],
	'of length 2^80, sparse' => ["times(v, 2.0 ^ 80 / length)", 'sparsevec', 'none']);
foreach my $case (sort keys %rows)
{
	my ($values, $type, @codecs) = @{ $rows{$case} };
	$node->safe_psql('postgres', "DROP TABLE IF EXISTS e; CREATE TABLE e (v $type(16)); INSERT INTO e SELECT ($values)::vector(16)::$type(16) FROM plain ORDER BY id");
	foreach my $codec (@codecs)
	{
		my ($of_20, $of_200, $disorder) = split /\|/, $node->safe_psql('postgres', "SET vectorkv.build_seed = 7; SET max_parallel_maintenance_workers = 0; SET enable_seqscan = off; "
			  . "DROP INDEX IF EXISTS e_idx; CREATE INDEX e_idx ON e USING hnsw (v ${type}_ip_ops) WITH (codec = '$codec'); SELECT * FROM found('$type')");
		cmp_ok($of_20, '>=', 0.98, "$case, $type $codec: of the first 20 ($of_20)");
		cmp_ok($of_200, '>=', 0.97, "$case, $type $codec: of the first 200 ($of_200)");
		is($disorder, '0', "$case, $type $codec: in order");
	}
}

# Tight groups of unlike lengths, larger than a search's pool, which links by direction do not leave: from one node of the levels above,
# 0.88 of the ten nearest were found (0.90 after insertions), and of queries of any direction 0.63. Without links to what queries for the
# rows find, 0.94 after insertions.
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION normal(a int, b int) RETURNS float8 IMMUTABLE LANGUAGE sql AS $$ SELECT sqrt(-2 * ln(noise(a, 2 * b))) * cos(2 * pi() * noise(a, 2 * b + 1)) $$;
CREATE TABLE grouped AS SELECT i AS id, (SELECT array_agg((exp(normal(i, 99)) * (3 * normal(-1 - i % 30, d) + 0.1 * normal(i, d)))::real ORDER BY d) FROM generate_series(1, 24) d)::vector(24) AS embedding
	FROM generate_series(1, 3000) i ORDER BY noise(i, 1000);
CREATE TABLE near_queries AS SELECT i AS id, (SELECT array_agg((3 * normal(-1 - i % 30, d) + 0.1 * normal(i + 3000, d))::real ORDER BY d) FROM generate_series(1, 24) d)::vector(24) AS embedding
	FROM generate_series(1, 60) i;
CREATE TABLE any_queries AS SELECT i AS id, (SELECT array_agg(normal(-1000 - i, d)::real ORDER BY d) FROM generate_series(1, 24) d)::vector(24) AS embedding FROM generate_series(1, 60) i;
SQL
remember_exact($node, "${_}_exact", 'grouped', "${_}_queries", 'ip') foreach 'near', 'any';
foreach my $case (['none', 'built'], ['lvq8', 'built'], ['lvq8', 'inserted'])
{
	my ($codec, $how) = @$case;
	my $index = "CREATE INDEX grouped_idx ON grouped USING hnsw (embedding vector_ip_ops) WITH (codec = '$codec')";
	$node->safe_psql('postgres', 'SET vectorkv.build_seed = 7; SET max_parallel_maintenance_workers = 0; DROP INDEX IF EXISTS grouped_idx; '
		  . ($how eq 'built' ? $index : "CREATE TABLE again AS TABLE grouped; TRUNCATE grouped; $index; INSERT INTO grouped TABLE again"));
	ok_recall(recall($node, 'near_exact', 'grouped', 'near_queries', 'ip'), 0.98, "groups of unlike lengths, $codec $how");
	ok_recall(recall($node, 'any_exact', 'grouped', 'any_queries', 'ip'), $how eq 'built' ? 0.90 : 0.89, "... queries of any direction, $codec $how");
}

# Rows on a line: links go to the longest, and a search meets many rows after farther ones. Rows wait for those, in order (of the first 200,
# 0.49 and 0.31 were found).
$node->safe_psql('postgres', 'CREATE TABLE line_queries AS SELECT i AS id, (SELECT array_agg(normal(-2000 - i, d)::real ORDER BY d) FROM generate_series(1, 24) d)::vector(24) AS v FROM generate_series(1, 20) i; '
	  . 'CREATE TABLE line AS SELECT (SELECT array_agg((normal(i, 1) * (1 + d % 5))::real ORDER BY d) FROM generate_series(1, 24) d)::vector(24) AS v FROM generate_series(1, 2500) i');
foreach my $seed (7, 8)
{
	$node->safe_psql('postgres', "SET vectorkv.build_seed = $seed; SET max_parallel_maintenance_workers = 0; DROP INDEX IF EXISTS line_idx; CREATE INDEX line_idx ON line USING hnsw (v vector_ip_ops)");
	my ($found, $disorder) = split /\|/, $node->safe_psql('postgres', "SET enable_seqscan = off; $mode{strict}; WITH exact AS MATERIALIZED (SELECT q.id, (SELECT max(d) FROM (SELECT t.v <#> q.v AS d FROM line t ORDER BY (t.v <#> q.v) + 0 LIMIT 200) x) AS last FROM line_queries q), "
		  . 'found AS (SELECT q.id, x.d, lag(x.d) OVER (PARTITION BY q.id ORDER BY x.n) AS before FROM line_queries q, LATERAL (SELECT d, row_number() OVER () AS n FROM (SELECT t.v <#> q.v AS d FROM line t ORDER BY t.v <#> q.v LIMIT 200) y) x) '
		  . 'SELECT round(count(*) FILTER (WHERE d <= last) / 4000.0, 3), count(*) FILTER (WHERE d < before) FROM found JOIN exact USING (id)');
	cmp_ok($found, '>=', 0.65, "rows on a line, seed $seed: of the first 200 ($found)");
	is($disorder, '0', "rows on a line, seed $seed: in order");
}

# Sparse vectors are linked by direction whatever their lengths.
$node->safe_psql('postgres', 'CREATE TABLE sparse AS SELECT id, embedding::sparsevec(24) AS embedding FROM grouped; '
	  . 'CREATE TABLE sparse_queries AS SELECT id, embedding::sparsevec(24) AS embedding FROM near_queries; '
	  . 'SET vectorkv.build_seed = 7; SET max_parallel_maintenance_workers = 0; CREATE INDEX sparse_idx ON sparse USING hnsw (embedding sparsevec_ip_ops)');
remember_exact($node, 'sparse_exact', 'sparse', 'sparse_queries', 'ip');
ok_recall(recall($node, 'sparse_exact', 'sparse', 'sparse_queries', 'ip'), 0.98, 'groups of unlike lengths, sparse');

# Embeddings with a mean, of unlike lengths: the longest are the answers to nearly every query, and neighbours of none. In a build they were
# linked when others had asked already, and insertions displaced what led to them: 0.84 of the ten nearest, 0.70 after insertions.
load_sample($node, 'sample', 'vector', rows => 1500);
load_queries($node, 'sample_queries', 'vector', rows => 50);
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE common AS SELECT avg(embedding) + array_fill(0.05::real, '{384}')::vector(384) AS v FROM sample;
CREATE TABLE scaled AS SELECT id, ((embedding + v) * array_fill(exp(0.7 * normal(id, 99))::real, '{384}')::vector(384))::vector(384) AS embedding FROM sample, common;
CREATE TABLE long (id int, embedding vector(384));
CREATE TABLE long_queries AS SELECT id, (embedding + v)::vector(384) AS embedding FROM sample_queries, common;
SQL

sub ok_long
{
	my ($name, @sql) = @_;
	$node->safe_psql('postgres', join(';', 'SET vectorkv.build_seed = 7', 'SET max_parallel_maintenance_workers = 0', @sql));
	remember_exact($node, 'long_exact', 'long', 'long_queries', 'ip');
	ok_recall(recall($node, 'long_exact', 'long', 'long_queries', 'ip'), 0.96, "embeddings of unlike lengths, $name");
	return;
}
ok_long('created empty', 'CREATE INDEX long_idx ON long USING hnsw (embedding vector_ip_ops)', 'INSERT INTO long TABLE scaled');
ok_long('built', 'REINDEX INDEX long_idx');
$node->safe_psql('postgres', 'VACUUM long');
$node->safe_psql('postgres', $_) foreach 'DELETE FROM long WHERE id % 3 = 0', 'VACUUM long';
ok_long('after a vacuum');
ok_long('and insertions', 'INSERT INTO long SELECT * FROM scaled WHERE id % 3 = 0');
ok_long('two thirds built', 'DROP INDEX long_idx; TRUNCATE long; INSERT INTO long SELECT * FROM scaled WHERE id % 3 > 0; CREATE INDEX long_idx ON long USING hnsw (embedding vector_ip_ops)',
	'INSERT INTO long SELECT * FROM scaled WHERE id % 3 = 0');

# Vectors of one length are linked as ever.
load_sample($node, 'items', 'vector', rows => 1000);
$node->safe_psql('postgres', 'CREATE INDEX items_idx ON items USING hnsw (embedding vector_ip_ops)');
is(linked_by('items_idx'), 'distance', 'vectors of length 1');

done_testing();
