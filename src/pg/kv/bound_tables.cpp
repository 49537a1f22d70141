// See bound_tables.h. The hook is installed by the first that needs it. All frames hold trivial locals only.

#include "pg/kv/bound_tables.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/announce.h"
#include "pg/kv/nested_calls.h"

namespace vkv::kv {

namespace {

struct Bound {
    Oid tables[3];
    const char *cache_name, *text;
    Oid user;
    int depth;  // of triggers
};
constinit NestedCalls<Bound> bound;

planner_hook_type next_planner = nullptr;

bool is_of(const Bound *b, Oid relid)
{
    for (Oid table : b->tables)
        if (table == relid) return true;
    return false;
}

// A view is a subquery by now, which some versions name and others do not, but for what it holds.
void check_table(const Bound *b, const RangeTblEntry *entry)
{
    const bool names = entry->rtekind == RTE_RELATION || (entry->rtekind == RTE_SUBQUERY && OidIsValid(entry->relid));
    if (!names || is_of(b, entry->relid)) return;
    const char *name = get_rel_name(entry->relid);
    ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
            errmsg("the tables of cache \"%s\" were renamed while a call was under way", b->cache_name),
            name ? errdetail("A statement would have worked on table \"%s\".", name) : 0, errhint("Call the function again."));
}

// What the text names: not what row security has added to the entries.
bool check_tables(Node *node, void *context)
{
    if (!node) return false;
    if (!IsA(node, Query)) return compat::walk_expression(node, check_tables, context);
    auto *query = reinterpret_cast<Query *>(node);
    ListCell *cell;
    foreach (cell, query->rtable) {
        const auto *entry = lfirst_node(RangeTblEntry, cell);
        check_table(static_cast<const Bound *>(context), entry);
        if (entry->rtekind == RTE_SUBQUERY) check_tables(reinterpret_cast<Node *>(entry->subquery), context);
    }
    foreach (cell, query->cteList) check_tables(lfirst_node(CommonTableExpr, cell)->ctequery, context);
    return compat::walk_expression(reinterpret_cast<Node *>(query->jointree), check_tables, context) ||
           compat::walk_expression(reinterpret_cast<Node *>(query->targetList), check_tables, context);
}

PlannedStmt *on_plan(Query *query, const char *text, int options, ParamListInfo parameters)
{
    const Bound *b = bound.innermost();
    const bool ours = b && (b->text ? b->text == text : b->user == GetUserId() && b->depth == trigger_depth());
    if (ours && query->commandType != CMD_UTILITY) {
        // An action of a rule begins with the entries of the statement, whose first is the table that it changes.
        if (query->querySource == QSRC_ORIGINAL)
            check_tables(reinterpret_cast<Node *>(query), const_cast<Bound *>(b));
        else if (query->rtable)
            check_table(b, linitial_node(RangeTblEntry, query->rtable));
    }
    return next_planner ? next_planner(query, text, options, parameters) : standard_planner(query, text, options, parameters);
}

void begin(const Bound &b)
{
    static bool installed = false;
    if (!installed) {
        next_planner = planner_hook;
        planner_hook = entry<on_plan>;
        installed = true;
    }
    bound.begin(b, b.cache_name);
}

}  // namespace

void bind_tables(const Cache *c, const char *text)
{
    begin({{c->header, c->sealed, c->tail}, c->name, text, GetUserId(), trigger_depth()});
}

void bind_tables(const Oid (&tables)[3], const char *cache_name)
{
    begin({{tables[0], tables[1], tables[2]}, cache_name, nullptr, GetUserId(), trigger_depth()});
}

void unbind_tables() { bound.end(); }

const char *text_of(SPIPlanPtr plan)
{
    return static_cast<CachedPlanSource *>(linitial(SPI_plan_get_plan_sources(plan)))->query_string;
}

}  // namespace vkv::kv
