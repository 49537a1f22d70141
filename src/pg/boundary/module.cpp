// The library as PostgreSQL sees it: its magic block and what happens when it is loaded.
// Loading defines settings; loading by the postmaster (shared_preload_libraries) also asks for shared memory and registers the
// supervisor of the GPU helper. No thread, no file, nothing of a GPU.

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/boundary/settings.h"
#include "pg/gpu/settings.h"
#include "pg/hnsw/hnsw.h"
#include "pg/kv/settings.h"

extern "C" {

VKV_EXPORT const Pg_magic_struct *PG_MAGIC_FUNCTION_NAME(void);
VKV_MODULE_MAGIC("vector", "0.8.6.1");

VKV_EXPORT void _PG_init(void);
void _PG_init(void)
{
    vkv::detail::at_boundary([] {
        vkv::init_settings();
        vkv::hnsw_init();
        vkv::kv::init_settings();
        vkv::helper::init();
        vkv::reserve_setting_names();
    });
}
}
