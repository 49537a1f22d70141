// Exact search at every level of this processor: products a second of a whole search (packing of rows, panels, what is compared
// again), beside the processor's peak: independent fused multiply-adds on registers. The answer is checked before it is timed.
#include <benchmark/benchmark.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "core/nearest/nearest.h"
#include "core/simd/half.h"

namespace vkv::nearest {
namespace {

constexpr size_t kRows = 20000, kDim = 384, kQueries = 100, kNearest = 10;

struct Data {
    Data() : rows(kRows * kDim), queries(kQueries * kDim)
    {
        std::mt19937 random(5);
        std::normal_distribution<float> normal;
        for (float &x : rows) x = normal(random);
        for (float &x : queries) x = normal(random);
        for (float x : rows) half_rows.push_back(float_to_half(x));
        for (float x : queries) half_queries.push_back(float_to_half(x));
        for (size_t i = 0; i < kRows; ++i) ids.push_back({i, 0});
    }
    std::vector<float> rows, queries;
    std::vector<uint16_t> half_rows, half_queries;
    std::vector<RowId> ids;
};

const Data &data()
{
    static const Data made;
    return made;
}

std::vector<Neighbor> first_answer(Metric metric, Scalar scalar)
{
    const Data &d = data();
    const bool f32 = scalar == Scalar::f32;
    const void *rows = f32 ? static_cast<const void *>(d.rows.data()) : d.half_rows.data();
    const void *queries = f32 ? static_cast<const void *>(d.queries.data()) : d.half_queries.data();
    Search search({metric, scalar, kDim, kNearest, queries, kQueries});
    search.add(rows, d.ids.data(), kRows);
    return search.take(0);
}

bool right(Metric metric, Scalar scalar)
{
    const Data &d = data();
    const Distance distance{metric, scalar, kDim};
    std::vector<std::pair<double, uint64_t>> all;
    for (size_t i = 0; i < kRows; ++i)
        all.emplace_back(scalar == Scalar::f32 ? distance.compared(&d.rows[i * kDim], d.queries.data())
                                               : distance.compared(&d.half_rows[i * kDim], d.half_queries.data()),
                         i);
    std::partial_sort(all.begin(), all.begin() + kNearest, all.end());
    const std::vector<Neighbor> got = first_answer(metric, scalar);
    for (size_t i = 0; i < kNearest; ++i)
        if (got[i].id != all[i].second) return false;
    return true;
}

void time_search(benchmark::State &state, simd::Level level, Metric metric, Scalar scalar)
{
    simd::set_level(level);
    if (!right(metric, scalar)) {
        state.SkipWithError("wrong result");
        return;
    }
    for (auto _ : state) benchmark::DoNotOptimize(first_answer(metric, scalar));
    state.counters["flops"] = benchmark::Counter(2.0 * kRows * kDim * kQueries, benchmark::Counter::kIsIterationInvariantRate,
                                                 benchmark::Counter::kIs1000);
}

#if defined(__x86_64__)
constexpr int kChains = 12, kSteps = 1000;

void count_products(benchmark::State &state, int lanes)
{
    state.counters["flops"] = benchmark::Counter(2.0 * kChains * kSteps * lanes, benchmark::Counter::kIsIterationInvariantRate,
                                                 benchmark::Counter::kIs1000);
}

__attribute__((target("avx2,fma"))) void peak_avx2(benchmark::State &state)
{
    __m256 sum[kChains];
    for (__m256 &s : sum) s = _mm256_set1_ps(1);
    const __m256 factor = _mm256_set1_ps(0.999f), step = _mm256_set1_ps(1e-3f);
    for (auto _ : state) {
        for (int i = 0; i < kSteps; ++i)
#pragma GCC unroll 12
            for (int c = 0; c < kChains; ++c) sum[c] = _mm256_fmadd_ps(sum[c], factor, step);
        benchmark::DoNotOptimize(sum);
    }
    count_products(state, 8);
}

__attribute__((target("avx512f"))) void peak_avx512(benchmark::State &state)
{
    __m512 sum[kChains];
    for (__m512 &s : sum) s = _mm512_set1_ps(1);
    const __m512 factor = _mm512_set1_ps(0.999f), step = _mm512_set1_ps(1e-3f);
    for (auto _ : state) {
        for (int i = 0; i < kSteps; ++i)
#pragma GCC unroll 12
            for (int c = 0; c < kChains; ++c) sum[c] = _mm512_fmadd_ps(sum[c], factor, step);
        benchmark::DoNotOptimize(sum);
    }
    count_products(state, 16);
}
#endif

const char *metric_name(Metric metric)
{
    return metric == Metric::l2 ? "l2" : metric == Metric::ip ? "ip" : metric == Metric::cosine ? "cosine" : "l1";
}

void add_all()
{
#if defined(__x86_64__)
    if (simd::supported(simd::Level::avx2)) benchmark::RegisterBenchmark("peak/avx2", peak_avx2);
    if (simd::supported(simd::Level::avx512)) benchmark::RegisterBenchmark("peak/avx512", peak_avx512);
#endif
    for (simd::Level level : {simd::Level::scalar, simd::Level::neon, simd::Level::avx2, simd::Level::avx512}) {
        if (!simd::supported(level)) continue;
        for (Metric metric : {Metric::l2, Metric::ip, Metric::cosine, Metric::l1})
            for (Scalar scalar : {Scalar::f32, Scalar::f16}) {
                const std::string name = std::string("search/") + simd::level_name(level) + "/" + metric_name(metric) +
                                         (scalar == Scalar::f32 ? "/vector" : "/halfvec");
                benchmark::RegisterBenchmark(name.c_str(), time_search, level, metric, scalar)->Unit(benchmark::kMillisecond);
            }
    }
}

}  // namespace
}  // namespace vkv::nearest

int main(int argc, char **argv)
{
    vkv::nearest::add_all();
    benchmark::Initialize(&argc, argv);
    benchmark::RunSpecifiedBenchmarks();
}
