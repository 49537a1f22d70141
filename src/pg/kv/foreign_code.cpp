// Code of others in what a call on a cache runs; see foreign_code.h.
//
// A trigger does not say who made it, and whoever may make one chooses its function, its arguments and its condition freely. What
// cannot be told harmless is therefore refused, SECURITY DEFINER functions too: they may queue deferred triggers, change settings
// and change other functions, all of which act later, with the rights of the caller.

#include "pg/kv/foreign_code.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/fault.h"
#include "pg/boundary/open_relation.h"
#include "pg/boundary/pg.h"
#include "pg/kv/expression_code.h"
#include "pg/kv/owner_code.h"
#include "pg/kv/tail_changes.h"
#include "pg/kv/tenants.h"
#include "pg/kv/trust.h"

namespace vkv::kv {

namespace {

constexpr int kDeepest = 16;  // of tables that foreign keys lead to

// Of built-in trigger functions, and of those of schema kv, whoever makes the trigger: they do no more than they say.
bool is_harmless_trigger_function(Oid function)
{
    return is_forget_tails(function) || function == F_SUPPRESS_REDUNDANT_UPDATES_TRIGGER || function == F_TSVECTOR_UPDATE_TRIGGER ||
           function == F_TSVECTOR_UPDATE_TRIGGER_COLUMN || is_ours(getExtensionOfObject(ProcedureRelationId, function));
}

bool is_trusted_function(Oid function, const Trust &trust)
{
    if (OidIsValid(getExtensionOfObject(ProcedureRelationId, function))) return false;  // those may do what their arguments say
    HeapTuple row = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
    if (!HeapTupleIsValid(row)) return false;
    const Form_pg_proc form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(row));
    const Oid author = form->proowner;
    const bool built_in = form->pronamespace == PG_CATALOG_NAMESPACE;
    ReleaseSysCache(row);
    return !built_in && is_trusted(author, trust);
}

// ENABLE ALWAYS and ENABLE REPLICA are the owner's to say, and are lost when somebody replaces the trigger.
bool is_owners_word(const Trigger *trigger, const Trust &trust)
{
    return (trigger->tgenabled == TRIGGER_FIRES_ALWAYS || trigger->tgenabled == TRIGGER_FIRES_ON_REPLICA) &&
           is_trusted(trust.owner, trust);
}

// A trusted function in the hands of somebody else does his will: he chooses the table, the trigger's name and its arguments.
bool is_trusted_trigger(Relation rel, const Trigger *trigger, const Trust &trust)
{
    if (has_code(trigger->tgqual, trust.owner)) return false;
    if (is_harmless_trigger_function(trigger->tgfoid)) return true;
    if (!is_trusted_function(trigger->tgfoid, trust)) return false;
    return is_owners_word(trigger, trust) || (trigger->tgnargs == 0 && only_trusted_make_triggers(RelationGetRelid(rel), trust));
}

Oid author_of(Oid function)
{
    HeapTuple row = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
    if (!HeapTupleIsValid(row)) return InvalidOid;
    const Oid author = reinterpret_cast<Form_pg_proc>(GETSTRUCT(row))->proowner;
    ReleaseSysCache(row);
    return author;
}

[[noreturn]] void refuse_trigger(Relation rel, const Trigger *trigger, const Trust &trust)
{
    ereport(
        ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
        errmsg("trigger \"%s\" on table \"%s\" would run code of somebody else with the rights of role \"%s\"", trigger->tgname,
               RelationGetRelationName(rel), GetUserNameFromId(lent_role(trust.user, author_of(trigger->tgfoid)), false)),
        errdetail(
            "Triggers serve whose function belongs to that role or, unless the role may do more than he, to the owner of the "
            "table, whose condition calls built-in operators only, and which are theirs: without arguments on a table on which "
            "nobody else holds TRIGGER, or enabled ALWAYS by the owner."),
        errhint("Drop or disable the trigger, give its function to the role that calls, or say that the trigger is the owner's: "
                "ALTER TABLE ... ENABLE ALWAYS TRIGGER."));
}

// Tables above or below a cache's run what is theirs: their partition keys, their triggers, their indexes.
[[noreturn]] void refuse_relative(Relation rel, const char *what, Oid relative, Oid user)
{
    ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
            errmsg("%s of table \"%s\" would run code of somebody else with the rights of role \"%s\"", what,
                   RelationGetRelationName(rel), GetUserNameFromId(lent_role(user, owner_of(relative)), false)),
            errdetail("It is \"%s\", which belongs to role \"%s\".", get_rel_name(relative),
                      GetUserNameFromId(owner_of(relative), true)),
            errhint("Detach it: ALTER TABLE ... DETACH PARTITION or NO INHERIT."));
}

[[noreturn]] void refuse_foreign_key(Relation rel, const Trigger *trigger, Relation other, Oid user)
{
    const Oid owner = other->rd_rel->relowner;
    const char *name = get_constraint_name(trigger->tgconstraint);
    ereport(
        ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
        errmsg("foreign key \"%s\" between tables \"%s\" and \"%s\" would run code of role \"%s\" with the rights of role \"%s\"",
               name ? name : trigger->tgname, RelationGetRelationName(rel), RelationGetRelationName(other),
               GetUserNameFromId(owner, false), GetUserNameFromId(lent_role(user, owner), false)),
        errdetail(
            "What is read and changed in table \"%s\" for it may queue triggers of that role, which run later, as the caller.",
            RelationGetRelationName(other)),
        errhint("Drop the foreign key, or connect as the owner of table \"%s\".", RelationGetRelationName(other)));
}

// Checks return whether what they saw stays so until the table or a role changes: of others they do not hear.

bool check_relatives(Relation rel, const Trust &trust)
{
    ListCell *cell;
    if (rel->rd_rel->relispartition)
        foreach (cell, get_partition_ancestors(RelationGetRelid(rel)))
            if (!is_trusted(owner_of(lfirst_oid(cell)), trust))
                refuse_relative(rel, "a partitioned table", lfirst_oid(cell), trust.user);
    const List *children = rel->rd_rel->relhassubclass ? find_inheritance_children(RelationGetRelid(rel), NoLock) : NIL;
    foreach (cell, children)
        if (!is_trusted(owner_of(lfirst_oid(cell)), trust)) refuse_relative(rel, "a child", lfirst_oid(cell), trust.user);
    return !rel->rd_rel->relispartition && children == NIL;
}

// Tables from which foreign keys have led to one, whose owners have been looked at.
struct Path {
    Oid table;
    const Path *before;
};

bool leads_back(Oid table, const Path *path)
{
    for (; path; path = path->before)
        if (path->table == table) return true;
    return false;
}

bool check_triggers(Relation rel, Oid user, const Path *path, int depth);

// Does it change the rows that refer, or only look whether there are any?
bool is_action(const Trigger *trigger)
{
    switch (trigger->tgfoid) {
        case F_RI_FKEY_CASCADE_DEL:
        case F_RI_FKEY_CASCADE_UPD:
        case F_RI_FKEY_SETNULL_DEL:
        case F_RI_FKEY_SETNULL_UPD:
        case F_RI_FKEY_SETDEFAULT_DEL:
        case F_RI_FKEY_SETDEFAULT_UPD:
            return true;
        default:
            return false;
    }
}

// What a foreign key does to another table's rows, and how it looks for them, is done as that table's owner, but deferred triggers
// of what he runs, as expressions of his indexes when the look is planned, wait and run as the caller.
bool check_foreign_key(Relation rel, const Trigger *trigger, const Trust &trust, const Path *path, int depth)
{
    const bool acts = is_action(trigger);
    if (acts ? trigger->tgconstrrelid == RelationGetRelid(rel) : leads_back(trigger->tgconstrrelid, path)) return true;
    if (!OidIsValid(trigger->tgconstrrelid)) refuse_trigger(rel, trigger, trust);
    if (depth == kDeepest)
        ereport(ERROR, errcode(ERRCODE_STATEMENT_TOO_COMPLEX),
                errmsg("foreign keys lead from the tables of a cache to more than %d others, one behind the other", kDeepest),
                errdetail("The last is \"%s\".", RelationGetRelationName(rel)),
                errhint("Drop one of the foreign keys that cascade."));
    // What inherits from a table that is not partitioned is left alone.
    const LOCKMODE lock = acts ? RowExclusiveLock : RowShareLock;
    LockRelationOid(trigger->tgconstrrelid, lock);
    const bool partitioned = get_rel_relkind(trigger->tgconstrrelid) == RELKIND_PARTITIONED_TABLE;
    ListCell *cell;
    foreach (cell,
             partitioned ? find_all_inheritors(trigger->tgconstrrelid, lock, nullptr) : list_make1_oid(trigger->tgconstrrelid)) {
        Relation other = relation_open(lfirst_oid(cell), NoLock);
        if (!is_trusted(other->rd_rel->relowner, trust)) refuse_foreign_key(rel, trigger, other, trust.user);
        if (acts) check_triggers(other, trust.user, path, depth + 1);
        relation_close(other, NoLock);
    }
    return false;
}

bool check_trigger(Relation rel, const Trigger *trigger, const Trust &trust, const Path *path, int depth)
{
    if (RI_FKey_trigger_type(trigger->tgfoid) != RI_TRIGGER_NONE) return check_foreign_key(rel, trigger, trust, path, depth);
    if (trigger->tgisinternal && trigger->tgfoid == F_UNIQUE_KEY_RECHECK) return true;
    if (!is_trusted_trigger(rel, trigger, trust)) refuse_trigger(rel, trigger, trust);
    return !trigger->tgqual && is_harmless_trigger_function(trigger->tgfoid);
}

bool check_triggers(Relation rel, Oid user, const Path *before, int depth)
{
    const Path path{RelationGetRelid(rel), before};
    const Trust trust = trust_of(user, rel->rd_rel->relowner);
    bool lasts = check_relatives(rel, trust);
    // A copy, as the executor makes one: look-ups of functions let the relation cache give the list away.
    const TriggerDesc *triggers = CopyTriggerDesc(rel->trigdesc);
    for (int i = 0; triggers && i < triggers->numtriggers; ++i) {
        const Trigger *trigger = &triggers->triggers[i];
        if (trigger->tgenabled != TRIGGER_DISABLED && !check_trigger(rel, trigger, trust, &path, depth)) lasts = false;
    }
    return lasts;
}

// By the whole table or by some columns: one suffices to fire its triggers.
bool may_change(Oid table)
{
    return pg_class_aclcheck(table, GetUserId(), ACL_INSERT | ACL_UPDATE | ACL_DELETE) == ACLCHECK_OK ||
           pg_attribute_aclcheck_all(table, GetUserId(), ACL_INSERT | ACL_UPDATE, ACLMASK_ANY) == ACLCHECK_OK;
}

bool still_holds(const Cache *c)
{
    const TrustChanges trust = trust_changes();
    const TriggerBelief &b = c->triggers;
    return b.user == GetUserId() && b.tables == c->changes && b.trust == trust;
}

void lock_believed(const Cache *c, Touched touched)
{
    const bool *changes = c->triggers.changes;
    if (changes[0]) LockRelationOid(c->header, RowExclusiveLock);
    if (changes[1] && touched == Touched::all) LockRelationOid(c->sealed, RowExclusiveLock);
    if (changes[2]) LockRelationOid(c->tail, RowExclusiveLock);
}

// What comes while it looks makes it look again the next time.
void look_at_triggers(Cache *c)
{
    const TrustChanges trust = trust_changes();
    TriggerBelief belief{GetUserId(), c->changes, trust, {}};
    tail_changes();  // knows the trigger on the tail
    const Oid tables[] = {c->header, c->sealed, c->tail};
    const Path header{c->header, nullptr}, sealed{c->sealed, &header}, all{c->tail, &sealed};
    bool lasts = true;
    for (int i = 0; i < 3; ++i) {
        belief.changes[i] = may_change(tables[i]);
        if (!belief.changes[i]) continue;
        fault_point();
        Relation rel = open_existing(tables[i], RowExclusiveLock);
        refuse_lost_guard(rel);
        if (!check_triggers(rel, GetUserId(), &all, 0)) lasts = false;
        table_close(rel, NoLock);
    }
    if (lasts) c->triggers = belief;
}

}  // namespace

void refuse_foreign_code(Cache *c, Touched touched)
{
    const bool may_write = !XactReadOnly && !RecoveryInProgress();
    // The locks bring the news of who held others before.
    if (may_write && still_holds(c)) lock_believed(c, touched);
    refuse_owner_code(c);
    if (may_write && !still_holds(c)) look_at_triggers(c);
}

}  // namespace vkv::kv
