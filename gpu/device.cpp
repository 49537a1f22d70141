// Chooses the device by its name.
#include "gpu/device.h"

#include <stdexcept>

namespace vkv::gpu {

#ifndef VKV_CUDA
std::unique_ptr<Device> open_cuda_device(const DeviceOptions &) { throw NoDevice("this program was built without CUDA"); }
#endif

std::unique_ptr<Device> open_device(const DeviceOptions &options)
{
    if (options.name == "cpu") return open_cpu_device(options);
    // Without a GPU there is nothing to gain from a helper, so "auto" is never the CPU.
    if (options.name == "auto" || options.name == "cuda" || options.name.starts_with("cuda:")) return open_cuda_device(options);
    throw std::runtime_error("unknown device \"" + options.name + "\": auto, cpu, cuda or cuda:N");
}

}  // namespace vkv::gpu
