# Rows that differ less from each other than the step of a code, in groups larger than what a search keeps: templated texts, frames of a
# film, variants of a product.  Recall is that of an index of whole vectors, whatever the codec, the distance and the way of loading.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use VectorKV;

my $node = new_node('near');
$node->safe_psql('postgres', q{
CREATE FUNCTION pseudo(i bigint, j int) RETURNS float8 IMMUTABLE LANGUAGE sql AS
  $$ SELECT 2 * x - 1 FROM (SELECT (hashint8extended(i * 1000 + j, 7) & 1048575) / 1048575.0::float8 x) s $$;
-- row i of group g: values of the group between -1 and 1, and its own, times the spread
CREATE FUNCTION row_of(i int, g int, spread float8, dim int) RETURNS vector LANGUAGE sql AS
  $$ SELECT array_agg((pseudo(-1 - g, j) + spread * pseudo(i, j))::real ORDER BY j)::vector FROM generate_series(1, dim) j $$;
CREATE TABLE measured (tbl text, way text, first float8, recall float8);
-- of the rows with these ids, how many come first when asked for by their own vector, and the recall of the ten nearest
CREATE FUNCTION measure(tbl text, op text, ids text, OUT first float8, OUT recall float8) LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('CREATE TEMP TABLE truth AS SELECT id, e, (SELECT max(d) FROM (SELECT b.e <-> a.e AS d FROM %1$I b ORDER BY (b.e <-> a.e) + 0 LIMIT 10) x) AS tenth FROM %1$I a WHERE %2$s', tbl, ids);
  EXECUTE format('SELECT avg((nearest[1] = 0)::int), avg(hits) / 10 FROM (SELECT t.id, array_agg(d ORDER BY n) AS nearest, count(*) FILTER (WHERE d <= tenth) AS hits FROM truth t, '
    'LATERAL (SELECT row_number() OVER () AS n, y.d FROM (SELECT b.e <-> t.e AS d FROM %I b ORDER BY b.e %s t.e LIMIT 10) y) x GROUP BY t.id) y', tbl, op) INTO first, recall;
  DROP TABLE truth;
END $$;
});

sub measure
{
	my ($table, %param) = @_;
	my $settings = join ' ', map { "SET $_;" } 'enable_seqscan = off', @{ $param{settings} // [] };
	my $got = $node->safe_psql('postgres', "$settings SELECT first, recall FROM measure('$table', '" . ($param{op} // '<->') . "', '" . ($param{ids} // 'id <= 100') . "')");
	return split /\|/, $got;
}

sub ok_all_found
{
	my ($table, $name, %param) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($first, $recall) = measure($table, %param);
	cmp_ok($first, '>=', 0.97, "$name: $first of the rows come first when asked for by their own vector");
	ok_recall($recall, 0.99, $name);
	return;
}

# Ten groups of 300 rows, interleaved.
$node->safe_psql('postgres', 'CREATE TABLE doc (id int PRIMARY KEY, e vector(64)); INSERT INTO doc SELECT i, row_of(i, i % 10, 0.0005, 64) FROM generate_series(1, 3000) i');
foreach my $codec ('auto', 'none', 'lvq8', 'lvq4', 'lvq4x8')
{
	$node->safe_psql('postgres', "SET vectorkv.default_codec = $codec; CREATE INDEX doc_e ON doc USING hnsw (e vector_l2_ops)");
	ok_all_found('doc', "codec $codec");
	ok_all_found('doc', "codec $codec, ef_search 200", settings => ['hnsw.ef_search = 200']) if $codec eq 'auto';
	ok_all_found('doc', "codec $codec, ef_search 10, relaxed_order", settings => ['hnsw.ef_search = 10', 'hnsw.iterative_scan = relaxed_order']) if $codec eq 'auto';
	ok_sound($node, 'doc_e', "codec $codec is sound");
	$node->safe_psql('postgres', 'DROP INDEX doc_e');
}

# Under cosine distance, of normalised vectors, whose order the L2 distance tells, too: by the operator alone, and in indexes.
$node->safe_psql('postgres', 'CREATE TABLE unit (id int PRIMARY KEY, e vector(64)); INSERT INTO unit SELECT id, l2_normalize(e) FROM doc');
ok_all_found('unit', 'cosine distance, no index', op => '<=>');
foreach my $codec ('none', 'auto')
{
	$node->safe_psql('postgres', "SET vectorkv.default_codec = $codec; CREATE INDEX unit_e ON unit USING hnsw (e vector_cosine_ops)");
	ok_all_found('unit', "cosine distance, codec $codec", op => '<=>');
	$node->safe_psql('postgres', 'DROP INDEX unit_e');
}

# Among other rows, three hundred variants each of a few texts.
load_sample($node, 'items', 'vector', rows => 2000);
$node->safe_psql('postgres', q{CREATE TABLE variant (id int PRIMARY KEY, e vector(384));
INSERT INTO variant SELECT 10000 + id, l2_normalize(embedding) FROM items;
INSERT INTO variant SELECT i, l2_normalize(s.embedding + (SELECT array_agg((1e-4 * pseudo(i, j))::real ORDER BY j) FROM generate_series(1, 384) j)::vector)
  FROM generate_series(0, 1499) i JOIN (SELECT row_number() OVER (ORDER BY id) - 1 AS r, embedding FROM items WHERE id < 5) s ON r = i % 5});
foreach my $codec ('none', 'auto')
{
	$node->safe_psql('postgres', "SET vectorkv.default_codec = $codec; CREATE INDEX variant_e ON variant USING hnsw (e vector_cosine_ops)");
	ok_all_found('variant', "variants of texts, codec $codec", op => '<=>', ids => 'id < 100');
	$node->safe_psql('postgres', 'DROP INDEX variant_e');
}

# An index that was empty knows no groups: links are chosen by the table's vectors, and the search that goes on finds all of a group.
$node->safe_psql('postgres', 'CREATE TABLE late (LIKE doc); CREATE INDEX late_e ON late USING hnsw (e vector_l2_ops); INSERT INTO late SELECT * FROM doc ORDER BY id % 10, id');
ok_all_found('late', 'inserted into an index that was empty');

done_testing();
