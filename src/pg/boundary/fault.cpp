// The setting behind fault_point(); see fault.h.

#include "pg/boundary/fault.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"

namespace vkv {

namespace detail {

constinit int32_t calls_to_fault = 0;

void raise_fault()
{
    ereport(ERROR, (errcode(MAKE_SQLSTATE('V', 'K', 'F', '0', '1')), errmsg("a fault was asked for by \"vectorkv.fault_after\"")));
    pg_unreachable();
}

}  // namespace detail

namespace {

int fault_setting = 0;

// Every SET starts to count anew.
void assign_fault(int value, void *) { detail::calls_to_fault = value; }

}  // namespace

void init_fault_setting()
{
    DefineCustomIntVariable("vectorkv.fault_after", "Makes one of the next calls into PostgreSQL fail on purpose: which one.",
                            "For tests. Zero: none.", &fault_setting, 0, 0, INT_MAX, PGC_SUSET, GUC_NOT_IN_SAMPLE, nullptr,
                            entry<assign_fault>, nullptr);
}

}  // namespace vkv
