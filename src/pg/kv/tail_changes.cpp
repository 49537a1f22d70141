// Hearing of changes by hand, and telling of them; see tail_changes.h.

#include "pg/kv/tail_changes.h"

#include <utility>

#include "pg/boundary/boundary.h"
#include "pg/kv/announce.h"

namespace vkv::kv {

namespace {

constexpr char kFunction[] = "forget_tails";

uint64_t changes = 1;  // that there were, and what was before this session listened
bool listening = false, known = false;
Oid function = InvalidOid;
uint32 function_hash = 0;
TransactionId changer = InvalidTransactionId;  // the last transaction of this backend that changed a tail by hand

// A snapshot from after the newest change, for which `taken` is the number: who was running then did not make it.
uint64_t taken = 0;
SnapshotData newest;

void heard(Datum, int, uint32 hash)
{
    if (known && hash != 0 && hash != function_hash) return;
    ++changes;
    known = false;
}

void look_up()
{
    const Oid nothing = InvalidOid;
    function = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(kFunction),
                               PointerGetDatum(buildoidvector(&nothing, 0)), ObjectIdGetDatum(get_namespace_oid("kv", true)));
    function_hash = GetSysCacheHashValue1(PROCOID, ObjectIdGetDatum(function));
    known = true;
}

// Its arrays are made once, and stay.
void take_newest()
{
    taken = 0;
    newest.snapshot_type = SNAPSHOT_MVCC;
    GetSnapshotData(&newest);
    taken = changes;
}

bool all_ran(const TransactionId *xids, int n)
{
    for (int i = 0; i < n; ++i)
        if (!XidInMVCCSnapshot(xids[i], &newest)) return false;
    return true;
}

}  // namespace

void note_tail_change() { ++changes; }

void doubt_snapshots() { taken = 0; }

uint64_t tail_changes()
{
    if (!listening) {
        CacheRegisterSyscacheCallback(PROCOID, entry<heard>, 0);
        listening = true;
    }
    AcceptInvalidationMessages();
    if (!known) look_up();
    return changes;
}

bool sees_tail_changes()
{
    constexpr uint32 kMany = 1000;
    if (TransactionIdIsValid(changer) && changer == GetTopTransactionIdIfAny()) return false;
    if (taken != changes) take_newest();
    const Snapshot snapshot = GetActiveSnapshot();
    if (!IsMVCCSnapshot(snapshot)) return false;
    if (TransactionIdFollowsOrEquals(snapshot->xmin, newest.xmax)) return true;
    // What still runs for this snapshot ran then, too; so does what it takes for not begun.
    if (!all_ran(snapshot->xip, static_cast<int>(snapshot->xcnt))) return false;
    if (snapshot->takenDuringRecovery && !all_ran(snapshot->subxip, snapshot->subxcnt)) return false;
    if (TransactionIdFollowsOrEquals(snapshot->xmax, newest.xmax)) return true;
    if (newest.xmax - snapshot->xmax > kMany) return false;
    TransactionId xid = snapshot->xmax;
    while (xid != newest.xmax && XidInMVCCSnapshot(xid, &newest)) TransactionIdAdvance(xid);
    return xid == newest.xmax;
}

bool is_forget_tails(Oid oid) { return known && oid == function; }

namespace {

void tell(Oid oid)
{
    changer = GetTopTransactionId();
    HeapTuple row = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
    if (!HeapTupleIsValid(row)) return;
    Relation procs = table_open(ProcedureRelationId, AccessShareLock);
    CacheInvalidateHeapTuple(procs, row, nullptr);
    table_close(procs, AccessShareLock);
    ReleaseSysCache(row);
}

}  // namespace

namespace {

// Whether the trigger fires for the very DELETE that a function of schema kv runs: at its first rows others' code begins to run,
// which may delete, too (policies at the same depth, triggers deeper).
bool is_own_delete(const TriggerData *trigger)
{
    const Announced *statement = announced();
    if (!statement || statement->plan != Plan::tail_delete || statement->cache->tail != RelationGetRelid(trigger->tg_relation) ||
        !TRIGGER_FIRED_BY_DELETE(trigger->tg_event) || trigger_depth() != statement->depth + 1)
        return false;
    return !std::exchange(statement->began_delete, true);
}

}  // namespace

// What the functions of schema kv delete has been sealed, or gets another epoch.
SQL_FUNCTION(kv_forget_tails)
{
    const auto *trigger = CALLED_AS_TRIGGER(fcinfo) ? reinterpret_cast<const TriggerData *>(fcinfo->context) : nullptr;
    if (!trigger || !TRIGGER_FIRED_BEFORE(trigger->tg_event) || !TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event))
        ereport(ERROR, errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                errmsg("kv.forget_tails is a trigger BEFORE UPDATE OR DELETE, FOR EACH STATEMENT"));
    if (!is_own_delete(trigger)) tell(fcinfo->flinfo->fn_oid);
    return PointerGetDatum(nullptr);
}

}  // namespace vkv::kv
