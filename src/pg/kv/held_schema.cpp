// See held_schema.h. All frames hold trivial locals only.

#include "pg/kv/held_schema.h"

#include "pg/boundary/boundary.h"

namespace vkv::kv {

namespace {

// Locks the row as a foreign key to it would: a change of its name waits. False: it has changed, which has not been heard of yet.
bool lock_row(Relation schemas, HeapTuple row)
{
    HeapTupleData locked = *row;
    Buffer buffer;
    TM_FailureData failure;
    const TM_Result result =
        heap_lock_tuple(schemas, &locked, GetCurrentCommandId(true), LockTupleKeyShare, LockWaitBlock, false, &buffer, &failure);
    ReleaseBuffer(buffer);
    return result != TM_Updated && result != TM_Deleted;
}

bool lock_schema(Relation schemas, Oid schema)
{
    AcceptInvalidationMessages();
    HeapTuple row = SearchSysCacheCopy1(NAMESPACEOID, ObjectIdGetDatum(schema));
    if (!HeapTupleIsValid(row))
        ereport(ERROR, errcode(ERRCODE_UNDEFINED_SCHEMA), errmsg("schema with OID %u does not exist", schema));
    const char *name = NameStr(reinterpret_cast<Form_pg_namespace>(GETSTRUCT(row))->nspname);
    const bool held = lock_row(schemas, row) && get_namespace_oid(name, true) == schema;
    heap_freetuple(row);
    return held;
}

}  // namespace

void hold_schema(Oid schema)
{
    if (XactReadOnly) return;  // the commands refuse that themselves
    Relation schemas = table_open(NamespaceRelationId, RowShareLock);
    while (!lock_schema(schemas, schema)) {
        CHECK_FOR_INTERRUPTS();
        pg_usleep(1000);  // who has changed it tells of it after it can be seen
    }
    table_close(schemas, NoLock);
}

}  // namespace vkv::kv
