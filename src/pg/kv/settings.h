// The settings of schema kv; defined when the library is loaded.
#pragma once

namespace vkv::kv {

void define_tile_list_settings();  // vectorkv.tile_list_memory
void define_tail_settings();       // vectorkv.tail_memory

inline void init_settings()
{
    define_tile_list_settings();
    define_tail_settings();
}

}  // namespace vkv::kv
