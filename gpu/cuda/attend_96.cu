// The kernels of attention for values of 96 dimensions: a translation unit of their own, so that dimensions compile side by side.
#include "gpu/cuda/attend_kernels.h"

namespace vkv::gpu::cu {

AttendKernel *attend_kernel_96(kv::Codec codec) { return attend_kernel_of<96>(codec); }

}  // namespace vkv::gpu::cu
