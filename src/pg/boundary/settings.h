// Settings that belong to the library as a whole. Those of an access method are defined beside it.
#pragma once

namespace vkv {

// Defines vectorkv.simd (auto, scalar, neon, avx2, avx512), and vectorkv.fault_after (fault.h).
void init_settings();

// Call after all settings are defined: unknown names under vectorkv are refused from then on.
void reserve_setting_names();

}  // namespace vkv
