# A node whose sessions in the background (background_psql) say what they waited for when they wait in vain.  PostgreSQL's give up three
# minutes after they were started, whatever they do by then, and name nothing; here each statement has its own three minutes.
package Session;

use strict;
use warnings;
use PostgreSQL::Test::BackgroundPsql;
use PostgreSQL::Test::Cluster;

our @ISA = ('PostgreSQL::Test::BackgroundPsql');

# A method of PostgreSQL's in the caller's context; what it dies of, with what it waited for.
sub waits
{
	my ($self, $method, $what, @rest) = @_;
	my $call = PostgreSQL::Test::BackgroundPsql->can($method);
	my $list = wantarray;
	my @answer = eval { $list ? $self->$call(@rest) : scalar $self->$call(@rest) };
	chomp(my $error = $@);
	die "$error: while a session waited for $what; it said '$self->{stdout}' and '$self->{stderr}'" if $error;
	return $list ? @answer : $answer[0];
}

sub query { my ($self, $query) = @_; return $self->waits('query', "the end of: $query", $query); }

sub query_until
{
	my ($self, $until, $query) = @_;
	return $self->waits('query_until', "$until in: $query", $until, $query);
}

sub quit
{
	my ($self) = @_;
	$self->{timeout}->start;
	return $self->waits('quit', 'its end');
}

package Session::Node;

our @ISA = ('PostgreSQL::Test::Cluster');

sub background_psql
{
	my ($self, @rest) = @_;
	my $session = bless $self->SUPER::background_psql(@rest), 'Session';
	$session->set_query_timer_restart;
	return $session;
}

# PostgreSQL's says what it waited for, and the test goes on; where nobody looks at the result it ends there.
sub poll_query_until
{
	my ($self, $database, $query, @rest) = @_;
	my $came = $self->SUPER::poll_query_until($database, $query, @rest);
	die "waited in vain for: $query" if !$came && !defined wantarray;
	return $came;
}

1;
