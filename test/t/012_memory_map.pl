# What is in a connection's memory map: no numerical library, although it searches and builds, and a stack that need not grow.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use VectorKV;

my $node = new_node('map');
plan skip_all => 'needs /proc' unless -r '/proc/self/maps';
load_sample($node, 'items', 'vector', rows => 1000);
load_queries($node, 'queries', 'vector', rows => 10);
$node->safe_psql('postgres', 'CREATE INDEX items_idx ON items USING hnsw (embedding vector_cosine_ops)');

# The backend reads its own map.
my $knn = knn('items', 'queries', 'cosine');
my $maps = $node->safe_psql('postgres', "SET enable_seqscan = off; SELECT count(*) FROM ($knn) x; "
	  . 'REINDEX INDEX items_idx; SELECT pg_read_file(\'/proc/self/maps\', 0, 10000000, true)');
like($maps, qr/^100\n/, 'the backend answered');
like($maps, qr{/vector\.so}, 'the map lists vector.so');
unlike($maps, qr{/lib[^/]*$_}i, "no $_ in it") foreach ('faiss', 'blas', 'lapack', 'cuda(?!ta)', 'nvidia', 'mkl', 'gomp');

# Nor does the library ask the loader for one.
my $library = $maps =~ m{(/\S*/vector\.so)} ? $1 : '';
my ($needed) = run_command([ 'readelf', '-d', $library ]);
my @libraries = $needed =~ /NEEDED.*\[(.*?)\]/g;
is_deeply([ grep { !/^(libc|libm|libpthread|ld-linux.*)\.so/ } @libraries ], [], "vector.so needs libc and libm only (@libraries)");

# The stack is deep from the start: one that must grow when memory is short ends the server.
my $fresh = $node->safe_psql('postgres', "LOAD 'vector'; SELECT pg_read_file('/proc/self/maps', 0, 10000000, true)");
my ($from, $to) = $fresh =~ /^([0-9a-f]+)-([0-9a-f]+) .*\[stack\]/m;
cmp_ok(hex($to) - hex($from), '>=', 512 << 10, 'the stack is as deep as our functions go');

done_testing();
