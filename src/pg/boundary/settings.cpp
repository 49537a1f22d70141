// vectorkv.simd: which instruction set the distance kernels use. "auto" is the best one that processor and build have;
// naming one is for tests and for comparing. A level that is missing is refused when it is set.

#include "pg/boundary/settings.h"

#include "core/simd/kernels.h"
#include "pg/boundary/boundary.h"
#include "pg/boundary/fault.h"
#include "pg/boundary/pg.h"

namespace vkv {
namespace {

constexpr int kAuto = -1;

int simd_setting = kAuto;

constexpr config_enum_entry kSimdOptions[] = {
    {"auto", kAuto, false},
    {"scalar", static_cast<int>(simd::Level::scalar), false},
    {"neon", static_cast<int>(simd::Level::neon), false},
    {"avx2", static_cast<int>(simd::Level::avx2), false},
    {"avx512", static_cast<int>(simd::Level::avx512), false},
    {nullptr, 0, false},
};

bool check_simd(int *value, void **, GucSource)
{
    if (*value == kAuto || simd::supported(static_cast<simd::Level>(*value))) return true;
    GUC_check_errcode(ERRCODE_FEATURE_NOT_SUPPORTED);
    GUC_check_errmsg("this processor or build has no \"%s\" kernels", simd::level_name(static_cast<simd::Level>(*value)));
    GUC_check_errhint("The best level here is \"%s\".", simd::level_name(simd::best_level()));
    return false;
}

void assign_simd(int value, void *) { simd::set_level(value == kAuto ? simd::best_level() : static_cast<simd::Level>(value)); }

}  // namespace

void init_settings()
{
    DefineCustomEnumVariable("vectorkv.simd", "Sets the instruction set of the distance kernels.",
                             "\"auto\" takes the best one of the processor.", &simd_setting, kAuto, kSimdOptions, PGC_USERSET, 0,
                             entry<check_simd>, entry<assign_simd>, nullptr);
    init_fault_setting();
}

void reserve_setting_names() { MarkGUCPrefixReserved("vectorkv"); }

}  // namespace vkv
