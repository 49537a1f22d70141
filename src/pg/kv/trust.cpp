// See trust.h. All frames hold trivial locals only.

#include "pg/kv/trust.h"

#include "pg/boundary/boundary.h"

namespace vkv::kv {

namespace {

TrustChanges changes{1, 1};

void heard(Datum, int cache, uint32) { ++(cache == PROCOID ? changes.functions : changes.roles); }

// Who owns the database has the rights of a role, too.
void listen()
{
    static bool listening = false;
    if (listening) return;
    for (int cache : {AUTHOID, AUTHMEMROLEMEM, DATABASEOID, PROCOID}) CacheRegisterSyscacheCallback(cache, entry<heard>, 0);
    listening = true;
}

// Roles that reach tables and the machine without having been granted anything by the table's owner.
bool has_power(Oid role)
{
    constexpr Oid kPowers[] = {ROLE_PG_READ_ALL_DATA, ROLE_PG_WRITE_ALL_DATA, ROLE_PG_READ_SERVER_FILES, ROLE_PG_WRITE_SERVER_FILES,
                               ROLE_PG_EXECUTE_SERVER_PROGRAM};
    if (has_bypassrls_privilege(role)) return true;
    for (Oid power : kPowers)
        if (has_privs_of_role(role, power)) return true;
    return false;
}

bool all_trusted(const Acl *acl, const Trust &trust)
{
    const AclItem *items = ACL_DAT(acl);
    for (int i = 0; i < ACL_NUM(acl); ++i) {
        if (!(ACLITEM_GET_PRIVS(items[i]) & ACL_TRIGGER)) continue;
        if (items[i].ai_grantee == ACL_ID_PUBLIC || !is_trusted(items[i].ai_grantee, trust)) return false;
    }
    return true;
}

bool only_trusted_hold_trigger(Oid table, const Trust &trust)
{
    HeapTuple row = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
    if (!HeapTupleIsValid(row)) return false;
    bool null;
    const Datum granted = SysCacheGetAttr(RELOID, row, Anum_pg_class_relacl, &null);
    const bool trusted = is_trusted(reinterpret_cast<Form_pg_class>(GETSTRUCT(row))->relowner, trust) &&
                         (null || all_trusted(DatumGetAclP(granted), trust));
    ReleaseSysCache(row);
    return trusted;
}

}  // namespace

Trust trust_of(Oid user, Oid owner)
{
    if (has_privs_of_role(owner, user)) return {user, owner, false};
    return {user, owner, has_power(user) || has_privs_of_role(user, owner)};
}

bool is_trusted(Oid author, const Trust &trust)
{
    return has_privs_of_role(author, trust.user) || (!trust.more && has_privs_of_role(author, trust.owner));
}

bool only_trusted_make_triggers(Oid table, const Trust &trust)
{
    if (!only_trusted_hold_trigger(table, trust)) return false;
    if (!get_rel_relispartition(table)) return true;
    ListCell *cell;
    foreach (cell, get_partition_ancestors(table))
        if (!only_trusted_hold_trigger(lfirst_oid(cell), trust)) return false;
    return true;
}

TrustChanges trust_changes()
{
    listen();
    AcceptInvalidationMessages();
    return changes;
}

Oid owner_of(Oid table)
{
    HeapTuple row = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
    if (!HeapTupleIsValid(row))
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation with OID %u does not exist", table));
    const Oid owner = reinterpret_cast<Form_pg_class>(GETSTRUCT(row))->relowner;
    ReleaseSysCache(row);
    return owner;
}

bool is_ours(Oid extension)
{
    const Oid caches = get_relname_relid("caches", get_namespace_oid("kv", false));
    return OidIsValid(extension) && extension == getExtensionOfObject(RelationRelationId, caches);
}

}  // namespace vkv::kv
