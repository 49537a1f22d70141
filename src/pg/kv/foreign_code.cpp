// Code of others in what a call on a cache runs; see foreign_code.h.

#include "pg/kv/foreign_code.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/fault.h"
#include "pg/boundary/pg.h"

namespace vkv::kv {

namespace {

struct Trust {
    Oid user, owner;  // who calls, whose table it is
};

// Whether a function that would run as the caller is of somebody who has the caller's rights, or may do with the table what he
// likes.
bool is_trusted(Oid function, const Trust &trust)
{
    HeapTuple row = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
    if (!HeapTupleIsValid(row)) return false;
    const auto form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(row));
    const Oid owner = form->proowner;
    const bool definer = form->prosecdef;
    ReleaseSysCache(row);
    return definer || superuser_arg(owner) || has_privs_of_role(owner, trust.owner) || has_privs_of_role(owner, trust.user);
}

bool is_foreign_function(Oid function, void *trust) { return !is_trusted(function, *static_cast<Trust *>(trust)); }

// A condition may call functions, and checks of domains with them.
bool has_foreign_code(Node *node, void *trust)
{
    if (!node) return false;
    if (IsA(node, CoerceToDomain)) return true;
    return check_functions_in_node(node, is_foreign_function, trust) || compat::walk_expression(node, has_foreign_code, trust);
}

void check_trigger(Relation rel, const Trigger *trigger, Trust *trust)
{
    if (trigger->tgisinternal || trigger->tgenabled == TRIGGER_DISABLED) return;
    if (is_trusted(trigger->tgfoid, *trust) &&
        !(trigger->tgqual && has_foreign_code(static_cast<Node *>(stringToNode(trigger->tgqual)), trust)))
        return;
    ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
            errmsg("trigger \"%s\" on table \"%s\" would run code of somebody else with the rights of role \"%s\"", trigger->tgname,
                   RelationGetRelationName(rel), GetUserNameFromId(trust->user, false)),
            errdetail("Its functions belong neither to that role nor to the owner of the table, nor to a superuser."),
            errhint("Make them SECURITY DEFINER, give them to the owner of the table, or drop the trigger."));
}

}  // namespace

void refuse_foreign_code(const Cache *c)
{
    if (XactReadOnly || RecoveryInProgress()) return;  // nothing will be changed
    for (Oid table : {c->header, c->sealed, c->tail}) {
        if (pg_class_aclcheck(table, GetUserId(), ACL_INSERT | ACL_UPDATE | ACL_DELETE) != ACLCHECK_OK) continue;
        fault_point();
        Relation rel = table_open(table, RowExclusiveLock);
        Trust trust{GetUserId(), rel->rd_rel->relowner};
        for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers; ++i)
            check_trigger(rel, &rel->trigdesc->triggers[i], &trust);
        table_close(rel, NoLock);
    }
}

}  // namespace vkv::kv
