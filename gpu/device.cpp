// Chooses the device by its name.
#include "gpu/device.h"

#include <stdexcept>

#include "gpu/log.h"

namespace vkv::gpu {

#ifndef VKV_CUDA
std::unique_ptr<Device> open_cuda_device(const DeviceOptions &) { throw NoDevice("this program was built without CUDA"); }
#endif

std::unique_ptr<Device> open_device(const DeviceOptions &options)
{
    if (options.name == "cpu") return open_cpu_device(options);
    if (options.name == "cuda" || options.name.starts_with("cuda:")) return open_cuda_device(options);
    if (options.name != "auto") throw std::runtime_error("unknown device \"" + options.name + "\": auto, cpu, cuda or cuda:N");
#ifdef VKV_CUDA
    try {
        return open_cuda_device(options);
    } catch (const std::runtime_error &error) {
        log("the CPU serves: %s", error.what());
    }
#endif
    return open_cpu_device(options);
}

}  // namespace vkv::gpu
