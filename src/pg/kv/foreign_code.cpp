// Code of others in what a call on a cache runs; see foreign_code.h.
//
// A trigger does not say who made it, and whoever may make one chooses its function, its arguments and its condition freely. What
// cannot be told harmless is therefore refused, SECURITY DEFINER functions too: they may queue deferred triggers, change settings
// and change other functions, all of which act later, with the rights of the caller.

#include "pg/kv/foreign_code.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/fault.h"
#include "pg/boundary/pg.h"
#include "pg/kv/tail_changes.h"

namespace vkv::kv {

namespace {

constexpr int kDeepest = 16;  // of tables that foreign keys lead to

struct Trust {
    Oid user, owner;  // who calls, whose table it is
    bool more;        // the caller may do what the owner may not: the owner's code is that of somebody else
};

bool is_more_than(Oid user, Oid owner)
{
    if (has_privs_of_role(owner, user)) return false;
    return has_bypassrls_privilege(user) || has_privs_of_role(user, owner);
}

// Who has the rights of the caller does nothing new with them; the table's owner is believed by all but those who are more.
bool is_trusted(Oid author, const Trust &trust)
{
    return has_privs_of_role(author, trust.user) || (!trust.more && has_privs_of_role(author, trust.owner));
}

struct Function {
    Oid owner, schema;
    bool immutable, plain;  // plain: of arguments and a result of known types
};

bool is_plain(Oid type) { return type == ANYARRAYOID || get_typtype(type) != TYPTYPE_PSEUDO; }

bool read_function(Oid oid, Function *function)
{
    HeapTuple row = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
    if (!HeapTupleIsValid(row)) return false;
    const auto form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(row));
    *function = {form->proowner, form->pronamespace, form->provolatile == PROVOLATILE_IMMUTABLE, is_plain(form->prorettype)};
    for (int i = 0; i < form->pronargs; ++i)
        if (!is_plain(form->proargtypes.values[i])) function->plain = false;
    ReleaseSysCache(row);
    return true;
}

// Of the extension that the functions of schema kv belong to?
bool is_ours(Oid extension)
{
    const Oid caches = get_relname_relid("caches", get_namespace_oid("kv", false));
    return OidIsValid(extension) && extension == getExtensionOfObject(RelationRelationId, caches);
}

bool is_trusted_trigger_function(Oid oid, const Trust &trust)
{
    if (is_forget_tails(oid)) return true;
    Function function;
    if (!read_function(oid, &function)) return false;
    if (function.schema == PG_CATALOG_NAMESPACE)
        return oid == F_SUPPRESS_REDUNDANT_UPDATES_TRIGGER || oid == F_TSVECTOR_UPDATE_TRIGGER ||
               oid == F_TSVECTOR_UPDATE_TRIGGER_COLUMN;
    const Oid extension = getExtensionOfObject(ProcedureRelationId, oid);
    if (OidIsValid(extension)) return is_ours(extension);  // those of others may do what their arguments say
    return is_trusted(function.owner, trust);
}

// Functions that compute on their arguments, and a few that look at the session; none that run what they are given. Whom they
// belong to does not matter here: whoever writes the expression chooses the arguments.
bool may_run_code(Oid oid, void *)
{
    constexpr Oid kHarmless[] = {F_NOW,
                                 F_CLOCK_TIMESTAMP,
                                 F_STATEMENT_TIMESTAMP,
                                 F_NEXTVAL,
                                 F_GEN_RANDOM_UUID,
                                 F_PG_TRIGGER_DEPTH,
                                 F_CURRENT_SETTING_TEXT,
                                 F_CURRENT_SETTING_TEXT_BOOL};
    for (Oid harmless : kHarmless)
        if (oid == harmless) return false;
    Function function;
    if (!read_function(oid, &function)) return true;
    if (function.schema == PG_CATALOG_NAMESPACE) return !function.immutable || !function.plain;
    if (!is_ours(getExtensionOfObject(ProcedureRelationId, oid))) return true;
    return !function.immutable && strcmp(get_func_name(oid), "new_id") != 0;
}

// Conversions by input and output functions, of domains, rows and arrays may run checks of domains.
bool has_code(Node *node, void *context)
{
    if (!node) return false;
    switch (nodeTag(node)) {
        case T_Var:
        case T_Const:
        case T_OpExpr:
        case T_DistinctExpr:
        case T_NullIfExpr:
        case T_ScalarArrayOpExpr:
        case T_FuncExpr:
        case T_BoolExpr:
        case T_NullTest:
        case T_BooleanTest:
        case T_RelabelType:
        case T_CaseExpr:
        case T_CaseWhen:
        case T_CaseTestExpr:
        case T_CoalesceExpr:
        case T_MinMaxExpr:
        case T_ArrayExpr:
        case T_SubscriptingRef:
        case T_SQLValueFunction:
        case T_List:
            break;
        default:
            return true;
    }
    return check_functions_in_node(node, may_run_code, context) || compat::walk_expression(node, has_code, context);
}

bool has_code(const char *expression)
{
    return expression && has_code(static_cast<Node *>(stringToNode(const_cast<char *>(expression))), nullptr);
}

[[noreturn]] void refuse_trigger(Relation rel, const Trigger *trigger, const Trust &trust)
{
    ereport(
        ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
        errmsg("trigger \"%s\" on table \"%s\" would run code of somebody else with the rights of role \"%s\"", trigger->tgname,
               RelationGetRelationName(rel), GetUserNameFromId(trust.user, false)),
        errdetail("Triggers serve whose function belongs to that role or, unless the role may do more than he, to the owner of the "
                  "table, and whose condition calls built-in operators only."),
        errhint("Drop or disable the trigger, or give its function to the role that calls."));
}

[[noreturn]] void refuse_owner(Relation rel, const char *what, const Trust &trust)
{
    ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
            errmsg("%s of table \"%s\" would run code of its owner with the rights of role \"%s\"", what,
                   RelationGetRelationName(rel), GetUserNameFromId(trust.user, false)),
            errhint("Call as the owner of the table: SET ROLE."));
}

void check_triggers(Relation rel, Oid user, int depth);

// What a foreign key does to the rows that refer to a cache's is done as their table's owner, but the AFTER triggers there wait and
// run as the caller.
void check_foreign_key(Relation rel, const Trigger *trigger, const Trust &trust, int depth)
{
    switch (trigger->tgfoid) {
        case F_RI_FKEY_CASCADE_DEL:
        case F_RI_FKEY_CASCADE_UPD:
        case F_RI_FKEY_SETNULL_DEL:
        case F_RI_FKEY_SETNULL_UPD:
        case F_RI_FKEY_SETDEFAULT_DEL:
        case F_RI_FKEY_SETDEFAULT_UPD:
            break;
        default:
            return;
    }
    if (trigger->tgconstrrelid == RelationGetRelid(rel)) return;
    Relation other = table_open(trigger->tgconstrrelid, RowExclusiveLock);
    if (depth == kDeepest || !is_trusted(other->rd_rel->relowner, trust)) refuse_trigger(rel, trigger, trust);
    check_triggers(other, trust.user, depth + 1);
    table_close(other, NoLock);
}

// What only the owner of a table can make, in the eyes of those who are more than he.
void check_owner(Relation rel, const Trust &trust)
{
    if (rel->rd_rules && rel->rd_rules->numLocks > 0) refuse_owner(rel, "a rule", trust);
    if (rel->rd_rel->relhassubclass) refuse_owner(rel, "a child", trust);
    TupleDesc desc = RelationGetDescr(rel);
    for (int i = 0; i < desc->natts; ++i) {
        const Form_pg_attribute column = TupleDescAttr(desc, i);
        if (!column->attisdropped && getBaseType(column->atttypid) != column->atttypid) refuse_owner(rel, "a domain", trust);
    }
    const TupleConstr *constraints = desc->constr;
    for (int i = 0; constraints && i < constraints->num_defval; ++i)
        if (has_code(constraints->defval[i].adbin)) refuse_owner(rel, "a column default", trust);
    for (int i = 0; constraints && i < constraints->num_check; ++i)
        if (has_code(constraints->check[i].ccbin)) refuse_owner(rel, "a check", trust);
    ListCell *cell;
    foreach (cell, RelationGetIndexList(rel)) {
        Relation index = index_open(lfirst_oid(cell), AccessShareLock);
        auto *expressions = reinterpret_cast<Node *>(RelationGetIndexExpressions(index));
        auto *predicate = reinterpret_cast<Node *>(RelationGetIndexPredicate(index));
        if (has_code(expressions, nullptr) || has_code(predicate, nullptr)) refuse_owner(rel, "an index", trust);
        index_close(index, NoLock);
    }
}

void check_triggers(Relation rel, Oid user, int depth)
{
    const Oid owner = rel->rd_rel->relowner;
    const Trust trust{user, owner, is_more_than(user, owner)};
    if (trust.more) check_owner(rel, trust);
    // A copy, as the executor makes one: look-ups of functions let the relation cache give the list away.
    const TriggerDesc *triggers = CopyTriggerDesc(rel->trigdesc);
    for (int i = 0; triggers && i < triggers->numtriggers; ++i) {
        const Trigger *trigger = &triggers->triggers[i];
        if (trigger->tgenabled == TRIGGER_DISABLED) continue;
        if (RI_FKey_trigger_type(trigger->tgfoid) != RI_TRIGGER_NONE) {
            check_foreign_key(rel, trigger, trust, depth);
            continue;
        }
        if (trigger->tgisinternal && trigger->tgfoid == F_UNIQUE_KEY_RECHECK) continue;
        if (!is_trusted_trigger_function(trigger->tgfoid, trust) || has_code(trigger->tgqual)) refuse_trigger(rel, trigger, trust);
    }
}

// By the whole table or by some columns: one suffices to fire its triggers.
bool may_change(Oid table)
{
    return pg_class_aclcheck(table, GetUserId(), ACL_INSERT | ACL_UPDATE | ACL_DELETE) == ACLCHECK_OK ||
           pg_attribute_aclcheck_all(table, GetUserId(), ACL_INSERT | ACL_UPDATE, ACLMASK_ANY) == ACLCHECK_OK;
}

}  // namespace

void refuse_foreign_code(const Cache *c)
{
    if (XactReadOnly || RecoveryInProgress()) return;  // nothing will be changed
    tail_changes();                                    // knows the trigger on the tail
    for (Oid table : {c->header, c->sealed, c->tail}) {
        if (!may_change(table)) continue;
        fault_point();
        Relation rel = table_open(table, RowExclusiveLock);
        check_triggers(rel, GetUserId(), 0);
        table_close(rel, NoLock);
    }
}

}  // namespace vkv::kv
