// Time of the kernels at every level of this processor, and of the codecs' scoring, encoding and query preparation.
// Before a kernel is timed its result is compared with the scalar level's; a wrong one is reported instead of timed.
// Scoring walks a table of codes larger than the second-level cache in random order, as a graph search does.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/codec/codec.h"
#include "core/simd/half.h"
#include "core/simd/kernels.h"

namespace vkv {
namespace {

constexpr double kFloatBudget = 1e-6;

struct Data {
    explicit Data(size_t n) : a(n), b(n), half_a(n), half_b(n), codes_a(n), codes_b(n), packed_a(n), packed_b(n), query(n + 32)
    {
        std::mt19937 random(5);
        std::normal_distribution<float> normal;
        for (size_t i = 0; i < n; i++) {
            a[i] = normal(random);
            b[i] = normal(random);
            half_a[i] = float_to_half(a[i]);
            half_b[i] = float_to_half(b[i]);
            codes_a[i] = static_cast<uint8_t>(random());
            codes_b[i] = static_cast<uint8_t>(random());
            packed_a[i] = static_cast<uint8_t>(random());
            packed_b[i] = static_cast<uint8_t>(random());
            query[i] = static_cast<int16_t>(static_cast<int>(random() % 8191) - 4095);
        }
    }
    std::vector<float> a, b;
    std::vector<uint16_t> half_a, half_b;
    std::vector<uint8_t> codes_a, codes_b, packed_a, packed_b;
    std::vector<int16_t> query;
};

template <class Call>
void time_kernel(benchmark::State &state, simd::Level level, size_t n, double tolerance, Call call)
{
    const Data data(n);
    const double got = static_cast<double>(call(simd::kernels(level), data));
    const double expected = static_cast<double>(call(simd::kernels(simd::Level::scalar), data));
    if (!(std::fabs(got - expected) <= tolerance * static_cast<double>(n) * 4)) {
        state.SkipWithError("wrong result");
        return;
    }
    const simd::Kernels &kernels = simd::kernels(level);
    for (auto _ : state) benchmark::DoNotOptimize(call(kernels, data));
}

template <class Call>
void add_kernel(const char *name, double tolerance, Call call)
{
    for (simd::Level level : {simd::Level::scalar, simd::Level::neon, simd::Level::avx2, simd::Level::avx512}) {
        if (!simd::supported(level)) continue;
        for (size_t n : {384, 1536}) {
            const std::string title = std::string(name) + "/" + simd::level_name(level) + "/" + std::to_string(n);
            benchmark::RegisterBenchmark(title.c_str(),
                                         [=](benchmark::State &state) { time_kernel(state, level, n, tolerance, call); });
        }
    }
}

void add_kernels()
{
    using simd::Kernels;
    add_kernel("dot_u8_s16", 0,
               [](const Kernels &k, const Data &d) { return k.dot_u8_s16(d.codes_a.data(), d.query.data(), d.a.size()); });
    add_kernel("dot_u4_s16", 0,
               [](const Kernels &k, const Data &d) { return k.dot_u4_s16(d.packed_a.data(), d.query.data(), d.a.size()); });
    add_kernel("dot_u8_u8", 0,
               [](const Kernels &k, const Data &d) { return k.dot_u8_u8(d.codes_a.data(), d.codes_b.data(), d.a.size()); });
    add_kernel("dot_u4_u4", 0,
               [](const Kernels &k, const Data &d) { return k.dot_u4_u4(d.packed_a.data(), d.packed_b.data(), d.a.size()); });
    add_kernel("l2_f32", kFloatBudget,
               [](const Kernels &k, const Data &d) { return k.l2_f32(d.a.data(), d.b.data(), d.a.size()); });
    add_kernel("ip_f32", kFloatBudget,
               [](const Kernels &k, const Data &d) { return k.ip_f32(d.a.data(), d.b.data(), d.a.size()); });
    add_kernel("l2_f16", kFloatBudget,
               [](const Kernels &k, const Data &d) { return k.l2_f16(d.half_a.data(), d.half_b.data(), d.a.size()); });
    add_kernel("ip_f16", kFloatBudget,
               [](const Kernels &k, const Data &d) { return k.ip_f16(d.half_a.data(), d.half_b.data(), d.a.size()); });
    add_kernel("hamming", 0,
               [](const Kernels &k, const Data &d) { return k.hamming(d.codes_a.data(), d.codes_b.data(), d.a.size() / 8); });
}

enum class Work { score, between, rescore, encode, query };

struct CodecData {
    CodecData(CodecId id, size_t count) : n(count), values(n * kDim)
    {
        std::mt19937 random(9);
        std::normal_distribution<float> normal;
        for (float &value : values) value = normal(random);
        auto trainer = make_trainer(id, Scalar::f32, Metric::cosine, kDim);
        for (size_t i = 0; i < 1000; i++) trainer->add(view(i));
        model = trainer->finish();
        codec = make_codec(id, Scalar::f32, Metric::cosine, kDim, model);
        codes.resize(n * codec->code_size());
        seconds.resize(n * codec->second_size() + 1);
        for (size_t i = 0; i < n; i++) codec->encode(view(i), code(i), &seconds[i * codec->second_size()]);
        for (size_t i = 0; i < n; i++) order.push_back(code(i));
        std::shuffle(order.begin(), order.end(), random);
    }
    static constexpr uint32_t kDim = 384;
    VectorView view(size_t i) const { return {Scalar::f32, kDim, &values[i * kDim], nullptr, 0}; }
    uint8_t *code(size_t i) { return &codes[i * codec->code_size()]; }

    size_t n;
    std::vector<float> values;
    std::vector<uint8_t> model, codes, seconds;
    std::unique_ptr<Codec> codec;
    std::vector<const uint8_t *> order;
};

void time_codec(benchmark::State &state, CodecId id, Work work)
{
    CodecData data(id, 20000);
    const auto scorer = data.codec->query(data.view(0));
    constexpr size_t kBatch = 16;  // about the unvisited neighbours of one hop
    float distance[kBatch];
    for (size_t i = 0; i < 100; i++) {
        const uint8_t *code = data.code(i);
        scorer->score(&code, 1, distance);
        const double exact = exact_distance(Metric::cosine, data.view(0), data.view(i));
        if (!(std::fabs(distance[0] - exact) <= 2 * scorer->error(code, distance[0], false) + kFloatBudget)) {
            state.SkipWithError("wrong distance");
            return;
        }
    }
    size_t at = 0;
    for (auto _ : state) {
        at = (at + kBatch) % (data.n - kBatch);
        if (work == Work::score) scorer->score(&data.order[at], kBatch, distance);
        if (work == Work::between) data.codec->distances(data.code(7), &data.order[at], kBatch, distance);
        if (work == Work::rescore) distance[0] = scorer->rescore(data.code(at), &data.seconds[at * data.codec->second_size()]);
        if (work == Work::encode) data.codec->encode(data.view(at), data.code(at), &data.seconds[at * data.codec->second_size()]);
        if (work == Work::query) benchmark::DoNotOptimize(data.codec->query(data.view(at)));
        benchmark::DoNotOptimize(distance);
    }
    const bool batch = work == Work::score || work == Work::between;
    state.SetItemsProcessed(static_cast<int64_t>(state.iterations()) * (batch ? static_cast<int64_t>(kBatch) : 1));
}

void add_codecs()
{
    const std::pair<Work, const char *> works[] = {{Work::score, "score16"},
                                                   {Work::between, "between16"},
                                                   {Work::rescore, "rescore"},
                                                   {Work::encode, "encode"},
                                                   {Work::query, "query"}};
    for (CodecId id : {CodecId::none, CodecId::lvq8, CodecId::lvq4, CodecId::lvq4x8}) {
        for (const auto &[work, name] : works) {
            const std::string title = "codec/" + std::string(codec_name(id)) + "/" + name + "/384";
            const Work chosen = work;
            benchmark::RegisterBenchmark(title.c_str(), [=](benchmark::State &state) { time_codec(state, id, chosen); });
        }
    }
}

}  // namespace
}  // namespace vkv

int main(int argc, char **argv)
{
    vkv::add_kernels();
    vkv::add_codecs();
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}
