# Logical replication carries a cache as the tables that it is: the subscriber makes the same cache, gets sequences, tiles and tail, gives
# the publisher's answers, and follows appends, forks, truncations and drops.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use KVCache;
use VectorKV;

srand(20240714);
my $publisher = kv_node('kv_publisher', streaming => 'logical');
my $subscriber = kv_node('kv_subscriber', streaming => 'logical');
create_cache($_, 'chat', "codec => 'int8', tail_tokens => 32") foreach $publisher, $subscriber;
$publisher->safe_psql('postgres', "SELECT kv.append('chat', seq, k(0, 150), v(0, 150)) FROM generate_series(1, 3) seq");
$publisher->safe_psql('postgres', 'CREATE PUBLICATION caches FOR TABLE chat, chat_sealed, chat_tail');
my $connection = $publisher->connstr . ' dbname=postgres';
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION copy CONNECTION '$connection' PUBLICATION caches");
$subscriber->wait_for_subscription_sync($publisher, 'copy');

sub same_answers
{
	my ($name) = @_;
	$publisher->wait_for_catchup('copy');
	my $answers = attend_all($publisher, 'chat');
	isnt($answers, '', "$name: there are answers");
	is(attend_all($subscriber, 'chat'), $answers, "$name: the same on the subscriber");
	ok_cache($subscriber, 'chat', "$name: the subscriber's cache is sound");
	return;
}

same_answers('the first copy');
my $work = random_work('chat', {}, 100, 60, lossy => 1);
my ($done, $error) = finish_client(start_client($publisher, $work));
is($error, '', 'the publisher works');
$publisher->safe_psql('postgres', "SELECT kv.fork('chat', 1, 10, 120); SELECT kv.truncate('chat', 2, 20); SELECT kv.drop_sequence('chat', 3)");
same_answers('changes');
my $next = $work->[-1]{model};
is(difference($subscriber, 'chat', $next, only => [ 100 .. 104 ]), '', 'the same tokens on the subscriber');

# The subscriber can go on alone.
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION copy');
is($subscriber->safe_psql('postgres', "SELECT kv.append('chat', 10, k(120, 100), v(120, 100))"), '220', 'its sequences take tokens');
ok_cache($subscriber, 'chat', 'sound at the end');

# A publication of all tables has kv.caches, too: a cache that both have made, and one that the publisher alone has, stop nothing.
$publisher->safe_psql('postgres', 'CREATE TABLE plain (id int PRIMARY KEY)');
$subscriber->safe_psql('postgres', 'CREATE TABLE plain (id int PRIMARY KEY)');
$publisher->safe_psql('postgres', 'CREATE PUBLICATION everything FOR ALL TABLES');
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION everything CONNECTION '$connection' PUBLICATION everything WITH (copy_data = off)");
$subscriber->wait_for_subscription_sync($publisher, 'everything');
create_cache($_, 'twice', "codec => 'int8'") foreach $subscriber, $publisher;
$publisher->safe_psql('postgres', "SELECT kv.append('twice', 1, k(0, 50), v(0, 50))");
$subscriber->safe_psql('postgres', 'ALTER SUBSCRIPTION everything REFRESH PUBLICATION');
$subscriber->wait_for_subscription_sync($publisher, 'everything');
create_cache($publisher, 'alone', "codec => 'int8'");
$publisher->safe_psql('postgres', 'INSERT INTO plain VALUES (1)');
$publisher->wait_for_catchup('everything');
is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM plain'), '1', 'replication of all tables goes on');
is($subscriber->safe_psql('postgres', 'SELECT string_agg(cache::text, $$ $$ ORDER BY cache::text) FROM kv.caches'), 'chat twice', 'the caches are those that were made there');
is(attend_all($subscriber, 'twice'), attend_all($publisher, 'twice'), 'and answer as the publisher does');

done_testing();
