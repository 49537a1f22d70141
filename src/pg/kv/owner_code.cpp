// See owner_code.h. What may be there is listed, not what may not. All frames hold trivial locals only.

#include "pg/kv/owner_code.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/fault.h"
#include "pg/boundary/open_relation.h"
#include "pg/boundary/pg.h"
#include "pg/kv/expression_code.h"
#include "pg/kv/trust.h"

namespace vkv::kv {

namespace {

struct Table {
    Relation rel;
    Oid user, header;
    Oid more;  // the role of the caller that is more than the owner
};

[[noreturn]] void refuse(const Table &table, const char *what, const char *name)
{
    ereport(ERROR, errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
            errmsg("%s of table \"%s\" would run code of its owner with the rights of role \"%s\"", what,
                   RelationGetRelationName(table.rel), GetUserNameFromId(table.more, false)),
            errdetail("It is \"%s\". For a role with more rights than the owner of the table serves only what kv.create_cache and "
                      "kv.enable_tenants make, and what computes by built-in functions on built-in types.",
                      name),
            errhint("Drop it, or connect as the owner of the table. SET ROLE does not suffice: code of his can RESET ROLE."));
}

void check_kind(const Table &table)
{
    const Form_pg_class form = table.rel->rd_rel;
    const char *name = RelationGetRelationName(table.rel);
    if (form->relkind != RELKIND_RELATION) refuse(table, "the kind", name);
    if (form->relispartition) {
        const Oid parent = get_partition_parent(RelationGetRelid(table.rel), true);
        refuse(table, "a partitioned table", OidIsValid(parent) ? get_rel_name(parent) : name);
    }
    if (const RuleLock *rules = table.rel->rd_rules; rules && rules->numLocks > 0) {
        const ObjectAddress rule{RewriteRelationId, rules->rules[0]->ruleId, 0};
        refuse(table, "a rule", getObjectDescription(&rule, true));
    }
    if (!form->relhassubclass) return;
    const List *children = find_inheritance_children(RelationGetRelid(table.rel), NoLock);
    if (children != NIL) refuse(table, "a child", get_rel_name(linitial_oid(children)));
}

void check_columns(const Table &table)
{
    const Oid owner = table.rel->rd_rel->relowner;
    TupleDesc desc = RelationGetDescr(table.rel);
    for (int i = 0; i < desc->natts; ++i) {
        const Form_pg_attribute column = TupleDescAttr(desc, i);
        if (column->attisdropped || is_harmless_type(column->atttypid)) continue;
        refuse(table, getBaseType(column->atttypid) != column->atttypid ? "a domain" : "a type", NameStr(column->attname));
    }
    const TupleConstr *constraints = desc->constr;
    for (int i = 0; constraints && i < constraints->num_defval; ++i)
        if (has_code(constraints->defval[i].adbin, owner))
            refuse(table, "a column default", NameStr(TupleDescAttr(desc, constraints->defval[i].adnum - 1)->attname));
    for (int i = 0; constraints && i < constraints->num_check; ++i)
        if (has_code(constraints->check[i].ccbin, owner)) refuse(table, "a check", constraints->check[i].ccname);
}

// Of plain columns; its operator classes and its access method are superusers' to make.
void check_indexes(const Table &table)
{
    ListCell *cell;
    foreach (cell, RelationGetIndexList(table.rel)) {
        HeapTuple row = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(cell)));
        if (!HeapTupleIsValid(row)) continue;
        const bool plain =
            heap_attisnull(row, Anum_pg_index_indexprs, nullptr) && heap_attisnull(row, Anum_pg_index_indpred, nullptr);
        ReleaseSysCache(row);
        if (!plain) refuse(table, "an index", get_rel_name(lfirst_oid(cell)));
    }
}

void check_statistics(const Table &table)
{
    ListCell *cell;
    foreach (cell, RelationGetStatExtList(table.rel)) {
        HeapTuple row = SearchSysCache1(STATEXTOID, ObjectIdGetDatum(lfirst_oid(cell)));
        if (!HeapTupleIsValid(row)) continue;
        const char *name = pstrdup(NameStr(reinterpret_cast<Form_pg_statistic_ext>(GETSTRUCT(row))->stxname));
        const bool plain = heap_attisnull(row, Anum_pg_statistic_ext_stxexprs, nullptr);
        ReleaseSysCache(row);
        if (!plain) refuse(table, "a statistics object", name);
    }
}

void check_policies(const Table &table)
{
    if (!table.rel->rd_rsdesc || check_enable_rls(RelationGetRelid(table.rel), table.user, true) != RLS_ENABLED) return;
    const Oid owner = table.rel->rd_rel->relowner;
    ListCell *cell;
    foreach (cell, table.rel->rd_rsdesc->policies) {
        const auto *policy = static_cast<RowSecurityPolicy *>(lfirst(cell));
        if (has_code(reinterpret_cast<Node *>(policy->qual), owner, table.header) ||
            has_code(reinterpret_cast<Node *>(policy->with_check_qual), owner, table.header))
            refuse(table, "a policy", policy->policy_name);
    }
}

// Returns whether there was anything to check.
bool check_table(Table table)
{
    table.more = trust_of(table.user, table.rel->rd_rel->relowner).more;
    if (!OidIsValid(table.more)) return false;
    check_kind(table);
    check_columns(table);
    check_indexes(table);
    check_statistics(table);
    check_policies(table);
    return true;
}

Belief belief_now(const Cache *c)
{
    const TrustChanges trust = trust_changes();
    return {GetUserId(), compat::local_transaction(), GetCurrentSubTransactionId(), c->changes, trust, false};
}

bool is_more_than_an_owner(const Oid (&tables)[3])
{
    for (Oid relid : tables)
        if (OidIsValid(trust_of(GetUserId(), owner_of(relid)).more)) return true;
    return false;
}

}  // namespace

bool refuse_owner_code(const Oid (&tables)[3])
{
    bool more = false;
    for (Oid relid : tables) {
        fault_point();
        Relation rel = open_existing(relid, AccessShareLock);
        if (check_table({rel, GetUserId(), tables[0], InvalidOid})) more = true;
        table_close(rel, NoLock);
    }
    return more;
}

void refuse_owner_code(Cache *c)
{
    Belief now = belief_now(c);
    const bool same = now.is_of(c->believed);
    if (same && (!c->believed.more || now.same_transaction(c->believed))) return;
    const Oid tables[] = {c->header, c->sealed, c->tail};
    now.more = same || is_more_than_an_owner(tables);
    if (now.more) {
        // What the owner does while he holds a lock is heard of when it is had.
        for (Oid relid : tables)
            if (!compat::is_locked(relid, RowExclusiveLock)) LockRelationOid(relid, AccessShareLock);
        now = belief_now(c);
        now.more = true;
        if (!now.is_of(c->believed)) refuse_owner_code(tables);
    }
    c->believed = now;
}

}  // namespace vkv::kv
