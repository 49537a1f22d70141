# How long a backend goes without looking for interrupts, in processor time of its own, which a busy machine does not change (poll_gap.c).
# What the kernel or a hypervisor does meanwhile may be counted as the backend's, once in a while; a loop that does not look is as long each
# time. So tests take the shortest of three counts.
package PollGap;

use strict;
use warnings;
use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(dirname);

our @EXPORT = qw(load_poll_gap shortest_gap);

my $source = abs_path(dirname(__FILE__)) . '/poll_gap.c';

# Makes the functions poll_gap_start, poll_gap_stop and poll_gap_cost; false where nothing can be compiled.
sub load_poll_gap
{
	my ($node) = @_;
	my $library = $node->basedir . '/poll_gap.so';
	chomp(my $include = `pg_config --includedir-server`);
	return 0 if system("cc -w -O1 -shared -fPIC -I'$include' -o '$library' '$source' -lrt 2>/dev/null");
	$node->safe_psql('postgres', join('; ', map { "CREATE FUNCTION poll_gap_$_->[0]() RETURNS $_->[1] LANGUAGE c AS '$library'" } [qw(start void)], [qw(stop text)], [qw(cost text)]));
	return 1;
}

# The shortest of three counts, or one of at most $most ms, of a call in a statement of its own, and what was printed. What comes first
# begins the session.
sub shortest_gap
{
	my ($node, $most, $begin, $call) = @_;
	my ($gap, $out);
	foreach my $attempt (1 .. 3)
	{
		$out = $node->safe_psql('postgres', "$begin; SELECT poll_gap_start(); SELECT $call IS NOT NULL; SELECT 'gap ' || poll_gap_stop()");
		my ($count) = $out =~ /^gap ([\d.]+)/m;
		$gap = $count if !defined $gap || $count < $gap;
		last if $gap <= $most;
	}
	return ($gap, $out);
}

1;
