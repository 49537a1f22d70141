# What the tests of KV caches share: the sample of test/data/kv_sample on the server and here, and a model of what a cache must hold.
# A model is a hash: sequence => { tokens => numbers of the sample's tokens, lossy => whether a codec other than f16 was in between }.
# Its entries are never changed, only replaced, so that a copy of the hash is a state to go back to.
package KVCache;

use strict;
use warnings;
use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename qw(dirname);
use File::Temp qw(tempfile);
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use VectorKV;

our @EXPORT = qw(kv_node load_kv_sample create_cache ok_cache ok_contents stored difference random_work start_client finish_client attend_all
  sample_part);

my $folder = abs_path(dirname(__FILE__) . '/../../data/kv_sample');
our ($LAYERS, $Q_HEADS, $KV_HEADS, $TOKENS, $DIM) = (2, 9, 3, 1024, 64);
my %sample = (k => slurp_file("$folder/k_post.f16"), v => slurp_file("$folder/v.f16"));

# A started server with both extensions and the sample.
sub kv_node
{
	my ($name, %param) = @_;
	my $node = new_node($name, %param);
	$node->safe_psql('postgres', 'CREATE EXTENSION vectorkv');
	load_kv_sample($node);
	return $node;
}

# Table kv_sample (name, value): k_post, k_pre, v, q, out; functions k and v give tokens of it, q the queries of a layer.
sub load_kv_sample
{
	my ($node) = @_;
	$node->safe_psql('postgres', <<"SQL");
CREATE TEMP TABLE stage (name text, dtype text, shape int[], data bytea);
COPY stage FROM PROGRAM 'python3 $folder/kv_sample.py' WITH (FORMAT binary);
CREATE TABLE kv_sample (name text PRIMARY KEY, value kv.tensor NOT NULL);
INSERT INTO kv_sample SELECT name, kv.tensor(data, shape, dtype) FROM stage;
CREATE FUNCTION k(first int, count int) RETURNS kv.tensor LANGUAGE sql STABLE
	AS 'SELECT kv.slice(value, 2, first, count) FROM public.kv_sample WHERE name = ''k_post''';
CREATE FUNCTION v(first int, count int) RETURNS kv.tensor LANGUAGE sql STABLE
	AS 'SELECT kv.slice(value, 2, first, count) FROM public.kv_sample WHERE name = ''v''';
-- The queries of a layer: [1, q_heads, 16, head_dim].
CREATE FUNCTION q(layer int) RETURNS kv.tensor LANGUAGE sql STABLE
	AS 'SELECT kv.slice(value, 0, layer, 1) FROM public.kv_sample WHERE name = ''q''';
-- The same of one position, for a batch: [batch, q_heads, head_dim].
CREATE FUNCTION q_batch(layer int, batch int) RETURNS kv.tensor LANGUAGE plpgsql STABLE AS \$\$
DECLARE
	one kv.tensor := kv.reshape(kv.slice(q(layer), 2, 15, 1), ARRAY[1, $Q_HEADS, $DIM]);
	many kv.tensor := one;
BEGIN
	FOR i IN 2 .. batch LOOP many := kv.concat(many, one, 0); END LOOP;
	RETURN many;
END \$\$;
GRANT SELECT ON kv_sample TO PUBLIC;
SQL
	return;
}

# A cache of the sample's geometry; options as in SQL.
sub create_cache
{
	my ($node, $name, $options) = @_;
	$options = $options ? ", $options" : '';
	$node->safe_psql('postgres', "SELECT kv.create_cache('$name', $LAYERS, $Q_HEADS, $KV_HEADS, $DIM$options)");
	return;
}

# kv.check_cache finds nothing.
sub ok_cache
{
	my ($node, $cache, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($node->safe_psql('postgres', "SELECT * FROM kv.check_cache('$cache') LIMIT 5"), '', $name // "$cache is sound");
}

# The attention of each sequence's last position in each layer, as text; the same text means the same answers.
sub attend_all
{
	my ($node, $cache, $settings) = @_;
	$settings = $settings ? "$settings;" : '';
	return $node->safe_psql('postgres', "$settings SELECT seq, layer, kv.attend('$cache', ARRAY[seq], layer, q_batch(layer, 1)) "
		  . "FROM $cache, generate_series(0, $LAYERS - 1) layer ORDER BY seq, layer");
}

# Bytes of the sample's tokens: part k or v of a layer, [kv_heads, tokens, dim] halves.
sub sample_part
{
	my ($part, $layer, $tokens) = @_;
	my ($bytes, $out) = (2 * $DIM, '');
	foreach my $head (0 .. $KV_HEADS - 1)
	{
		my $base = ($layer * $KV_HEADS + $head) * $TOKENS;
		$out .= join '', map { substr $sample{$part}, ($base + $_) * $bytes, $bytes } @$tokens;
	}
	return $out;
}

# The number of each half, by its bits.
my @halves;

sub half_values
{
	@halves = map
	{
		my ($sign, $exponent, $fraction) = ($_ >> 15, ($_ >> 10) & 31, $_ & 1023);
		my $size = $exponent == 31 ? 9**9**9 : $exponent ? (1 + $fraction / 1024) * 2**($exponent - 15) : $fraction * 2**-24;
		$sign ? -$size : $size;
	} 0 .. 65535 if !@halves;
	return @halves[ unpack 'v*', $_[0] ];
}

# The largest mean of a channel over 32 tokens of the sample that follow each other: what a tile may take off its tokens before it rounds.
my %mean;

sub largest_mean
{
	my ($part, $layer, $head) = @_;
	return $mean{$part}{$layer}{$head} //= do
	{
		my $largest = 0;
		foreach my $first (map { 32 * $_ } 0 .. $TOKENS / 32 - 1)
		{
			my $base = (($layer * $KV_HEADS + $head) * $TOKENS + $first) * 2 * $DIM;
			my @values = half_values(substr $sample{$part}, $base, 32 * 2 * $DIM);
			foreach my $channel (0 .. $DIM - 1)
			{
				my $sum = 0;
				$sum += $values[ $_ * $DIM + $channel ] foreach 0 .. 31;
				$largest = abs($sum) / 32 if abs($sum) / 32 > $largest;
			}
		}
		$largest;
	};
}

# A token's row of the sample, and what rounding to 8 bits, twice, may do to it, or to what is left of it without a tile's means.
my %row;

sub row_and_bound
{
	my ($part, $layer, $head, $token) = @_;
	return $row{$part}[$layer][$head][$token] //= do
	{
		my @values = half_values(substr $sample{$part}, (($layer * $KV_HEADS + $head) * $TOKENS + $token) * 2 * $DIM, 2 * $DIM);
		my $largest = 0;
		foreach (@values) { $largest = abs if abs > $largest; }
		[ \@values, 0.011 * ($largest + largest_mean($part, $layer, $head)) ];
	};
}

# Whether each row of DIM halves is as near to its token's as rounding leaves it.
sub is_near
{
	my ($got, $part, $layer, $tokens) = @_;
	my $at = 0;
	foreach my $head (0 .. $KV_HEADS - 1)
	{
		foreach my $token (@$tokens)
		{
			my ($values, $bound) = @{ row_and_bound($part, $layer, $head, $token) };
			my $number = 0;
			foreach (half_values(substr $got, $at, 2 * $DIM)) { return 0 if abs($_ - $values->[ $number++ ]) > $bound; }
			$at += 2 * $DIM;
		}
	}
	return 1;
}

# What caches hold: cache => sequence => { length, rows => keys and values of each layer, in hex }, read in one session.
sub stored
{
	my ($node, $caches, $only) = @_;
	my %stored = map { $_ => {} } @$caches;
	my $where = $only ? 'WHERE seq IN (' . join(', ', @$only) . ')' : '';
	my $sql = join '', map
	{
		"SELECT '$_', seq, n, layer, CASE WHEN n > 0 THEN (SELECT encode(kv.bytes(f.k), 'hex') || '|' || encode(kv.bytes(f.v), 'hex') "
		  . "FROM kv.fetch('$_', seq, layer, 0, n) f) END FROM (SELECT seq, kv.length('$_', seq) AS n FROM $_ $where OFFSET 0) s, "
		  . "generate_series(0, $LAYERS - 1) layer;\n"
	} @$caches;
	foreach (split /\n/, $node->safe_psql('postgres', $sql))
	{
		my ($cache, $seq, $length, $layer, @bytes) = split /\|/;
		$stored{$cache}{$seq}{length} = $length;
		$stored{$cache}{$seq}{rows}[$layer] = \@bytes;
	}
	return \%stored;
}

# What of the cache is not as the model says, as text; empty when nothing is.  Sequences that the model says nothing of must not be
# there; only => a list of sequences looks at those alone, prefix => 1 lets the newest tokens be missing, stored => what stored has read.
sub difference
{
	my ($node, $cache, $model, %param) = @_;
	my $there = ($param{stored} // stored($node, [$cache], $param{only}))->{$cache};
	my %look = map { $_ => 1 } $param{only} ? @{ $param{only} } : (keys %$there, keys %$model);
	foreach my $seq (sort { $a <=> $b } keys %look)
	{
		my $entry = $model->{$seq};
		return "sequence $seq should not be there" if !$entry && $there->{$seq};
		next if !$entry;
		my $tokens = $entry->{tokens};
		return "sequence $seq is missing" if !$there->{$seq};
		my $length = $there->{$seq}{length};
		$tokens = [ @{$tokens}[ 0 .. $length - 1 ] ] if $param{prefix} && $length < @$tokens;
		return "sequence $seq has $length tokens, not " . @$tokens if $length != @$tokens;
		next if !@$tokens;
		foreach my $layer (0 .. $LAYERS - 1)
		{
			my ($k, $v) = map { pack 'H*', $_ } @{ $there->{$seq}{rows}[$layer] };
			foreach my $part ([k => $k], [v => $v])
			{
				my $wanted = sample_part($part->[0], $layer, $tokens);
				next if $part->[1] eq $wanted;
				next if $entry->{lossy} && length($part->[1]) == length($wanted) && is_near($part->[1], $part->[0], $layer, $tokens);
				my $at = 0;
				$at++ while $at < length($wanted) && substr($part->[1], $at, 2) eq substr($wanted, $at, 2);
				return sprintf('sequence %d, layer %d: %s differs at token %d of %d', $seq, $layer, $part->[0], ($at / 2 / $DIM) % @$tokens, scalar @$tokens);
			}
		}
	}
	return '';
}

sub ok_contents
{
	my ($node, $cache, $model, $name, %param) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is(difference($node, $cache, $model, %param), '', $name);
}

# One random operation on sequences first .. first + 4; returns SQL and the state after it.  Recodes are among them when lossy.
sub random_operation
{
	my ($cache, $model, $first, $lossy) = @_;
	my %next = %$model;
	my $seq = $first + int rand 5;
	my $entry = $model->{$seq};
	my $tokens = $entry ? $entry->{tokens} : [];
	my $dice = rand 100;
	if ($entry && (@$tokens > 900 || $dice < 8))
	{
		my $length = int rand(@$tokens + 1);
		$next{$seq} = { %$entry, tokens => [ @{$tokens}[ 0 .. $length - 1 ] ] };
		return ("SELECT kv.truncate('$cache', $seq, $length)", \%next);
	}
	if ($entry && $dice < 16)
	{
		my ($to) = grep { !$model->{$_} } $first .. $first + 4;
		if (defined $to)
		{
			my $length = int rand(@$tokens + 1);
			$next{$to} = { %$entry, tokens => [ @{$tokens}[ 0 .. $length - 1 ] ] };
			return ("SELECT kv.fork('$cache', $seq, $to, $length)", \%next);
		}
		delete $next{$seq};
		return ("SELECT kv.drop_sequence('$cache', $seq)", \%next);
	}
	return ("SELECT kv.seal('$cache', $seq)", \%next) if $entry && $dice < 22;
	if ($entry && $dice < 28 && $lossy)
	{
		return ("SELECT kv.recode('$cache', $seq, '" . (rand() < 0.5 ? 'int8' : 'f16') . "')", \%next);
	}
	my $size = rand 100;
	my $count = $size < 60 ? 1 : $size < 85 ? 2 + int rand 40 : $size < 97 ? 40 + int rand 250 : 300 + int rand 500;
	my $from = int rand($TOKENS - $count + 1);
	$next{$seq} = { lossy => $lossy, tokens => [ @$tokens, $from .. $from + $count - 1 ] };
	return ("SELECT kv.append('$cache', $seq, k($from, $count), v($from, $count))", \%next);
}

# Random transactions on a cache: each is { sql, model } with the state after it; some hold several operations, some roll back.
# lossy => 1 is for caches with other codecs than f16, and has recodes among them.
sub random_work
{
	my ($cache, $model, $first, $count, %param) = @_;
	my @work;
	foreach my $number (1 .. $count)
	{
		my ($sql, $state) = ('', $model);
		my $operations = rand() < 0.7 ? 1 : 2 + int rand 4;
		foreach (1 .. $operations)
		{
			my ($statement, $next) = random_operation($cache, $state, $first, $param{lossy} // 0);
			$sql .= "$statement;\n";
			$state = $next;
		}
		my $keep = $operations == 1 || rand() < 0.8;
		$sql = "BEGIN;\n$sql" . ($keep ? 'COMMIT' : 'ROLLBACK') . ";\n" if $operations > 1;
		$model = $state if $keep;
		push @work, { sql => $sql, model => $model };
	}
	return \@work;
}

# A psql that works in the background; finish_client waits, and returns how many transactions were acknowledged and what went wrong.
sub start_client
{
	my ($node, $work) = @_;
	my ($handle, $file) = tempfile(UNLINK => 1);
	foreach my $number (1 .. @$work) { print $handle "$work->[$number - 1]{sql}\\echo done $number\n"; }
	close $handle;
	my $client = { out => '', err => '' };
	$client->{handle} = IPC::Run::start([ 'psql', '-X', '-A', '-t', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $file, '-d', $node->connstr('postgres') ],
		'<', \undef, '>', \$client->{out}, '2>', \$client->{err});
	return $client;
}

sub finish_client
{
	my ($client) = @_;
	eval { $client->{handle}->finish; };
	my @done = $client->{out} =~ /^done (\d+)$/mg;
	return (@done ? $done[-1] : 0, $client->{err});
}

1;
