// CUDA's calls and what they hand out, as C++: every call is checked, everything is given back by destructors.
#pragma once
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace vkv::gpu::cu {

inline void check(cudaError_t error, const char *what)
{
    if (error != cudaSuccess)
        throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) +
                                 ")");
}

class OwnStream {
public:
    OwnStream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate"); }
    ~OwnStream() { cudaStreamDestroy(stream_); }
    OwnStream(const OwnStream &) = delete;
    OwnStream &operator=(const OwnStream &) = delete;
    operator cudaStream_t() const { return stream_; }

private:
    cudaStream_t stream_ = nullptr;
};

class OwnEvent {
public:
    explicit OwnEvent(unsigned flags = cudaEventDefault) { check(cudaEventCreateWithFlags(&event_, flags), "cudaEventCreate"); }
    ~OwnEvent() { cudaEventDestroy(event_); }
    OwnEvent(const OwnEvent &) = delete;
    OwnEvent &operator=(const OwnEvent &) = delete;
    operator cudaEvent_t() const { return event_; }

private:
    cudaEvent_t event_ = nullptr;
};

// Memory of the device, or of the host and pinned, that grows when more is asked for; what was in it is lost then.
template <bool of_host>
class GrowingMemory {
public:
    GrowingMemory() = default;
    ~GrowingMemory() { release(); }
    GrowingMemory(const GrowingMemory &) = delete;
    GrowingMemory &operator=(const GrowingMemory &) = delete;
    uint8_t *reserve(size_t bytes)
    {
        if (bytes <= bytes_) return memory_;
        release();
        const size_t room = bytes + bytes / 4;
        void *memory = nullptr;
        if (of_host)
            check(cudaMallocHost(&memory, room), "pinned memory");
        else
            check(cudaMalloc(&memory, room), "memory of the device");
        memory_ = static_cast<uint8_t *>(memory);
        bytes_ = room;
        return memory_;
    }
    uint8_t *data() const { return memory_; }

private:
    void release()
    {
        if (of_host)
            cudaFreeHost(memory_);
        else
            cudaFree(memory_);
        memory_ = nullptr;
        bytes_ = 0;
    }
    uint8_t *memory_ = nullptr;
    size_t bytes_ = 0;
};
using DeviceMemory = GrowingMemory<false>;
using PinnedMemory = GrowingMemory<true>;

}  // namespace vkv::gpu::cu
