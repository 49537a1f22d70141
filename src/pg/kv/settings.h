// The settings of schema kv; defined when the library is loaded.
#pragma once

namespace vkv::kv {

void init_settings();  // vectorkv.tile_list_memory

}  // namespace vkv::kv
