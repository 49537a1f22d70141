# Each field of an hnsw index's meta page damaged in turn, and what hangs from it: statements succeed or raise XX002, in time, and
# hnsw_check goes on to report. One index a case, all damaged in one stop of the server.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use VectorKV;

my $page = 8192;
my $begin = 24;    # of the content of a page

# name, offset in struct MetaPage, bytes, whether any other value is a fault that something names
my @fields = (
	[ magic => 0, 4, 1 ], [ version => 4, 4, 1 ], [ dim => 8, 4, 1 ], [ m => 12, 2, 1 ], [ ef_construction => 14, 2, 1 ],
	[ codec => 16, 1, 1 ], [ scalar => 17, 1, 1 ], [ metric => 18, 1, 1 ], [ hash_depth => 19, 1, 1 ], [ entry => 20, 4, 1 ],
	[ hash_seed => 24, 8, 1 ], [ entry_level => 32, 4, 0 ], [ model_bytes => 36, 4, 1 ], [ model_first => 40, 4, 1 ],
	[ directory_pages => 44, 4, 1 ], [ scored_base => 84, 4, 1 ], [ scored_slope => 88, 4, 1 ], [ built_nodes => 96, 8, 1 ],
	[ free_epoch => 104, 8, 0 ], [ directory => 112, 4, 1 ], [ linking => 4208, 1, 1 ], [ paths => 4209, 1, 0 ],
	[ checksum => 4212, 4, 1 ], [ model_checksum => 4216, 4, 1 ]);
push @fields, [ "free_list_$_" => 48 + 4 * $_, 4, 0 ] foreach 3 .. 6;

my @cases;    # [name, change(bytes of the file), whether it must be named, what hnsw_check must say]
foreach my $field (@fields)
{
	my ($name, $offset, $bytes, $named) = @$field;
	my $at = $begin + $offset;
	my $flip = sub { my ($byte, $with) = @_; return sub { substr(${ $_[0] }, $at + $byte, 1) = chr(ord(substr(${ $_[0] }, $at + $byte, 1)) ^ $with) } };
	push @cases, [ "$name ^ 1", $flip->(0, 1), $named ], [ "$name ^ 16", $flip->(0, 16), $named ];
	push @cases, [ "$name = ff", sub { substr(${ $_[0] }, $at, $bytes) = "\xff" x $bytes }, $named ];
	push @cases, [ "$name, high byte ^ 0x7f", $flip->($bytes - 1, 0x7f), $named ] if $bytes > 1;
}
# As before there were checksums: ranges alone.
my $float = sub { return pack 'f', $_[0] };
foreach my $case ([ dim => 8, pack('V', 0), pack('V', 1 << 30) ], [ m => 12, pack('v', 1), pack('v', 101) ], [ ef_construction => 14, pack('v', 3), "\xff\xff" ],
	[ codec => 16, chr 6, "\xff" ], [ scalar => 17, chr 2, chr 4, "\xff" ], [ metric => 18, chr 4, "\xff" ], [ linking => 4208, chr 1, chr 2 ],
	[ scored_base => 84, $float->('nan'), $float->('inf'), $float->(-1) ], [ scored_slope => 88, $float->('nan'), $float->('inf'), $float->(-1) ],
	[ built_nodes => 96, pack('Q<', 0xffffffff), "\xff" x 8 ], [ model_bytes => 36, pack('V', 1 << 31) ], [ model_first => 40, "\xff" x 4 ])
{
	my ($name, $offset, @values) = @$case;
	foreach my $bytes (@values)
	{
		push @cases, [ "$name = " . unpack('H*', $bytes) . ' without checksum',
			sub { substr(${ $_[0] }, $begin + $offset, length $bytes) = $bytes; substr(${ $_[0] }, $begin + 4212, 8) = "\0" x 8 }, 1 ];
	}
}
push @cases, [ 'model', sub { my $block = unpack 'V', substr ${ $_[0] }, $begin + 40, 4; substr(${ $_[0] }, $block * $page + $begin + 9, 1) ^= "\x10" }, 1 ];
push @cases, [ 'two buckets for each other', sub {
	my $at = unpack('V', substr ${ $_[0] }, $begin + 112, 4) * $page + $begin;
	substr(${ $_[0] }, $at, 8) = pack 'VV', reverse unpack 'VV', substr ${ $_[0] }, $at, 8 }, 1, qr/another one's place in the directory/ ];
push @cases, [ 'a heap tuple beyond the table', sub { substr(${ $_[0] }, $page + $begin + 8, 2) = pack 'v', 3 }, 1, qr/is not in the table/ ];

push @cases, [ 'nothing', sub { }, 0, qr/^$/ ];

my $node = PostgreSQL::Test::Cluster->new('meta');
my ($help) = run_command([ 'initdb', '--help' ]);
$node->init(extra => [ $help =~ /--no-data-checksums/ ? '--no-data-checksums' : () ]);    # initdb's from version 18 on
$node->append_conf('postgresql.conf', "autovacuum = off\nfsync = off\nrestart_after_crash = off\nvectorkv.build_seed = 1\nmax_parallel_maintenance_workers = 0\n");
$node->start;
my $make = join '', map { "CREATE TABLE t$_ AS SELECT * FROM rows; CREATE INDEX i$_ ON t$_ USING hnsw (e vector_l2_ops) WITH (m = 4, ef_construction = 8, codec = lvq4x8); DELETE FROM t$_ WHERE id < 20;\n" } 0 .. $#cases;
$node->safe_psql('postgres', "CREATE EXTENSION vector; CREATE TABLE rows AS SELECT i AS id, ARRAY[sin(i), cos(i * 1.7), sin(i * 0.3), i % 7]::vector(4) AS e FROM generate_series(1, 700) i;\n$make CHECKPOINT");
my %path = split /[|\n]/, $node->safe_psql('postgres', "SELECT relname, pg_relation_filepath(oid) FROM pg_class WHERE relname ~ '^i[0-9]+\$'");
$node->stop;
foreach my $i (0 .. $#cases)
{
	my $file = $node->data_dir . '/' . $path{"i$i"};
	my $bytes = slurp_file($file);
	$cases[$i][1]->(\$bytes);
	open my $handle, '>:raw', $file or die "$file: $!";
	print $handle $bytes;
	close $handle;
}
$node->start;

my $run = join "\n", '\set VERBOSITY verbose', "SET statement_timeout = '20s'; SET enable_seqscan = off; SET client_min_messages = error;", map {
	my $search = "SELECT count(*) FROM (SELECT id FROM t$_ ORDER BY e <-> '[0,1,0,1]' LIMIT 5) x;";
	("\\warn case $_", "\\o /dev/null", $search, '\o', '\warn check', "SELECT 'problem $_: ' || problem FROM hnsw_check('i$_', heap_all => true, searches => true);",
		'\warn write', "\\o /dev/null", "INSERT INTO t$_ SELECT 1000 + i, ARRAY[i, 1, 2, 3]::vector(4) FROM generate_series(1, 3) i;", "VACUUM (INDEX_CLEANUP ON) t$_;", $search, '\o')
} 0 .. $#cases;
my ($out, $err) = ('', '');
$node->psql('postgres', $run, stdout => \$out, stderr => \$err, on_error_stop => 0);
my (undef, @said) = split /^case \d+\n/m, $err;
is(scalar @said, scalar @cases, 'the server was up to the end');
foreach my $i (0 .. $#said)
{
	my ($name, undef, $named, $wanted) = @{ $cases[$i] };
	my @errors = $said[$i] =~ /(?:ERROR|FATAL|PANIC):\s+(\w{5}: .*)/g;
	# What PostgreSQL itself says when it follows an address out of the table.
	@errors = grep { !/^(?:58P01|XX000|XX001): could not (?:open|read) / } @errors if $name =~ /beyond the table/;
	my @other = grep { !/^XX002: index "i$i" .*(?:block|version)/ } @errors;
	is("@other", '', "$name: nothing but corruption, with its block");
	# What a search misses it misses in any index of so few links.
	my $problems = join ' ', grep { !/^a search for its own vector/ } $out =~ /^problem $i: (.*)/mg;
	ok(@errors || $problems, "$name: it is named") if $named;
	like($problems, $wanted, "$name: hnsw_check says what it is") if $wanted;
}
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|was terminated/, 'no backend died');
done_testing();
