// The supervisor as PostgreSQL sees it: a background worker with shared memory and without a database.

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/gpu/settings.h"
#include "pg/gpu/shared.h"
#include "pg/gpu/supervisor.h"

namespace vkv::helper {

namespace {

void forget_latch(int, Datum)
{
    const Locked locked(LW_EXCLUSIVE);
    shared()->supervisor = nullptr;
    pg_atomic_write_u64(&shared()->ready, 0);
}

}  // namespace

WORKER_MAIN(vkv_worker_gpu)
{
    pqsignal(SIGHUP, SignalHandlerForConfigReload);
    pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
    BackgroundWorkerUnblockSignals();
    {
        const Locked locked(LW_EXCLUSIVE);
        shared()->supervisor = MyLatch;
    }
    before_shmem_exit(entry<forget_latch>, 0);
    supervise();
    // Not 0, which would mean never to start it again: somebody may have ended it by hand.
    proc_exit(1);
}

void register_supervisor()
{
    BackgroundWorker worker{};
    strlcpy(worker.bgw_name, "vectorkv gpu supervisor", sizeof worker.bgw_name);
    strlcpy(worker.bgw_type, "vectorkv gpu supervisor", sizeof worker.bgw_type);
    worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
    worker.bgw_start_time = BgWorkerStart_PostmasterStart;
    worker.bgw_restart_time = 5;
    strlcpy(worker.bgw_library_name, "vector", sizeof worker.bgw_library_name);
    strlcpy(worker.bgw_function_name, "vkv_worker_gpu", sizeof worker.bgw_function_name);
    RegisterBackgroundWorker(&worker);
}

void init()
{
    define_settings();
    if (!process_shared_preload_libraries_in_progress) return;
    request_shared_memory();
    register_supervisor();
}

}  // namespace vkv::helper
