# What README.md and docs/*.md print can be typed: the blocks of SQL, in order, in one session on a fresh database, end without an error.
# Blocks that show what something looks like are marked "sql fragment".
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use VectorKV;

my $root = "$FindBin::RealBin/../..";
my $node = new_node('documents');
my $session = '';
my $blocks = 0;
$node->safe_psql('postgres', 'CREATE DATABASE reader TEMPLATE template0');
foreach my $document ('README.md', 'docs/hnsw.md', 'docs/kv.md', 'docs/gpu.md')
{
	my $text = slurp_file("$root/$document");
	while ($text =~ /^```sql\n(.*?)^```$/gsm)
	{
		++$blocks;
		my $line = 1 + (substr($text, 0, $-[1]) =~ tr/\n//);
		$session .= "\\echo $document:$line\n$1\n";
	}
	unlike($text, qr/^```\n(?:CREATE|SELECT|ALTER|INSERT) /m, "$document: SQL is marked as such");
}
cmp_ok($blocks, '>=', 12, "$blocks blocks of SQL");
my ($status, $out, $err) = $node->psql('reader', $session, on_error_stop => 1);
is($status, 0, 'all of them run') or diag('after ' . (split /\n/, join "\n", grep { /^\S+\.md:\d+$/ } split /\n/, $out)[-1] . ": $err");

# What is typed does what the comments beside it say.
is($node->safe_psql('reader', "SELECT count(*) FROM pg_index JOIN pg_class ON oid = indexrelid WHERE relam = (SELECT oid FROM pg_am WHERE amname = 'hnsw')"), '2', 'the indexes of the README are there');
is($node->safe_psql('reader', "SELECT string_agg(kv.length('chat', seq)::text, ' ' ORDER BY seq) FROM chat"), '200 100 200', 'and its sequences');
my @recall = $out =~ /^([01]\.\d+)$/gm;
cmp_ok($recall[-1] // 0, '>', 0.9, 'the recall of docs/hnsw.md is one');

done_testing();
