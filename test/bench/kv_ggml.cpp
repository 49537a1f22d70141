// llama.cpp's attention on the CPU (ggml's flash_attn_ext) behind three C functions, for kv_peers.py to time from outside.
//
// Compiled by kv_peers.py against a ggml that lies somewhere else; nothing of ggml is part of this project. One graph with one
// node: the queries of a decode step [batch, q_heads, dim] against keys and values given as halves and stored in the type asked
// for, either with the tokens of a head one after the other or as llama.cpp's own cache has them, all heads of a token side by
// side.
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "ggml-cpu.h"
#include "ggml.h"

namespace {

struct Problem {
    int32_t batch, q_heads, kv_heads, dim, tokens, threads, type, token_major;
    float scale;
    const float *q;
    const uint16_t *k, *v;  // [batch, kv_heads, tokens, dim]
};

struct ContextFree {
    void operator()(ggml_context *context) const { ggml_free(context); }
};
struct PoolFree {
    void operator()(ggml_threadpool *pool) const { ggml_threadpool_free(pool); }
};

struct Attention {
    std::unique_ptr<ggml_context, ContextFree> context;
    std::unique_ptr<ggml_threadpool, PoolFree> pool;
    ggml_tensor *result = nullptr;
    ggml_cgraph *graph = nullptr;
    ggml_cplan plan = {};
    std::vector<uint8_t> work;
};

void store_row(ggml_type type, const uint16_t *in, int dim, uint8_t *out)
{
    if (type == GGML_TYPE_F16) {
        memcpy(out, in, static_cast<size_t>(dim) * 2);
        return;
    }
    std::vector<float> wide(static_cast<size_t>(dim));
    ggml_fp16_to_fp32_row(reinterpret_cast<const ggml_fp16_t *>(in), wide.data(), dim);
    if (type == GGML_TYPE_F32)
        memcpy(out, wide.data(), static_cast<size_t>(dim) * 4);
    else
        ggml_quantize_chunk(type, wide.data(), out, 0, 1, dim, nullptr);
}

// A tensor that reads [dim, tokens, kv_heads, batch], whichever way it is stored.
ggml_tensor *store(ggml_context *context, const Problem &p, const uint16_t *in)
{
    const auto type = static_cast<ggml_type>(p.type);
    const int64_t inner = p.token_major ? p.kv_heads : p.tokens, outer = p.token_major ? p.tokens : p.kv_heads;
    ggml_tensor *tensor = ggml_new_tensor_4d(context, type, p.dim, inner, outer, p.batch);
    for (int64_t b = 0; b < p.batch; ++b)
        for (int64_t h = 0; h < p.kv_heads; ++h)
            for (int64_t t = 0; t < p.tokens; ++t) {
                const size_t at = p.token_major ? h * tensor->nb[1] + t * tensor->nb[2] : t * tensor->nb[1] + h * tensor->nb[2];
                store_row(type, in + ((b * p.kv_heads + h) * p.tokens + t) * p.dim, p.dim,
                          static_cast<uint8_t *>(tensor->data) + at + b * tensor->nb[3]);
            }
    return p.token_major ? ggml_permute(context, tensor, 0, 2, 1, 3) : tensor;
}

}  // namespace

extern "C" void *kv_ggml_new(const Problem *problem)
{
    const Problem &p = *problem;
    ggml_cpu_init();
    const size_t elements = static_cast<size_t>(p.batch) * p.kv_heads * p.tokens * p.dim;
    const size_t stored = ggml_row_size(static_cast<ggml_type>(p.type), static_cast<int64_t>(elements));
    auto made = std::make_unique<Attention>();
    made->context.reset(ggml_init({2 * stored + (size_t{64} << 20), nullptr, false}));
    ggml_context *context = made->context.get();
    if (!context) return nullptr;
    ggml_tensor *q = ggml_new_tensor_4d(context, GGML_TYPE_F32, p.dim, 1, p.q_heads, p.batch);
    memcpy(q->data, p.q, ggml_nbytes(q));
    ggml_tensor *k = store(context, p, p.k), *v = store(context, p, p.v);
    made->result = ggml_flash_attn_ext(context, q, k, v, nullptr, p.scale, 0, 0);
    made->graph = ggml_new_graph(context);
    ggml_build_forward_expand(made->graph, made->result);
    ggml_threadpool_params params = ggml_threadpool_params_default(p.threads);
    made->pool.reset(ggml_threadpool_new(&params));
    made->plan = ggml_graph_plan(made->graph, p.threads, made->pool.get());
    made->work.resize(made->plan.work_size);
    made->plan.work_data = made->work.data();
    return made.release();
}

extern "C" int kv_ggml_run(void *attention, float *out)  // out [batch, q_heads, dim], or null
{
    auto *made = static_cast<Attention *>(attention);
    if (ggml_graph_compute(made->graph, &made->plan) != GGML_STATUS_SUCCESS) return 1;
    if (out) memcpy(out, made->result->data, ggml_nbytes(made->result));
    return 0;
}

extern "C" void kv_ggml_free(void *attention) { delete static_cast<Attention *>(attention); }
