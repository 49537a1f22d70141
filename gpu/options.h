// The helper's command line.
#pragma once
#include <string>

#include "gpu/device.h"
#include "gpu/server.h"

namespace vkv::gpu {

struct Options {
    DeviceOptions device;
    ServerOptions server;
    bool version = false;
};

// Throws std::runtime_error that names what is wrong.
Options read_options(int count, char **arguments);

}  // namespace vkv::gpu
