# Graphs drawn by hand, for tests of what insertions do to each other: tables of a few rows with an index whose lists on level 0 are given,
# and two sessions that insert at once, of which one stops at a place where it may be overtaken.
package DrawnGraph;

use strict;
use warnings;
use Exporter 'import';
use File::Copy qw(copy);
use PostgreSQL::Test::Cluster;

our @EXPORT = qw(draw_tables make_race holds_link);

my ($size, $code, $links) = (56 + 16 + 16, 56, 56 + 16);    # of a node, and where its vector and its links are: vector(4), m = 2, no codec
my $per_page = int((8192 - 24 - 8) / $size);

sub vector_at { my ($x, $y) = @{ $_[0] }; return "[$x,$y,0,0]"; }

# Makes tables NAME1 to NAMEn, with indexes NAME1_idx and so on, for each name => { n, place, list, tall }.  place: name of a row => [x, y];
# list: name => names that it links to; tall: the row that is on level 1, too.  Rows are inserted into the first table; the others take its
# files.
sub draw_tables
{
	my ($node, %graphs) = @_;
	$node->safe_psql('postgres', <<'SQL');
SET client_min_messages = warning;
CREATE EXTENSION dblink;
CREATE TABLE seeds (v text, level int, seed int, PRIMARY KEY (v, level));
-- with which vectorkv.build_seed a row comes to be on a level
CREATE FUNCTION seed_for(value text, wanted int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	found int := (SELECT s.seed FROM seeds s WHERE s.v = value AND s.level = wanted);
BEGIN
	IF found IS NOT NULL THEN RETURN found; END IF;
	CREATE TEMPORARY TABLE IF NOT EXISTS alone (v vector(4));
	FOR seed IN 1 .. 1000 LOOP
		DROP INDEX IF EXISTS alone_idx;
		TRUNCATE alone;
		PERFORM set_config('vectorkv.build_seed', '1', true);
		CREATE INDEX alone_idx ON alone USING hnsw (v vector_l2_ops) WITH (m = 2, ef_construction = 16, codec = none);
		PERFORM set_config('vectorkv.build_seed', seed::text, true);
		INSERT INTO alone VALUES (value::vector);
		IF (SELECT levels FROM hnsw_info('alone_idx')) = wanted + 1 THEN
			INSERT INTO seeds VALUES (value, wanted, seed);
			RETURN seed;
		END IF;
	END LOOP;
	RAISE 'no seed puts % on level %', value, wanted;
END $$;
CREATE PROCEDURE draw(name text, n int, rows text[], tall text) LANGUAGE plpgsql AS $$
DECLARE
	seeds int[] := ARRAY(SELECT seed_for(row, (row = tall)::int) FROM unnest(rows) row);
BEGIN
	FOR i IN 1 .. n LOOP
		PERFORM set_config('vectorkv.build_seed', '1', true);
		EXECUTE format('CREATE TABLE %I (v vector(4))', name || i);
		EXECUTE format('CREATE INDEX %I ON %I USING hnsw (v vector_l2_ops) WITH (m = 2, ef_construction = 16, codec = none)', name || i || '_idx', name || i);
	END LOOP;
	FOR j IN 1 .. cardinality(rows) LOOP
		PERFORM set_config('vectorkv.build_seed', seeds[j]::text, true);
		EXECUTE format('INSERT INTO %I VALUES (%L)', name || 1, rows[j]);
	END LOOP;
END $$;
SQL
	my %files;
	foreach my $name (sort keys %graphs)
	{
		my ($n, $place, $tall) = @{ $graphs{$name} }{qw(n place tall)};
		my $rows = join ', ', map { "'" . vector_at($place->{$_}) . "'" } sort keys %$place;
		$node->safe_psql('postgres', "SET client_min_messages = warning; CALL draw('$name', $n, ARRAY[$rows], '" . vector_at($place->{$tall}) . "')");
		$files{$name} = [ map { [ map { $node->data_dir . "/$_" } split /\|/ ] } split /\n/, $node->safe_psql('postgres',
			"SELECT pg_relation_filepath(format('%I', '$name' || i)::regclass), pg_relation_filepath(format('%I_idx', '$name' || i)::regclass) FROM generate_series(1, $n) i") ];
	}
	$node->stop;
	foreach my $name (keys %graphs)
	{
		my ($first, @others) = @{ $files{$name} };
		draw_lists($first->[1], @{ $graphs{$name} }{qw(place list)});
		foreach my $other (@others) { copy($first->[$_], $other->[$_]) or die "$other->[$_]: $!" foreach 0, 1; }
	}
	$node->start;
	return;
}

sub draw_lists
{
	my ($file, $place, $list) = @_;
	open my $handle, '+<:raw', $file or die "$file: $!";
	for (my $block = 0; sysseek($handle, $block * 8192, 0) && sysread($handle, my $page, 8192) == 8192; $block++)
	{
		next unless ord(substr($page, 8192 - 4, 1)) == 3;    # nodes
		my %id;
		foreach my $slot (0 .. keys(%$place) - 1)
		{
			my $vector = substr($page, 24 + $slot * $size + $code, 16);
			my ($name) = grep { pack('f4', @{ $place->{$_} }, 0, 0) eq $vector } keys %$place;
			$id{$name} = $block * $per_page + $slot;
		}
		foreach my $name (keys %id)
		{
			my $at = 24 + ($id{$name} % $per_page) * $size;
			substr($page, $at + 52, 1) = chr(@{ $list->{$name} });
			substr($page, $at + $links, 4 * @{ $list->{$name} }) = pack 'L*', map { $id{$_} } @{ $list->{$name} };
		}
		sysseek($handle, $block * 8192, 0);
		syswrite($handle, $page);
	}
	close $handle;
	return;
}

# Whether the list of one row holds another, [x, y] both.
sub holds_link
{
	my ($file, @rows) = @_;
	my @wanted = map { pack('f4', @$_, 0, 0) } @rows;
	my (%list, %id);
	open my $handle, '<:raw', $file or die "$file: $!";
	for (my $block = 0; sysseek($handle, $block * 8192, 0) && sysread($handle, my $page, 8192) == 8192; $block++)
	{
		next unless ord(substr($page, 8192 - 4, 1)) == 3;
		foreach my $slot (0 .. $per_page - 1)
		{
			my $at = 24 + $slot * $size;
			my ($n, $flags) = unpack 'CC', substr($page, $at + 52, 2);
			next unless $flags;
			$list{ substr($page, $at + $code, 16) } = [ unpack "L$n", substr($page, $at + $links, 4 * $n) ];
			$id{ substr($page, $at + $code, 16) } = $block * $per_page + $slot;
		}
	}
	return $list{ $wanted[0] } && $id{ $wanted[1] } && grep { $_ == $id{ $wanted[1] } } @{ $list{ $wanted[0] } };
}

# Makes race(table, first, other, stop, fault): the session that inserts the first row, on level 1, stops at a call (vectorkv.wait_after), where
# another one inserts the other, on level 0.  If fault is not 0, that call of the first session fails.  And races(name, n, first, other, stop):
# in tables NAMEi, the first session stops at call i, until it is not overtaken any more; or, if stop is not 0, always there, and fails at each
# call behind, until it does not.
sub make_race
{
	my ($node) = @_;
	my $connection = 'host=' . $node->host . ' port=' . $node->port . ' dbname=postgres';
	$node->safe_psql('postgres', <<"SQL");
CREATE FUNCTION race(name text, first text, other text, stop int, fault int, OUT stopped boolean, OUT failed boolean) LANGUAGE plpgsql AS \$\$
DECLARE
	seed int := seed_for(first, 1);
	other_seed int := seed_for(other, 0);
BEGIN
	SET LOCAL client_min_messages = warning;
	PERFORM pg_advisory_lock(11);
	PERFORM dblink_connect('a', '$connection');
	IF 'b' = ANY (dblink_get_connections()) IS NOT TRUE THEN PERFORM dblink_connect('b', '$connection'); END IF;
	PERFORM dblink_exec('b', format('SET lock_timeout = 10000; SET vectorkv.build_seed = %s', other_seed));
	PERFORM dblink_exec('a', format('SET vectorkv.build_seed = %s; SET vectorkv.fault_after = %s; SET vectorkv.wait_after = %s', seed, fault, stop));
	PERFORM dblink_send_query('a', format('INSERT INTO %I VALUES (%L)', name, first));
	LOOP
		stopped := EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted);
		EXIT WHEN stopped OR dblink_is_busy('a') = 0;
		PERFORM pg_sleep(0.001);
	END LOOP;
	PERFORM dblink_exec('b', format('INSERT INTO %I VALUES (%L)', name, other));
	PERFORM pg_advisory_unlock(11);
	PERFORM FROM dblink_get_result('a', false) r(status text);
	failed := dblink_error_message('a') <> 'OK';
	PERFORM dblink_disconnect('a');
END \$\$;
CREATE FUNCTION races(name text, n int, first text, other text, stop int DEFAULT 0, OUT i int, OUT stopped boolean, OUT failed boolean) RETURNS SETOF record LANGUAGE plpgsql AS \$\$
BEGIN
	FOR number IN 1 .. n LOOP
		i := number;
		SELECT r.stopped, r.failed INTO stopped, failed
			FROM race(name || i, first, other, CASE stop WHEN 0 THEN i ELSE stop END, CASE stop WHEN 0 THEN 0 ELSE stop + i END) r;
		RETURN NEXT;
		EXIT WHEN NOT CASE stop WHEN 0 THEN stopped ELSE failed END;
	END LOOP;
END \$\$;
SQL
	return;
}

1;
