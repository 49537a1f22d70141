/*
 * A library that measures how long a backend goes without looking for interrupts, in processor time of its own, which a busy machine
 * does not change.  Loaded into a session, a timer asks for an interrupt again and again: it sets the flag that CHECK_FOR_INTERRUPTS
 * looks at, with nothing behind it, and measures how long the flag stays.
 *
 *     SELECT poll_gap_start();     SELECT poll_gap_stop();    -- the longest time, in ms; with the functions it was in, if long
 *
 * Of a vacuum whose cost is counted it also says how long nothing was added to the count, and how large the count became.
 *
 *     SELECT poll_gap_cost();                                 -- ms, and the count
 */
#define _GNU_SOURCE
#include "postgres.h"

#include <execinfo.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(poll_gap_start);
PG_FUNCTION_INFO_V1(poll_gap_stop);
PG_FUNCTION_INFO_V1(poll_gap_cost);

#define TICK_NS 1000000
#define FRAMES 40

static timer_t timer;
static volatile bool running;
static int64 asked;				/* when the flag was set; 0: it has been seen since */
static int64 longest;
static int64 counted,			/* when the count was last seen to change */
			uncounted;
static int	count,
			most;
static void *frames[FRAMES];
static int frame_count;

static int64
spent(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec * INT64CONST(1000000000) + t.tv_nsec;
}

static void
tick(int signal)
{
	int			saved = errno;
	int64		now = spent();

	if (asked != 0 && InterruptPending)
	{
		if (now - asked > longest)
		{
			longest = now - asked;
			frame_count = backtrace(frames, FRAMES);
		}
	}
	else
	{
		asked = now;
		InterruptPending = true;
	}
	if (!VacuumCostActive || counted == 0 || count != VacuumCostBalance)
		counted = VacuumCostActive ? now : 0;
	else if (now - counted > uncounted)
		uncounted = now - counted;
	count = VacuumCostBalance;
	if (count > most)
		most = count;
	errno = saved;
}

Datum
poll_gap_start(PG_FUNCTION_ARGS)
{
	struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID,.sigev_signo = SIGPROF};
	struct itimerspec each = {{0, TICK_NS}, {0, TICK_NS}};
	struct sigaction action = {.sa_handler = tick,.sa_flags = SA_RESTART};
	void	   *none[1];

	backtrace(none, 1);			/* it loads a library at its first call */
	event._sigev_un._tid = syscall(SYS_gettid);
	sigaction(SIGPROF, &action, NULL);
	if (!running && timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer) != 0)
		elog(ERROR, "no timer: %m");
	running = true;
	asked = longest = counted = uncounted = 0;
	most = 0;
	timer_settime(timer, 0, &each, NULL);
	PG_RETURN_VOID();
}

Datum
poll_gap_stop(PG_FUNCTION_ARGS)
{
	struct itimerspec none = {{0, 0}, {0, 0}};
	StringInfoData text;

	if (!running)
		elog(ERROR, "not started");
	timer_settime(timer, 0, &none, NULL);
	initStringInfo(&text);
	appendStringInfo(&text, "%.1f", longest / 1e6);
	if (longest > 10000000)
	{
		char	  **names = backtrace_symbols(frames, frame_count);

		for (int i = 2; names && i < frame_count; i++)
			appendStringInfo(&text, "\n  %s", names[i]);
		free(names);
	}
	PG_RETURN_TEXT_P(cstring_to_text(text.data));
}

Datum
poll_gap_cost(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(psprintf("%.1f %d", uncounted / 1e6, most)));
}
