// What the helper asks of a device: a cache of tiles in slots of 8 KiB, attention over them, and nearest vectors. One
// implementation runs on the CPU (device_cpu.cpp), one on CUDA (cuda/).
//
// copy() and the launches are called by two threads, one each: copies of coming requests overlap the running launch. A slot is
// never written while a launch that reads it runs; the scheduler sees to that.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/offload/protocol.h"

namespace vkv::gpu {

struct DeviceFacts {
    std::string name;     // as a person would call it
    std::string backend;  // "cpu" or "cuda"
    uint32_t slots = 0;   // of kSlabBytes
    uint64_t memory = 0;  // bytes taken for slots
};

// Tiles of one KV head, in order of position, of which positions [from, to) count.
struct Segment {
    uint32_t first_slot, slots;  // range in AttendBatch::slots
    int32_t from, to;
};

// What all query rows of a request share.
struct Geometry {
    uint32_t rows = 0, q_len = 1, dim_k = 0, dim_v = 0, tile_flags = 0;
    float scale = 1, softcap = 0;
    bool causal = true;
    int32_t window = 0, sinks = 0;
    uint32_t codecs = 0;  // bit set of kv::Codec that its tiles have; 0: not known yet
    bool operator==(const Geometry &) const = default;
};

// Query rows that share a KV head of one item. queries and state lie in the arena.
struct HeadWork {
    uint32_t geometry;                 // index in AttendBatch::geometries
    int32_t total;                     // kv::SightRule
    uint32_t first_segment, segments;  // range in AttendBatch::segments
    const float *queries;              // [rows][dim_k]
    float *state;                      // m [rows], l [rows], o [rows][dim_v]
};

struct AttendBatch {
    std::vector<Geometry> geometries;
    std::vector<HeadWork> heads;
    std::vector<Segment> segments;
    std::vector<uint32_t> slots;
    uint64_t tile_bytes = 0;
    uint32_t launches = 0;  // out: kernels launched
};

struct Copy {
    const void *slab;  // in the arena
    uint32_t slot;
};

class Device {
public:
    virtual ~Device() = default;
    virtual const DeviceFacts &facts() const = 0;
    // Called from the scheduler's thread, must not touch the device. Says why not.
    virtual bool supports(const Geometry &geometry, std::string *why) const = 0;
    // The arena is mapped: a device may pin it.
    virtual void attach_arena(void *arena, size_t bytes) = 0;

    // Each returns when it is done: slabs may be reused, states are written. Throws std::runtime_error when the device failed; the
    // helper ends then.
    virtual void copy(std::span<const Copy> copies) = 0;
    virtual void attend(AttendBatch *batch) = 0;
    virtual void nearest(const offload::NearestRequest &request, const float *queries, const float *vectors,
                         offload::Neighbor *results) = 0;
};

struct DeviceOptions {
    std::string name = "auto";     // auto | cpu | cuda | cuda:N
    uint64_t memory = 0;           // bytes for slots; 0: a share of what is free
    unsigned threads = 0;          // of the CPU device; 0: one for each core
    uint64_t launch_delay_us = 0;  // CPU device: what a launch costs at least; for tests of batching
};

// What was asked for is not there, and will not be: the supervisor does not try again.
class NoDevice : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// Throws std::runtime_error that says what is missing, NoDevice where another try is of no use.
std::unique_ptr<Device> open_device(const DeviceOptions &options);
// The ones built in.
std::unique_ptr<Device> open_cpu_device(const DeviceOptions &options);
std::unique_ptr<Device> open_cuda_device(const DeviceOptions &options);  // throws where the program was built without CUDA

}  // namespace vkv::gpu
