// The library as PostgreSQL sees it: its magic block and what happens when it is loaded.
// Loading defines settings and nothing else: no thread, no file, no memory worth naming.

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/boundary/settings.h"
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
        vkv::reserve_setting_names();
    });
}
}
