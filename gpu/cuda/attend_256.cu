// The kernels of attention for values of 256 dimensions: a translation unit of their own, so that dimensions compile side by side.
#include "gpu/cuda/attend_kernels.h"

namespace vkv::gpu::cu {

AttendKernel *attend_kernel_256(kv::Codec codec) { return attend_kernel_of<256>(codec); }

}  // namespace vkv::gpu::cu
