// kv.fetch: stored keys and values, decoded. What a serving engine reads back to go on with a sequence.

#include <algorithm>

#include "pg/boundary/boundary.h"
#include "pg/boundary/pg.h"
#include "pg/kv/arguments.h"
#include "pg/kv/call.h"
#include "pg/kv/halves.h"
#include "pg/kv/source.h"
#include "pg/kv/statistics.h"

namespace vkv::kv {

namespace {

struct Window {
    int32_t first, count;
};

struct Fetched {
    TensorHeader *k, *v;
};

// Copies the part of a decoded tile that is asked for to [kv_heads][count][dim].
class Copy {
public:
    Copy(const Cache *c, const Window &window, Dtype dtype, MemoryContext context) : window_(window), dtype_(dtype)
    {
        MemoryContext before = MemoryContextSwitchTo(context);
        auto make = [&](int dim) {
            const uint32_t shape[] = {static_cast<uint32_t>(c->kv_heads), static_cast<uint32_t>(window.count),
                                      static_cast<uint32_t>(dim)};
            return make_tensor(dtype, 3, shape);
        };
        out_ = {make(c->dim_k), make(c->dim_v)};
        MemoryContextSwitchTo(before);
        const size_t most = static_cast<size_t>(kMaxTileData) * 16;  // values of a tile, at two bits and more a value
        k_ = static_cast<float *>(palloc(most * sizeof(float)));
        v_ = static_cast<float *>(palloc(most * sizeof(float)));
    }

    void take(const TileView &tile, int32_t to)
    {
        const int32_t from = std::max(tile.first, window_.first);
        const int32_t end = std::min({tile.first + tile.tokens, to, window_.first + window_.count});
        if (from >= end) return;
        decode_tile(tile, k_, v_);
        if (dtype_ == Dtype::f16) {
            clamp_to_halves(k_, static_cast<size_t>(tile.tokens) * static_cast<size_t>(tile.dim_k));
            clamp_to_halves(v_, static_cast<size_t>(tile.tokens) * static_cast<size_t>(tile.dim_v));
        }
        put(out_.k, k_, tile, tile.dim_k, from, end);
        put(out_.v, v_, tile, tile.dim_v, from, end);
        ++work_.tiles;
    }

    Fetched result() const { return out_; }
    Work work() const { return work_; }

private:
    void put(TensorHeader *out, const float *rows, const TileView &tile, int dim, int32_t from, int32_t end) const
    {
        const size_t d = static_cast<size_t>(dim);
        const size_t at =
            (static_cast<size_t>(tile.head) * static_cast<size_t>(window_.count) + static_cast<size_t>(from - window_.first)) * d;
        from_f32(dtype_, rows + static_cast<size_t>(from - tile.first) * d,
                 static_cast<char *>(tensor_data(out)) + at * dtype_bytes(dtype_), static_cast<size_t>(end - from) * d);
    }

    Window window_;
    Dtype dtype_;
    Fetched out_{};
    float *k_, *v_;
    Work work_{};
};

Window read_window(FunctionCallInfo fcinfo, const Cache *c, const Sequence *s, int32_t length)
{
    Window w{PG_GETARG_INT32(3), 0};
    if (w.first < 0 || w.first > length)
        throw Error(Errc::invalid_parameter, message("sequence %lld of cache \"%s\" has %d tokens, cannot fetch from position %d",
                                                     static_cast<long long>(s->seq), c->name, length, w.first));
    w.count = PG_ARGISNULL(4) ? length - w.first : PG_GETARG_INT32(4);
    if (w.count < 0 || w.count > length - w.first)
        throw Error(Errc::invalid_parameter,
                    message("sequence %lld of cache \"%s\" has %d tokens, cannot fetch %d from position %d",
                            static_cast<long long>(s->seq), c->name, length, w.count, w.first));
    return w;
}

}  // namespace

SQL_FUNCTION(kv_fetch)
{
    const char *const names[] = {"cache", "seq", "layer", "first"};
    require_arguments(fcinfo, names, 4);
    const StatTimer timer(Operation::fetch);
    MemoryContext context = CurrentMemoryContext;
    SPI_connect();
    Cache *c = cache_of(PG_GETARG_OID(0));
    const int layer = PG_GETARG_INT32(2);
    check_layer(c, layer);
    const Dtype dtype = dtype_named(PG_ARGISNULL(5) ? "f16" : text_argument(fcinfo, 5));
    const Sequence *s = read_sequence(c, PG_GETARG_INT64(1), CurrentMemoryContext);
    if (!s) no_sequence(c, PG_GETARG_INT64(1));
    const TailHalves tail = read_tail(c, s, layer, CurrentMemoryContext);
    const Window window = read_window(fcinfo, c, s, s->sealed + tail.tokens);
    expect_sealed(c, s, layer, {0, s->sealed}, 4.0 * window.count * c->kv_heads * (c->dim_k + c->dim_v));
    Copy copy(c, window, dtype, context);
    auto take = [&copy](const TileView &tile, int32_t to) { copy.take(tile, to); };
    visit_sealed(c, s, layer, take);
    for_halves(c, {tail.k, tail.v, s->sealed, tail.tokens}, take);
    Work work = copy.work();
    work.sequences = 1;
    work.tokens = static_cast<uint64_t>(window.count);
    const Fetched result = copy.result();
    work.bytes = VARSIZE(result.k) + VARSIZE(result.v);
    SPI_finish();
    count_work(Operation::fetch, work);
    Datum values[] = {PointerGetDatum(result.k), PointerGetDatum(result.v)};
    bool nulls[2] = {};
    return make_row(fcinfo, values, nulls);
}

}  // namespace vkv::kv
