// The settings behind fault_point(); see fault.h.

#include "pg/boundary/fault.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"

namespace vkv {

namespace detail {

constinit int32_t calls_to_fault = 0, calls_to_wait = 0;

void fault_or_wait()
{
    if (calls_to_fault != 0 && --calls_to_fault == 0)
        ereport(ERROR,
                (errcode(MAKE_SQLSTATE('V', 'K', 'F', '0', '1')), errmsg("a fault was asked for by \"vectorkv.fault_after\"")));
    // A lock, or a critical section, holds interrupts off.
    if (calls_to_wait == 0 || InterruptHoldoffCount != 0 || !IsTransactionState() || --calls_to_wait != 0) return;
    LOCKTAG tag;
    SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 11, 1);  // as pg_advisory_lock(11)
    LockAcquire(&tag, ShareLock, false, false);
    LockRelease(&tag, ShareLock, false);
}

}  // namespace detail

namespace {

int fault_setting = 0, wait_setting = 0;

// Every SET starts to count anew.
void assign_fault(int value, void *) { detail::calls_to_fault = value; }
void assign_wait(int value, void *) { detail::calls_to_wait = value; }

}  // namespace

void init_fault_setting()
{
    DefineCustomIntVariable("vectorkv.fault_after", "Makes one of the next calls into PostgreSQL fail on purpose: which one.",
                            "For tests. Zero: none.", &fault_setting, 0, 0, INT_MAX, PGC_SUSET, GUC_NOT_IN_SAMPLE, nullptr,
                            entry<assign_fault>, nullptr);
    DefineCustomIntVariable("vectorkv.wait_after", "Makes one of the next calls into PostgreSQL wait for advisory lock 11.",
                            "For tests. Zero: none.", &wait_setting, 0, 0, INT_MAX, PGC_SUSET, GUC_NOT_IN_SAMPLE, nullptr,
                            entry<assign_wait>, nullptr);
}

}  // namespace vkv
