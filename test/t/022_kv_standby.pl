# A streaming standby of KV caches gives its primary's answers bit for bit; of a cache with an unlogged tail it has the sealed tokens and
# says so; promoted, it goes on.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Session;
use Test::More;
use KVCache;
use VectorKV;

srand(20240712);
my $primary = kv_node('kv_primary', streaming => 1);
$primary->backup('base');
my $standby = Session::Node->new('kv_standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

create_cache($primary, 'chat', "codec => 'int8'");
create_cache($primary, 'exact', "codec => 'f16'");
create_cache($primary, 'loose', "codec => 'int8', tail => 'unlogged', tail_tokens => 32");
my $model = {};

sub same_answers
{
	my ($name) = @_;
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));
	foreach my $cache (qw(chat exact))
	{
		my $answers = attend_all($primary, $cache);
		isnt($answers, '', "$name: $cache has answers");
		is(attend_all($standby, $cache), $answers, "$name: $cache, the same answers");
		ok_cache($standby, $cache, "$name: $cache is sound on the standby");
	}
	ok_contents($standby, 'exact', $model, "$name: the same tokens");
	return;
}

sub work
{
	my ($count) = @_;
	my $work = random_work('exact', $model, 0, $count);
	my ($done, $error) = finish_client(start_client($primary, $work));
	is($error, '', 'the primary works');
	$model = $work->[ $done - 1 ]{model};
	return;
}

foreach my $seq (1 .. 3) { $primary->safe_psql('postgres', "SELECT kv.append('chat', $seq, k(0, 100 * $seq), v(0, 100 * $seq))"); }
work(60);
same_answers('appends');
$primary->safe_psql('postgres', "SELECT kv.fork('chat', 3, 4, 250); SELECT kv.truncate('chat', 3, 77); SELECT kv.append('chat', 4, k(9, 1), v(9, 1)); "
	  . "SELECT kv.recode('chat', 2, 'int4'); SELECT kv.drop_sequence('chat', 1)");
work(60);
$primary->safe_psql('postgres', "VACUUM chat, chat_sealed, chat_tail, exact, exact_sealed, exact_tail");
same_answers('forks and vacuum');

$primary->safe_psql('postgres', "SELECT kv.append('loose', 7, k(0, 300), v(0, 300))");
my ($length, $sealed) = split /\|/, $primary->safe_psql('postgres', "SELECT kv.length('loose', 7), sealed FROM loose WHERE seq = 7");
is($length, '300', 'the primary has the unlogged tail');
cmp_ok($sealed, '>', 200, 'and most of it sealed');
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));
is($standby->safe_psql('postgres', "SELECT kv.length('loose', 7)"), $sealed, 'the standby says what it has: the sealed tokens');
ok_cache($standby, 'loose', 'sound on the standby, whose tail is not there');
my $attend = "SELECT kv.attend('loose', '{7}', 1, q_batch(1, 1))";
my $there = $standby->safe_psql('postgres', $attend);
isnt($there, $primary->safe_psql('postgres', $attend), 'attention on the standby lacks the tail');
is($there, $primary->safe_psql('postgres', "SELECT kv.truncate('loose', 7, $sealed); $attend") =~ s/^\d+\n//r, 'and is that of the sealed tokens');
foreach my $call ("append('chat', 2, k(0, 1), v(0, 1))", "append('chat', 99, k(0, 1), v(0, 1))", "append('loose', 7, k(0, 1), v(0, 1))", "seal('chat', 2)",
	"truncate('chat', 2, 1)", "fork('chat', 2, 99)", "recode('chat', 2, 'int8')", "drop_sequence('chat', 2)", "create_cache('more', 1, 1, 1, 16)",
	"drop_cache('chat')")
{
	like(sqlstate_of($standby, "SELECT kv.$call"), qr/^25006: /, "a standby refuses kv.$call");
}

# A session of the standby keeps a tail, and hears of rows that are changed by hand on the primary.
{
	my $session = $standby->background_psql('postgres');
	my $asked = "SELECT kv.attend('chat', '{500}', 0, q_batch(0, 1))";
	$primary->safe_psql('postgres', "SELECT kv.append('chat', 500, k(0, 100), v(0, 100))");
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));
	my $before = $session->query($asked);
	is($session->query($asked), $before, 'a session of the standby attends');
	my $row = "extent = (SELECT kv.own_extent(extents) FROM chat WHERE seq = 500) AND chunk = 0 AND pos =";
	$primary->safe_psql('postgres', "UPDATE chat_tail SET kv = (SELECT kv FROM chat_tail WHERE $row 50) WHERE $row 20");
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));
	my $after = $standby->safe_psql('postgres', $asked);
	isnt($after, $before, 'another token is another answer');
	is($session->query($asked), $after, 'and the session that kept the tail gives it');
	$session->quit;
}

$primary->stop;
$standby->promote;
my ($done, $error) = finish_client(start_client($standby, my $work = random_work('exact', $model, 0, 30)));
is($error, '', 'promoted, it takes tokens');
ok_contents($standby, 'exact', $work->[-1]{model}, 'and has them');
is($standby->safe_psql('postgres', "SELECT kv.append('loose', 7, k(0, 40), v(0, 40))"), $sealed + 40, 'a sequence whose tail stayed behind goes on');
ok_cache($standby, $_, "promoted: $_ is sound") foreach qw(chat exact loose);

done_testing();
