# Every row can be found once the statement that inserted it has ended, whatever insertions of the same vector before it have left
# behind: nodes that are not linked yet take no rows.  And where an index holds such nodes with rows in them, or entries of its hash
# table that name any page, it is seen and vacuum mends it.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use VectorKV;

my $node = new_node('pending', settings => ['shared_buffers = 16MB']);
my $with = "WITH (m = 4, ef_construction = 8, codec = lvq4x8)";

# fail(x, k): an insertion that fails at its k-th call into PostgreSQL.  lost(): the rows that a search for their own vectors does not find.
$node->safe_psql('postgres', <<"SQL");
CREATE FUNCTION some_vector(n int) RETURNS vector LANGUAGE sql IMMUTABLE AS
	'SELECT array_agg(sin(n * i))::vector(16) FROM generate_series(1, 16) i';
CREATE TABLE items (id int, embedding vector(16));
INSERT INTO items SELECT n, some_vector(n) FROM generate_series(1, 24) n;
CREATE INDEX items_idx ON items USING hnsw (embedding vector_l2_ops) $with;
CREATE TABLE small (id int, embedding vector(3));
CREATE INDEX small_idx ON small USING hnsw (embedding vector_l2_ops) $with;
CREATE FUNCTION fail(t regclass, x vector, k int) RETURNS boolean LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM set_config('vectorkv.fault_after', k::text, true);
	EXECUTE format('INSERT INTO %s VALUES (-1, \$1)', t) USING x;
	PERFORM set_config('vectorkv.fault_after', '0', true);
	RAISE EXCEPTION 'undone';
EXCEPTION WHEN OTHERS THEN
	PERFORM set_config('vectorkv.fault_after', '0', true);
	RETURN SQLERRM <> 'undone';
END \$\$;
CREATE FUNCTION found(t regclass, x vector) RETURNS boolean LANGUAGE plpgsql
	SET enable_seqscan = off SET enable_sort = off SET hnsw.ef_search = 1000 AS \$\$
DECLARE
	d float8;
BEGIN
	EXECUTE format('SELECT embedding <-> \$1 FROM %s ORDER BY embedding <-> \$1 LIMIT 1', t) USING x INTO d;
	RETURN coalesce(d = 0, false);
END \$\$;
CREATE FUNCTION lost() RETURNS text LANGUAGE sql AS
	\$\$ SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), 'none') FROM items WHERE NOT found('items', embedding) \$\$;
SQL

# A retry after a failure at each call.
cmp_ok($node->safe_psql('postgres', <<'SQL'), '>', 40, 'insertions failed');
CREATE FUNCTION retry(points int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	failed int := 0;
BEGIN
	FOR k IN 1 .. points LOOP
		failed := failed + fail('items', some_vector(1000 + k), k)::int;
		INSERT INTO items VALUES (1000 + k, some_vector(1000 + k));
	END LOOP;
	RETURN failed;
END $$;
SELECT retry(300);
SQL
is($node->safe_psql('postgres', 'SELECT lost()'), 'none', 'rows of repeated insertions are found');
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', 'SELECT lost()'), 'none', 'and after a crash');
ok_sound($node, 'items_idx', 'sound before vacuum');
$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
is($node->safe_psql('postgres', 'SELECT lost()'), 'none', 'and after a vacuum');
ok_sound($node, 'items_idx', 'sound after vacuum');

# The same in an empty index, where the first node is the entry point.
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE results (k int, failed boolean, before boolean, after boolean);
CREATE FUNCTION first_row(k int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	failed boolean;
BEGIN
	TRUNCATE small;
	failed := fail('small', '[1,2,3]', k);
	INSERT INTO small VALUES (1, '[1,2,3]');
	INSERT INTO small VALUES (2, '[4,2,3]');
	INSERT INTO results VALUES (k, failed, found('small', '[1,2,3]') AND found('small', '[4,2,3]'));
END $$;
SQL
$node->safe_psql('postgres', join '', map { "SELECT first_row($_); VACUUM (INDEX_CLEANUP ON) small; "
		  . "UPDATE results SET after = found('small', '[1,2,3]') AND found('small', '[4,2,3]') WHERE k = $_;\n" } 1 .. 90);
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM results WHERE failed'), '>', 20, 'first insertions failed');
is($node->safe_psql('postgres', "SELECT string_agg(k::text, ' ' ORDER BY k) FROM results WHERE NOT before"), '', 'first rows are found');
is($node->safe_psql('postgres', "SELECT string_agg(k::text, ' ' ORDER BY k) FROM results WHERE NOT after"), '', 'and after a vacuum');

# Pages changed by hand: change(file, function) for each page of a kind.
sub change_pages
{
	my ($index, $kind, $change) = @_;
	my $file = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('$index')");
	$node->stop;
	my $changed = 0;
	open my $handle, '+<:raw', $file or die "$file: $!";
	for (my $block = 0; sysseek($handle, $block * 8192, 0) && sysread($handle, my $page, 8192) == 8192; $block++)
	{
		next unless ord(substr($page, 8192 - 4, 1)) == $kind && $change->($block, \$page);
		sysseek($handle, $block * 8192, 0);
		syswrite($handle, $page);
		$changed++;
	}
	close $handle;
	$node->start;
	return $changed;
}

# A node without links from others that is pending and has a row, as former versions left it.  56 bytes of header, 12 of code, 4 bytes unused
# or links: 8 of them.
$node->safe_psql('postgres', q{CREATE TABLE joined (id int, embedding vector(4));
	CREATE INDEX joined_idx ON joined USING hnsw (embedding vector_l2_ops) WITH (m = 4, ef_construction = 8, codec = none)});
$node->safe_psql('postgres', "INSERT INTO joined SELECT n, ARRAY[n, n % 7, n % 5, 1]::vector FROM generate_series(1, 20) n");
my ($size, $links) = (56 + 16 + 32, 56 + 16);
my $entry;
change_pages('joined_idx', 1, sub { my ($block, $page) = @_; $entry = unpack('L', substr($$page, 24 + 20, 4)); return 0; });
my $per_page = int((8192 - 24 - 8) / $size);
my $orphan;
my $pages = change_pages('joined_idx', 3, sub {
	my ($block, $page) = @_;
	my @slots = grep { ord(substr($$page, 24 + $_ * $size + 53, 1)) == 0xA0 } 0 .. $per_page - 1;
	($orphan) = grep { $_ != $entry && ord(substr($$page, 24 + ($_ % $per_page) * $size + 51, 1)) == 0 } map { $block * $per_page + $_ } @slots;
	foreach my $slot (@slots)
	{
		my $at = 24 + $slot * $size;
		my $n = ord(substr($$page, $at + 52, 1));
		my @list = grep { $_ != $orphan } unpack("L$n", substr($$page, $at + $links, 4 * $n));
		substr($$page, $at + 52, 1) = chr(scalar @list);
		substr($$page, $at + $links, 4 * @list) = pack('L*', @list);
		substr($$page, $at + 53, 1) = "\xA2" if $block * $per_page + $slot == $orphan;
	}
	return 1;
});
is($pages, 1, 'one page of nodes');
my $lost = q{SELECT count(*) FROM joined WHERE NOT found('joined', embedding)};
is($node->safe_psql('postgres', $lost), '1', 'a row that nothing leads to');
like($node->safe_psql('postgres', "SELECT problem FROM hnsw_check('joined_idx')"), qr/^no path leads to it$/, 'the check says so');
$node->safe_psql('postgres', "INSERT INTO joined SELECT 100 + id, embedding FROM joined");
is($node->safe_psql('postgres', $lost), '0', 'its vector, inserted again, gets a node of its own');
$node->safe_psql('postgres', 'DELETE FROM joined WHERE id > 100; VACUUM (INDEX_CLEANUP ON) joined');
is($node->safe_psql('postgres', $lost), '0', 'vacuum links the node');
is($node->safe_psql('postgres', "SELECT * FROM hnsw_check('joined_idx', true, true)"), '', 'and the index is sound');

# Entries of the hash table that name the bucket's own page, the meta page, a page beyond the end and no node at all.
my $before = $node->safe_psql('postgres', "SELECT nodes FROM hnsw_info('joined_idx')");
is(change_pages('joined_idx', 8, sub {
	my ($block, $page) = @_;
	my $count = unpack('L', substr($$page, 28, 4));
	my @to = ($block * $per_page, 0, 4000 * $per_page, 0xFFFFFFFF);
	return 0 if $count < @to;
	substr($$page, 32 + 8 * $_ + 4, 4) = pack('L', $to[$_]) foreach 0 .. $#to;
	return 1;
}), 1, 'one page of the hash table');
$node->safe_psql('postgres', 'DELETE FROM joined WHERE id = 20');
my $timed_out = 0;
my ($status, $out, $err) = $node->psql('postgres', "SET statement_timeout = '20s';\nVACUUM (INDEX_CLEANUP ON) joined;\n\\echo :SQLSTATE\nSELECT 1", timeout => 60, timed_out => \$timed_out);
ok(!$timed_out, 'a vacuum of a damaged hash table ends');
is($out, "00000\n1", 'without an error: the entries are dropped') or diag($err);
is($node->safe_psql('postgres', $lost), '0', 'all rows are found');
$node->safe_psql('postgres', "INSERT INTO joined SELECT 200 + id, embedding FROM joined");
is($node->safe_psql('postgres', $lost), '0', 'and their equals');
ok_sound($node, 'joined_idx', 'sound at last');

done_testing();
