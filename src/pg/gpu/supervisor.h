// The background worker that keeps the helper program running.
#pragma once

namespace vkv::helper {

// In _PG_init, while the postmaster loads the library.
void register_supervisor();

// Until the server wants the worker to end.
void supervise();

}  // namespace vkv::helper
