// What differs between the supported servers: PostgreSQL 15 to 18. The only place with branches on PG_VERSION_NUM.
// Included by pg.h, after the server's headers.
#pragma once

#if PG_VERSION_NUM < 150000
#error "vectorkv needs PostgreSQL 15 or newer"
#endif

#if PG_VERSION_NUM >= 160000
extern "C" {
#include "varatt.h"
}
#endif

// The module's identity: from 18 on the server can show a name and a version.
#if PG_VERSION_NUM >= 180000
#define VKV_MODULE_MAGIC(module_name, module_version) PG_MODULE_MAGIC_EXT(.name = module_name, .version = module_version)
#else
#define VKV_MODULE_MAGIC(module_name, module_version) PG_MODULE_MAGIC
#endif

// Shared buffers looked at without a pin (hnsw/resident.h says why that is sound). The header is an internal one of the server;
// what is used of it is here.
extern "C" {
#include "storage/buf_internals.h"
}

namespace vkv::compat {

inline BufferDesc *buffer_descriptor(Buffer buffer)
{
    return BufferIsLocal(buffer) ? GetLocalBufferDescriptor(static_cast<uint32>(-buffer - 1))
                                 : GetBufferDescriptor(static_cast<uint32>(buffer - 1));
}

// Does the buffer's tag name this block of the relation's main fork?
inline bool buffer_names(BufferDesc *desc, Relation rel, BlockNumber block)
{
#if PG_VERSION_NUM >= 160000
    const bool same = BufTagMatchesRelFileLocator(&desc->tag, &rel->rd_locator) && desc->tag.forkNum == MAIN_FORKNUM;
#else
    const bool same = RelFileNodeEquals(desc->tag.rnode, rel->rd_node) && desc->tag.forkNum == MAIN_FORKNUM;
#endif
    return same && desc->tag.blockNum == block;
}

// Read in, and not about to be given to another block (which happens with its header locked).
inline bool buffer_valid(BufferDesc *desc) { return (pg_atomic_read_u32(&desc->state) & (BM_VALID | BM_LOCKED)) == BM_VALID; }

// The same, and used so much that the clock sweep must come by BM_MAX_USAGE_COUNT + 1 times before it takes the buffer.
inline bool buffer_hot(BufferDesc *desc)
{
    constexpr uint32 kHot = BM_VALID | static_cast<uint32>(BM_MAX_USAGE_COUNT) * BUF_USAGECOUNT_ONE;
    return (pg_atomic_read_u32(&desc->state) & (BM_VALID | BM_LOCKED | BUF_USAGECOUNT_MASK)) == kHot;
}

// Is the content of a shared buffer locked exclusively? What that looks like, is seen at a lock of our own.
inline bool content_locked_exclusively(BufferDesc *desc)
{
    static constinit uint32 exclusive = 0;
    if (exclusive == 0) {
        LWLock lock;
        LWLockInitialize(&lock, LWTRANCHE_BUFFER_CONTENT);
        const uint32 before = pg_atomic_read_u32(&lock.state);
        LWLockAcquire(&lock, LW_EXCLUSIVE);
        exclusive = before ^ pg_atomic_read_u32(&lock.state);
        LWLockRelease(&lock);
    }
    return (pg_atomic_read_u32(&BufferDescriptorGetContentLock(desc)->state) & exclusive) != 0;
}

// Pages found in shared buffers, for pg_statio_*; reading a page through the buffer manager counts itself.
inline void count_hits(Relation rel, int64 hits)
{
    if (rel->pgstat_info == nullptr) return;
#if PG_VERSION_NUM >= 160000
    rel->pgstat_info->counts.blocks_fetched += hits;
    rel->pgstat_info->counts.blocks_hit += hits;
#else
    rel->pgstat_info->t_counts.t_blocks_fetched += hits;
    rel->pgstat_info->t_counts.t_blocks_hit += hits;
#endif
}

// The file of a relation.
struct Storage {
    Oid database, space, file;
    bool operator==(const Storage &) const = default;
};

// Changes with TRUNCATE, REINDEX and the like.
inline Storage relation_storage(Relation rel)
{
#if PG_VERSION_NUM >= 160000
    return {rel->rd_locator.dbOid, rel->rd_locator.spcOid, rel->rd_locator.relNumber};
#else
    return {rel->rd_node.dbNode, rel->rd_node.spcNode, rel->rd_node.relNode};
#endif
}

// Whether this transaction has made the storage, so that TRUNCATE does not put another in its place.
inline bool emptied_in_place(Relation rel)
{
#if PG_VERSION_NUM >= 160000
    return rel->rd_createSubid != InvalidSubTransactionId || rel->rd_firstRelfilelocatorSubid != InvalidSubTransactionId;
#else
    return rel->rd_createSubid != InvalidSubTransactionId || rel->rd_firstRelfilenodeSubid != InvalidSubTransactionId;
#endif
}

// Pins the buffer if it still holds the block; false: somebody has to read it.
inline bool pin_recent(Relation rel, BlockNumber block, Buffer buffer)
{
#if PG_VERSION_NUM >= 160000
    return ReadRecentBuffer(rel->rd_locator, MAIN_FORKNUM, block, buffer);
#else
    return ReadRecentBuffer(rel->rd_node, MAIN_FORKNUM, block, buffer);
#endif
}

inline IndexScanDesc begin_index_scan(Relation table, Relation index, Snapshot snapshot, int keys)
{
#if PG_VERSION_NUM >= 180000
    return index_beginscan(table, index, snapshot, nullptr, keys, 0);
#else
    return index_beginscan(table, index, snapshot, keys, 0);
#endif
}

inline IndexScanDesc begin_bitmap_scan(Relation index, Snapshot snapshot, int keys)
{
#if PG_VERSION_NUM >= 180000
    return index_beginscan_bitmap(index, snapshot, nullptr, keys);
#else
    return index_beginscan_bitmap(index, snapshot, keys);
#endif
}

// use(block) of every block that has rows in the bitmap, until it returns false.
template <typename F>
void for_blocks(TIDBitmap *rows, F &&use)
{
#if PG_VERSION_NUM >= 180000
    TBMPrivateIterator *iterator = tbm_begin_private_iterate(rows);
    TBMIterateResult result;
    while (tbm_private_iterate(iterator, &result) && use(result.blockno)) {
    }
    tbm_end_private_iterate(iterator);
#else
    TBMIterator *iterator = tbm_begin_iterate(rows);
    for (TBMIterateResult *result = tbm_iterate(iterator); result && use(result->blockno);) result = tbm_iterate(iterator);
    tbm_end_iterate(iterator);
#endif
}

inline bool walk_query(Query *query, bool (*walker)(Node *, void *), void *context)
{
#if PG_VERSION_NUM >= 160000
    return query_tree_walker(query, walker, context, QTW_EXAMINE_RTES_BEFORE | QTW_EXAMINE_SORTGROUP);
#else
    return query_tree_walker(query, reinterpret_cast<bool (*)()>(reinterpret_cast<void *>(walker)), context,
                             QTW_EXAMINE_RTES_BEFORE | QTW_EXAMINE_SORTGROUP);
#endif
}

// Names the transaction within this backend.
inline LocalTransactionId local_transaction()
{
#if PG_VERSION_NUM >= 170000
    return MyProc->vxid.lxid;
#else
    return MyProc->lxid;
#endif
}

inline bool walk_expression(Node *node, bool (*walker)(Node *, void *), void *context)
{
#if PG_VERSION_NUM >= 160000
    return expression_tree_walker(node, walker, context);
#else
    return expression_tree_walker(node, reinterpret_cast<bool (*)()>(reinterpret_cast<void *>(walker)), context);
#endif
}

// The parts of "schema.name".
inline List *qualified_name(const char *name)
{
#if PG_VERSION_NUM >= 160000
    return stringToQualifiedNameList(name, nullptr);
#else
    return stringToQualifiedNameList(name);
#endif
}

inline Oid primary_key_index(Relation rel)
{
#if PG_VERSION_NUM >= 180000
    return RelationGetPrimaryKeyIndex(rel, false);
#else
    return RelationGetPrimaryKeyIndex(rel);
#endif
}

// Raises unless the user may read the column, as the executor does before a query: extensions that look at what is read are asked,
// too.
inline void check_may_read(Relation rel, std::initializer_list<AttrNumber> columns)
{
    Bitmapset *wanted_columns = nullptr;
    for (AttrNumber column : columns) wanted_columns = bms_add_member(wanted_columns, column - FirstLowInvalidHeapAttributeNumber);
    RangeTblEntry *entry = makeNode(RangeTblEntry);
    entry->rtekind = RTE_RELATION;
    entry->relid = RelationGetRelid(rel);
    entry->relkind = rel->rd_rel->relkind;
    entry->rellockmode = AccessShareLock;
#if PG_VERSION_NUM >= 160000
    List *permissions = NIL;
    RTEPermissionInfo *wanted = addRTEPermissionInfo(&permissions, entry);
    wanted->requiredPerms = ACL_SELECT;
    wanted->selectedCols = wanted_columns;
    ExecCheckPermissions(list_make1(entry), permissions, true);
#else
    entry->requiredPerms = ACL_SELECT;
    entry->selectedCols = wanted_columns;
    ExecCheckRTPerms(list_make1(entry), true);
#endif
}

// Whether this backend holds the lock.
inline bool is_locked(Oid relation, LOCKMODE mode)
{
    LOCKTAG tag;
    SET_LOCKTAG_RELATION(tag, MyDatabaseId, relation);
#if PG_VERSION_NUM >= 170000
    return LockHeldByMe(&tag, mode, false);
#else
    return LockHeldByMe(&tag, mode);
#endif
}

inline bool may_set_role(Oid member, Oid role)
{
#if PG_VERSION_NUM >= 160000
    return member_can_set_role(member, role);
#else
    return is_member_of_role(member, role);
#endif
}

inline bool owns_relation(Oid relation, Oid user)
{
#if PG_VERSION_NUM >= 160000
    return object_ownercheck(RelationRelationId, relation, user);
#else
    return pg_class_ownercheck(relation, user);
#endif
}

inline bool owns_schema(Oid schema, Oid user)
{
#if PG_VERSION_NUM >= 160000
    return object_ownercheck(NamespaceRelationId, schema, user);
#else
    return pg_namespace_ownercheck(schema, user);
#endif
}

inline AclResult may_create_in(Oid schema, Oid user)
{
#if PG_VERSION_NUM >= 160000
    return object_aclcheck(NamespaceRelationId, schema, user, ACL_CREATE);
#else
    return pg_namespace_aclcheck(schema, user, ACL_CREATE);
#endif
}

// Whether LOCK TABLE would let the user keep writers out.
inline bool may_lock_out_writers(Oid relation, Oid user)
{
    AclMode rights = ACL_UPDATE | ACL_DELETE | ACL_TRUNCATE;
#if PG_VERSION_NUM >= 170000
    rights |= ACL_MAINTAIN;
#endif
    return pg_class_aclcheck(relation, user, rights) == ACLCHECK_OK;
}

// A new last page, pinned and exclusively locked.
inline Buffer extend_relation(Relation rel, ForkNumber fork)
{
#if PG_VERSION_NUM >= 160000
    return ExtendBufferedRel(BMR_REL(rel), fork, nullptr, EB_LOCK_FIRST);
#else
    const bool need_lock = !RELATION_IS_LOCAL(rel);
    if (need_lock) LockRelationForExtension(rel, ExclusiveLock);
    Buffer buffer = ReadBufferExtended(rel, fork, P_NEW, RBM_NORMAL, nullptr);
    LockBuffer(buffer, BUFFER_LOCK_EXCLUSIVE);
    if (need_lock) UnlockRelationForExtension(rel, ExclusiveLock);
    return buffer;
#endif
}

}  // namespace vkv::compat

namespace vkv::compat {

inline void vacuum_delay()
{
#if PG_VERSION_NUM >= 180000
    vacuum_delay_point(false);
#else
    vacuum_delay_point();
#endif
}

// Since 18 the planner counts disabled nodes and looks at costs only among equals.
inline void disable_path([[maybe_unused]] Path *path)
{
#if PG_VERSION_NUM >= 180000
    path->disabled_nodes = 2;
#endif
}

}  // namespace vkv::compat

namespace vkv::compat {

// A row of a table of options. Since 18 it has a further member, which stays zero.
inline relopt_parse_elt relopt(const char *name, relopt_type type, size_t offset)
{
    relopt_parse_elt row{};
    row.optname = name;
    row.opttype = type;
    row.offset = static_cast<int>(offset);
    return row;
}

// Makes a set-returning function return a tuplestore. The row type that the caller expects is the declared one; to look it up would
// leave memory in the context of the query at each call.
inline void init_materialized(FunctionCallInfo fcinfo) { InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC); }

}  // namespace vkv::compat

namespace vkv::compat {

// Lives until it is freed.
inline WaitEventSet *create_wait_set(int events)
{
#if PG_VERSION_NUM >= 170000
    return CreateWaitEventSet(nullptr, events);
#else
    return CreateWaitEventSet(TopMemoryContext, events);
#endif
}

// What pg_stat_activity shows; before 17 an extension's waits have no name of their own.
inline uint32 new_wait_event([[maybe_unused]] const char *name)
{
#if PG_VERSION_NUM >= 170000
    return WaitEventExtensionNew(name);
#else
    return PG_WAIT_EXTENSION;
#endif
}

// Up to 16, old_snapshot_threshold lets vacuum remove what old snapshots still see.
inline bool removes_early()
{
#if PG_VERSION_NUM >= 170000
    return false;
#else
    return old_snapshot_threshold >= 0;
#endif
}

// Raises "snapshot too old" if a page with this LSN may lack what the snapshot sees, by the rule of TestForOldSnapshot.
inline void test_old_snapshot([[maybe_unused]] Snapshot snapshot, [[maybe_unused]] Relation rel, [[maybe_unused]] XLogRecPtr lsn)
{
#if PG_VERSION_NUM < 170000
    if (removes_early() && snapshot && snapshot->snapshot_type == SNAPSHOT_MVCC && !XLogRecPtrIsInvalid(snapshot->lsn) &&
        lsn > snapshot->lsn)
        TestForOldSnapshot_impl(snapshot, rel);
#endif
}

}  // namespace vkv::compat
