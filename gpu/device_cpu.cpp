// The device that needs none: slots in memory, attention by the CPU's kernels, a thread for each core. The same scheduler and cache
// run on it, so everything but a device's own code is tested wherever the project is built.
//
// Tiles whose keys are stored before their rotary embedding are not supported here or anywhere behind the helper: requests do not
// carry the angles, and keys that are turned anew for each request are what a cache on a device is to avoid.
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <thread>

#include "core/error.h"
#include "core/kv/attend.h"
#include "core/kv/sight.h"
#include "core/simd/kernels.h"
#include "gpu/device.h"
#include "gpu/nearest_cpu.h"
#include "gpu/worker_pool.h"

namespace vkv::gpu {

namespace {

constexpr uint64_t kUsualMemory = uint64_t{1} << 30;
constexpr uint32_t kLeastTilesOfChunk = 16;
constexpr uint64_t kTooLittleToShare = 256 * 1024;  // bytes of tiles: waking threads costs as much as reading these

// A part of a head's tiles.
struct Chunk {
    uint32_t head, first_tile, tiles;
    float *state;
};

class CpuDevice : public Device {
public:
    explicit CpuDevice(const DeviceOptions &options)
        : delay_us_(options.launch_delay_us),
          pool_(options.threads ? options.threads : std::max(std::thread::hardware_concurrency(), 1u)),
          workers_(pool_.workers())
    {
        const uint64_t wanted = options.memory ? options.memory : kUsualMemory;
        const uint64_t slots = std::min<uint64_t>(wanted / offload::kSlabBytes, uint64_t{1} << 30);
        if (slots == 0) throw std::runtime_error("memory of " + std::to_string(wanted) + " bytes is less than one tile takes");
        facts_.slots = static_cast<uint32_t>(slots);
        facts_.memory = slots * offload::kSlabBytes;
        facts_.backend = "cpu";
        facts_.name = "CPU, " + std::to_string(pool_.workers()) + (pool_.workers() == 1 ? " thread, " : " threads, ") +
                      simd::level_name(simd::active_level());
        void *map = ::mmap(nullptr, facts_.memory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (map == MAP_FAILED)
            throw std::runtime_error("could not map " + std::to_string(facts_.memory) + " bytes: " + std::strerror(errno));
        ::madvise(map, facts_.memory, MADV_HUGEPAGE);
        slots_ = static_cast<uint8_t *>(map);
    }
    ~CpuDevice() override { ::munmap(slots_, facts_.memory); }

    const DeviceFacts &facts() const override { return facts_; }
    void attach_arena(void *, size_t) override {}

    bool supports(const Geometry &geometry, std::string *why) const override
    {
        if (!(geometry.tile_flags & kv::kKeysBeforeRope)) return true;
        *why = "keys that are stored before their rotary embedding: requests do not carry angles";
        return false;
    }

    void copy(std::span<const Copy> copies) override
    {
        for (const Copy &c : copies) std::memcpy(slot(c.slot), c.slab, offload::kSlabBytes);
    }

    void attend(AttendBatch *batch) override
    {
        timespec until{};
        ::clock_gettime(CLOCK_MONOTONIC, &until);
        plan(*batch);
        const bool alone = batch->tile_bytes < kTooLittleToShare;
        pool_.run(chunks_.size(), alone, [&](size_t i, unsigned worker) { run_chunk(*batch, chunks_[i], &workers_[worker]); });
        for (Worker &worker : workers_) worker.head = UINT32_MAX;
        pool_.run(split_.size(), alone, [&](size_t i, unsigned) { merge_head(*batch, split_[i]); });
        batch->launches = split_.empty() ? 1 : 2;
        wait_for_delay(until);
    }

    void nearest(const offload::NearestRequest &request, const float *queries, const float *vectors,
                 offload::Neighbor *results) override
    {
        timespec until{};
        ::clock_gettime(CLOCK_MONOTONIC, &until);
        nearest_by_cpu(request, queries, vectors, results, &pool_);
        wait_for_delay(until);
    }

private:
    struct Worker {
        kv::Queries queries;
        kv::Accumulator sum;
        std::vector<kv::Sight> sights;
        uint32_t head = UINT32_MAX;  // whose queries and sights these are
    };
    struct Split {
        uint32_t head, first_chunk, chunks;
    };

    uint8_t *slot(uint32_t number) const { return slots_ + uint64_t{number} * offload::kSlabBytes; }

    void wait_for_delay(timespec until) const
    {
        if (delay_us_ == 0) return;
        const uint64_t nanoseconds = static_cast<uint64_t>(until.tv_nsec) + delay_us_ * 1000;
        until.tv_sec += static_cast<time_t>(nanoseconds / 1000000000);
        until.tv_nsec = static_cast<long>(nanoseconds % 1000000000);
        while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) {
        }
    }

    // Chunks of about equal size, some for each worker; the states of a head that has several are kept here until they are merged.
    void plan(const AttendBatch &batch)
    {
        chunks_.clear();
        split_.clear();
        const auto parts = static_cast<uint32_t>(4 * pool_.workers());
        uint64_t all = 0;
        for (const HeadWork &work : batch.heads) all += tiles_of(batch, work);
        const auto most = static_cast<uint32_t>(std::max<uint64_t>(kLeastTilesOfChunk, (all + parts - 1) / parts));
        size_t floats = 0;
        for (uint32_t h = 0; h < batch.heads.size(); h++) {
            const uint32_t tiles = tiles_of(batch, batch.heads[h]), count = std::max(1u, (tiles + most - 1) / most);
            if (count > 1) split_.push_back({h, static_cast<uint32_t>(chunks_.size()), count});
            for (uint32_t i = 0, at = 0; i < count; i++) {
                const uint32_t n = (tiles - at) / (count - i);
                chunks_.push_back({h, at, n, count == 1 ? batch.heads[h].state : nullptr});
                at += n;
            }
            if (count > 1) floats += count * state_floats(batch, h);
        }
        if (partial_.size() < floats) partial_.resize(floats);
        float *next = partial_.data();
        for (const Split &split : split_)
            for (uint32_t i = 0; i < split.chunks; i++, next += state_floats(batch, split.head))
                chunks_[split.first_chunk + i].state = next;
    }

    static uint32_t tiles_of(const AttendBatch &batch, const HeadWork &work)
    {
        uint32_t tiles = 0;
        for (uint32_t s = 0; s < work.segments; s++) tiles += batch.segments[work.first_segment + s].slots;
        return tiles;
    }
    static size_t state_floats(const AttendBatch &batch, uint32_t head)
    {
        const Geometry &g = batch.geometries[batch.heads[head].geometry];
        return size_t{g.rows} * (2 + g.dim_v);
    }

    void run_chunk(const AttendBatch &batch, const Chunk &chunk, Worker *worker) const
    {
        const HeadWork &work = batch.heads[chunk.head];
        const Geometry &g = batch.geometries[work.geometry];
        try {
            begin(g, work, chunk.head, worker);
            uint32_t skip = chunk.first_tile, left = chunk.tiles;
            for (uint32_t s = 0; s < work.segments && left; s++) {
                const Segment &segment = batch.segments[work.first_segment + s];
                if (skip >= segment.slots) {
                    skip -= segment.slots;
                    continue;
                }
                const uint32_t n = std::min(left, segment.slots - skip);
                add_tiles(g, segment, {&batch.slots[segment.first_slot + skip], n}, worker);
                left -= n;
                skip = 0;
            }
            worker->sum.state(chunk.state, chunk.state + g.rows, chunk.state + 2 * size_t{g.rows});
        } catch (const Error &) {
            // The request and its tiles were checked; a client that writes into its queries while they run gets this.
            std::fill_n(chunk.state, size_t{g.rows} * (2 + g.dim_v), std::numeric_limits<float>::quiet_NaN());
        }
    }

    static void begin(const Geometry &g, const HeadWork &work, uint32_t head, Worker *worker)
    {
        worker->sum.reset(static_cast<int>(g.rows), static_cast<int>(g.dim_v));
        if (worker->head == head) return;
        worker->head = UINT32_MAX;
        worker->queries.set(work.queries, static_cast<int>(g.rows), static_cast<int>(g.dim_k), g.scale, g.softcap);
        const kv::SightRule rule{work.total, static_cast<int32_t>(g.q_len), g.window, g.causal};
        worker->sights.resize(g.rows);
        for (uint32_t r = 0; r < g.rows; r++) worker->sights[r] = rule.of(static_cast<int>(r % g.q_len));
        worker->head = head;
    }

    void add_tiles(const Geometry &g, const Segment &segment, std::span<const uint32_t> slots, Worker *worker) const
    {
        kv::Selection selection;
        selection.from = segment.from;
        selection.to = segment.to;
        selection.sinks = g.window > 0 ? g.sinks : 0;
        const bool whole = std::all_of(worker->sights.begin(), worker->sights.end(), [&](const kv::Sight &sight) {
            return sight.first <= segment.from && sight.last >= segment.to;
        });
        selection.sights = whole ? nullptr : worker->sights.data();
        for (size_t i = 0; i < slots.size(); i++) {
            const uint8_t *tile = slot(slots[i]);
            selection.next = i + 1 < slots.size() ? slot(slots[i + 1]) : nullptr;
            const auto &header = *reinterpret_cast<const kv::TileHeader *>(tile);
            worker->sum.add(worker->queries, kv::view_tile(tile, kv::tile_bytes(kv::shape_of(header), header.tokens)), selection);
        }
    }

    void merge_head(const AttendBatch &batch, const Split &split) const
    {
        const Geometry &g = batch.geometries[batch.heads[split.head].geometry];
        float *state = batch.heads[split.head].state;
        const size_t rows = g.rows;
        std::memcpy(state, chunks_[split.first_chunk].state, rows * (2 + g.dim_v) * sizeof(float));
        for (uint32_t i = 1; i < split.chunks; i++) {
            const float *other = chunks_[split.first_chunk + i].state;
            kv::merge_states(static_cast<int>(rows), static_cast<int>(g.dim_v), state, state + rows, state + 2 * rows, other,
                             other + rows, other + 2 * rows);
        }
    }

    uint64_t delay_us_;
    WorkerPool pool_;
    std::vector<Worker> workers_;
    DeviceFacts facts_;
    uint8_t *slots_ = nullptr;
    std::vector<Chunk> chunks_;
    std::vector<Split> split_;
    std::vector<float> partial_;
};

}  // namespace

std::unique_ptr<Device> open_cpu_device(const DeviceOptions &options) { return std::make_unique<CpuDevice>(options); }

}  // namespace vkv::gpu
