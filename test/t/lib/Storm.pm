# Clients of a storm: each makes transactions while it runs, as many as the server takes, and knows what the server acknowledged.
# A client is a hash: kind (vectors, in a table; cache, in a cache), first (the first of its rows or sequences), model (what was
# acknowledged: row => number of the sample's row; sequence => see KVCache), queue (what psql was given since, the oldest first).
package Storm;

use strict;
use warnings;
use Exporter 'import';
use File::Temp qw(tempfile);
use IO::Handle;
use IPC::Run;
use KVCache;

our @EXPORT = qw(start_feed feed finish_feed state_under_way stored_rows row_difference start_script finish_script);

my $BATCH = 60;    # transactions made at once
my $OWN = 100_000_000;    # rows from a client's first one that are its own

# A random transaction on a table of vectors, and how it changes the model that it is made from: { sql, changes }.
sub vector_transaction
{
	my ($client, $model) = @_;
	my $table = $client->{table};
	my @ids = sort { $a <=> $b } keys %$model;
	my ($dice, $id, $row) = (rand 100, @ids ? $ids[ rand @ids ] : 0, int rand 4000);
	my $value = "(SELECT embedding::$client->{type} FROM sample WHERE id = $row)";
	if (@ids < 100 || ($dice < 50 && @ids < 600))
	{
		$id = $client->{first} + $client->{inserted}++;
		return { sql => "INSERT INTO $table SELECT $id, $row, $value;\n", changes => { $id => $row } };
	}
	return { sql => "UPDATE $table SET embedding = $value, body = $row WHERE id = $id;\n", changes => { $id => $row } } if $dice < 65;
	return { sql => "UPDATE $table SET body = body WHERE id = $id;\n", changes => {} } if $dice < 75;
	if ($dice < 80)
	{
		my $last = $client->{first} + $OWN - 1;
		return { sql => "BEGIN;\nDELETE FROM $table WHERE id BETWEEN $client->{first} AND $last;\nROLLBACK;\n", changes => {} };
	}
	my @gone = grep { $_ % 7 == $id % 7 && $_ <= $id } @ids;
	@gone = @gone[ 0 .. 9 ] if @gone > 10;
	return { sql => "DELETE FROM $table WHERE id IN (" . join(', ', @gone) . ");\n", changes => { map { $_ => undef } @gone } };
}

# The model after a transaction: the one given, changed, or another.
sub advance
{
	my ($model, $transaction) = @_;
	return $transaction->{model} if $transaction->{model};
	while (my ($key, $value) = each %{ $transaction->{changes} })
	{
		if (defined $value) { $model->{$key} = $value; }
		else { delete $model->{$key}; }
	}
	return $model;
}

# Makes transactions and hands them to the client's psql. They follow from the seed and from what the client had when it was started.
sub make_batch
{
	my ($client) = @_;
	srand($client->{seed} + $client->{made});
	my $text = '';
	foreach (1 .. $BATCH)
	{
		my $transaction = $client->{kind} eq 'vectors' ? vector_transaction($client, $client->{tip})
		  : random_work($client->{cache}, $client->{tip}, $client->{first}, 1, lossy => $client->{lossy})->[0];
		$client->{tip} = advance($client->{tip}, $transaction);
		push @{ $client->{queue} }, $transaction;
		$text .= $transaction->{sql} . '\\warn done ' . ++$client->{made} . "\n";
	}
	$client->{unsent} .= $text;
	return;
}

# A psql that takes what it is given. It tells what is done on stderr, where it waits for no buffer to be full, and into a file, of which
# nothing is lost when it is stopped.
sub start_feed
{
	my ($node, $client, $seed) = @_;
	my ($handle, $file) = tempfile(UNLINK => 0);
	@{$client}{qw(seed made done queue errors rest unsent log file input)} = ($seed, 0, 0, [], '', '', '', $handle, $file, IO::Handle->new);
	$client->{tip} = { %{ $client->{model} } };
	$client->{run} = IPC::Run::start([ 'psql', '-X', '-A', '-t', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') ],
		'<pipe', $client->{input}, '>', '/dev/null', '2>', $file);
	return;
}

# Reads what is done, and gives more when there is little left: as much as the pipe takes, which nobody waits for, and the rest later.
sub feed
{
	my ($client, $only_read) = @_;
	local $SIG{PIPE} = 'IGNORE';
	while (sysread $client->{log}, my $text, 65536) { $client->{rest} .= $text; }
	while ($client->{rest} =~ s/^(.*)\n//)
	{
		my $line = $1;
		if ($line !~ /^done (\d+)$/) { $client->{errors} .= "$line\n"; next; }
		die "done $1 after $client->{done}" if $1 != ++$client->{done};
		$client->{model} = advance($client->{model}, shift @{ $client->{queue} });
	}
	return if $only_read;
	make_batch($client) if @{ $client->{queue} } < $BATCH;
	my $sent = syswrite $client->{input}, $client->{unsent};
	# What a psql ended of is among its errors.
	die "a client's psql takes no statements: $!" if !defined $sent && !$!{EAGAIN} && !$!{EINTR} && !$!{EPIPE};
	substr $client->{unsent}, 0, $sent // 0, '';
	return;
}

# Waits for its end; returns how many transactions were acknowledged and what went wrong.
sub finish_feed
{
	my ($client) = @_;
	close $client->{input};
	eval { $client->{run}->finish; };
	feed($client, 1);
	$client->{errors} .= $client->{rest};
	close $client->{log};
	unlink $client->{file};
	return ($client->{done}, $client->{errors});
}

# The model after the transaction that was not acknowledged, and its SQL; nothing when there was none.
sub state_under_way
{
	my ($client) = @_;
	my $next = $client->{queue}[0] or return;
	return (advance({ %{ $client->{model} } }, $next), $next->{sql});
}

# Table => row => number of the sample's row that it holds, or what is wrong with it.
sub stored_rows
{
	my ($node, @tables) = @_;
	my %rows = map { $_->[0] => {} } @tables;
	my $sql = join '', map
	{
		"SELECT '$_->[0]', i.id, i.body || CASE WHEN i.embedding = s.embedding::$_->[1] THEN '' ELSE ', but not its vector' END "
		  . "FROM $_->[0] i LEFT JOIN sample s ON s.id = i.body;\n"
	} @tables;
	foreach (split /\n/, $node->safe_psql('postgres', "SET enable_indexscan = off; SET enable_bitmapscan = off; $sql"))
	{
		my ($table, $id, $row) = split /\|/;
		$rows{$table}{$id} = exists $rows{$table}{$id} ? "$row, and there twice" : $row;
	}
	return \%rows;
}

# What of the client's rows is not as the model says, as text; empty when nothing is.
sub row_difference
{
	my ($client, $there, $model) = @_;
	foreach (sort { $a <=> $b } keys %$model)
	{
		return "row $_ is lost" if !exists $there->{$_};
		return "row $_ is of $there->{$_}, not $model->{$_}" if $there->{$_} ne $model->{$_};
	}
	foreach (sort { $a <=> $b } keys %$there)
	{
		return "row $_ should not be there" if !exists $model->{$_} && $_ >= $client->{first} && $_ < $client->{first} + $OWN;
	}
	return '';
}

# Named statements in one psql in the background; finish_script returns name => output, and dies when one failed.
sub start_script
{
	my ($node, @parts) = @_;
	my ($handle, $file) = tempfile(UNLINK => 1);
	print $handle map { "\\echo == $_->[0]\n$_->[1];\n" } @parts;
	close $handle;
	my $run = { out => '', err => '' };
	# From a file: what is to go through a pipe goes when somebody pumps, and that is when the end is waited for.
	$run->{handle} = IPC::Run::start([ 'psql', '-X', '-A', '-t', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $file, '-d', $node->connstr('postgres') ],
		'<', \undef, '>', \$run->{out}, '2>', \$run->{err});
	return $run;
}

sub finish_script
{
	my ($run) = @_;
	$run->{handle}->finish or die "the checks failed: $run->{err}";
	my (%output, $name);
	foreach (split /\n/, $run->{out})
	{
		if (/^== (.*)/) { $name = $1; $output{$name} = ''; }
		else { $output{$name} .= "$_\n"; }
	}
	return \%output;
}

1;
