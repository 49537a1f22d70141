// The device on CUDA: slots are one allocation, the arena is pinned and mapped, so that kernels read queries and write states where
// backends have put them. One stream copies tiles, another runs kernels.
//
// copy() and the launches are called by a thread each. Whoever waits for kernels spins (a decode step is a few dozen microseconds);
// whoever waits for copies sleeps.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "gpu/cuda/cuda_memory.h"
#include "gpu/cuda/nearest.cuh"
#include "gpu/cuda/occupancy.h"
#include "gpu/cuda/upload.h"
#include "gpu/device.h"
#include "gpu/nearest_cpu.h"
#include "gpu/worker_pool.h"

namespace vkv::gpu {

namespace cu {

namespace {

constexpr int kLeastCapability = 8;                              // asynchronous copies to shared memory
constexpr double kUsualShare = 0.8;                              // of the free memory
constexpr uint64_t kMostDistances = uint64_t{32} * 1024 * 1024;  // of nearest, at once

int device_number(const std::string &name)
{
    if (name == "auto" || name == "cuda") return 0;
    const std::string number = name.substr(std::string("cuda:").size());
    if (number.empty() || number.size() > 4 || number.find_first_not_of("0123456789") != std::string::npos)
        throw std::runtime_error("unknown device \"" + name + "\": auto, cpu, cuda or cuda:N");
    return std::atoi(number.c_str());
}

std::string version_text(int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); }

// The driver comes with the machine; without one there is nothing to wait for.
int device_count()
{
    int driver = 0, count = 0;
    check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    if (driver == 0) throw NoDevice("no CUDA device: this machine has no NVIDIA driver");
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorInsufficientDriver)
        throw NoDevice("no CUDA device: the driver supports CUDA " + version_text(driver) + ", this program needs " +
                       version_text(CUDART_VERSION));
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
        throw NoDevice("no CUDA device: the driver of CUDA " + version_text(driver) + " finds none");
    check(error, "cudaGetDeviceCount");
    return count;
}

}  // namespace

class CudaDevice : public Device {
public:
    explicit CudaDevice(const DeviceOptions &options) : number_(device_number(options.name))
    {
        const int count = device_count();
        if (number_ >= count)
            throw NoDevice("no CUDA device " + std::to_string(number_) + ": this machine has " + std::to_string(count));
        check(cudaSetDevice(number_), "cudaSetDevice");
        cudaDeviceProp facts{};
        check(cudaGetDeviceProperties(&facts, number_), "cudaGetDeviceProperties");
        if (facts.major < kLeastCapability)
            throw NoDevice("no CUDA device of use: " + std::string(facts.name) + " has compute capability " +
                           std::to_string(facts.major) + "." + std::to_string(facts.minor) + ", 8.0 is needed");
        streams_ = std::make_unique<Streams>();
        occupancy_ = std::make_unique<Occupancy>(facts.multiProcessorCount);
        take_slots(options.memory);
        facts_.name = facts.name;
        facts_.backend = "cuda";
    }
    ~CudaDevice() override
    {
        if (arena_) cudaHostUnregister(arena_);
        cudaFree(slots_);
    }

    const DeviceFacts &facts() const override { return facts_; }

    bool supports(const Geometry &geometry, std::string *why) const override
    {
        if (geometry.tile_flags & kv::kKeysBeforeRope)
            *why = "keys before their rotary embedding have no kernel";
        else if (geometry.tile_flags & kv::kValuesInKeys)
            *why = "values that are part of the keys have no kernel";
        else if (!dim_has_kernel(geometry.dim_k))
            *why = "head_dim " + std::to_string(geometry.dim_k) + " has no kernel";
        else if (!dim_has_kernel(geometry.dim_v))
            *why = "dimension " + std::to_string(geometry.dim_v) + " of values has no kernel";
        else
            return true;
        return false;
    }

    void attach_arena(void *arena, size_t bytes) override
    {
        check(cudaSetDevice(number_), "cudaSetDevice");
        check(cudaHostRegister(arena, bytes, cudaHostRegisterMapped | cudaHostRegisterPortable), "pinning the arena");
        arena_ = arena;
        void *mapped = nullptr;
        check(cudaHostGetDevicePointer(&mapped, arena, 0), "mapping the arena");
        arena_offset_ = static_cast<uint8_t *>(mapped) - static_cast<uint8_t *>(arena);
    }

    void copy(std::span<const Copy> copies) override
    {
        if (copies.empty()) return;
        check(cudaSetDevice(number_), "cudaSetDevice");
        join_neighbors(copies);
        for (size_t i = 0; i < runs_.size(); ++i)
            check(cudaMemcpyAsync(runs_[i].slot, runs_[i].slab, runs_[i].bytes, cudaMemcpyHostToDevice, streams_->copier),
                  "copy of tiles");
        check(cudaEventRecord(streams_->copied, streams_->copier), "cudaEventRecord");
        check(cudaEventSynchronize(streams_->copied), "copy of tiles");
    }

    void attend(AttendBatch *batch) override
    {
        check(cudaSetDevice(number_), "cudaSetDevice");
        plan_.make(*batch, occupancy_->blocks(*batch));
        const PlacedBatch placed = upload_.place(*batch, plan_, slots_, arena_offset_, streams_->launcher);
        batch->launches = attend_on(streams_->launcher, plan_, placed);
        check(cudaGetLastError(), "launch of attention");
        check(cudaStreamSynchronize(streams_->launcher), "attention");
    }

    void nearest(const offload::NearestRequest &r, const float *queries, const float *vectors, offload::Neighbor *results) override
    {
        if (r.k > kMostNearest) return nearest_by_cpu(r, queries, vectors, results, &pool_);
        check(cudaSetDevice(number_), "cudaSetDevice");
        const cudaStream_t stream = streams_->launcher;
        const NearestBlocks blocks(r, kMostDistances);
        const size_t query_bytes = size_t{r.queries} * r.dim * sizeof(float), vector_bytes = size_t{r.rows} * r.dim * sizeof(float);
        const size_t result_bytes = size_t{r.queries} * r.k * sizeof(offload::Neighbor);
        NearestArguments all{};
        all.queries = reinterpret_cast<float *>(queries_.reserve(query_bytes));
        all.vectors = reinterpret_cast<float *>(vectors_.reserve(vector_bytes));
        all.distances = reinterpret_cast<float *>(distances_.reserve(blocks.distances() * sizeof(float)));
        all.best = reinterpret_cast<uint64_t *>(best_.reserve(size_t{blocks.queries} * r.k * sizeof(uint64_t)));
        all.results = reinterpret_cast<offload::Neighbor *>(results_.reserve(result_bytes));
        check(cudaMemcpyAsync(queries_.data(), queries, query_bytes, cudaMemcpyHostToDevice, stream), "copy of queries");
        if (vector_bytes > 0)
            check(cudaMemcpyAsync(vectors_.data(), vectors, vector_bytes, cudaMemcpyHostToDevice, stream), "copy of vectors");
        nearest_on(stream, r, blocks, all);
        check(cudaGetLastError(), "launch of nearest vectors");
        check(cudaMemcpyAsync(results, results_.data(), result_bytes, cudaMemcpyDeviceToHost, stream), "copy of neighbors");
        check(cudaStreamSynchronize(stream), "nearest vectors");
    }

private:
    struct Streams {
        OwnStream copier, launcher;
        OwnEvent copied{cudaEventBlockingSync | cudaEventDisableTiming};
    };
    struct CopyRun {
        uint8_t *slot;
        const uint8_t *slab;
        size_t bytes;
    };

    void take_slots(uint64_t wanted)
    {
        size_t available = 0, total = 0;
        check(cudaMemGetInfo(&available, &total), "cudaMemGetInfo");
        if (wanted == 0) wanted = static_cast<uint64_t>(kUsualShare * static_cast<double>(available));
        const uint64_t slots = std::min<uint64_t>(wanted / offload::kSlabBytes, uint64_t{1} << 30);
        if (slots == 0) throw std::runtime_error("memory of " + std::to_string(wanted) + " bytes is less than one tile takes");
        facts_.slots = static_cast<uint32_t>(slots);
        facts_.memory = slots * offload::kSlabBytes;
        void *memory = nullptr;
        check(cudaMalloc(&memory, facts_.memory), ("slots of " + std::to_string(facts_.memory) + " bytes").c_str());
        slots_ = static_cast<uint8_t *>(memory);
    }

    // Slabs and slots that follow each other on both sides are one copy.
    void join_neighbors(std::span<const Copy> copies)
    {
        runs_.clear();
        for (const Copy &c : copies) {
            uint8_t *slot = slots_ + uint64_t{c.slot} * offload::kSlabBytes;
            const auto *slab = static_cast<const uint8_t *>(c.slab);
            if (!runs_.empty() && runs_.back().slot + runs_.back().bytes == slot && runs_.back().slab + runs_.back().bytes == slab)
                runs_.back().bytes += offload::kSlabBytes;
            else
                runs_.push_back({slot, slab, offload::kSlabBytes});
        }
    }

    int number_;
    DeviceFacts facts_;
    std::unique_ptr<Occupancy> occupancy_;
    uint8_t *slots_ = nullptr;
    void *arena_ = nullptr;
    ptrdiff_t arena_offset_ = 0;
    std::unique_ptr<Streams> streams_;
    std::vector<CopyRun> runs_;
    Plan plan_;
    Upload upload_;
    DeviceMemory queries_, vectors_, distances_, best_, results_;
    WorkerPool pool_{1};
};

}  // namespace cu

std::unique_ptr<Device> open_cuda_device(const DeviceOptions &options) { return std::make_unique<cu::CudaDevice>(options); }

}  // namespace vkv::gpu
