// Defines vectorkv.gpu and its companions. None of them needs a restart of the server: the supervisor starts its helper anew when
// what it was started with has changed.

#include "pg/gpu/settings.h"

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/gpu/helper.h"

namespace vkv::helper {

constinit Settings settings{};

namespace {

constexpr int as_int(Use use) { return static_cast<int>(use); }
constexpr int as_int(offload::Fault fault) { return static_cast<int>(fault); }

constexpr config_enum_entry kUses[] = {
    {"auto", as_int(Use::automatic), false},
    {"on", as_int(Use::on), false},
    {"off", as_int(Use::off), false},
    {"require", as_int(Use::require), false},
    {"true", as_int(Use::on), true},
    {"false", as_int(Use::off), true},
    {"yes", as_int(Use::on), true},
    {"no", as_int(Use::off), true},
    {"1", as_int(Use::on), true},
    {"0", as_int(Use::off), true},
    {nullptr, 0, false},
};

constexpr config_enum_entry kFaults[] = {
    {"none", as_int(offload::Fault::none), false},   {"hang", as_int(offload::Fault::hang), false},
    {"crash", as_int(offload::Fault::crash), false}, {"device_error", as_int(offload::Fault::device_error), false},
    {"slow", as_int(offload::Fault::slow), false},   {nullptr, 0, false},
};

bool check_device(char **value, void **, GucSource)
{
    const char *name = *value;
    if (strcmp(name, "auto") == 0 || strcmp(name, "cpu") == 0 || strcmp(name, "cuda") == 0) return true;
    if (strncmp(name, "cuda:", 5) == 0 && name[5] != '\0' && strspn(name + 5, "0123456789") == strlen(name + 5) && strlen(name) < 9)
        return true;
    GUC_check_errdetail("Devices are \"auto\", \"cpu\", \"cuda\" and \"cuda:N\".");
    return false;
}

void define_use()
{
    DefineCustomEnumVariable(
        "vectorkv.gpu", "Sets whether kv.attend uses the GPU helper.",
        "\"auto\" uses a GPU for calls that it answers sooner; \"on\" uses the helper whenever there is one; \"require\" raises an "
        "error "
        "instead of computing on the CPU. The helper itself does not run while the server's own value is \"off\".",
        &settings.use, as_int(Use::automatic), kUses, PGC_USERSET, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable(
        "vectorkv.gpu_timeout", "Sets how long a call may wait for the GPU helper before it is computed on the CPU.",
        "0 waits without end.", &settings.timeout_ms, 5000, 0, INT_MAX / 2, PGC_USERSET, GUC_UNIT_MS, nullptr, nullptr, nullptr);
}

void define_helper()
{
    DefineCustomStringVariable(
        "vectorkv.gpu_device", "Sets the device of the GPU helper.",
        "\"auto\" and \"cuda\" take the first CUDA device, \"cuda:N\" another; \"cpu\" runs the helper without a GPU, to test it.",
        &settings.device, "auto", PGC_SIGHUP, 0, entry<check_device>, nullptr, nullptr);
    DefineCustomIntVariable("vectorkv.gpu_memory", "Sets how much memory of the device holds tiles.",
                            "0 takes 80 % of what is free on a GPU, and 1 GB on the CPU device.", &settings.memory_mb, 0, 0,
                            64 * 1024 * 1024, PGC_SIGHUP, GUC_UNIT_MB, nullptr, nullptr, nullptr);
    DefineCustomIntVariable("vectorkv.gpu_arena_size",
                            "Sets the size of the memory through which backends hand tiles and queries to the GPU helper.", nullptr,
                            &settings.arena_mb, 256, 8, 1024 * 1024, PGC_SIGHUP, GUC_UNIT_MB, nullptr, nullptr, nullptr);
    DefineCustomIntVariable("vectorkv.gpu_max_launch_tiles", "Sets how many tiles the GPU helper reads in one launch.",
                            "Bounds how long a call can be held up by others, and by what was cancelled.",
                            &settings.max_launch_tiles, 262144, 256, 64 * 1024 * 1024, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable("vectorkv.gpu_batch_wait",
                            "Sets how many microseconds the idle GPU helper waits for more calls to launch together.",
                            "0 launches at once; calls that come meanwhile are the next batch.", &settings.batch_wait_us, 0, 0,
                            100000, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
    DefineCustomIntVariable("vectorkv.gpu_hang_timeout",
                            "Sets how long a launch may take before the GPU helper is killed and started anew.", nullptr,
                            &settings.hang_timeout_ms, 10000, 100, INT_MAX / 2, PGC_SIGHUP, GUC_UNIT_MS, nullptr, nullptr, nullptr);
    DefineCustomStringVariable("vectorkv.gpu_helper", "Sets the program of the GPU helper.",
                               "An empty string is vectorkv_helper beside the server's own programs.", &settings.program, "",
                               PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
}

void define_faults()
{
    DefineCustomBoolVariable("vectorkv.gpu_faults", "Lets vectorkv.gpu_test_fault break the GPU helper on purpose.", nullptr,
                             &settings.faults, false, PGC_SIGHUP, GUC_NOT_IN_SAMPLE, nullptr, nullptr, nullptr);
    DefineCustomEnumVariable("vectorkv.gpu_test_fault",
                             "Sets what calls of this session break in the GPU helper, to test that nothing else breaks.",
                             "Has no effect unless vectorkv.gpu_faults is on.", &settings.test_fault, as_int(offload::Fault::none),
                             kFaults, PGC_SUSET, GUC_NOT_IN_SAMPLE, nullptr, nullptr, nullptr);
}

}  // namespace

void define_settings()
{
    define_use();
    define_helper();
    define_faults();
}

}  // namespace vkv::helper
