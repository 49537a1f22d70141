/* A library that says which tables a statement reads, as extensions for audits do: a notice for each. */
#include "postgres.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "nodes/parsenodes.h"
#include "utils/lsyscache.h"

PG_MODULE_MAGIC;
void _PG_init(void);

#if PG_VERSION_NUM >= 160000
static bool
say_tables(List *range_table, List *permissions, bool raise)
#else
static bool
say_tables(List *range_table, bool raise)
#endif
{
	ListCell *cell;

	foreach(cell, range_table)
	{
		RangeTblEntry *entry = lfirst_node(RangeTblEntry, cell);

		if (entry->rtekind == RTE_RELATION)
			ereport(NOTICE, (errmsg("reads %s", get_rel_name(entry->relid))));
	}
	return true;
}

void
_PG_init(void)
{
	ExecutorCheckPerms_hook = say_tables;
}
