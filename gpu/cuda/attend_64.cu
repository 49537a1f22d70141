// The kernels of attention for values of 64 dimensions: a translation unit of their own, so that dimensions compile side by side.
#include "gpu/cuda/attend_kernels.h"

namespace vkv::gpu::cu {

AttendKernel *attend_kernel_64(kv::Codec codec) { return attend_kernel_of<64>(codec); }

}  // namespace vkv::gpu::cu
