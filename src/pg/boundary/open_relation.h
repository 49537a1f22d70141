// Opening a relation by an OID that was looked up before its lock was had: whoever held the lock may have dropped it.
#pragma once

#include "pg/boundary/pg.h"

namespace vkv {

// Raises.
inline Relation open_existing(Oid relid, LOCKMODE lock)
{
    Relation rel = try_relation_open(relid, lock);
    if (!rel) ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE), errmsg("relation with OID %u does not exist", relid)));
    return rel;
}

}  // namespace vkv
