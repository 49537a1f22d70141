// The kernels of attention by codec and dimension of values. Each dimension is a translation unit of its own (attend_64.cu ...).
#pragma once
#include <cstdint>

#include "core/kv/tile.h"
#include "gpu/cuda/attend.cuh"

namespace vkv::gpu::cu {

using AttendKernel = void(AttendArguments);

template <int dim_v>
AttendKernel *attend_kernel_of(kv::Codec codec)
{
    switch (codec) {
        case kv::Codec::f16:
            return attend<kv::Codec::f16, dim_v>;
        case kv::Codec::int8:
            return attend<kv::Codec::int8, dim_v>;
        case kv::Codec::uniform4:
            return attend<kv::Codec::uniform4, dim_v>;
        case kv::Codec::uniform3:
            return attend<kv::Codec::uniform3, dim_v>;
        case kv::Codec::uniform2:
            return attend<kv::Codec::uniform2, dim_v>;
        case kv::Codec::rotated4:
            return attend<kv::Codec::rotated4, dim_v>;
        case kv::Codec::rotated3:
            return attend<kv::Codec::rotated3, dim_v>;
        case kv::Codec::rotated2:
            return attend<kv::Codec::rotated2, dim_v>;
    }
    return nullptr;
}

AttendKernel *attend_kernel_64(kv::Codec codec);
AttendKernel *attend_kernel_96(kv::Codec codec);
AttendKernel *attend_kernel_128(kv::Codec codec);
AttendKernel *attend_kernel_256(kv::Codec codec);

// Null where there is none: see dim_has_kernel.
inline AttendKernel *attend_kernel(kv::Codec codec, uint32_t dim_v)
{
    switch (dim_v) {
        case 64:
            return attend_kernel_64(codec);
        case 96:
            return attend_kernel_96(codec);
        case 128:
            return attend_kernel_128(codec);
        case 256:
            return attend_kernel_256(codec);
    }
    return nullptr;
}

}  // namespace vkv::gpu::cu
