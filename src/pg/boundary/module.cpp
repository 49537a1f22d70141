// The library as PostgreSQL sees it: its magic block and what happens when it is loaded.
// Loading defines settings; loading by the postmaster (shared_preload_libraries) also asks for shared memory and registers the
// supervisor of the GPU helper. No thread, no file, nothing of a GPU.

#include <alloca.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/boundary/settings.h"
#include "pg/gpu/settings.h"
#include "pg/hnsw/hnsw.h"
#include "pg/kv/settings.h"

namespace {

// Not inlined: its frame is what makes the stack grow.
[[gnu::noinline]] void touch_stack(size_t bytes)
{
    volatile char *deep = static_cast<volatile char *>(alloca(bytes));
    deep[0] = 0;
}

// Where a process has no memory left, a stack that has to grow ends it by SIGSEGV, and the server with it. So the stack is made as
// deep as our functions go (encoding a tile takes 136 kB) while there is memory, or an error. It never shrinks.
void reserve_stack()
{
    constexpr size_t kBytes = 512 << 10;
    rlimit limit;
    if (getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur < 4 * kBytes) return;
    void *room = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED) throw std::bad_alloc();
    munmap(room, kBytes);
    touch_stack(kBytes);
}

}  // namespace

extern "C" {

VKV_EXPORT const Pg_magic_struct *PG_MAGIC_FUNCTION_NAME(void);
VKV_MODULE_MAGIC("vector", "0.8.6.1");

VKV_EXPORT void _PG_init(void);
void _PG_init(void)
{
    vkv::detail::at_boundary([] {
        reserve_stack();
        vkv::init_settings();
        vkv::hnsw_init();
        vkv::kv::init_settings();
        vkv::helper::init();
        vkv::reserve_setting_names();
    });
}
}
