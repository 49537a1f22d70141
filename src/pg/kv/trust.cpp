// See trust.h. All frames hold trivial locals only.

#include "pg/kv/trust.h"

#include "pg/boundary/boundary.h"

namespace vkv::kv {

namespace {

uint64_t changes_of_roles = 1;

void heard(Datum, int, uint32) { ++changes_of_roles; }

// Who owns the database has the rights of a role, too.
void listen()
{
    static bool listening = false;
    if (listening) return;
    for (int cache : {AUTHOID, AUTHMEMROLEMEM, DATABASEOID}) CacheRegisterSyscacheCallback(cache, entry<heard>, 0);
    listening = true;
}

// The role and all that it is a member of: by inheritance, by SET ROLE, or because it may grant itself either.
List *reached_roles(Oid role)
{
    List *roles = list_make1_oid(role);
    Relation members = table_open(AuthMemRelationId, AccessShareLock);
    ListCell *cell;
    foreach (cell, roles) {  // grows meanwhile
        ScanKeyData key;
        ScanKeyInit(&key, Anum_pg_auth_members_member, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(lfirst_oid(cell)));
        SysScanDesc scan = systable_beginscan(members, AuthMemMemRoleIndexId, true, nullptr, 1, &key);
        while (HeapTuple row = systable_getnext(scan))
            roles = list_append_unique_oid(roles, reinterpret_cast<Form_pg_auth_members>(GETSTRUCT(row))->roleid);
        systable_endscan(scan);
    }
    table_close(members, AccessShareLock);
    return roles;
}

// CREATEROLE hands out the rights to files and programs before PostgreSQL 16, REPLICATION reads what all tables are told.
bool has_strong_attribute(Oid role)
{
    HeapTuple row = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
    if (!HeapTupleIsValid(row)) return false;
    const Form_pg_authid form = reinterpret_cast<Form_pg_authid>(GETSTRUCT(row));
    const bool strong = form->rolsuper || form->rolbypassrls || form->rolcreaterole || form->rolreplication;
    ReleaseSysCache(row);
    return strong;
}

// Roles that reach tables and the machine without having been granted anything by the table's owner.
bool has_power(Oid role)
{
    constexpr Oid kPowers[] = {ROLE_PG_READ_ALL_DATA, ROLE_PG_WRITE_ALL_DATA, ROLE_PG_READ_SERVER_FILES, ROLE_PG_WRITE_SERVER_FILES,
                               ROLE_PG_EXECUTE_SERVER_PROGRAM};
    for (Oid power : kPowers)
        if (is_member_of_role(role, power)) return true;
    List *reached = reached_roles(role);
    ListCell *cell;
    foreach (cell, reached)
        if (has_strong_attribute(lfirst_oid(cell))) return true;
    return false;
}

// Has the author the rights of a role, and those that it has by SET ROLE only?
bool acts_as(Oid author, Oid role) { return has_privs_of_role(author, role) && compat::may_set_role(author, role); }

bool is_more(Oid role, Oid owner) { return !acts_as(owner, role) && (has_power(role) || is_member_of_role(role, owner)); }

// The roles of a caller: the current one, and those that RESET ROLE and RESET SESSION AUTHORIZATION bring back, to which SET ROLE
// is held as well. Within SECURITY DEFINER functions PostgreSQL refuses all of these.
struct Caller {
    Oid roles[3];
    explicit Caller(Oid user) : roles{user, InvalidOid, InvalidOid}
    {
        if (InLocalUserIdChange() || InSecurityRestrictedOperation()) return;
        if (GetSessionUserId() != user) roles[1] = GetSessionUserId();
        if (GetAuthenticatedUserId() != user && GetAuthenticatedUserId() != GetSessionUserId()) roles[2] = GetAuthenticatedUserId();
    }
};

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
    for (Oid role : Caller(user).roles)
        if (OidIsValid(role) && is_more(role, owner)) return {user, owner, role};
    return {user, owner, InvalidOid};
}

bool is_trusted(Oid author, const Trust &trust)
{
    if (!OidIsValid(trust.more) && acts_as(author, trust.owner)) return true;
    for (Oid role : Caller(trust.user).roles)
        if (OidIsValid(role) && !acts_as(author, role)) return false;
    return true;
}

Oid lent_role(Oid user, Oid author)
{
    for (Oid role : Caller(user).roles)
        if (OidIsValid(role) && !acts_as(author, role)) return role;
    return user;
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
    const Caller caller(GetUserId());
    return {changes_of_roles, caller.roles[1], caller.roles[2]};
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
