# An error at every call into PostgreSQL, under whatever locks are held there: insertion, build, vacuum, search and check fail once at
# each, and each time the session can be cancelled afterwards and keeps no page.  Then the same with an error that a damaged page raises.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use File::Temp qw(tempdir);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use VectorKV;

# As few buffers as pages are read in place in: looking at all of them is cheap.
my $node = new_node('faults', settings => ['shared_buffers = 16MB', 'max_parallel_maintenance_workers = 0']);
$node->safe_psql('postgres', q{CREATE EXTENSION pg_buffercache;
	CREATE FUNCTION some_vector(n int) RETURNS vector LANGUAGE sql IMMUTABLE AS
		'SELECT array_agg(sin(n * i))::vector(16) FROM generate_series(1, 16) i';
	CREATE TABLE items (id int, embedding vector(16));
	INSERT INTO items SELECT n, some_vector(n) FROM generate_series(1, 24) n;
	INSERT INTO items SELECT 1, some_vector(1) FROM generate_series(1, 8) n;
	CREATE INDEX items_idx ON items USING hnsw (embedding vector_l2_ops) WITH (m = 4, ef_construction = 8, codec = lvq4x8)});

# One session takes a statement through the faults 1, 2, 3, ... until it passes, from the hundredth on through one in eleven: loops are
# gone through at all of their calls all the same.  Each try prints the state of the statement, how many
# of the index's pages are still pinned, and the state of a cancelled statement.
my $tries = 600;
my $folder = tempdir(CLEANUP => 1);
sub walk
{
	my ($name, $statement, %param) = @_;
	my $script = "\\set VERBOSITY terse\n\\pset tuples_only\n\\pset format unaligned\nSET enable_seqscan = off;\n";
	foreach my $try (1 .. $tries)
	{
		my $n = $try <= 100 ? $try : 100 + 11 * ($try - 100);
		my ($before, $now) = map { (my $s = $_) =~ s/:n/$n/g; $s } ($param{before} // '', $statement);
		$script .= "$before\nSET vectorkv.fault_after = $n;\n$now;\n\\set state :SQLSTATE\nRESET vectorkv.fault_after;\n"
		  . "SELECT :'state' = '00000' AS passed, (SELECT count(*) FROM pg_buffercache WHERE pinning_backends > 0 "
		  . "AND relfilenode = pg_relation_filenode('items_idx')) AS pins \\gset\n"
		  . "SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(2);\n\\echo try :state :pins :SQLSTATE\n\\if :passed\n\\q\n\\endif\n";
	}
	my $file = "$folder/" . $name;
	append_to_file($file, $script);
	my ($status, $out, $err) = $node->psql('postgres', '', on_error_stop => 0, extra_params => [ '-f', $file ]);
	my @seen = $out =~ /^try (.*)$/mg;
	my $passed = pop @seen // '';
	is($passed, '00000 0 57014', "$name: passes after " . @seen . " faults");
	my @other = grep { $_ ne 'VKF01 0 57014' } @seen;
	is(scalar @other, 0, "$name: each try failed by the fault, kept no page, and the session could be cancelled") or diag(join "\n", @other[0 .. ($#other < 9 ? $#other : 9)]);
	cmp_ok(scalar @seen, '>=', $param{least}, "$name: there were faults");
	return;
}

# New vectors, and one that has more tuples than fit its node.
walk('insert', 'INSERT INTO items SELECT 1000, some_vector(CASE WHEN i < 4 THEN 1000 * :n + i ELSE 1 END) FROM generate_series(1, 6) i', least => 100);
walk('search', 'SELECT count(*) FROM (SELECT * FROM items ORDER BY embedding <-> some_vector(2) LIMIT 8) x', least => 50);
walk('check', "SELECT count(*) FROM hnsw_check('items_idx', true)", least => 50);
walk('vacuum', 'VACUUM (INDEX_CLEANUP ON) items', least => 100, before => 'DELETE FROM items WHERE id >= 1000; VACUUM (INDEX_CLEANUP ON) items; '
	  . 'INSERT INTO items SELECT 1000, some_vector(CASE WHEN i < 4 THEN -1000 * :n - i ELSE 1 END) FROM generate_series(1, 6) i; DELETE FROM items WHERE id >= 1000;');
walk('build', 'CREATE INDEX again_idx ON items USING hnsw (embedding vector_l2_ops) WITH (m = 4, ef_construction = 8, codec = lvq4x8)', least => 20);
$node->safe_psql('postgres', 'VACUUM (INDEX_CLEANUP ON) items');
ok_sound($node, $_, "$_ is sound after it all") foreach ('items_idx', 'again_idx');

# A damaged page, met by an insertion that has locked another one: the next tuple of the vector that has many.
my $file = $node->data_dir . '/' . $node->safe_psql('postgres', "SELECT pg_relation_filepath('items_idx')");
$node->stop;
my $damaged = 0;
open my $handle, '+<:raw', $file or die "$file: $!";
for (my $at = 0; sysseek($handle, $at, 0) && sysread($handle, my $page, 8192); $at += 8192)
{
	next unless ord(substr($page, 8192 - 4, 1)) == 5;    # tids
	sysseek($handle, $at + 15, 0);
	syswrite($handle, "\xff");                           # the high byte of pd_upper
	$damaged++;
}
close $handle;
$node->start;
is($damaged, 1, 'one page holds further tuples');
my ($status, $out, $err) = $node->psql('postgres', "\\set VERBOSITY terse\nINSERT INTO items SELECT 1, some_vector(1);\n\\echo :SQLSTATE\n"
	  . "SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(2);\n\\echo :SQLSTATE\nSET statement_timeout = 20;\nSELECT pg_sleep(2);\n\\echo :SQLSTATE\n", on_error_stop => 0);
is($out, "XX001\n57014\n57014", 'after a damaged page the session can be cancelled, by request and by timeout') or diag($err);

# Only a superuser may ask for faults.
$node->safe_psql('postgres', 'CREATE ROLE somebody');
like(sqlstate_of($node, "LOAD 'vector'; SET ROLE somebody; SET vectorkv.fault_after = 1"), qr/^42501/, 'faults are for superusers');

done_testing();
