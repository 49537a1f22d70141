// See function_watch.h. Three hooks, as none is asked about all: the function manager's look-up leaves out functions with SECURITY
// DEFINER or SET, of whose calls it tells another (when the user is their owner already), and that of the access to objects hears
// of expressions only. They are installed by the first that needs them: nobody else pays. All frames hold trivial locals only.

#include "pg/kv/function_watch.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/announce.h"
#include "pg/kv/nested_calls.h"
#include "pg/kv/trust.h"

namespace vkv::kv {

namespace {

struct Watched {
    const char *cache_name;
    Oid user;
    int depth;  // of triggers, around the statement
};
constinit NestedCalls<Watched> watched;

needs_fmgr_hook_type next_on_lookup = nullptr;
fmgr_hook_type next_on_call = nullptr;
object_access_hook_type next_on_access = nullptr;

struct Function {
    const char *name;
    Oid author, schema, language;
};

bool read_function(Oid oid, Function *function)
{
    HeapTuple row = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
    if (!HeapTupleIsValid(row)) return false;
    const auto form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(row));
    *function = {pstrdup(NameStr(form->proname)), form->proowner, form->pronamespace, form->prolang};
    ReleaseSysCache(row);
    return true;
}

bool is_ours_or_built_in(Oid oid, const Function &function)
{
    return function.schema == PG_CATALOG_NAMESPACE || is_ours(getExtensionOfObject(ProcedureRelationId, oid));
}

// Whether the function is of the statement itself. Roles and triggers that are trusted do as they like.
const Watched *watching(Oid function)
{
    if (function < FirstNormalObjectId) return nullptr;
    const Watched *w = watched.innermost();
    return w && w->user == GetUserId() && w->depth == trigger_depth() ? w : nullptr;
}

[[noreturn]] void refuse(const Watched *w, const Function &function)
{
    ereport(
        ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
        errmsg("function \"%s\" would run code of role \"%s\" with the rights of role \"%s\"", function.name,
               GetUserNameFromId(function.author, true), GetUserNameFromId(lent_role(w->user, function.author), false)),
        errdetail("A table of cache \"%s\" has come to use it while the call was under way.", w->cache_name),
        errhint("Drop what uses it, or connect as the owner of the table. SET ROLE does not suffice: code of his can RESET ROLE."));
}

void check_lookup(Oid oid)
{
    Function function;
    if (const Watched *w = watching(oid); w && read_function(oid, &function)) {
        const bool c = function.language == ClanguageId || function.language == INTERNALlanguageId;
        if (!c && !is_trusted(function.author, {w->user, InvalidOid, w->user}) && !is_ours_or_built_in(oid, function))
            refuse(w, function);
    }
}

bool on_lookup(Oid oid)
{
    check_lookup(oid);
    return next_on_lookup && next_on_lookup(oid);
}

void on_call(FmgrHookEventType event, FmgrInfo *function, Datum *argument)
{
    if (event == FHET_START) check_lookup(function->fn_oid);
    if (next_on_call) next_on_call(event, function, argument);
}

void on_access(ObjectAccessType access, Oid catalog, Oid oid, int part, void *argument)
{
    Function function;
    if (access == OAT_FUNCTION_EXECUTE)
        if (const Watched *w = watching(oid); w && read_function(oid, &function) && !is_ours_or_built_in(oid, function))
            refuse(w, function);
    if (next_on_access) next_on_access(access, catalog, oid, part, argument);
}

void install()
{
    static bool installed = false;
    if (installed) return;
    next_on_lookup = needs_fmgr_hook;
    next_on_call = fmgr_hook;
    next_on_access = object_access_hook;
    needs_fmgr_hook = entry<on_lookup>;
    fmgr_hook = entry<on_call>;
    object_access_hook = entry<on_access>;
    installed = true;
}

}  // namespace

bool watch_functions(const Cache *c) { return watch_functions(c->believed.more, c->name); }

bool watch_functions(bool more, const char *cache_name)
{
    if (!more) return false;
    install();
    watched.begin({cache_name, GetUserId(), trigger_depth()}, cache_name);
    return true;
}

void unwatch_functions() { watched.end(); }

}  // namespace vkv::kv
