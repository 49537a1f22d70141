// Opening the index that a user named, with every reason why that cannot be.

#include "pg/hnsw/inspect.h"

#include "pg/boundary/open_relation.h"
#include "pg/hnsw/hnsw.h"

namespace vkv::hnsw {

namespace {

// Bare PostgreSQL code: raises, and leaves what it opened to the transaction.
void open_both(Oid id, bool keep_writers_out, LOCKMODE *lock, Relation *heap, Relation *index)
{
    const char kind = get_rel_relkind(id);
    if (kind == '\0') ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation with OID %u does not exist", id)));
    if (kind == RELKIND_PARTITIONED_INDEX)
        ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("\"%s\" is a partitioned index", get_rel_name(id)),
                        errhint("Name the index of one partition.")));
    const Oid table = kind == RELKIND_INDEX ? IndexGetRelation(id, true) : InvalidOid;
    if (!OidIsValid(table))
        ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("\"%s\" is not an index", get_rel_name(id))));
    if (pg_class_aclcheck(table, GetUserId(), ACL_SELECT) != ACLCHECK_OK)
        aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(table));
    if (keep_writers_out && !RecoveryInProgress() && compat::may_lock_out_writers(table, GetUserId())) *lock = ShareLock;
    *heap = open_existing(table, *lock);
    if (check_enable_rls(table, InvalidOid, true) == RLS_ENABLED)
        ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
                        errmsg("an index of table \"%s\" tells of rows that row security hides", get_rel_name(table)),
                        errhint("Its owner may look at it, or a role with BYPASSRLS.")));
    *index = open_existing(id, *lock);
    if ((*index)->rd_indam->amgettuple != entry<get_tuple>)
        ereport(ERROR,
                (errcode(ERRCODE_WRONG_OBJECT_TYPE), errmsg("\"%s\" is not an hnsw index", RelationGetRelationName(*index))));
    if (RELATION_IS_OTHER_TEMP(*index))
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED), errmsg("cannot read temporary indexes of other sessions")));
    if (!(*index)->rd_index->indisvalid)
        ereport(ERROR,
                (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                 errmsg("index \"%s\" is not valid", RelationGetRelationName(*index)), errhint("Build it again: REINDEX INDEX.")));
}

}  // namespace

OpenedIndex::OpenedIndex(Oid index, bool keep_writers_out)
{
    pg_call([&] {
        open_both(index, keep_writers_out, &lock_, &heap_, &index_);
        GetUserIdAndSecContext(&user_, &context_);
        SetUserIdAndSecContext(heap_->rd_rel->relowner, context_ | SECURITY_RESTRICTED_OPERATION);
        settings_ = NewGUCNestLevel();
        // As PostgreSQL 17 does for maintenance: what the owner's code names without a schema is not the caller's to choose.
        set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
    });
}

OpenedIndex::~OpenedIndex()
{
    AtEOXact_GUC(false, settings_);
    SetUserIdAndSecContext(user_, context_);
    index_close(index_, lock_);
    table_close(heap_, lock_);
}

}  // namespace vkv::hnsw
