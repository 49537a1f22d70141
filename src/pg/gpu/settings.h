// The settings of the GPU helper, vectorkv.gpu*. Those of the helper itself are read by the supervisor, the others by backends.
#pragma once

namespace vkv::helper {

struct Settings {
    int use;                  // Use
    char *device;             // auto | cpu | cuda | cuda:N
    int memory_mb, arena_mb;  // memory 0: a share of what is free
    int max_launch_tiles, batch_wait_us;
    int timeout_ms;       // 0: none
    int hang_timeout_ms;  // what a launch may take before the helper is killed
    char *program;        // empty: beside the server's programs
    bool faults;
    int test_fault;  // offload::Fault
};

extern Settings settings;

void define_settings();

// What _PG_init does for the helper: settings and, where the library is loaded by the postmaster, shared memory and the supervisor.
void init();

}  // namespace vkv::helper
