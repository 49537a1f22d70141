// The kernels on a real CUDA device; the emulator runs the same cases in kernels_test.cpp and kernels_nearest_test.cpp.
//
//   cuda_test [--device cuda:N]     every case of attend_suite.h and nearest_suite.h through the device that the helper uses
//   cuda_test --time [--device cuda:N] [--codec NAME] [--dim N] [--batch N] [--tokens N] [--rows N]
//                                   CUDA events around decode steps over more than 1 GB of tiles, a JSON line for each codec,
//                                   head_dim and batch: gb_per_s of tiles, share of what the device copies (read and written)
// The exit status is 1 when an answer was wrong, 4 where there is no device.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>

#include "attend_suite.h"
#include "gpu/cuda/occupancy.h"
#include "gpu/cuda/upload.h"
#include "nearest_suite.h"
#include "timed_batches.h"

namespace vkv::gpu::cu {
namespace {

// Matrix units cut off what they add, where the emulator rounds: four times its budget.
constexpr double kBudget = 4e-5;
constexpr uint64_t kRotated = uint64_t{5} << 28;  // bytes of slots, of which no cache keeps much
constexpr int kRounds = 5;

struct Settings {
    bool time = false;
    std::string device = "cuda", codec;
    uint32_t dim = 0, batch = 0, tokens = 8192, rows = 4;
};

Settings read_settings(int count, char **words)
{
    Settings s;
    for (int i = 1; i < count; ++i) {
        const std::string word = words[i];
        if (word == "--time") {
            s.time = true;
            continue;
        }
        if (++i >= count) throw std::runtime_error("option " + word + " needs a value");
        const auto number = [&] { return static_cast<uint32_t>(std::stoul(words[i])); };
        if (word == "--device")
            s.device = words[i];
        else if (word == "--codec")
            s.codec = words[i];
        else if (word == "--dim")
            s.dim = number();
        else if (word == "--batch")
            s.batch = number();
        else if (word == "--tokens")
            s.tokens = number();
        else if (word == "--rows")
            s.rows = number();
        else
            throw std::runtime_error("unknown option " + word);
    }
    return s;
}

// ---- correctness ----------------------------------------------------------------------------------------------------------

// The helper's device, and an arena as the helper would have it.
class OnDevice {
public:
    explicit OnDevice(const std::string &name) : arena_(static_cast<uint8_t *>(std::aligned_alloc(4096, kArena)))
    {
        DeviceOptions options;
        options.name = name;
        options.memory = uint64_t{1} << 28;
        device_ = open_cuda_device(options);
        device_->attach_arena(arena_.get(), kArena);
    }
    const DeviceFacts &facts() const { return device_->facts(); }

    void run(Work *work) const
    {
        const size_t slots = work->memory().size() / offload::kSlabBytes;
        if (slots > device_->facts().slots || work->memory().size() + work->arena_floats() * sizeof(float) > kArena)
            throw std::runtime_error("a case is too large");
        std::memcpy(arena_.get(), work->memory().data(), work->memory().size());
        std::vector<Copy> copies;
        for (uint32_t i = 0; i < slots; i++) copies.push_back({arena_.get() + i * offload::kSlabBytes, i});
        device_->copy(copies);
        work->move_to(reinterpret_cast<float *>(arena_.get() + work->memory().size()));
        std::string why;
        for (const Geometry &geometry : work->batch().geometries)
            if (!device_->supports(geometry, &why)) throw std::runtime_error(why);
        device_->attend(&work->batch());
    }
    void nearest(const offload::NearestRequest &r, const float *queries, const float *vectors, offload::Neighbor *results) const
    {
        device_->nearest(r, queries, vectors, results);
    }

private:
    static constexpr size_t kArena = size_t{64} << 20;
    struct Free {
        void operator()(uint8_t *p) const { std::free(p); }
    };
    std::unique_ptr<uint8_t, Free> arena_;
    std::unique_ptr<Device> device_;
};

int check_answers(const Settings &settings)
{
    const OnDevice device(settings.device);
    std::printf("device: %s\n", device.facts().name.c_str());
    int wrong = 0;
    for (const suite::Group &group : suite::kGroups) {
        double worst = 0;
        int cases = 0, bad = 0;
        const auto check_case = [&](double error, const std::string &what) {
            ++cases;
            worst = std::max(worst, error);
            if (error <= kBudget) return;
            ++bad;
            std::printf("wrong: %s: error %.3g\n", what.c_str(), error);
        };
        group.cases({[&](Work *work, uint32_t) { device.run(work); }, check_case});
        std::printf("%s: %s, %d cases, largest error %.3g\n", bad ? "not ok" : "ok", group.name, cases, worst);
        wrong += bad;
    }
    const auto run_nearest = [&](const suite::Search &, const offload::NearestRequest &r, const float *queries,
                                 const float *vectors,
                                 offload::Neighbor *results) { device.nearest(r, queries, vectors, results); };
    int bad = 0;
    for (const suite::Search &search : suite::every_search()) {
        const std::string what = suite::Searched(search, run_nearest).what_is_wrong();
        if (what.empty()) continue;
        ++bad;
        std::printf("wrong: nearest: %s\n", what.c_str());
    }
    std::printf("%s: nearest vectors\n", bad ? "not ok" : "ok");
    return wrong + bad ? 1 : 0;
}

// ---- time -----------------------------------------------------------------------------------------------------------------

class Clock {
public:
    explicit Clock(cudaStream_t stream) : stream_(stream) {}
    template <typename Work>
    double milliseconds(const Work &work) const
    {
        check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
        work();
        check(cudaEventRecord(end_, stream_), "cudaEventRecord");
        check(cudaEventSynchronize(end_), "the work that is timed");
        float time = 0;
        check(cudaEventElapsedTime(&time, begin_, end_), "cudaEventElapsedTime");
        return static_cast<double>(time);
    }

private:
    cudaStream_t stream_;
    OwnEvent begin_, end_;
};

// Bytes read and written a second, in GB.
double copy_rate(cudaStream_t stream)
{
    constexpr size_t kBytes = size_t{1} << 30;
    DeviceMemory from, to;
    from.reserve(kBytes), to.reserve(kBytes);
    const Clock clock(stream);
    double best = 1e30;
    for (int i = 0; i < kRounds; ++i)
        best = std::min(best, clock.milliseconds([&] {
            check(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, stream), "copy on the device");
        }));
    return 2e-6 * static_cast<double>(kBytes) / best;
}

// Batches on the device, ready to be launched. Queries and states are in the device's memory: the way to and from the arena is not
// part of what is timed.
class Timed {
public:
    Timed(const TimedShape &shape, const Occupancy &occupancy, cudaStream_t stream) : batches_(shape, kRotated), stream_(stream)
    {
        const size_t pattern = batches_.pattern().size(), all = pattern * batches_.repeats();
        uint8_t *const slots = slots_.reserve(all);
        check(cudaMemcpy(slots, batches_.pattern().data(), pattern, cudaMemcpyHostToDevice), "copy of tiles");
        for (size_t done = pattern; done < all; done *= 2)
            check(cudaMemcpy(slots + done, slots, std::min(done, all - done), cudaMemcpyDeviceToDevice), "copy of tiles");
        floats_ = batches_.floats();
        float *const there = reinterpret_cast<float *>(arena_.reserve(floats_.size() * sizeof(float)));
        check(cudaMemcpy(there, floats_.data(), floats_.size() * sizeof(float), cudaMemcpyHostToDevice), "copy of queries");
        placed_ = std::vector<Placed>(batches_.count());
        for (uint32_t i = 0; i < batches_.count(); ++i) {
            const AttendBatch batch = batches_.batch(i, there);
            placed_[i].plan.make(batch, occupancy.blocks(batch));
            placed_[i].at = placed_[i].upload.place(batch, placed_[i].plan, slots, 0, stream);
        }
        check(cudaDeviceSynchronize(), "copy of plans, queries and tiles");
    }

    // Of a batch: the best of a few rounds over all of them.
    double milliseconds() const
    {
        const Clock clock(stream_);
        double best = 1e30;
        for (int i = 0; i <= kRounds; ++i) {
            const double time = clock.milliseconds([&] {
                for (const Placed &placed : placed_) attend_on(stream_, placed.plan, placed.at);
            });
            check(cudaGetLastError(), "launch of attention");
            if (i > 0) best = std::min(best, time);  // the first warms up
        }
        return best / static_cast<double>(placed_.size());
    }
    double error()
    {
        check(cudaMemcpy(floats_.data(), arena_.data(), floats_.size() * sizeof(float), cudaMemcpyDeviceToHost), "copy of states");
        return batches_.error(floats_);
    }
    uint64_t tile_bytes() const { return batches_.tile_bytes(); }
    size_t units() const { return placed_[0].plan.units.size(); }

private:
    struct Placed {
        Plan plan;
        Upload upload;
        PlacedBatch at;
    };
    TimedBatches batches_;
    cudaStream_t stream_;
    DeviceMemory slots_, arena_;
    std::vector<float> floats_;
    std::vector<Placed> placed_;
};

int time_kernels(const Settings &settings)
{
    const OnDevice opened(settings.device);  // checks the device, and makes it the current one
    int number = 0, processors = 0;
    check(cudaGetDevice(&number), "cudaGetDevice");
    check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, number), "cudaDeviceGetAttribute");
    const OwnStream stream;
    const Occupancy occupancy(processors);
    const double copied = copy_rate(stream);
    int wrong = 0;
    for (const kv::Codec codec : kEveryCodec)
        for (const uint32_t dim : kKernelDims)
            for (const uint32_t batch : {1u, 8u, 32u}) {
                if ((!settings.codec.empty() && settings.codec != kv::codec_name(codec)) || (settings.dim && settings.dim != dim) ||
                    (settings.batch && batch != 1))
                    continue;
                const TimedShape shape{codec, dim,           settings.batch ? settings.batch : batch,
                                       8,     settings.rows, static_cast<int32_t>(settings.tokens)};
                Timed timed(shape, occupancy, stream);
                const double time = timed.milliseconds(), error = timed.error();
                const double rate = 1e-6 * static_cast<double>(timed.tile_bytes()) / time;
                wrong += error > kBudget;
                std::printf(
                    "{\"device\": \"%s\", \"codec\": \"%s\", \"head_dim\": %u, \"batch\": %u, \"kv_heads\": %u, \"rows\": %u, "
                    "\"tokens\": %d, \"tile_bytes\": %llu, \"blocks\": %zu, \"ms\": %.4f, \"gb_per_s\": %.1f, "
                    "\"copy_gb_per_s\": %.1f, \"share\": %.3f, \"error\": %.2g}\n",
                    opened.facts().name.c_str(), kv::codec_name(codec), dim, shape.batch, shape.kv_heads, shape.rows, shape.tokens,
                    static_cast<unsigned long long>(timed.tile_bytes()), timed.units(), time, rate, copied, rate / copied, error);
                std::fflush(stdout);
            }
    return wrong ? 1 : 0;
}

}  // namespace
}  // namespace vkv::gpu::cu

int main(int count, char **words)
{
    using namespace vkv::gpu;
    try {
        const cu::Settings settings = cu::read_settings(count, words);
        return settings.time ? cu::time_kernels(settings) : cu::check_answers(settings);
    } catch (const NoDevice &error) {
        std::fprintf(stderr, "cuda_test: %s\n", error.what());
        return 4;
    } catch (const std::exception &error) {
        std::fprintf(stderr, "cuda_test: %s\n", error.what());
        return 1;
    }
}
